"""Do samples of a shape fit a network? Channels and positions are carried through every layer.

Only what torch itself would refuse is refused here: no kernel depends on these sizes, so nothing else would notice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

from ntkit.architecture.network import Network
from ntkit.architecture.specs import (
    Concat,
    Conv,
    Embedding,
    Flatten,
    Input,
    Layer,
    Linear,
    LinearCombination,
    MaskedMean,
    Pool,
    PositionalEmbedding,
    Product,
    SelfAttention,
    Spec,
    Squeeze,
)
from ntkit.errors import InvalidInput


@dataclass(frozen=True)
class Sizes:
    """Of one value.

    Args:
        channels: entries a position.
        grid: positions, axis by axis; () for vectors.
    """

    channels: int
    grid: tuple[int, ...] = ()


def sizes_of(network: Network, shape: tuple[int, ...], name: str = "x") -> tuple[Sizes, ...]:
    """The sizes of every node of a network, for data of a shape.

    Args:
        network: as traced.
        shape: of the data, samples first.
        name: of the data, for errors.

    Raises:
        InvalidInput: the model does not take data of this shape; the message names the layer that does not.

    Example:
        >>> import torch
        >>> from ntkit.architecture import trace
        >>> net = trace(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten()))
        >>> sizes_of(net, (1, 3, 8, 8))[-1]
        Sizes(channels=8, grid=(6, 6))
    """
    flattens = all(isinstance(node.spec, Flatten) for node in network.nodes if node.inputs == (0,))
    found: list[Sizes] = []
    for node in network.nodes:
        if isinstance(node.spec, Input):
            found.append(_of_data(node.spec, shape, name, flattens))
        elif node.inputs == (0,) and isinstance(node.spec, Flatten):
            found.append(_of_flattened_data(node.spec, shape, name))
        else:
            found.append(after(node.spec, [found[i] for i in node.inputs], f"{node.spec.name} at '{node.path}'"))
    return tuple(found)


def _of_data(spec: Input, shape: tuple[int, ...], name: str, flattens: bool) -> Sizes:
    if spec.holds_tokens:
        if len(shape) != len(spec.position_axes) + 1:
            raise InvalidInput(f"{name} has shape {shape}, but the model takes (n, tokens); reshape the data")
        return Sizes(1, tuple(shape[axis] for axis in spec.position_axes))
    if spec.channel_axis is None:
        if len(shape) > 2 and not flattens:
            raise InvalidInput(
                f"{name} has shape {shape}, but the model's first layer takes (n, features); put "
                "torch.nn.Flatten() in front of the model, or flatten the data"
            )
        return _of_flattened_data(Flatten(spec.channels), shape, name)
    rank = len(spec.position_axes) + 2
    if len(shape) != rank:
        names = {spec.channel_axis: "channels"} | {axis: f"positions {k}" for k, axis in enumerate(spec.position_axes)}
        wanted = ", ".join(names[axis] for axis in range(1, rank))
        raise InvalidInput(f"{name} has shape {shape}, but the model takes (n, {wanted}); reshape the data")
    channels = shape[spec.channel_axis]
    if spec.channels not in (None, channels):
        raise InvalidInput(
            f"{name} has {channels} channels on axis {spec.channel_axis} (shape {shape}), but the model takes "
            f"{spec.channels}"
        )
    return Sizes(channels, tuple(shape[axis] for axis in spec.position_axes))


def _of_flattened_data(spec: Flatten, shape: tuple[int, ...], name: str) -> Sizes:
    features = math.prod(shape[1:])
    if spec.features not in (None, features):
        raise InvalidInput(
            f"{name} has {features} features a sample (shape {shape}), but the model takes {spec.features}"
        )
    return Sizes(features)


@singledispatch
def after(spec: Spec, inputs: list[Sizes], who: str) -> Sizes:
    """The sizes after a layer; what acts on each entry alone leaves them."""
    return inputs[0]


@after.register
def _(spec: Flatten, inputs: list[Sizes], who: str) -> Sizes:
    (x,) = inputs
    features = x.channels * math.prod(x.grid)
    if spec.features not in (None, features):
        layer = who.replace("Flatten", "the layer", 1)
        raise InvalidInput(
            f"{layer} takes {spec.features} features, but {x.channels} channels at {x.grid} positions arrive, which "
            f"are {features}; use images of the size that the model was made for"
        )
    return Sizes(features)


@after.register
def _(spec: Squeeze, inputs: list[Sizes], who: str) -> Sizes:
    return Sizes(inputs[0].channels)


@after.register
def _(spec: Linear, inputs: list[Sizes], who: str) -> Sizes:
    _require_channels(inputs[0], spec.in_features, who)
    return Sizes(spec.out_features, inputs[0].grid)


@after.register
def _(spec: Conv, inputs: list[Sizes], who: str) -> Sizes:
    _require_channels(inputs[0], spec.in_channels, who)
    return Sizes(spec.out_channels, _through(spec, inputs[0], who))


@after.register
def _(spec: Pool, inputs: list[Sizes], who: str) -> Sizes:
    return Sizes(inputs[0].channels, _through(spec, inputs[0], who))


@after.register
def _(spec: Embedding, inputs: list[Sizes], who: str) -> Sizes:
    return Sizes(spec.channels, inputs[0].grid)


@after.register
def _(spec: PositionalEmbedding, inputs: list[Sizes], who: str) -> Sizes:
    grid = tuple(n for n in inputs[0].grid if n != 1)
    if math.prod(grid) != math.prod(spec.positions):
        raise InvalidInput(
            f"{who} has vectors for {spec.positions} positions, but {inputs[0].grid} arrive; make the sizes agree"
        )
    return Sizes(spec.channels, inputs[0].grid)


@after.register
def _(spec: SelfAttention, inputs: list[Sizes], who: str) -> Sizes:
    _require_channels(inputs[0], spec.in_channels, who)
    _require_channels(inputs[1], spec.key_in_channels, who)
    _require_one_grid(inputs, who)
    return Sizes(spec.out_channels, inputs[0].grid)


@after.register
def _(spec: MaskedMean, inputs: list[Sizes], who: str) -> Sizes:
    return Sizes(inputs[0].channels)


@after.register
def _(spec: Layer, inputs: list[Sizes], who: str) -> Sizes:
    _require_one_grid(inputs, who)
    for x in inputs:
        _require_channels(x, spec.in_channels or x.channels, who)
    return Sizes(
        spec.out_channels or inputs[0].channels, _through(spec, inputs[0], who) if spec.axes else inputs[0].grid
    )


@after.register
def _(spec: Concat, inputs: list[Sizes], who: str) -> Sizes:
    _require_one_grid(inputs, who)
    return Sizes(sum(x.channels for x in inputs), inputs[0].grid)


@after.register(LinearCombination)
@after.register(Product)
def _(spec: LinearCombination | Product, inputs: list[Sizes], who: str) -> Sizes:
    _require_one_grid(inputs, who)
    return inputs[0]


def _require_channels(x: Sizes, wanted: int, who: str) -> None:
    if x.channels != wanted:
        raise InvalidInput(f"{who} takes {wanted} channels, but {x.channels} arrive; make the sizes agree")


def _through(spec: Conv | Pool | Layer, x: Sizes, who: str) -> tuple[int, ...]:
    try:
        return tuple(axis.size(n) for axis, n in zip(spec.axes, x.grid, strict=True))
    except InvalidInput as error:
        raise InvalidInput(f"{who}: {error}") from None


def _require_one_grid(inputs: list[Sizes], who: str) -> None:
    grids = {x.grid for x in inputs}
    if len(grids) > 1:
        raise InvalidInput(
            f"{who} meets values at {' and '.join(map(str, sorted(grids)))} positions; make them agree, by strides or "
            "paddings, or use images of another size"
        )
