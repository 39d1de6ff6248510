"""Activations: the dual of a Gaussian input, and an error for any other input, which has no such limit."""

from __future__ import annotations

from dataclasses import replace

from ntkit.architecture.specs import Activation
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.program import Dual, Scale
from ntkit.infinite.rules.base import Builder, rule
from ntkit.infinite.rules.values import Block, Term, Value


@rule.register
def activation(spec: Activation, inputs: list[Value], builder: Builder) -> Value:
    """σ(x) for x a linear combination of affine layers' outputs; of channels side by side, block by block."""
    return Value(tuple(_of_block(spec, block, builder) for block in inputs[0].blocks))


def _of_block(spec: Activation, block: Block, builder: Builder) -> Block:
    culprit = block.not_gaussian
    if culprit is not None:
        source = "the data" if culprit.kind == "input" else culprit.what
        remedy = (
            "apply it to the data before, or put a linear layer between"
            if culprit.kind == "input"
            else "put a linear layer or a convolution between (as in pre-activation residual networks)"
        )
        raise UnsupportedLayer(
            f"{spec.name} at '{builder.path}' reads {source}, which is not Gaussian in the limit, so its "
            f"kernel has no closed recursion; {remedy}"
        )
    block, scale = _without_scale(spec, block, builder)
    source = builder.settle(Value((block,)))
    register = builder.emit(Dual(source, spec, builder.path, scale))
    term = Term(register, "activation", block.support, f"the activation at '{builder.path}'")
    return Block(block.channels, ((term, 1.0),))


def _without_scale(spec: Activation, block: Block, builder: Builder) -> tuple[Block, Scale]:
    """The block without a trained scale, and its kind: behind an activation it adds E[∂γσ(γu) ∂γσ(γv)]."""
    scaled = [term for term, _ in block.terms if term.scale is not None or term.scaled is not None]
    if not scaled:
        return block, None
    ((term, factor), *others) = block.terms
    if others or term.scale is None:
        path = scaled[0].scale[0] if scaled[0].scale is not None else scaled[0].scaled
        raise UnsupportedLayer(
            f"{spec.name} at '{builder.path}' reads a sum or a mean over positions of what '{path}' scales by trained "
            "numbers, whose part of the tangent kernel has no rule there; freeze the scale with requires_grad_(False), "
            "or put a linear layer between"
        )
    return replace(block, terms=((replace(term, scale=None), factor),)), term.scale[1]
