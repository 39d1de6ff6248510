"""Normalisation layers: what has no limit, layers used twice, and epsilons."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ntkit
from layer_cases import W, conv, data, linear
from ntkit.errors import InvalidInput, UnsupportedLayer

REFUSED = {
    "data": ([nn.LayerNorm(5), linear(5, 1)], "LayerNorm at '0' reads the data, whose mean square"),
    "after an activation": (
        [linear(5), nn.ReLU(), nn.LayerNorm(64), linear(64, 1)],
        "LayerNorm at '2' takes away the mean over channels, and the activation at '1' has one .* use torch.nn.RMSNorm",
    ),
    "one channel a group": ([linear(5), nn.GroupNorm(64, 64), linear(64, 1)], "each channel alone, which is random"),
    "batch norm": ([linear(5), nn.BatchNorm1d(64), linear(64, 1)], "BatchNorm1d at '1' has no rule .*ties samples"),
    "instance norm": (
        [conv(2, padding=1), nn.InstanceNorm2d(64), nn.Flatten(), linear(64 * 4, 1)],
        "InstanceNorm2d at '1' has no rule .*use torch.nn.GroupNorm",
    ),
    "sum of scaled": (None, "ReLU|relu"),
}


class SumOfScaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = linear(5), linear(5), linear(64, 1)
        self.norm = nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.one(x)) + self.two(x)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_limit_is_refused(name):
    layers, text = REFUSED[name]
    model = SumOfScaled() if layers is None else nn.Sequential(*layers)
    with pytest.raises(UnsupportedLayer, match=text):
        ntkit.InfiniteKernel(model)


def test_positions_alone_and_a_part_of_them_are_refused():
    for shape in ((4, 5), (5,)):
        with pytest.raises(UnsupportedLayer, match=r"each channel alone, which is random in a wide network too"):
            ntkit.InfiniteKernel(
                nn.Sequential(conv(2, padding=1), nn.LayerNorm(shape), nn.Flatten(), linear(64 * 20, 1))
            )


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match=r"LayerNorm at '1' normalises over last axes of .32,. entries"):
        ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.LayerNorm(32), linear(64, 1)))


def test_a_sample_of_zeros_is_refused_where_nothing_else_is_added():
    model = nn.Sequential(ntkit.nn.Linear(5, 64, W), nn.LayerNorm(64, 0.0), linear(64, 1))
    with pytest.raises(InvalidInput, match=r"'1' divides by the root mean square of its input, and that is 0"):
        ntkit.InfiniteKernel(model).ntk(torch.zeros(2, 5, dtype=torch.float64))


def test_a_layer_used_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last, self.norm = linear(5), linear(64), linear(64, 1), nn.LayerNorm(64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.two(self.norm(self.one(x)))))

    with pytest.raises(UnsupportedLayer, match="the weight of LayerNorm at 'norm' is used twice"):
        ntkit.InfiniteKernel(Twice())


def test_two_trained_layers_on_one_value_are_two():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.a, self.b, self.last = linear(5), nn.LayerNorm(64), nn.LayerNorm(64), linear(64, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.one(x)
            return self.last(self.a(h) + self.b(h))

    with pytest.raises(UnsupportedLayer, match="depend on the output of the same layer"):
        ntkit.InfiniteKernel(Two())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_epsilon_that_rms_norm_is_not_given_is_the_rounding_unit_of_the_model(dtype):
    given, left = (
        nn.Sequential(linear(5), nn.RMSNorm(64, eps, elementwise_affine=False), nn.ReLU(), linear(64, 1)).to(dtype)
        for eps in (torch.finfo(dtype).eps, None)
    )
    x = 1e-4 * data(3, 5)
    assert torch.equal(ntkit.InfiniteKernel(left).ntk(x), ntkit.InfiniteKernel(given).ntk(x))


@pytest.mark.parametrize("eps", [-1.0, float("nan")])
def test_epsilons_below_zero_are_refused(eps):
    for norm in (nn.LayerNorm(64, eps), nn.GroupNorm(2, 64, eps)):
        with pytest.raises(InvalidInput, match=r"Norm at '1' has eps=.*, and a finite number >= 0 is wanted"):
            ntkit.InfiniteKernel(nn.Sequential(linear(5), norm, nn.ReLU(), linear(64, 1)))
