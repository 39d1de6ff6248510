"""Dropout in training: against a textbook recursion and wide networks, and what makes two samples the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from layer_cases import B, W, assert_limit, conv, data, linear, readout_kernel
from ntkit.errors import InvalidInput
from oracles import recursion

RATE = 0.3


def textbook(x: np.ndarray, rates: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(nngp, ntk) of linear, (ReLU, dropout, linear) for each rate."""
    k = W**2 * x @ x.T / x.shape[1] + B**2
    t = k
    for rate in rates:
        q = np.diag(k)
        k, slope = recursion.leaky_relu_dual(0.0)(q[:, None], q[None, :], k)
        np.fill_diagonal(k, q / 2)
        np.fill_diagonal(slope, 0.5)
        own = 1 + np.eye(len(x)) * (1 / (1 - rate) - 1)
        k, t = k * own, t * slope * own
        k, t = W**2 * k + B**2, W**2 * t + W**2 * k + B**2
    return k, t


@pytest.mark.parametrize("rates", [(RATE,), (0.5, 0.1), (0.0, 0.9, 0.2)])
def test_equal_to_a_textbook_recursion(rates):
    layers = [m for rate in rates for m in (nn.ReLU(), nn.Dropout(rate), linear(64))]
    kernel, x = ntkit.InfiniteKernel(nn.Sequential(linear(5), *layers)), data(4, 5)
    nngp, ntk = textbook(x.numpy(), rates)
    found = kernel(x)
    np.testing.assert_allclose(found.nngp.numpy(), nngp, rtol=1e-10)
    np.testing.assert_allclose(found.ntk.numpy(), ntk, rtol=1e-10)
    np.testing.assert_allclose(kernel.diagonal(x).ntk.numpy(), np.diag(ntk), rtol=1e-10)
    np.testing.assert_allclose(kernel.ntk(x[:3], x[2:]).numpy(), ntk[:3, 2:], rtol=1e-10)


def test_samples_of_equal_values_are_the_same_sample():
    kernel = ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.ReLU(), nn.Dropout(RATE), linear(64, 1)))
    x = data(3, 5)
    twice = torch.cat([x, x])
    found = kernel.ntk(twice)
    torch.testing.assert_close(found[:3, 3:], kernel.ntk(x))
    moved = twice.clone()
    moved[3:] += 1e-9  # other samples, however close, have masks of their own
    assert (kernel.ntk(moved).diagonal(3) < 0.9 * found.diagonal(3)).all()


class Written(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = linear(5), linear(64, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(torch.relu(self.first(x))))


def test_modules_functions_and_in_place_dropout_are_the_same():
    x = data(3, 5)
    expected = ntkit.InfiniteKernel(Written(nn.Dropout(RATE))).ntk(x)
    for function in (
        lambda h: F.dropout(h, RATE),
        lambda h: torch.dropout(h, RATE, True),
        nn.Dropout(RATE, inplace=True),
        lambda h: F.dropout(h, RATE, inplace=True),
    ):
        torch.testing.assert_close(ntkit.InfiniteKernel(Written(function)).ntk(x), expected, rtol=0, atol=0)


def test_dropout_does_nothing_in_eval_mode():
    x = data(3, 5)
    plain = ntkit.InfiniteKernel(Written(lambda h: h))
    assert ntkit.InfiniteKernel(Written(nn.Dropout(RATE)).eval()) == plain
    assert ntkit.InfiniteKernel(Written(nn.Dropout(0.0))) == plain
    assert ntkit.InfiniteKernel(Written(nn.Dropout(RATE))) != plain
    assert ntkit.InfiniteKernel(Written(nn.Dropout(RATE))).ntk(x).shape == (3, 3)


def test_two_masks_on_one_value_are_independent():
    """a m1 + a m2 of a read by two layers: covariances add, so that each branch has its own 1/k."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.last = linear(5), linear(64), linear(64), linear(64, 1)
            self.one, self.two = nn.Dropout(RATE), nn.Dropout(RATE)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.first(x))
            return self.last(self.a(self.one(h)) + self.b(self.two(h)))

    x = data(3, 5)
    single = ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.ReLU(), nn.Dropout(RATE), linear(64))).nngp(x)
    torch.testing.assert_close(ntkit.InfiniteKernel(Two()).nngp(x), W**2 * 2 * single + B**2)


def test_axes_that_do_not_fit_are_said():
    model = nn.Sequential(conv(2, padding=1), nn.Flatten(2), nn.Dropout2d(), nn.Flatten(), linear(64 * 12, 1))
    with pytest.raises(
        InvalidInput, match=r"Dropout2d at '2' takes .batch, channels, 2 axes of positions., but axes that"
    ):
        ntkit.InfiniteKernel(model)


# ---- wide networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("drop", [nn.Dropout(RATE), nn.Dropout2d(RATE)])
def test_wide_networks_of_images_tend_to_the_exact_kernel(drop, pooled):
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(64, 1)] if pooled else [nn.Flatten(), linear(64 * 12, 1)]
    x = data(3, 2, 3, 4)
    exact = ntkit.InfiniteKernel(
        nn.Sequential(conv(2, padding=1), nn.ReLU(), drop, conv(64, padding=1), nn.ReLU(), drop, *last)
    ).nngp(x)
    draws = []
    for seed in range(60):
        torch.manual_seed(seed)
        first, second = conv(2, 512, padding=1).double(), conv(512, 512, padding=1).double()
        with torch.no_grad():
            h = drop(torch.relu(second(drop(torch.relu(first(x))))))
            h = h.mean((2, 3)) if pooled else h.flatten(1)
        draws.append(readout_kernel(h))
    assert_limit(draws, exact)


@pytest.mark.slow
def test_tangent_kernels_of_wide_networks_tend_to_the_exact_one():
    """Of each sample with itself, and with others, whose masks are drawn for each."""

    def model(width: int) -> nn.Module:
        return nn.Sequential(
            linear(5, width), nn.ReLU(), nn.Dropout(RATE), linear(width, width), nn.ReLU(), linear(width, 1)
        )

    x, draws = data(3, 5), []
    exact = ntkit.InfiniteKernel(model(64)).ntk(x)
    for seed in range(64):
        torch.manual_seed(seed)
        network = model(1024).double()
        output = network(x)[:, 0]
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(y, list(network.parameters()), retain_graph=True)])
            for y in output
        ]
        draws.append(torch.stack(rows) @ torch.stack(rows).T)
    assert_limit(draws, exact)


@pytest.mark.parametrize("rate", [-1.0, 2.0, float("nan")])
def test_rates_that_are_no_probabilities_are_refused(rate):
    model = nn.Sequential(linear(5), nn.ReLU(), nn.Dropout(0.1), linear(64, 1))
    model[2].p = rate  # torch checks it when the layer is made, and no more
    with pytest.raises(InvalidInput, match=r"Dropout at '2' drops with probability .*; use a number from 0 to below 1"):
        ntkit.InfiniteKernel(model)
