"""Activations: the dual of a Gaussian input, and an error for any other input, which has no such limit."""

from __future__ import annotations

from ntkit.architecture.specs import Activation
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.program import Dual
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
    source = builder.settle(Value((block,)))
    register = builder.emit(Dual(source, spec, builder.path))
    term = Term(register, "activation", block.support, f"the activation at '{builder.path}'")
    return Block(block.channels, ((term, 1.0),))
