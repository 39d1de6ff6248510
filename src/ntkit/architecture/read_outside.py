"""Reads layers that users register in their own files: a module becomes the spec that their function makes of it.

All parameters and buffers of the module are the layer's own; what they do to a kernel is said by its rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from ntkit.architecture.layout import CHANNEL, Layout, LayoutError
from ntkit.architecture.read_layers import claim
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, Call, Value
from ntkit.architecture.specs import Layer
from ntkit.architecture.windows import ConvAxis, KeepAxis
from ntkit.errors import InvalidInput, NtkitError, UnsupportedLayer

LAYERS: dict[type[nn.Module], Callable[[Any], Layer]] = {}  # module class -> what makes its spec


def read_layer(reader: Reader, call: Call) -> Value:
    """A module whose class is registered."""
    module = call.module
    assert module is not None
    try:
        spec = LAYERS[type(module)](module)
    except NtkitError:
        raise
    except Exception as error:  # a function from outside may raise anything
        raise InvalidInput(
            f"{call.who} cannot be read into a spec, as the function given as read= fails: {type(error).__name__}: "
            f"{error}; it takes the module and returns its spec"
        ) from error
    if not isinstance(spec, Layer):
        raise InvalidInput(
            f"{call.who} is read into {spec!r}, and a spec is wanted, a frozen dataclass that derives from "
            "ntkit.infinite.Layer; let the function given as read= return one"
        )
    claim(reader, call, *module.parameters(), *module.buffers())
    values = _operands(call)
    for value in values:
        _say_channels(reader, call, value, spec)
    values = reader.on_one_grid(values, call)
    layout = reader.layout(values[0])
    if spec.axes:
        spec, layout = _windows(reader, call, spec)
    index = reader.add(spec, tuple(reader.settle(value) for value in values), call.path)
    return Value(index, layout if spec.out_channels is None else replace(layout, channels=spec.out_channels))


def _operands(call: Call) -> list[Value]:
    given = [*call.args, *call.kwargs.values()]
    if not given or not all(isinstance(value, Value) for value in given):
        raise UnsupportedLayer(f"{call.who} is called with other things than tensors; {REMEDY}")
    return given


def _say_channels(reader: Reader, call: Call, value: Value, spec: Layer) -> None:
    """The layer takes an axis for the channels; the data learn it, and other values must agree."""
    if spec.axes:
        reader.image(call, len(spec.axes))
    elif spec.channel_axis is not None:
        rank = max(2, len(value.layout.axes), spec.channel_axis + 1)
        reader.data.say(value.layout, rank, spec.channel_axis % rank)
        layout = reader.layout(value)
        if layout.axes[layout.dim(spec.channel_axis)] != (CHANNEL,):
            raise LayoutError(f"takes channels on axis {spec.channel_axis} of {layout}; move them there")
    if spec.in_channels is not None:
        reader.require_channels(value, spec.in_channels, f"{call.who} takes {spec.in_channels} channels")


def _windows(reader: Reader, call: Call, spec: Layer) -> tuple[Layer, Layout]:
    keep = ConvAxis(1) if isinstance(spec.axes[0], ConvAxis) else KeepAxis()
    axes, layout = reader.windows(call, reader.layout(call.x), spec.axes, keep)
    return replace(spec, axes=axes), layout
