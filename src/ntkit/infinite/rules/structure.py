"""The data, flattening, and linear combinations: what moves values without randomness of its own."""

from __future__ import annotations

from dataclasses import replace

from ntkit.architecture.specs import Flatten, Input, LinearCombination
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.program import Read
from ntkit.infinite.rules.base import Builder, Term, Value, rule


@rule.register
def data(spec: Input, inputs: list[Value], builder: Builder) -> Value:
    """The data as they come."""
    return builder.single(Read(None, flatten=False), "input", frozenset())


@rule.register
def flatten(spec: Flatten, inputs: list[Value], builder: Builder) -> Value:
    """Flattened data; every later value is a vector already."""
    (value,) = inputs
    if any(term.kind == "input" for term, _ in value.terms):
        read = replace(Read(spec.features, flatten=True))
        register = builder.emit(read)
        terms = [
            (Term(register, "input", frozenset(), builder.path) if term.kind == "input" else term, c)
            for term, c in value.terms
        ]
        return Value(tuple(terms))
    return value


@rule.register
def combination(spec: LinearCombination, inputs: list[Value], builder: Builder) -> Value:
    """Σ cᵢ xᵢ; equal terms are added up, so h + h is 2h and not two independent copies."""
    total: dict[Term, float] = {}
    for value, coefficient in zip(inputs, spec.coefficients, strict=True):
        for term, inner in value.terms:
            total[term] = total.get(term, 0.0) + coefficient * inner
    left = tuple((term, c) for term, c in total.items() if c != 0.0)
    if not left:
        raise UnsupportedLayer(f"the sum at '{builder.path}' cancels to exactly 0, which has no kernel; remove it")
    return Value(left)
