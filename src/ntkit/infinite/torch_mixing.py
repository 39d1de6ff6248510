"""Instructions that add up positions, K' = W K W'ᵀ, with torch: pools, attention, and means by a mask.

What belongs to each sample alone (W where it has its own, and what makes of W D W'ᵀ a distance) is found once, by
`within`; then each block of pairs costs two products and one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.infinite import program as ops
from ntkit.infinite import torch_positions as positions
from ntkit.infinite.torch_registers import LostInSingle, Moments, Pairing, Place, Register, Side, Within
from ntkit.infinite.torch_steps import moments, of_data, pair_step
from ntkit.nn.mechanisms import attention_weights

MIXING = (ops.Pool, ops.Mix)
_CLOSE = 1e-3  # of the second moments: above it the difference loses at most three digits


# ---- each sample alone -----------------------------------------------------------------------------------------------


@singledispatch
def within(op: ops.Instruction, pairing: Pairing, place: Place, registers: Mapping[int, Register]) -> Within:
    """What an instruction that mixes positions takes from the pairs of each sample with itself, (n, p, 1, p)."""
    raise TypeError(f"the torch interpreter does not know what {op} takes from a sample alone")


@within.register
def _(op: ops.Pool, pairing: Pairing, place: Place, registers: Mapping[int, Register]) -> Within:
    q = pairing.left.registers[op.source].second
    spread = _pooled(op, place, registers[op.source], pairing).laid_out(True).distance[:, :, 0] / 2
    totals, means = (positions.pool_sum(values, op.axes, place.grid) for values in (torch.ones_like(q), q))
    norms, sizes = (positions.pool_sum(values, op.axes, place.grid, 2).sqrt() for values in (torch.ones_like(q), q**2))
    return Within(spread, totals, means, norms, sizes)


@within.register
def _(op: ops.Mix, pairing: Pairing, place: Place, registers: Mapping[int, Register]) -> Within:
    weights, before = weights_of(op, pairing.left, registers), pairing.left.registers[op.source]
    if before.data is None and pairing.compiled:
        from ntkit.infinite.compiled import mixing  # numba is loaded where it is used

        return mixing.within(weights, registers[op.source].laid_out(False).distance[:, :, 0], before.second)
    q, totals = before.second[..., None], weights.sum(2)
    means, sizes = (weights @ q)[..., 0], (weights**2 @ q**2)[..., 0].sqrt()
    if before.data is not None:  # whose averages are data too
        spread, itself = totals * means - ((weights @ before.data) ** 2).mean(2), None
    else:
        distance = registers[op.source].laid_out(False).distance[:, :, 0]
        spread = ((weights @ distance) * weights).sum(2) / 2
        itself = _distances_alone(weights, _covariances(pairing.left, op.source, registers))
    return Within(spread, totals, means, weights.norm(dim=2), sizes, weights, itself)


@singledispatch
def weights_of(op: ops.Instruction, side: Side, registers: Mapping[int, Register]) -> Float[Tensor, "n q p"]:
    """W of what has weights of each sample's own, from the pairs of each sample with itself."""
    raise TypeError(f"the torch interpreter does not know the weights of {op}")


@weights_of.register
def _(op: ops.Attend, side: Side, registers: Mapping[int, Register]) -> Tensor:
    scores = op.score_scale * _covariances(side, op.keys, registers)
    return attention_weights(op.mechanism, scores, side.mask if op.masked else None)


@weights_of.register
def _(op: ops.MaskedMean, side: Side, registers: Mapping[int, Register]) -> Tensor:
    assert side.mask is not None
    kept = side.mask.to(side.registers[op.source].second)
    return (kept / kept.sum(1, keepdim=True))[:, None]


def _covariances(side: Side, register: int, registers: Mapping[int, Register]) -> Float[Tensor, "n p p"]:
    """Between all positions of each sample."""
    distance = registers[register].laid_out(False).distance
    return Pairing(side, None).covariance(register, distance)[:, :, 0]


def _distances_alone(weights: Float[Tensor, "n q p"], covariance: Float[Tensor, "n p p"]) -> Float[Tensor, "n q q"]:
    """(W_P − W_Q) S (W_P − W_Q)ᵀ, by one product, and once more for pairs so near that it cancels.

    What all rows of W share is taken off first, for weights that hardly differ are common. Tokens that occur twice have
    equal rows, and so a distance of exactly 0.
    """
    own = weights - weights.mean(1, keepdim=True)
    product = own @ covariance @ own.mT
    product = (product + product.mT) / 2
    squares = product.diagonal(dim1=1, dim2=2)
    total = squares[:, :, None] + squares[:, None, :]
    rough = total - 2 * product
    correction = torch.zeros_like(rough)
    with torch.no_grad():
        near = (rough <= _CLOSE * total).logical_and(~torch.eye(rough.shape[1], dtype=torch.bool, device=rough.device))
        correction -= torch.diag_embed(rough.diagonal(dim1=1, dim2=2))
        for sample in near.any(2).any(1).nonzero()[:, 0].tolist():
            rows, columns = near[sample].nonzero(as_tuple=True)
            gap = own[sample, rows] - own[sample, columns]
            exact = ((gap @ covariance[sample]) * gap).sum(1).clamp(min=0)
            correction[sample, rows, columns] = exact - rough[sample, rows, columns]
    return rough + correction


