"""Reads what changes how a tensor shows its axes: flatten, reshape, permutations, squeezing; and reads of sizes."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ntkit.architecture.layout import BATCH, VECTOR_AXES, Layout, Size
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, REQUIRED, Call, Value, View
from ntkit.architecture.reshape import group_axes, split_axis
from ntkit.architecture.specs import Flatten
from ntkit.errors import InvalidInput, UnsupportedLayer

# ---- flattening ----------------------------------------------------------------------------------------------------


def read_flatten_module(reader: Reader, call: Call) -> View:
    """nn.Flatten."""
    module: Any = call.module
    return _flatten(reader, call, module.start_dim, module.end_dim)


def read_flatten(reader: Reader, call: Call) -> View:
    """torch.flatten, x.flatten."""
    return _flatten(reader, call, *call.bind(start_dim=0, end_dim=-1))


def _flatten(reader: Reader, call: Call, start: Any, end: Any) -> View:
    layout = reader.layout(call.x)
    if layout.open and (start, end) == (1, -1):
        return _flatten_all(reader, call, None)
    last = layout.dim(end)
    if not layout.open and layout.dim(start) == 1 and last == len(layout.axes) - 1:
        return _flatten_all(reader, call, None)
    return View(replace(call.x, layout=layout.flattened(start, end)), for_certain=layout.dim(start) == last)


def _flatten_all(reader: Reader, call: Call, features: int | None) -> View:
    """Everything after the batch axis becomes one axis."""
    value, layout = call.x, reader.layout(call.x)
    if not layout.open and layout.axes[0] != (BATCH,):
        raise UnsupportedLayer(f"{call.who} mixes samples or keeps axes: {layout} does not begin with the batch axis")
    if features is not None and not layout.open and (value.base != 0 or layout.axes == VECTOR_AXES):
        reader.require_flat(layout, features, f"{call.who} reshapes to {features} features")
    if layout.axes == VECTOR_AXES:
        if features is not None:
            reader.require_channels(value, features, f"{call.who} reshapes to {features} features")
        return View(value)
    if value.base != 0:
        axes = (layout.axes[0], _merged(layout))
        return View(replace(value, layout=replace(layout, axes=axes)), for_certain=False)
    if not reader.data.is_in_order(layout):
        raise UnsupportedLayer(
            f"{call.who} flattens the data after a permutation of their axes; flatten them before, which gives the "
            "same kernel"
        )
    base = reader.add(Flatten(features), (value.base,), call.path)
    return View(Value(base, Layout(VECTOR_AXES, channels=features), value.expression, value.path))


def _merged(layout: Layout) -> tuple[Any, ...]:
    return tuple(label for axis in layout.axes[1:] for label in axis)


def read_reshape(reader: Reader, call: Call) -> View:
    """x.reshape, x.view: forms that flatten, merge neighbouring axes, or add axes of one entry."""
    layout, shape = reader.layout(call.x), _sizes(call)
    if len(shape) == 2 and _is_batch(shape[0]) and isinstance(shape[1], int):
        if shape == (-1, -1):
            raise InvalidInput(f"{call.who} reshapes to (-1, -1); give one of the sizes")
        return _flatten_all(reader, call, None if shape[1] == -1 else shape[1])
    if len(shape) == 2 and shape[0] != -1 and _is_batch(shape[0]) and isinstance(shape[1], Size):
        return _flatten_all(reader, call, None)  # with the batch axis kept, nothing else has so many entries
    groups = None if layout.open else group_axes(layout, shape)
    if groups is None:
        raise UnsupportedLayer(
            f"{call.who} reshapes {layout} to {shape}; only a reshape to (batch, features), or one that merges whole "
            "neighbouring axes, has a rule here; use x.flatten(first, last)"
        )
    return View(replace(call.x, layout=replace(layout, axes=groups)), for_certain=False)


def _sizes(call: Call) -> tuple[Any, ...]:
    call.x  # noqa: B018 - checks that sizes are no tensors
    given = call.args[1:] if len(call.args) != 2 else call.args[1]
    given = call.kwargs.get("shape", given)
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _is_batch(size: Any) -> bool:
    return size == -1 or (isinstance(size, Size) and size.is_batch)


# ---- moves of axes -------------------------------------------------------------------------------------------------


def read_permute(reader: Reader, call: Call) -> View:
    """x.permute(0, 2, 3, 1) or x.permute((0, 2, 3, 1))."""
    order = call.args[1:] if len(call.args) != 2 else call.args[1]
    order = call.kwargs.get("dims", order)
    return _moved(call, reader.layout(call.x).permuted(order if isinstance(order, (tuple, list)) else (order,)))


def read_transpose(reader: Reader, call: Call) -> View:
    """x.transpose(1, 2), x.swapaxes(1, 2)."""
    rest = (*call.args[1:], *(value for name, value in call.kwargs.items() if name != "input"))
    if len(rest) != 2:
        raise call.unknown_arguments()
    return _moved(call, reader.layout(call.x).swapped(*rest))


def read_move(reader: Reader, call: Call) -> View:
    """x.movedim(1, -1)."""
    source, destination = call.bind(source=REQUIRED, destination=REQUIRED)
    layout = reader.layout(call.x)
    source, destination = ((d,) if isinstance(d, int) else tuple(d) for d in (source, destination))
    sources, destinations = [layout.dim(d) for d in source], [layout.dim(d) for d in destination]
    if len(set(sources)) != len(source) or len(set(destinations)) != len(sources):
        raise call.unknown_arguments()
    order = [d for d in range(len(layout.axes)) if d not in sources]
    for place, moved in sorted(zip(destinations, sources, strict=True)):
        order.insert(place, moved)
    return _moved(call, layout.permuted(order))


def read_squeeze(reader: Reader, call: Call) -> View:
    """x.squeeze(-1); without an axis, every axis that is known to have one entry."""
    (dim,) = call.bind(dim=None)
    layout = reader.layout(call.x)
    if dim is None:
        unknown = [axis for axis in layout.axes if axis != (BATCH,) and layout.extent(axis) is None]
        if unknown or layout.open:
            raise UnsupportedLayer(
                f"{call.who} drops the axes of {layout} that happen to have one entry; name the axis, or use "
                "torch.flatten(x, 1)"
            )
        dim = [d for d, axis in enumerate(layout.axes) if layout.extent(axis) == 1]
    return _moved(call, layout.squeezed(dim if isinstance(dim, (tuple, list)) else (dim,)))


def read_unsqueeze(reader: Reader, call: Call) -> View:
    """x.unsqueeze(-1)."""
    (dim,) = call.bind(dim=REQUIRED)
    return _moved(call, _unsqueezed(call, reader.layout(call.x), dim))


def _unsqueezed(call: Call, layout: Layout, dim: int) -> Layout:
    if layout.open:
        raise UnsupportedLayer(
            f"{call.who} adds an axis to the data; give the data with an axis of channels, as in (n, 1, height, width)"
        )
    return layout.unsqueezed(dim)


def read_unflatten_module(reader: Reader, call: Call) -> View:
    """nn.Unflatten."""
    module: Any = call.module
    return _unflatten(reader, call, module.dim, module.unflattened_size)


def read_unflatten(reader: Reader, call: Call) -> View:
    """torch.unflatten, x.unflatten(1, (-1, 1, 1))."""
    return _unflatten(reader, call, *call.bind(dim=REQUIRED, sizes=REQUIRED))


def _unflatten(reader: Reader, call: Call, dim: Any, sizes: Any) -> View:
    """One axis becomes several: axes of one entry beside it, or what it is known to hold."""
    layout = reader.layout(call.x)
    given = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)
    if layout.open:
        raise UnsupportedLayer(
            f"{call.who} splits an axis of the data into {given}; give the data with these axes, as in (n, channels, "
            "height, width)"
        )
    place = layout.dim(dim)
    split = None
    if all(isinstance(size, int) for size in given) and given.count(-1) <= 1 and layout.axes[place] != (BATCH,):
        split = split_axis(layout, layout.axes[place], given)
    if split is None:
        raise UnsupportedLayer(
            f"{call.who} splits axis {place} of {layout} into {given}, and only new axes of one entry, as in (-1, 1, "
            "1), and positions whose numbers are known without the data have a rule here; take positions from the data "
            "or a convolution"
        )
    return _moved(call, replace(layout, axes=(*layout.axes[:place], *split, *layout.axes[place + 1 :])))


def read_contiguous(reader: Reader, call: Call) -> View:
    """x.contiguous(), which copies where the memory is not in order."""
    return View(call.x, for_certain=False)


def read_cast(reader: Reader, call: Call) -> View:
    """x.float(), x.double(), x.to(torch.float64): the same numbers, copied where the dtype is another."""
    given = (*call.args[1:], *call.kwargs.values())
    if given not in ([(torch.float32,), (torch.float64,)] if call.name == "to" else [()]):
        raise call.unknown_arguments()
    return View(call.x, for_certain=False)


def read_clone(reader: Reader, call: Call) -> Value:
    """x.clone()."""
    return call.x


def _moved(call: Call, layout: Layout) -> View:
    return View(replace(call.x, layout=layout))


# ---- reads of sizes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """x.shape."""

    layout: Layout

    def __getitem__(self, dim: int) -> Size:
        layout = self.layout.shown_to(dim + 1)
        return layout.size(layout.axes[layout.dim(dim)])


def read_size(reader: Reader, call: Call) -> Size | Shape:
    """x.size(), x.size(0)."""
    (dim,) = call.bind(dim=None)
    shape = Shape(reader.layout(call.x))
    return shape if dim is None else shape[dim]


def read_attribute(reader: Reader, call: Call) -> Shape | View:
    """x.shape, x.mT."""
    x, name = call.args
    if isinstance(x, Value) and name == "shape":
        return Shape(reader.layout(x))
    if isinstance(x, Value) and name == "mT":
        return _moved(replace(call, args=(x,)), reader.layout(x).swapped(-2, -1))
    raise UnsupportedLayer(f"forward reads the attribute '{name}' at {call.who}, which has no rule; {REMEDY}")


def read_item(reader: Reader, call: Call) -> Size | View:
    """x.shape[0]; x[:, :, None, None], which adds axes of one entry."""
    source, index = call.args
    if isinstance(source, Value) and _adds_axes(index):
        return _with_new_axes(reader, replace(call, args=(source,)), index)
    if not isinstance(source, Shape) or not isinstance(index, int):
        raise UnsupportedLayer(f"{call.who} takes a part of a tensor or a size, which has no rule; {REMEDY}")
    return source[index]


def _adds_axes(index: Any) -> bool:
    kept = (None, slice(None), Ellipsis)
    return isinstance(index, tuple) and all(item in kept for item in index) and index.count(Ellipsis) <= 1


def _with_new_axes(reader: Reader, call: Call, index: tuple[Any, ...]) -> View:
    """An axis of one entry at every None."""
    layout = reader.layout(call.x)
    if Ellipsis in index:
        at, rest = index.index(Ellipsis), len(layout.axes) - index.count(slice(None))
        index = (*index[:at], *[slice(None)] * rest, *index[at + 1 :])
    for place, item in enumerate(index):
        layout = _unsqueezed(call, layout, place) if item is None else layout
    return _moved(call, layout)


MODULES = {nn.Flatten: read_flatten_module, nn.Unflatten: read_unflatten_module}
CALLS = {
    **dict.fromkeys((torch.flatten, "flatten"), read_flatten),
    **dict.fromkeys((torch.reshape, "reshape", "view"), read_reshape),
    **dict.fromkeys((torch.permute, "permute"), read_permute),
    **dict.fromkeys(
        (torch.transpose, "transpose", torch.swapaxes, "swapaxes", torch.swapdims, "swapdims"), read_transpose
    ),
    **dict.fromkeys((torch.movedim, "movedim", torch.moveaxis, "moveaxis"), read_move),
    **dict.fromkeys((torch.squeeze, "squeeze"), read_squeeze),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), read_unsqueeze),
    **dict.fromkeys((torch.unflatten, "unflatten"), read_unflatten),
    "contiguous": read_contiguous,
    **dict.fromkeys(("float", "double", "to"), read_cast),
    **dict.fromkeys((torch.clone, "clone"), read_clone),
    "size": read_size,
    getattr: read_attribute,
    operator.getitem: read_item,
}
