"""Reads layers with weights, and the layers that do nothing at evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ntkit.architecture.layout import CHANNEL, Layout, LayoutError
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, Call, InPlace, Value, View
from ntkit.architecture.specs import Conv, ConvTranspose, Dropout, Flatten, Linear
from ntkit.architecture.windows import ConvAxis, TransposedAxis, WindowAxis, transposed
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.nn.layers import COUNTERPARTS
from ntkit.nn.scale import is_finite_scale

_OWN = tuple(COUNTERPARTS.values())
KNOWN = (*COUNTERPARTS, *_OWN)
_FLAT_REMEDY = (
    "permute the axes so that the channels are last, flatten everything with torch.flatten(x, 1), or use a convolution "
    "of kernel size 1"
)


def is_weighted(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution, or a subclass of one."""
    return isinstance(module, (nn.Linear, _ConvNd))


def read_weighted(reader: Reader, call: Call) -> Value:
    """A linear layer or a convolution."""
    layer = call.module
    assert isinstance(layer, (nn.Linear, _ConvNd))
    if type(layer) not in KNOWN:
        family = "Linear" if isinstance(layer, nn.Linear) else "a convolution"
        raise UnsupportedLayer(
            f"{call.who} is a subclass of {family} that ntkit does not know, and its forward may differ; {REMEDY}"
        )
    claim(reader, call, layer.weight, layer.bias)
    return _linear(reader, call, layer) if isinstance(layer, nn.Linear) else _convolution(reader, call, layer)


def claim(reader: Reader, call: Call, *parameters: Tensor | None) -> None:
    """Counts the parameters of a layer, weight first, as used by it.

    Raises:
        UnsupportedLayer: another layer uses them, or the same one for the second time.
    """
    given = [parameter for parameter in parameters if parameter is not None]
    if given and id(given[0]) in reader.used:
        raise UnsupportedLayer(
            f"the weight of {call.who} is used twice (first at '{reader.used[id(given[0])]}'), "
            "and kernels of shared parameters have no rule; give each use a layer of its own"
        )
    reader.used.update({id(parameter): call.path for parameter in given})


def scales_of(layer: Any, bias: Tensor | None) -> dict[str, Any]:
    """What every layer with weights states about them."""
    own = type(layer).__module__.startswith("ntkit.nn.")
    return {
        "bias": bias is not None,
        "trains_weight": layer.weight.requires_grad,
        "trains_bias": bias is not None and bias.requires_grad,
        "w_std": layer.w_std if own else None,
        "b_std": getattr(layer, "b_std", 0.0) if own else None,
        "parameterization": "ntk" if own else None,
    }


# ---- linear layers -----------------------------------------------------------------------------------------------


def _linear(reader: Reader, call: Call, layer: nn.Linear) -> Value:
    """Acts on the last axis: on the channels of every position alone, or on a whole flattened image."""
    value = call.x
    reader.say_last_axis(value)
    layout = reader.layout(value)
    merges_positions = _last_axis_is_flattened(layout)
    wanted = layer.in_features
    if merges_positions:
        reader.require_flat(layout, wanted, f"{call.who} takes {wanted} features")
        index = reader.add(Flatten(wanted), (reader.settle(value),), call.path)
    else:
        reader.require_channels(value, wanted, f"{call.who} takes {wanted} features")
        index = reader.settle(value)
    index = reader.add(Linear(wanted, layer.out_features, **scales_of(layer, layer.bias)), (index,), call.path)
    axes = (*layout.axes[:-1], (CHANNEL,))
    return Value(index, Layout(axes, () if merges_positions else layout.sizes, layer.out_features))


def _last_axis_is_flattened(layout: Layout) -> bool:
    """Whether the last axis holds channels and all positions; an error where it does not hold all channels."""
    last = layout.axes[-1]
    if CHANNEL not in last:
        raise LayoutError(f"acts on the last axis of {layout}, which does not hold the channels; {_FLAT_REMEDY}")
    if last == (CHANNEL,):
        return False
    if any(label not in last for label, size in enumerate(layout.sizes) if size != 1):
        raise LayoutError(f"acts on the last axis of {layout}, which holds a part of the positions; {_FLAT_REMEDY}")
    return True


# ---- convolutions ------------------------------------------------------------------------------------------------


def _convolution(reader: Reader, call: Call, layer: _ConvNd) -> Value:
    if layer.padding_mode not in ("zeros", "circular"):
        raise UnsupportedLayer(
            f"{call.who} has padding_mode={layer.padding_mode!r}, which has no rule; use 'zeros' or 'circular'"
        )
    n_axes = len(layer.kernel_size)
    value, layout = reader.image(call, n_axes)
    reader.require_channels(value, layer.in_channels, f"{call.who} takes {layer.in_channels} channels")
    _require_whole_numbers(layer, call.who)
    if isinstance(layer, _ConvTransposeNd):
        windows, kind = _transposed_axes(layer, call), ConvTranspose
    else:
        windows, kind = _conv_axes(layer), Conv
    axes, layout = reader.windows(call, layout, windows, ConvAxis(1))
    spec = kind(layer.in_channels, layer.out_channels, axes, layer.groups, **scales_of(layer, layer.bias))
    index = reader.add(spec, (reader.settle(value),), call.path)
    return Value(index, replace(layout, channels=layer.out_channels))