@moments.register
def _(op: ops.Pool, side: Side, place: Place, found: Within | None) -> Moments:
    assert found is not None
    mean = side.registers[op.source].mean
    mean = None if mean is None else op.factor * positions.pool_sum(mean, op.axes, place.grid)
    return Moments(op.factor**2 * found.second, mean, within=found)


@moments.register
def _(op: ops.Mix, side: Side, place: Place, found: Within | None) -> Moments:
    assert found is not None
    assert found.weights is not None
    before = side.registers[op.source]
    if before.data is not None:  # sums of the data are data
        data = found.weights @ before.data
        return Moments((data**2).mean(2), data=data)
    mean = None if before.mean is None else (found.weights @ before.mean[..., None])[..., 0]
    return Moments(found.second, mean, within=found)


# ---- pairs -----------------------------------------------------------------------------------------------------------


@pair_step.register
def _(op: ops.Pool, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    return of_sums(op, _pooled(op, place, registers[op.source], pairing), pairing, place)


def _pooled(op: ops.Pool, place: Place, before: Register, pairing: Pairing) -> Register:
    """W D Wᵀ and W T Wᵀ."""
    if place.diagonal and before.distance.ndim == 3:  # windows of one position: equal positions are all there is
        return before.each(lambda pairs: positions.pool_sum(pairs, op.axes, place.grid, power=2))
    before = before.laid_out(False)
    return before.each(lambda pairs: positions.pool_sum(pairs, op.axes, place.grid)).laid_out(place.diagonal)


@pair_step.register
def _(op: ops.Mix, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    if pairing.left.registers[place.register].data is not None:
        return of_data(pairing, place, want_ntk)
    one, two = pairing.held(place.register, "within")
    before = registers[op.source].laid_out(False)
    if pairing.right is None:
        ntk = None if before.ntk is None else (one.weights @ before.ntk[:, :, 0] @ one.weights.mT)[:, :, None]
        return Register(one.itself[:, :, None], ntk).laid_out(place.diagonal)
    summed = before.each(lambda pairs: _summed(pairs.to(one.weights), one.weights, two.weights, place.diagonal))
    return of_sums(op, summed, pairing, place)


def _summed(
    pairs: Float[Tensor, "n p m p"], one: Float[Tensor, "n q p"], two: Float[Tensor, "m q p"], diagonal: bool
) -> Float[Tensor, "n q *rest"]:
    """W₁ K W₂ᵀ of every pair: all of its entries, or only those of equal positions."""
    n, p, m, _ = pairs.shape
    rows = (one @ pairs.reshape(n, p, m * p)).view(n, -1, m, p)
    if diagonal:
        return torch.einsum("nqmp,mqp->nqm", rows, two)
    columns = rows.permute(2, 0, 1, 3).reshape(m, -1, p) @ two.mT
    return columns.view(m, n, rows.shape[1], -1).permute(1, 2, 0, 3)


def of_sums(op: ops.Pool | ops.Mix, summed: Register, pairing: Pairing, place: Place) -> Register:
    """D and T after an instruction, from W D W'ᵀ and W T W'ᵀ.

    Raises:
        LostInSingle: as it says, where loops compute in float32.
    """
    one, _ = pairing.held(place.register, "within")
    a, m, r = (pairing.within(place.register, name) for name in ("totals", "means", "spread"))
    distance = positions.pool_distance(summed.distance, a, m, r, pairing.same)
    if pairing.compiled == "float32":
        _check_precision(distance, pairing, place)
    if one.itself is not None and distance.ndim == 4 and bool(pairing.same.any()):
        distance = torch.where(positions.each_pair(pairing.same, distance), one.itself[:, :, None], distance)
    factor = op.factor**2 if isinstance(op, ops.Pool) else 1.0
    return Register(distance, summed.ntk).each(lambda pairs: factor * pairs).laid_out(place.diagonal)


def _check_precision(distance: Tensor, pairing: Pairing, place: Place) -> None:
    from ntkit.infinite.compiled import mixing

    norms, sizes, roots = (
        positions.across(*pairing.within(place.register, name), distance) for name in ("norms", "sizes", "roots")
    )
    one, two = (side.mean_second for side in pairing.held(place.register, "within"))
    lost = mixing.is_lost(distance, *norms, *sizes, *roots, positions.each_pair(one[:, None] * two, distance))
    if bool((lost & ~positions.each_pair(pairing.same, distance)).any()):
        raise LostInSingle
