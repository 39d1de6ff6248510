"""Layers and windows of transposed convolutions: as torch has them, how they are read, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import ntkit
from layer_cases import B, W, conv, data, up
from ntkit.architecture.windows import OUTSIDE, ConvAxis, TransposedAxis, transposed
from ntkit.errors import InvalidInput, MissingScale, UnsupportedLayer
from oracles import transposed as oracle


class GlobalMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


# ---- windows ----------------------------------------------------------------------------------------------

axes = st.builds(
    TransposedAxis, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2)
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(axes, st.integers(1, 6))
def test_taps_are_where_torch_puts_unit_impulses(axis, n):
    assume(axis.output_padding < max(axis.stride, axis.dilation))
    names = ("stride", "dilation", "padding", "output_padding")
    options, window = {name: getattr(axis, name) for name in names}, transposed(axis)
    reach = axis.dilation * (axis.kernel - 1) - 2 * axis.padding + axis.output_padding
    if (n - 1) * axis.stride + reach + 1 < 1:  # the formula of torch.nn.ConvTranspose1d's documentation
        for one in (axis, window):
            with pytest.raises(InvalidInput, match="use larger images"):
                one.size(n)
        return
    maps, (out,) = oracle.tap_maps((n,), (axis.kernel,), **options)
    assert axis.size(n) == window.size(n) == out
    for taps, order in ((axis.taps(n), 1), (window.taps(n), 1 if window is axis else -1)):
        for tap, expected in zip(taps.T, maps[::order], strict=True):
            found = np.zeros((out, n))
            found[np.flatnonzero(tap != OUTSIDE), tap[tap != OUTSIDE]] = 1
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(axis.counts(n), sum(maps))


def test_stride_1_is_a_convolution_of_other_padding():
    assert transposed(TransposedAxis(3, 1, 2, 1)) == ConvAxis(3, 1, 2, 3, 3)
    assert transposed(TransposedAxis(3, 2, 1, 1)) == TransposedAxis(3, 2, 1, 1)
    assert transposed(TransposedAxis(1)).is_pointwise


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2, "groups": 2}, {"stride": 3}]
)
def test_layers_are_torch_s_with_scales_in_the_forward_pass(rank, options):
    own, plain = up(4, 6, 3, rank, **options), getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, **options)
    with torch.no_grad():
        plain.weight.copy_(W / math.sqrt(4 // options.get("groups", 1) * 3**rank) * own.weight)
        plain.bias.copy_(B * own.bias)
    x = torch.randn(2, 4, *[3] * rank)
    torch.testing.assert_close(own(x), plain(x))
    assert repr(own) == repr(plain)[:-1] + f", w_std={W:g}, b_std={B:g})"
    if options == {"stride": 3}:
        torch.testing.assert_close(own(x, [10] * rank), plain(x, [10] * rank))
        torch.testing.assert_close(own(x, output_size=[2, 6, *[11] * rank]), plain(x, [11] * rank))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ntk_parameterize_keeps_how_a_transposed_convolution_moves(rank):
    options = {"stride": 2, "padding": 3, "output_padding": 1, "dilation": 2, "groups": 2}
    layer = getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, **options)
    layer.bias.requires_grad_(False)
    new = ntkit.ntk_parameterize(layer, w_std=1.5, b_std=0.1)
    assert type(new) is getattr(ntkit.nn, f"ConvTranspose{rank}d")
    assert (new.weight.requires_grad, new.bias.requires_grad) == (True, False)
    with torch.no_grad():
        layer.weight.copy_(new.weight * 1.5 / math.sqrt(2 * 3**rank))
        layer.bias.copy_(0.1 * new.bias)
    x = torch.randn(2, 4, *[5] * rank)
    torch.testing.assert_close(new(x), layer(x))
    assert ntkit.ntk_parameterize(new, w_std=9.0).w_std == 1.5


# ---- how they are read -----------------------------------------------------------------------------------------------


def test_scales_of_plain_layers():
    model = nn.Sequential(nn.ConvTranspose2d(6, 8, (3, 2), 2, groups=2), nn.ReLU(), GlobalMean(), nn.Linear(8, 1))
    whole = nn.Sequential(ntkit.nn.Conv2d(2, 6, 1), model)
    torch_draw = ntkit.InfiniteKernel(whole, w_std="torch", b_std="torch")
    found = torch_draw.hyperparameters["1.0"]
    bound = model[0].weight.abs().max().item()  # torch draws from U(−bound, bound), and fan_in = 3 · 6
    assert found["w_std"] == pytest.approx(math.sqrt(18 / (3 * 24)))
    assert found["b_std"] == pytest.approx(1 / math.sqrt(3 * 24))
    assert bound == pytest.approx(1 / math.sqrt(24), rel=0.02)
    other = torch_draw.with_hyperparameters({"1.0": {"w_std": 1.5, "b_std": 0.0}})
    assert other.hyperparameters["1.0"] == {"w_std": 1.5, "b_std": 0.0}


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.ReLU(), GlobalMean(), ntkit.nn.Linear(8, 1))


class Sized(nn.Module):
    """A transposed convolution that is told how large its output is."""

    def __init__(self, size: Any, **options: Any) -> None:
        super().__init__()
        self.up, self.size = up(2, 8, 3, stride=2, **options), size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x, output_size=self.size(x) if callable(self.size) else self.size)


@pytest.mark.parametrize("size", [[8, 9], (3, 8, 8, 9)])
def test_output_size_is_output_padding(size):
    x, two = data(3, 2, 3, 4), ntkit.InfiniteKernel(pooled(up(2, 8, 3, stride=2, output_padding=(1, 0))))
    for engine in ("numba", "torch"):
        found = ntkit.InfiniteKernel(pooled(Sized(size))).ntk(x, engine=engine)
        torch.testing.assert_close(found, two.ntk(x, engine=engine), rtol=1e-13, atol=0)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.last = up(2, 2, 2, stride=2), ntkit.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.up(torch.relu(self.up(x))).mean((2, 3)))


class OwnTransposed(nn.ConvTranspose2d):
    pass


REFUSED = {
    "depthwise": (
        lambda: pooled(conv(2, 8), nn.ReLU(), up(8, 8, groups=8)),
        r"ConvTranspose2d at '2' with groups=8 is depthwise",
    ),
    "groups of the data": (
        lambda: pooled(up(4, 8, groups=2)), r"ConvTranspose2d at '0' with groups=2 reads the data",
    ),
    "used twice": (Twice, r"the weight of ConvTranspose2d at 'up' is used twice \(first at 'up'\)"),
    "subclass": (
        lambda: pooled(OwnTransposed(2, 8, 3)),
        r"OwnTransposed at '0' is a subclass of a convolution that ntkit does not know",
    ),
    "size of the data": (
        lambda: pooled(Sized(lambda x: x.shape)),
        r"ConvTranspose2d at '0.up' is called with an output_size that is not 2 whole numbers; write them out, or give",
    ),
    "too few sizes": (lambda: pooled(Sized([8])), r"an output_size that is not 2 whole numbers"),
    "too much output padding": (
        lambda: pooled(up(2, 8, output_padding=2, stride=2)),
        r"has output_padding=\(2, 2\), stride=\(2, 2\), dilation=\(1, 1\); give an output_padding below",
    ),
    "negative": (
        lambda: pooled(up(2, 8, output_padding=-1, stride=2)),
        r"padding=\(0, 0\), output_padding=\(-1, -1\); give whole numbers from 1, and a padding from 0",
    ),
    "no scale": (
        lambda: pooled(nn.ConvTranspose2d(2, 8, 3)),
        r"ConvTranspose2d at '0' is a plain torch layer and states no w_std; .* or use ntkit.nn.ConvTranspose2d",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name, unchecked):
    make, text = REFUSED[name]
    with pytest.raises((UnsupportedLayer, InvalidInput, MissingScale), match=text):
        ntkit.InfiniteKernel(make())


def test_sizes_that_do_not_fit_are_said():
    x = data(2, 2, 2, 2)
    with pytest.raises(
        InvalidInput, match=r"ConvTranspose2d at '0': .* padding of 3 leaves none of 2 positions; use la"
    ):
        ntkit.InfiniteKernel(pooled(up(2, 8, 2, stride=2, padding=3))).ntk(x)
    with pytest.raises(InvalidInput, match=r"makes 5 to 6 of 2 positions, and an output_size of 8 is wanted; give one"):
        ntkit.InfiniteKernel(pooled(Sized([8, 6]))).ntk(x)
    with pytest.raises(InvalidInput, match=r"ConvTranspose2d at '0' takes 4 channels|has 2 channels on axis 1"):
        ntkit.InfiniteKernel(pooled(up(4, 8, 2, stride=2))).ntk(x)
