"""Layers of sequences: random vectors of tokens and positions, attention, means and zeros by a mask.

Attention: z = Σ_p' G[p, p'] v_p' of many values is Gaussian: nngp' = w² G_x nngp G_x'ᵀ + b² over pairs of positions;
the weights of values and output train, so ntk' = w² G_x ntk G_x'ᵀ + 2 w² G_x nngp G_x'ᵀ + b².

Reference: Hron, Bahri, Sohl-Dickstein & Novak 2020, theorems 3 and 4, for scores divided by the number of tied keys.
"""

from __future__ import annotations

from ntkit.architecture.specs import Embedding, MaskedFill, MaskedMean, PositionalEmbedding, SelfAttention
from ntkit.infinite import program as ops
from ntkit.infinite.rules.affine import affine_layer, scales
from ntkit.infinite.rules.base import Builder, rule
from ntkit.infinite.rules.values import Value


@rule.register
def embedding(spec: Embedding, inputs: list[Value], builder: Builder) -> Value:
    """The vector of every token; those of different tokens are independent."""
    read = builder.instructions[inputs[0].terms[0].register]
    assert isinstance(read, ops.Read)
    vectors = ops.EmbedTokens(read.position_axes, spec.vocabulary, spec.padding, builder.path)
    return affine_layer(spec, builder.emit(vectors), spec.channels, builder)


@rule.register
def positional_embedding(spec: PositionalEmbedding, inputs: list[Value], builder: Builder) -> Value:
    """The vector of every position, independent of what it is added to."""
    vectors = ops.EmbedPositions(inputs[0].terms[0].register, spec.correlation_length)
    return affine_layer(spec, builder.emit(vectors), spec.channels, builder)


@rule.register
def attention(spec: SelfAttention, inputs: list[Value], builder: Builder) -> Value:
    """Σ_p' G[p, p'] v_p', and a linear layer."""
    values, keys = (builder.settle(value) for value in inputs)
    w, b, _ = scales(spec, builder)
    mixed = builder.emit(ops.Attend(values, keys, spec.mechanism, spec.score_scale, spec.masked))
    rate = w * (int(spec.trains_weight) + int(spec.trains_values))
    affine = ops.Affine(mixed, w, b, rate, b if spec.trains_bias else 0.0)
    return builder.single(affine, "affine", channels=spec.out_channels)


@rule.register
def masked_mean(spec: MaskedMean, inputs: list[Value], builder: Builder) -> Value:
    """A linear combination of Gaussian values stays Gaussian."""
    return builder.each_term(inputs[0], ops.MaskedMean(-1), "averaged")


@rule.register
def masked_fill(spec: MaskedFill, inputs: list[Value], builder: Builder) -> Value:
    """What is there stays as it is."""
    return builder.each_term(inputs[0], ops.MaskedFill(-1), "masked")
