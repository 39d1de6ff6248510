"""The data, flattening, pooling, concatenation and sums: what moves values without randomness of its own."""

from __future__ import annotations

from dataclasses import replace

from ntkit.architecture.specs import Concat, Dropout, Flatten, Input, LinearCombination, Pool, Product, Squeeze
from ntkit.errors import UnsupportedLayer
from ntkit.infinite import program as ops
from ntkit.infinite.rules.base import Builder, rule
from ntkit.infinite.rules.values import Block, Term, Value, add


@rule.register
def data(spec: Input, inputs: list[Value], builder: Builder) -> Value:
    """The data as they come."""
    read = ops.Read(spec.channels, False, spec.channel_axis, spec.position_axes)
    return builder.single(read, "input", frozenset(), spec.channels)


@rule.register
def flatten(spec: Flatten, inputs: list[Value], builder: Builder) -> Value:
    """Channels and positions become one axis: of the data at once, of images as a mean over positions."""
    (value,) = inputs
    if len(value.terms) == 1 and isinstance(builder.instructions[value.terms[0].register], ops.Read):
        (block,) = value.blocks
        read = builder.single(ops.Read(spec.features, flatten=True), "input", frozenset(), spec.features)
        return add([read], (block.terms[0][1],))
    support = frozenset().union(*(term.support for term in value.terms))
    return builder.single(ops.Trace(builder.settle(value)), "flattened", support, spec.features)


@rule.register
def squeeze(spec: Squeeze, inputs: list[Value], builder: Builder) -> Value:
    """A grid of one position becomes a vector; the value is the same."""
    return builder.each_term(inputs[0], ops.Trace(-1), "squeezed")


@rule.register
def pool(spec: Pool, inputs: list[Value], builder: Builder) -> Value:
    """Weighted sums over positions: a linear combination of Gaussian values stays Gaussian."""
    return builder.each_term(inputs[0], ops.Pool(-1, spec.axes, spec.factor), spec.verb)


@rule.register
def dropout(spec: Dropout, inputs: list[Value], builder: Builder) -> Value:
    """Dropout in training; a sample's copies, samples of equal values, have the same mask."""
    (value,) = inputs
    if value.holds_data:
        raise UnsupportedLayer(
            f"{spec.name} at '{builder.path}' drops parts of the data, of which there are few, so there is no limit; "
            "drop behind a layer"
        )
    return Value(tuple(_masked(spec, block, builder) for block in value.blocks))


def _masked(spec: Dropout, block: Block, builder: Builder) -> Block:
    mask = ops.Mask(builder.settle(Value((block,))), 1 - spec.rate, spec.whole_channels)
    kind = "masked" if block.not_gaussian is None else block.kind_of_result
    term = Term(builder.emit(mask, shared=False), kind, block.support, f"the dropout at '{builder.path}'")
    return Block(block.channels, ((term, 1.0),))


@rule.register
def concatenation(spec: Concat, inputs: list[Value], builder: Builder) -> Value:
    """Blocks of channels side by side."""
    blocks = [
        replace(block, channels=channels) if len(value.blocks) == 1 else block
        for value, channels in zip(inputs, spec.channels, strict=True)
        for block in value.blocks
    ]
    return Value(tuple(blocks))


@rule.register
def combination(spec: LinearCombination, inputs: list[Value], builder: Builder) -> Value:
    """Σ cᵢ xᵢ; equal terms are added up, so h + h is 2h and not two independent copies."""
    total = add(inputs, spec.coefficients, builder.path)
    for block in total.blocks:
        if not block.terms:
            raise UnsupportedLayer(f"the sum at '{builder.path}' cancels to exactly 0, which has no kernel; remove it")
    return total


@rule.register
def product(spec: Product, inputs: list[Value], builder: Builder) -> Value:
    """x y of two values that are functions of different layers, and so independent."""
    who = f"the product at '{builder.path}'"
    if any(len(value.blocks) > 1 for value in inputs):
        raise UnsupportedLayer(f"{who} reads channels of different layers side by side; multiply each part alone")
    one, two = (value.blocks[0] for value in inputs)
    if any(value.holds_data for value in inputs):
        raise UnsupportedLayer(
            f"{who} multiplies the data, whose few features differ, so that there is no limit; put a linear layer on "
            "both branches"
        )
    if any(term.kind == "flattened" for value in inputs for term in value.terms):
        raise UnsupportedLayer(f"{who} multiplies flattened images; multiply them before they are flattened")
    if one.support & two.support:
        raise UnsupportedLayer(
            f"{who} multiplies two functions of the output of one layer ({one.terms[0][0].what} and "
            f"{two.terms[0][0].what}), which are not independent; put a linear layer on one of the branches"
        )
    factor, registers, kinds = 1.0, [], []
    for block in (one, two):
        if len(block.terms) == 1:  # factors come out
            ((term, coefficient),) = block.terms
            factor, block = factor * coefficient, replace(block, terms=((term, 1.0),))
        registers.append(builder.settle(Value((block,))))
        kinds.append(block.kind_of_result)
    register = builder.emit(ops.Multiply(*registers))
    with_means = set(kinds) <= {"activation", "mixed"}
    kind = "masked" if not with_means else "mixed" if "mixed" in kinds else "activation"
    term = Term(register, kind, one.support | two.support, f"the product at '{builder.path}'")
    return Value((Block(one.channels, ((term, factor),)),))
