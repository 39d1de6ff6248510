"""Reads layers that divide by a root mean square: LayerNorm, GroupNorm, RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntkit.architecture.layout import CHANNEL, Layout
from ntkit.architecture.read_layers import claim
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REQUIRED, Call, Value
from ntkit.architecture.specs import Normalization
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.nn.scale import is_finite_scale


def read_layer_norm(reader: Reader, call: Call) -> Value:
    """nn.LayerNorm and nn.RMSNorm: over the last axes, each entry of which has a scale of its own."""
    layer: Any = call.module
    scale, shift = layer.weight, getattr(layer, "bias", None)
    claim(reader, call, scale, shift)
    return _over_last_axes(reader, call, layer.normalized_shape, layer.eps, type(layer).__name__, scale, shift)


def read_layer_norm_function(reader: Reader, call: Call) -> Value:
    """F.layer_norm, without scale and shift."""
    shape, scale, shift, eps = call.bind(normalized_shape=REQUIRED, weight=None, bias=None, eps=1e-5)
    if scale is not None or shift is not None:
        raise call.unknown_arguments()
    return _over_last_axes(reader, call, shape, eps, "LayerNorm")


def read_rms_norm_function(reader: Reader, call: Call) -> Value:
    """F.rms_norm, without scale."""
    shape, scale, eps = call.bind(normalized_shape=REQUIRED, weight=None, eps=None)
    if scale is not None:
        raise call.unknown_arguments()
    return _over_last_axes(reader, call, shape, eps, "RMSNorm")


def read_group_norm(reader: Reader, call: Call) -> Value:
    """nn.GroupNorm: over blocks of channels and all positions; a scale a channel."""
    layer: Any = call.module
    claim(reader, call, layer.weight, layer.bias)
    return _over_groups(reader, call, layer.num_groups, layer.num_channels, layer.eps, layer.weight, layer.bias)


def read_group_norm_function(reader: Reader, call: Call) -> Value:
    """F.group_norm, without scale and shift."""
    groups, scale, shift, eps = call.bind(num_groups=REQUIRED, weight=None, bias=None, eps=1e-5)
    if scale is not None or shift is not None:
        raise call.unknown_arguments()
    return _over_groups(reader, call, groups, None, eps)


def _over_last_axes(
    reader: Reader,
    call: Call,
    shape: Sequence[int],
    eps: float | None,
    name: str,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Value:
    layout = _layout(reader, call)
    axes = layout.axes[len(layout.axes) - len(shape) :]
    extents = [layout.extent(axis) for axis in axes]
    if len(shape) >= len(layout.axes) or any(n not in (None, m) for n, m in zip(extents, shape, strict=True)):
        raise InvalidInput(
            f"{call.who} normalises over last axes of {tuple(shape)} entries, but axes that hold {layout} arrive, of "
            f"{tuple(extents)}; make them agree"
        )
    labels = {label for axis in axes for label in axis}
    positions = {label for axis in layout.axes for label in axis if isinstance(label, int)}
    if CHANNEL not in labels:
        raise _of_one_channel(call)
    if labels & positions not in (set(), positions):
        raise UnsupportedLayer(
            f"{call.who} normalises over a part of the axes of positions, which has no rule; normalise over channels "
            "alone, or over channels and all positions"
        )
    over_positions = bool(labels & positions)
    spec = Normalization(
        name,
        _epsilon(reader, call, eps),
        over_positions,
        subtracts_mean=name == "LayerNorm",
        trains_scale=_trains(scale),
        trains_shift=_trains(shift),
        shared=not over_positions,
    )
    return Value(reader.add(spec, (reader.settle(call.x),), call.path), layout)


def _over_groups(
    reader: Reader,
    call: Call,
    groups: int,
    channels: int | None,
    eps: float,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Value:
    layout = _layout(reader, call)
    reader.image(call, len(layout.axes) - 2)
    if channels is not None:
        reader.require_channels(call.x, channels, f"{call.who} takes {channels} channels")
    if groups == layout.channels:
        raise _of_one_channel(call)
    over_positions = any(isinstance(label, int) for axis in layout.axes for label in axis)
    spec = Normalization("GroupNorm", _epsilon(reader, call, eps), over_positions, True, _trains(scale), _trains(shift))
    return Value(reader.add(spec, (reader.settle(call.x),), call.path), layout)


def _layout(reader: Reader, call: Call) -> Layout:
    layout = reader.layout(call.x)
    if layout.open:
        raise UnsupportedLayer(
            f"{call.who} reads the data, whose mean square over few features is no limit; normalise the data before, "
            "or put a linear layer between"
        )
    return layout


def _of_one_channel(call: Call) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"{call.who} divides by the root mean square of each channel alone, which is random in a wide network too, so "
        "that there is no limit; normalise over channels, as torch.nn.GroupNorm(1, channels) does"
    )


def _epsilon(reader: Reader, call: Call, eps: float | None) -> float:
    """torch's RMSNorm takes the rounding unit of its input where none is given, so here that of the model."""
    if eps is None:
        dtypes = [parameter.dtype for parameter in reader.model.parameters() if parameter.is_floating_point()]
        return torch.finfo(dtypes[0] if dtypes else torch.get_default_dtype()).eps
    if not is_finite_scale(eps) or eps < 0:
        raise InvalidInput(f"{call.who} has eps={eps!r}, and a finite number >= 0 is wanted")
    return float(eps)


def _trains(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


MODULES = {nn.LayerNorm: read_layer_norm, nn.RMSNorm: read_layer_norm, nn.GroupNorm: read_group_norm}
CALLS = {
    F.layer_norm: read_layer_norm_function,
    F.rms_norm: read_rms_norm_function,
    F.group_norm: read_group_norm_function,
}
