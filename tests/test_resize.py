"""Padding and interpolation: as convolutions that pad, as pooling, as torch's own maps, and what has no rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from layer_cases import B, W, assert_limit, conv, data, readout_kernel
from ntkit.architecture.windows import PadAxis, ResizeAxis
from ntkit.errors import InvalidInput, UnsupportedLayer


def ending(*sizes: int) -> list[nn.Module]:
    """Flattened, or where no sizes are given pooled."""
    if not sizes:
        return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), ntkit.nn.Linear(8, 1, W, B)]
    return [nn.ReLU(), nn.Flatten(), ntkit.nn.Linear(8 * sizes[0] * sizes[1], 1, W, B)]


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def same(one: nn.Module, two: nn.Module, x: torch.Tensor) -> None:
    for engine in ("numba", "torch"):
        first, second = (ntkit.InfiniteKernel(model)(x, engine=engine) for model in (one, two))
        torch.testing.assert_close(first.nngp, second.nngp, rtol=1e-12, atol=0)
        torch.testing.assert_close(first.ntk, second.ntk, rtol=1e-12, atol=0)


PADS = {  # a layer and a valid convolution behind it, and the convolution that pads by itself
    "zeros": (nn.ZeroPad2d(1), {"padding": 1}),
    "zeros of one axis": (nn.ZeroPad2d((2, 2, 0, 0)), {"padding": (0, 2)}),
    "constant 0": (nn.ConstantPad2d(1, 0.0), {"padding": 1}),
    "circular": (nn.CircularPad2d(1), {"padding": 1, "padding_mode": "circular"}),
    "function": (Function(lambda h: F.pad(h, (2, 2, 1, 1))), {"padding": (1, 2)}),
    "last axis alone": (Function(lambda h: F.pad(h, [1, 1], "constant", 0.0)), {"padding": (0, 1)}),
    "nothing": (nn.ZeroPad2d(0), {}),
}


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("name", PADS)
def test_padding_is_that_of_a_convolution(name, pooled):
    pad, options = PADS[name]
    x = data(4, 2, 7, 6)
    one, two = [conv(2, 8), nn.ReLU(), pad, conv(8, 8, 3 if "axis" not in name else (1, 3))], [conv(2, 8), nn.ReLU()]
    two.append(conv(8, 8, 3 if "axis" not in name else (1, 3), **options))
    with torch.no_grad():
        end = () if pooled else tuple(nn.Sequential(*two)(x.float()).shape[2:])
    same(nn.Sequential(*one, *ending(*end)), nn.Sequential(*two, *ending(*end)), x)


def test_padding_of_the_data_and_of_one_and_three_axes():
    same(
        nn.Sequential(nn.ZeroPad2d(1), conv(2, 8), *ending()),
        nn.Sequential(conv(2, 8, padding=1), *ending()),
        data(3, 2, 5, 4),
    )
    for rank, layer in ((1, ntkit.nn.Conv1d), (3, ntkit.nn.Conv3d)):
        x = data(3, 2, *(4, 3, 5)[:rank])
        last = [nn.ReLU(), Function(lambda h, rank=rank: h.mean(tuple(range(2, 2 + rank)))), ntkit.nn.Linear(8, 1)]
        pad = getattr(nn, f"ZeroPad{rank}d")(1)
        same(nn.Sequential(pad, layer(2, 8, 3), *last), nn.Sequential(layer(2, 8, 3, padding=1), *last), x)


def test_cropping_is_padding_by_negative_numbers():
    x = data(3, 2, 6, 5)
    crop = nn.Sequential(nn.ZeroPad2d(-1), conv(2, 8, 1), *ending())
    torch.testing.assert_close(
        ntkit.InfiniteKernel(crop).ntk(x),
        ntkit.InfiniteKernel(nn.Sequential(conv(2, 8, 1), *ending())).ntk(x[:, :, 1:-1, 1:-1]),
    )


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "constant"])
@pytest.mark.parametrize("n", [3, 4])
def test_the_matrix_of_padding_is_torch_s_map(mode, n):
    x = data(1, 2, n)
    found = torch.from_numpy(PadAxis(2, 1, mode).matrix(n)) @ x[0].T
    torch.testing.assert_close(found.T[None], F.pad(x, (2, 1), mode))


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize(
    ("output", "factor", "mode", "corners"),
    [
        (7, None, "nearest", None), (None, 2.0, "nearest", None), (None, 1.7, "nearest-exact", None),
        (5, None, "linear", False), (6, None, "linear", True), (None, 2.5, "linear", False),
    ],
)  # fmt: skip
def test_the_matrix_of_interpolation_is_torch_s_map(n, output, factor, mode, corners):
    x = data(1, 2, n)
    axis = ResizeAxis(output, factor, mode, corners)
    expected = F.interpolate(x, output, factor, mode, corners)
    torch.testing.assert_close((torch.from_numpy(axis.matrix(n)) @ x[0].T).T[None], expected)
    assert axis.size(n) == expected.shape[2]


def test_what_interpolation_spreads_average_pooling_gathers():
    up = nn.Sequential(
        conv(2, 8, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.AvgPool2d(2), conv(8, 8), *ending()
    )
    same(up, nn.Sequential(conv(2, 8, padding=1), nn.ReLU(), conv(8, 8), *ending()), data(3, 2, 4, 5))


RESIZES = [
    nn.Upsample((7, 5), mode="bilinear"), nn.Upsample(scale_factor=(2, 3)), nn.UpsamplingBilinear2d(scale_factor=2),
    nn.UpsamplingNearest2d(size=(6, 7)), Function(lambda h: F.interpolate(h, (3, 9), mode="area")),
    nn.ReflectionPad2d(1), nn.ReplicationPad2d((1, 2, 0, 1)),
    nn.Upsample((2, 2), mode="bilinear", align_corners=True),
]  # fmt: skip


def kernel_of(resize):
    return ntkit.InfiniteKernel(
        nn.Sequential(conv(2, 8, padding=1), nn.ReLU(), resize, conv(8, 8, padding=1), *ending())
    )


@pytest.mark.parametrize("resize", RESIZES)
def test_both_engines_agree(resize):
    kernel, x = kernel_of(resize), data(3, 2, 4, 5)
    found, expected = kernel(x, engine="numba"), kernel(x, engine="torch")
    torch.testing.assert_close(found.ntk, expected.ntk, rtol=1e-11, atol=0)
    torch.testing.assert_close(found.nngp, expected.nngp, rtol=1e-11, atol=0)
    assert np.linalg.eigvalsh(found.ntk.numpy()).min() > 0


@pytest.mark.parametrize("resize", [RESIZES[0], *(pytest.param(r, marks=pytest.mark.slow) for r in RESIZES[1:])])
def test_wide_networks_tend_to_the_exact_kernel(resize):
    x, draws = data(3, 2, 4, 5), []
    for seed in range(32):
        torch.manual_seed(seed)
        first, second = conv(2, 512, padding=1).double(), conv(512, 512, padding=1).double()
        with torch.no_grad():
            h = torch.relu(second(resize(torch.relu(first(x))))).mean((2, 3))
        draws.append(readout_kernel(h))
    assert_limit(draws, kernel_of(resize).nngp(x))


REFUSED = {
    "constant": (nn.ConstantPad2d(1, 2.0), "pads with 2.0, which is not Gaussian"),
    "channels": (Function(lambda h: F.pad(h, (0, 0, 0, 0, 1, 1))), "pads the axes of samples or channels"),
    "bicubic": (nn.Upsample((4, 4), mode="bicubic"), "interpolates by mode='bicubic'"),
    "wrong rank": (Function(lambda h: F.interpolate(h, 9, mode="linear")), "mode='linear'|channels, 1 axes"),
    "antialias": (
        Function(lambda h: F.interpolate(h, (3, 3), mode="bilinear", antialias=True)), "arguments that have no rule"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name):
    layer, text = REFUSED[name]
    with pytest.raises((UnsupportedLayer, InvalidInput), match=text):
        ntkit.InfiniteKernel(nn.Sequential(conv(2, 8), layer, conv(8, 8), *ending()))


def test_sizes_that_do_not_fit_are_said():
    with pytest.raises(InvalidInput, match=r"an axis of 2 positions cannot be padded"):
        ntkit.InfiniteKernel(nn.Sequential(conv(2, 8), nn.ReflectionPad2d(3), *ending())).ntk(data(2, 2, 4, 4))
    with pytest.raises(UnsupportedLayer, match=r"before a layer has told what their axes hold"):
        ntkit.InfiniteKernel(nn.Sequential(Function(lambda x: F.pad(x, (1, 1))), conv(2, 8), *ending()))
