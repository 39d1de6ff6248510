"""Activations: the dual of a Gaussian input, and an error for any other input, which has no such limit."""

from __future__ import annotations

from ntkit.architecture.specs import Activation
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.program import Dual
from ntkit.infinite.rules.base import Builder, Value, rule


@rule.register
def activation(spec: Activation, inputs: list[Value], builder: Builder) -> Value:
    """σ(x) for x a linear combination of affine layers' outputs."""
    (value,) = inputs
    if not value.is_gaussian:
        culprit = next(term for term, _ in value.terms if term.kind != "affine")
        source = "the data" if culprit.kind == "input" else f"the activation at '{culprit.path}'"
        remedy = (
            "apply it to the data before, or put a linear layer between"
            if culprit.kind == "input"
            else "put a linear layer between (as in pre-activation residual networks)"
        )
        raise UnsupportedLayer(
            f"{spec.name} at '{builder.path}' reads {source}, which is not Gaussian in the limit, so its "
            f"kernel has no closed recursion; {remedy}"
        )
    source = builder.settle(value)
    return builder.single(Dual(source, spec, builder.path), "activation", value.support)
