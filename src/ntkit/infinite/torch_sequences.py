"""What the instructions of sequences do with torch: embeddings, attention, means and zeros by a mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.infinite import program as ops
from ntkit.infinite import torch_positions as positions
from ntkit.infinite.placement import Grid
from ntkit.infinite.torch_registers import Moments, Pairing, Place, Register, Side, Within
from ntkit.infinite.torch_steps import compiled_loops, moments, pair_step, within
from ntkit.nn.mechanisms import attention_weights
from ntkit.nn.sequences import position_covariance

_CLOSE = 1e-3  # of the second moments: above it the difference loses at most three digits

# ---- weights of each sample's own ------------------------------------------------------------------------------------


@within.register
def _(op: ops.Attend, side: Side, place: Place, registers: Mapping[int, Register]) -> Within:
    scores = op.score_scale * _covariances(side, op.keys, registers)
    mask = side.mask if op.masked else None
    return _mixed_alone(attention_weights(op.mechanism, scores, mask), op, side, registers)


@within.register
def _(op: ops.MaskedMean, side: Side, place: Place, registers: Mapping[int, Register]) -> Within:
    assert side.mask is not None
    kept = side.mask.to(side.registers[op.source].second)
    return _mixed_alone((kept / kept.sum(1, keepdim=True))[:, None], op, side, registers)


def _covariances(side: Side, register: int, registers: Mapping[int, Register]) -> Float[Tensor, "n p p"]:
    """Between all positions of each sample."""
    distance = registers[register].laid_out(False).distance
    return Pairing(side, None).covariance(register, distance)[:, :, 0]


def _mixed_alone(weights: Float[Tensor, "n q p"], op: ops.Mix, side: Side, registers: Mapping[int, Register]) -> Within:
    distance = registers[op.source].laid_out(False).distance[:, :, 0]
    spread = ((weights @ distance) * weights).sum(2) / 2
    return Within(spread, weights, _distances_alone(weights, _covariances(side, op.source, registers)))


def _distances_alone(weights: Float[Tensor, "n q p"], covariance: Float[Tensor, "n p p"]) -> Float[Tensor, "n q q"]:
    """(W_P − W_Q) S (W_P − W_Q)ᵀ, by one product, and once more for pairs so near that it cancels.

    Tokens that occur twice have equal rows of weights, and so a distance of exactly 0.
    """
    product = weights @ covariance @ weights.mT
    total = product.diagonal(dim1=1, dim2=2)[:, :, None] + product.diagonal(dim1=1, dim2=2)[:, None, :]
    rough = total - product - product.mT
    correction = torch.zeros_like(rough)
    with torch.no_grad():
        for sample in (rough <= _CLOSE * total).any(2).any(1).nonzero()[:, 0].tolist():
            rows, columns = (rough[sample] <= _CLOSE * total[sample]).nonzero(as_tuple=True)
            gap = weights[sample, rows] - weights[sample, columns]
            exact = ((gap @ covariance[sample]) * gap).sum(1).clamp(min=0)
            correction[sample, rows, columns] = exact - rough[sample, rows, columns]
    return rough + correction


@moments.register
def _(op: ops.Mix, side: Side, place: Place, found: Within | None) -> Moments:
    assert found is not None
    weights, before = found.weights, side.registers[op.source]
    assert weights is not None
    second = weights.sum(2) * (weights @ before.second[..., None])[..., 0] - found.spread
    mean = None if before.mean is None else (weights @ before.mean[..., None])[..., 0]
    return Moments(second.clamp(min=0), mean, spread=found.spread, weights=weights, itself=found.itself)


@pair_step.register
def _(op: ops.Mix, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    weights, before = pairing.held(place.register, "weights"), registers[op.source].laid_out(False)
    alone = pairing.right is None
    ntk = None if before.ntk is None else _mixed(before.ntk, weights, alone, place.diagonal)
    itself = pairing.held(place.register, "itself")[0][:, :, None]
    if alone:
        return Register(positions.equal_positions(itself) if place.diagonal else itself, ntk)
    totals = tuple(w.sum(2) for w in weights)
    means = tuple((w @ q[..., None])[..., 0] for w, q in zip(weights, pairing.held(op.source, "second"), strict=True))
    spreads = pairing.held(place.register, "spread")
    distance = _mixed(before.distance, weights, alone, place.diagonal)
    if loops := compiled_loops(pairing, distance):
        distance = loops.mixed(distance, spreads, totals, means)
    else:
        a, m, r = (pairing.across(*both) for both in (totals, means, spreads))
        distance = positions.pool_distance(distance, a, m, r, pairing.same)
    if bool(pairing.same.any()) and not place.diagonal:
        distance = torch.where(pairing.same[:, None, :, None], itself, distance)
    return Register(distance, ntk)


def _mixed(
    pairs: Float[Tensor, "n p m p"], weights: tuple[Tensor, Tensor], alone: bool, diagonal: bool
) -> Float[Tensor, "n q *rest"]:
    """W₁ K W₂ᵀ of every pair: all of its entries, or only those of equal positions."""
    one, two = weights
    n, p, m, _ = pairs.shape
    rows = (one @ pairs.reshape(n, p, m * p)).view(n, -1, m, p)
    if alone:  # each sample with itself
        full = (rows[:, :, 0] @ two.mT)[:, :, None]
        return positions.equal_positions(full) if diagonal else full
    if diagonal:
        return torch.einsum("nqmp,mqp->nqm", rows, two)
    columns = rows.permute(2, 0, 1, 3).reshape(m, -1, p) @ two.mT
    return columns.view(m, n, rows.shape[1], -1).permute(1, 2, 0, 3)


# ---- zeros by a mask -------------------------------------------------------------------------------------------------


@moments.register
def _(op: ops.MaskedFill, side: Side, place: Place, found: Within | None) -> Moments:
    assert side.mask is not None
    before = side.registers[op.source]
    kept = side.mask.to(before.second)
    return Moments(kept * before.second, None if before.mean is None else kept * before.mean)


@pair_step.register
def _(
    op: ops.MaskedFill, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    q1, q2 = positions.across(*pairing.second(op.source), before.distance)
    k1, k2 = positions.across(*pairing.kept(before.distance), before.distance)
    distance = k1 * k2 * before.distance + k1 * (1 - k2) * q1 + (1 - k1) * k2 * q2
    return Register(distance, None if before.ntk is None else k1 * k2 * before.ntk)


# ---- embeddings ------------------------------------------------------------------------------------------------------


@moments.register
def _(op: ops.EmbedTokens, side: Side, place: Place, found: Within | None) -> Moments:
    tokens = side.x.permute(0, *op.position_axes).flatten(1)
    if bool((tokens < 0).any()) or bool((tokens >= op.vocabulary).any()):
        raise InvalidInput(
            f"'{op.path}' has vectors for tokens 0 to {op.vocabulary - 1}, but {int(tokens.min())} to "
            f"{int(tokens.max())} arrive; make the vocabulary larger, or leave these tokens out"
        )
    second = torch.ones_like(tokens)
    if op.padding is not None:
        second = second.masked_fill(tokens == op.padding, 0.0)
    return Moments(second, data=tokens[..., None])


@pair_step.register
def _(
    op: ops.EmbedTokens, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    tokens = pairing.held(place.register, "data")
    shape = tokens[0] if place.diagonal else tokens[0][..., None]
    one, two = positions.across(*pairing.across(tokens[0][..., 0], tokens[1][..., 0]), shape)
    q1, q2 = positions.across(*pairing.second(place.register), shape)
    distance = (q1 + q2).masked_fill(one == two, 0.0)  # the vector of a padding token is 0, and so are its q and s
    return Register(distance, torch.zeros_like(distance) if want_ntk else None)


@moments.register
def _(op: ops.EmbedPositions, side: Side, place: Place, found: Within | None) -> Moments:
    return Moments(torch.ones_like(side.registers[op.source].second))


@pair_step.register
def _(
    op: ops.EmbedPositions, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    like = registers[op.source].laid_out(place.diagonal).distance
    covariance = _between_positions(place.grid, op.correlation_length, like)
    distance = (2 * (1 - covariance)).expand_as(like)
    return Register(distance, torch.zeros_like(like) if want_ntk else None)


def _between_positions(grid: Grid, correlation_length: float, like: Tensor) -> Tensor:
    if like.ndim == 3:
        return torch.ones(1, 1, 1, dtype=like.dtype, device=like.device)
    return position_covariance(grid, correlation_length).to(like)[None, :, None, :]