def _require_whole_numbers(layer: _ConvNd, who: str) -> None:
    paddings = [p for p in (*layer.padding, *layer.output_padding) if isinstance(p, int)]
    if min(*layer.kernel_size, *layer.stride, *layer.dilation) < 1 or min(paddings, default=0) < 0:
        added = f", output_padding={layer.output_padding}" if layer.transposed else ""
        raise InvalidInput(
            f"{who} has kernel_size={layer.kernel_size}, stride={layer.stride}, dilation={layer.dilation}, "
            f"padding={layer.padding}{added}; give whole numbers from 1, and a padding from 0"
        )


def _conv_axes(layer: _ConvNd) -> list[WindowAxis]:
    axes: list[WindowAxis] = []
    for i, kernel in enumerate(layer.kernel_size):
        dilation = layer.dilation[i] if kernel > 1 else 1
        if layer.padding == "same":  # of an odd sum torch puts the larger half behind
            total = dilation * (kernel - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if layer.padding == "valid" else int(layer.padding[i])
        circular = layer.padding_mode == "circular" and before + after > 0
        axes.append(ConvAxis(kernel, layer.stride[i], dilation, before, after, circular))
    return axes


def _transposed_axes(layer: _ConvTransposeNd, call: Call) -> list[WindowAxis]:
    n_axes = len(layer.kernel_size)
    outputs = _output_sizes(call, n_axes)
    axes: list[WindowAxis] = []
    for kernel, stride, dilation, padding, added, output in zip(
        layer.kernel_size, layer.stride, layer.dilation, layer.padding, layer.output_padding, outputs, strict=True
    ):
        if output is None and added >= max(stride, dilation):
            raise InvalidInput(
                f"{call.who} has output_padding={layer.output_padding}, stride={layer.stride}, "
                f"dilation={layer.dilation}; give an output_padding below the stride or the dilation"
            )
        axes.append(transposed(TransposedAxis(kernel, stride, dilation, int(padding), added, output)))
    return axes


def _output_sizes(call: Call, n_axes: int) -> list[int | None]:
    """The argument output_size of a transposed convolution's forward: one number an axis of positions."""
    (given,) = call.bind(output_size=None)
    if given is None:
        return [None] * n_axes
    sizes = list(given) if isinstance(given, (tuple, list)) else []
    if len(sizes) not in (n_axes, n_axes + 2) or not all(isinstance(size, int) for size in sizes[-n_axes:]):
        raise UnsupportedLayer(
            f"{call.who} is called with an output_size that is not {n_axes} whole numbers; write them out, or give the "
            "layer an output_padding"
        )
    return sizes[-n_axes:]


# ---- layers that do nothing in eval mode ---------------------------------------------------------------------------


def read_identity(reader: Reader, call: Call) -> View:
    """nn.Identity."""
    return View(call.x)


def read_dropout(reader: Reader, call: Call) -> View | Value | InPlace:
    """nn.Dropout and its like: nothing in eval mode."""
    m: Any = call.module
    return _dropout(reader, call, type(m), m.p, m.training, m.inplace)


def read_dropout_function(reader: Reader, call: Call) -> View | Value | InPlace:
    """F.dropout and its like."""
    # torch.nn.functional's two-dimensional ones default to training as well
    default = {"p": 0.5, "training": True, "inplace": False}
    rate, training, in_place = call.bind(**default)
    return _dropout(reader, call, call.name, float(rate), bool(training), bool(in_place) or call.is_in_place)


def _dropout(
    reader: Reader, call: Call, kind: Any, rate: float, training: bool, in_place: bool
) -> View | Value | InPlace:
    if not is_finite_scale(rate) or not 0 <= rate <= 1:
        raise InvalidInput(f"{call.who} drops with probability {rate!r}; use a number from 0 to below 1")
    if not training or rate == 0:
        return View(call.x)
    if kind not in _DROPOUTS:
        raise UnsupportedLayer(
            f"{call.who} is in training mode, where it puts values in place of those it drops, which has no rule; call "
            "model.eval(), or use torch.nn.Dropout"
        )
    if rate >= 1:
        raise UnsupportedLayer(f"{call.who} drops everything, so there is no kernel; use a rate below 1")
    axes = _DROPOUTS[kind]
    layout = reader.image(call, axes)[1] if axes else reader.layout(call.x)
    value = Value(reader.add(Dropout(rate, axes > 0), (reader.settle(call.x),), call.path), layout)
    return InPlace(value) if in_place else value


_DROPOUTS: dict[Any, int] = {  # axes of positions that are dropped together
    nn.Dropout: 0, F.dropout: 0, torch.dropout: 0,
    nn.Dropout1d: 1, F.dropout1d: 1, nn.Dropout2d: 2, F.dropout2d: 2, nn.Dropout3d: 3, F.dropout3d: 3,
}  # fmt: skip
MODULES = {
    nn.Identity: read_identity,
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), read_dropout),
    nn.FeatureAlphaDropout: read_dropout,
}
CALLS = dict.fromkeys(
    (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout),
    read_dropout_function,
)
