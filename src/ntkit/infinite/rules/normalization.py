"""Normalisation layers: x/√(Q + ε) with Q the mean square over channels, which tends to a number of each sample.

So nngp' = nngp/(R R') and ntk' = ntk/(R R'), R = √(Q + ε). The mean over channels, which LayerNorm and GroupNorm take
away, tends to 0 behind an affine layer; behind an activation it does not, and there is no closed form. A trained scale
γ = 1 of every channel adds the covariance s, a trained shift adds 1: so where a layer, a sum or a pool comes next.
Of an activation that comes next the shift goes through like a bias, and γ adds E[∂γσ(γu) ∂γσ(γv)] = E[uσ'(u) vσ'(v)].

Reference: Ba, Kiros & Hinton 2016 and Wu & He 2018 for the layers; Novak et al. 2020 (neural-tangents) for the limit
without parameters; the parameters' part is the chain rule and the law of large numbers over channels.
"""

from __future__ import annotations

from ntkit.architecture.specs import Normalization
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.program import Normalize, ScaleAndShift
from ntkit.infinite.rules.base import Builder, rule
from ntkit.infinite.rules.values import Block, Term, Value


@rule.register
def normalization(spec: Normalization, inputs: list[Value], builder: Builder) -> Value:
    """x/√(Q + ε)."""
    (value,) = inputs
    _require_limit(spec, value, builder)
    (block,) = value.blocks
    register = builder.emit(Normalize(builder.settle(value), spec.eps, spec.over_positions, builder.path))
    if spec.trains_shift:
        register = builder.emit(ScaleAndShift(register, 0.0, 1.0, spec.shared), shared=False)
    scale = (builder.path, "shared" if spec.shared else "own") if spec.trains_scale else None
    term = Term(register, block.kind_of_result, block.support, f"the {spec.name} at '{builder.path}'", scale)
    return Value((Block(block.channels, ((term, 1.0),)),))


def _require_limit(spec: Normalization, value: Value, builder: Builder) -> None:
    who = f"{spec.name} at '{builder.path}'"
    if value.holds_data:
        raise UnsupportedLayer(
            f"{who} reads the data, whose mean square over few features is no limit; normalise the data before, or put "
            "a linear layer between"
        )
    if len(value.blocks) > 1:
        raise UnsupportedLayer(
            f"{who} reads channels of different layers side by side, which it ties together; normalise each before the "
            "concatenation"
        )
    culprit = next((block.not_gaussian for block in value.blocks), None)
    if spec.subtracts_mean and culprit is not None:
        raise UnsupportedLayer(
            f"{who} takes away the mean over channels, and {culprit.what} has one that is not 0, so its kernel has no "
            "closed form; put it before the activation, or use torch.nn.RMSNorm, which takes no mean away"
        )
