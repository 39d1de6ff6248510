"""Reads layers of sequences: embeddings of tokens and of positions, self-attention, means and zeros by a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import nn

import ntkit.nn
from ntkit.architecture.layout import BATCH, CHANNEL, Layout
from ntkit.architecture.read_layers import claim, scales_of
from ntkit.architecture.reader import OtherAxes, Reader
from ntkit.architecture.recorded import REMEDY, Call, MaskInput, Value
from ntkit.architecture.specs import (
    Concat,
    Embedding,
    LinearCombination,
    MaskedFill,
    MaskedMean,
    PositionalEmbedding,
    SelfAttention,
)
from ntkit.errors import InvalidInput, UnsupportedLayer


def read_embedding(reader: Reader, call: Call) -> Value:
    """nn.Embedding of the data, which are whole numbers."""
    layer: Any = call.module
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        raise UnsupportedLayer(
            f"{call.who} has max_norm, scale_grad_by_freq or sparse, which change what it computes or how it trains; "
            "leave them at their defaults"
        )
    value = call.x
    if value.base != 0:
        raise UnsupportedLayer(f"{call.who} reads what another layer computed, and token numbers are wanted; {REMEDY}")
    reader.data.say_tokens(value.layout)
    layout = reader.layout(value)
    if CHANNEL in reader.data.roles.values():
        raise UnsupportedLayer(f"{call.who} reads data whose channels another layer reads; {REMEDY}")
    claim(reader, call, layer.weight)
    spec = Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, **scales_of(layer, None))
    index = reader.add(spec, (reader.settle(value),), call.path)
    return Value(index, replace(layout, axes=(*layout.axes, (CHANNEL,)), channels=layer.embedding_dim))


def read_positional(reader: Reader, call: Call) -> Value:
    """ntkit.nn.PositionalEmbedding: the sum of its input and a value of its own, or both side by side."""
    layer: Any = call.module
    value, n_axes = call.x, len(layer.positions)
    reader.data.say(value.layout, n_axes + 2, n_axes + 1)
    layout = reader.layout(value)
    sizes = tuple(layout.extent(axis) for axis in layout.axes[1:-1])
    if len(sizes) != n_axes or layout.axes[0] != (BATCH,) or layout.axes[-1] != (CHANNEL,):
        raise OtherAxes(
            f"{call.who} takes (batch, {n_axes} axes of positions, channels), but axes that hold {layout} arrive; "
            "permute or flatten them so that they fit"
        )
    if any(n not in (None, m) for n, m in zip(sizes, layer.positions, strict=True)):
        raise InvalidInput(
            f"{call.who} has vectors for {layer.positions} positions, but {sizes} arrive; make them agree"
        )
    if layer.correlation_length:
        _require_grid(call, layout)
    if not layer.concatenate:
        reader.require_channels(value, layer.channels, f"{call.who} adds vectors of {layer.channels} channels")
    claim(reader, call, layer.weight)
    source = reader.settle(value)
    spec = PositionalEmbedding(layer.positions, layer.channels, layer.correlation_length, **scales_of(layer, None))
    vectors = reader.add(spec, (source,), call.path)
    channels = reader.layout(value).channels
    if not layer.concatenate:
        return Value(reader.add(LinearCombination((1.0, 1.0)), (source, vectors), call.path), layout)
    if channels is None:
        raise InvalidInput(f"{call.who} joins the data before any layer has told how many channels they have")
    index = reader.add(Concat((channels, layer.channels)), (source, vectors), call.path)
    return Value(index, replace(layout, channels=channels + layer.channels))


def _require_grid(call: Call, layout: Layout) -> None:
    """Axes of positions stand as on the grid; those of one position have no order."""
    long = [label for label, size in enumerate(layout.sizes) if size != 1]
    shown = [[label for label in axis if label in long] for axis in layout.axes[1:-1]]
    if [label for axis in shown for label in axis] != long:
        raise UnsupportedLayer(
            f"{call.who} correlates positions of {layout}, which are not in the order of the grid; set "
            "correlation_length=0"
        )
    if any(len(axis) > 1 for axis in shown):
        raise UnsupportedLayer(
            f"{call.who} correlates positions that hold several axes merged; put it before they are flattened, with "
            "positions=(height, width)"
        )


def read_attention(reader: Reader, call: Call) -> Value:
    """ntkit.nn.SelfAttention."""
    layer: Any = call.module
    value, keys, mask = _arguments(call, "input", "keys_from", "mask")
    keys = value if keys is None else keys
    if not isinstance(value, Value) or not isinstance(keys, Value) or not isinstance(mask, MaskInput | None):
        raise UnsupportedLayer(f"{call.who} is called with other things than tensors and the model's mask; {REMEDY}")
    layout = _tokens(reader, call, value)
    if keys is not value:
        other = _tokens(reader, call, keys)
        if other.axes != layout.axes or other.sizes != layout.sizes:
            raise UnsupportedLayer(f"{call.who} takes keys at other positions than its values; {REMEDY}")
    for operand, channels in ((value, layer.in_channels), (keys, layer.key_in_channels)):
        reader.require_channels(operand, channels, f"{call.who} takes {channels} channels")
    # keys train too, but in the limit the weights of attention, and so the output, do not depend on them
    claim(reader, call, layer.weight, layer.value_weight, layer.key_weight, layer.bias)
    spec = SelfAttention(
        layer.in_channels, layer.key_in_channels, layer.out_channels, layer.mechanism, layer.score_scale,
        mask is not None, layer.value_weight.requires_grad, **scales_of(layer, layer.bias),
    )  # fmt: skip
    index = reader.add(spec, (reader.settle(value), reader.settle(keys)), call.path)
    return Value(index, replace(layout, channels=layer.out_channels))


def read_masked_mean(reader: Reader, call: Call) -> Value:
    """ntkit.nn.MaskedMean."""
    value = _masked(call)
    layout = _tokens(reader, call, value)
    index = reader.add(MaskedMean(), (reader.settle(value),), call.path)
    return Value(index, Layout(((BATCH,), (CHANNEL,)), (), layout.channels))


def read_masked_fill(reader: Reader, call: Call) -> Value:
    """ntkit.nn.MaskedFill."""
    value = _masked(call)
    layout = _tokens(reader, call, value)
    return Value(reader.add(MaskedFill(), (reader.settle(value),), call.path), layout)


def read_torch_attention(reader: Reader, call: Call) -> Value:
    """nn.MultiheadAttention and its like, whose weights have no limit."""
    raise UnsupportedLayer(
        f"{call.who} divides its scores by the square root of their number, so that its weights stay random however "
        "wide it is, and there is no kernel; use ntkit.nn.SelfAttention, whose weights have a limit, or "
        "ntkit.infinite.monte_carlo_kernel"
    )


def _masked(call: Call) -> Value:
    value, mask = _arguments(call, "input", "mask")
    if not isinstance(value, Value) or not isinstance(mask, MaskInput):
        raise UnsupportedLayer(
            f"{call.who} is called with other things than a tensor and the mask that the model's forward takes; "
            f"{REMEDY}"
        )
    return value


def _arguments(call: Call, *names: str) -> list[Any]:
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    if len(call.args) > len(names) or not set(given) <= set(names):
        raise call.unknown_arguments()
    return [given.get(name) for name in names]


def _tokens(reader: Reader, call: Call, value: Value) -> Layout:
    """The layout of (batch, tokens, channels), where the tokens are all positions that there are."""
    reader.data.say(value.layout, 3, 2)
    layout = reader.layout(value)
    if len(layout.axes) != 3 or layout.axes[0] != (BATCH,) or layout.axes[2] != (CHANNEL,):
        raise OtherAxes(
            f"{call.who} takes (batch, tokens, channels), but axes that hold {layout} arrive; flatten and permute them "
            "so that they fit, as in x.flatten(2).transpose(1, 2)"
        )
    if list(layout.axes[1]) != [n for n in range(len(layout.sizes)) if n in layout.axes[1]]:
        raise UnsupportedLayer(f"{call.who} reads tokens that hold {layout}, in another order than the grid; {REMEDY}")
    return layout


MODULES = {
    nn.Embedding: read_embedding,
    ntkit.nn.Embedding: read_embedding,
    ntkit.nn.PositionalEmbedding: read_positional,
    ntkit.nn.SelfAttention: read_attention,
    ntkit.nn.MaskedMean: read_masked_mean,
    ntkit.nn.MaskedFill: read_masked_fill,
    **dict.fromkeys(
        (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer),
        read_torch_attention,
    ),
}
READS_MASK = {read_attention, read_masked_mean, read_masked_fill, read_torch_attention}
CALLS = {F.scaled_dot_product_attention: read_torch_attention}
