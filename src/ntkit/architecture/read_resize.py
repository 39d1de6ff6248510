"""Reads padding and interpolation: linear maps of positions, as pooling is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import nn

from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REQUIRED, Call, Value
from ntkit.architecture.specs import Pool
from ntkit.architecture.windows import AdaptiveAxis, KeepAxis, PadAxis, PoolAxis, ResizeAxis
from ntkit.errors import UnsupportedLayer

_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}


def read_upsample(reader: Reader, call: Call) -> Value:
    """nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d."""
    m: Any = call.module
    return _resized(reader, call, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)


def read_interpolate(reader: Reader, call: Call) -> Value:
    """F.interpolate."""
    size, factor, mode, corners, again, smooth = call.bind(
        size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None, antialias=False
    )
    if smooth:
        raise call.unknown_arguments()
    return _resized(reader, call, size, factor, mode, corners, again)


def _resized(reader: Reader, call: Call, size: Any, factor: Any, mode: str, corners: bool | None, again: Any) -> Value:
    n_axes = _axes_of_positions(reader, call, _LINEAR.get(mode))
    if again or mode not in ("nearest", "nearest-exact", "area", *_LINEAR) or _LINEAR.get(mode, n_axes) != n_axes:
        raise UnsupportedLayer(
            f"{call.who} interpolates by mode={mode!r} with recompute_scale_factor={again!r}, which has no rule for "
            f"{n_axes} axes of positions; use 'nearest', 'nearest-exact', 'area' or 'bilinear'"
        )
    sizes, factors = (v if isinstance(v, (tuple, list)) else (v,) * n_axes for v in (size, factor))
    if mode == "area" and size is None:
        raise call.unknown_arguments()
    if mode == "area":
        return _moved(reader, call, [AdaptiveAxis(int(n)) for n in sizes], "resized")
    each = "linear" if mode in _LINEAR else mode
    axes = [
        ResizeAxis(None if n is None else int(n), None if f is None else float(f), each, corners)
        for n, f in zip(sizes, factors, strict=True)
    ]
    return _moved(reader, call, axes, "resized")


def read_pad(reader: Reader, call: Call) -> Value:
    """nn.ZeroPad2d and its like."""
    m: Any = call.module
    mode = next(mode for name, mode in _MODES.items() if type(m).__name__.startswith(name))
    return _padded(reader, call, m.padding, mode, getattr(m, "value", 0.0), int(type(m).__name__[-2]))


def read_pad_function(reader: Reader, call: Call) -> Value:
    """F.pad."""
    return _padded(reader, call, *call.bind(pad=REQUIRED, mode="constant", value=None))


def _padded(
    reader: Reader, call: Call, padding: Any, mode: str, value: float | None, axes_told: int | None = None
) -> Value:
    n_axes = _axes_of_positions(reader, call, axes_told)
    if mode == "constant" and value not in (None, 0):
        raise UnsupportedLayer(f"{call.who} pads with {value!r}, which is not Gaussian; pad with zeros")
    sides = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * 2 * n_axes
    if not all(isinstance(side, int) for side in sides) or len(sides) % 2:
        raise call.unknown_arguments()
    if any(sides[2 * n_axes :]):
        raise UnsupportedLayer(
            f"{call.who} pads the axes of samples or channels, which has no rule; pad positions alone"
        )
    pairs = list(zip(sides[::2], sides[1::2], strict=True))[:n_axes]  # the last axis first
    pairs += [(0, 0)] * (n_axes - len(pairs))
    axes = [PadAxis(before, after, mode) if before or after else KeepAxis() for before, after in reversed(pairs)]
    return _moved(reader, call, axes, "padded")


def _axes_of_positions(reader: Reader, call: Call, told: int | None) -> int:
    """Axes after samples and channels; of data that no layer has read yet, as many as the layer's own name tells."""
    layout = reader.layout(call.x)
    if told is not None:
        return told
    if layout.open:
        raise UnsupportedLayer(
            f"{call.who} pads or resizes the data before a layer has told what their axes hold; do so with the data "
            "themselves, or put a convolution in front"
        )
    return len(layout.axes) - 2


def _moved(reader: Reader, call: Call, windows: Sequence[PoolAxis], verb: str) -> Value:
    value, layout = reader.image(call, len(windows))
    axes, layout = reader.windows(call, layout, windows, KeepAxis())
    if all(isinstance(axis, KeepAxis) for axis in axes):
        return replace(value, layout=layout)
    return Value(reader.add(Pool(axes, 1.0, verb), (reader.settle(value),), call.path), layout)


_MODES = {
    "ZeroPad": "constant", "ConstantPad": "constant", "ReflectionPad": "reflect", "ReplicationPad": "replicate",
    "CircularPad": "circular",
}  # fmt: skip
_PADS = tuple(getattr(nn, f"{name}{n}d") for name in _MODES for n in (1, 2, 3))
MODULES = {
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), read_upsample),
    **dict.fromkeys(_PADS, read_pad),
}
CALLS = {F.interpolate: read_interpolate, F.pad: read_pad_function}
