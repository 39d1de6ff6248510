"""What each instruction does with torch: once for the samples of a side, then for every pair.

`moments(op, side, …)` gives the second moments (n, p) of a register, `pair_step(op, pairing, …)` its D and T: over all
pairs of positions, (n, p, m, p'), or only equal ones, (n, p, m), as the placement says (see `torch_positions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

import torch
from torch import Tensor

from ntkit.errors import UnsupportedLayer
from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite import torch_positions as positions
from ntkit.infinite.distance import distances_at_positions, squared_distances
from ntkit.infinite.inputs import require_norms
from ntkit.infinite.torch_registers import Moments, Pairing, Place, Register, Side, Within, mean_of

# ---- samples ---------------------------------------------------------------------------------------------------------


@singledispatch
def moments(op: ops.Instruction, side: Side, place: Place, found: Within | None) -> Moments:
    """Second moments, and means where they matter, after an instruction; `found` is of what mixes positions."""
    raise TypeError(f"the torch interpreter does not know the instruction {op}")


@moments.register
def _(op: ops.Read, side: Side, place: Place, found: Within | None) -> Moments:
    x = side.x
    if op.channel_axis is None and op.position_axes:
        x = x[..., None].permute(0, *op.position_axes, x.ndim)
    elif op.channel_axis is not None:
        x = x.permute(0, *op.position_axes, op.channel_axis)
    else:
        x = x.flatten(1)[:, None]
    data = x.reshape(len(x), -1, x.shape[-1])
    return Moments((data**2).mean(dim=2), data=data)


@moments.register
def _(op: ops.Affine, side: Side, place: Place, found: Within | None) -> Moments:
    return Moments(op.weight_variance * side.registers[op.source].second + op.bias_variance)


@moments.register
def _(op: ops.Dual, side: Side, place: Place, found: Within | None) -> Moments:
    q = side.registers[op.source].second
    assert place.dual is not None
    tables = place.dual.samples(q.flatten())
    kept = None if isinstance(place.dual, duals.ClosedForm) else tables
    of_scale = None if place.scale_dual is None else place.scale_dual.samples(q.flatten())
    return Moments(tables.variance.view_as(q), tables.mean.view_as(q), kept, scale_tables=of_scale)


@moments.register
def _(op: ops.Normalize, side: Side, place: Place, found: Within | None) -> Moments:
    before = side.registers[op.source]
    square = before.second.mean(dim=1, keepdim=True).expand_as(before.second) if op.over_positions else before.second
    norm = (square + op.eps).sqrt()
    require_norms(norm, op)
    return Moments(before.second / norm**2, None if before.mean is None else before.mean / norm, norm=norm)


@moments.register
def _(op: ops.Mask, side: Side, place: Place, found: Within | None) -> Moments:
    before = side.registers[op.source]
    return Moments(before.second / op.keep, before.mean)


@moments.register
def _(op: ops.ScaleAndShift, side: Side, place: Place, found: Within | None) -> Moments:
    before = side.registers[op.source]
    return Moments(before.second, before.mean)


@moments.register
def _(op: ops.Window, side: Side, place: Place, found: Within | None) -> Moments:
    return Moments(positions.window_mean(side.registers[op.source].second, op.axes, place.grid))


@moments.register
def _(op: ops.Trace, side: Side, place: Place, found: Within | None) -> Moments:
    before = side.registers[op.source]
    mean = before.mean if before.second.shape[1] == 1 else None  # of more positions there is no single mean
    return Moments(before.second.mean(dim=1, keepdim=True), mean)


@moments.register
def _(op: ops.Combine, side: Side, place: Place, found: Within | None) -> Moments:
    terms = [weight * side.registers[t].second for t, weight in zip(op.terms, op.weights, strict=True)]
    products = [2 * c * mean_of(side, i) * mean_of(side, j) for i, j, c in op.mean_products]
    return Moments(torch.stack(terms + products).sum(dim=0))


@moments.register
def _(op: ops.Multiply, side: Side, place: Place, found: Within | None) -> Moments:
    one, two = side.registers[op.one], side.registers[op.two]
    return Moments(one.second * two.second, None if one.mean is None or two.mean is None else one.mean * two.mean)


# ---- pairs -----------------------------------------------------------------------------------------------------------


@singledispatch
def pair_step(
    op: ops.Instruction, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    """D and T of a block of pairs after an instruction."""
    raise TypeError(f"the torch interpreter does not know the instruction {op}")


@pair_step.register
def _(op: ops.Read, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    return of_data(pairing, place, want_ntk)


def of_data(pairing: Pairing, place: Place, want_ntk: bool) -> Register:
    """D of the data, or of sums of them over positions."""
    x, y = pairing.held(place.register, "data")
    n, p, c = x.shape
    if pairing.right is None:
        itself = torch.zeros(n, p, 1, dtype=x.dtype, device=x.device)
        distance = itself if place.diagonal else torch.stack([squared_distances(s, s) for s in x])[:, :, None] / c
    elif place.diagonal:
        distance = distances_at_positions(x, y) / c
    else:
        distance = squared_distances(x.flatten(0, 1), y.flatten(0, 1)).view(n, p, len(y), p) / c
    return Register(distance, torch.zeros_like(distance) if want_ntk else None)


@pair_step.register
def _(op: ops.Affine, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    ntk = None
    if before.ntk is not None:
        ntk = op.weight_variance * before.ntk + op.bias_rate
        if isinstance(op.weight_rate, Tensor) or op.weight_rate:
            ntk = ntk + op.weight_rate * pairing.covariance(op.source, before.distance)
    return Register(op.weight_variance * before.distance, ntk)


@pair_step.register
def _(op: ops.Dual, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    assert place.dual is not None
    if isinstance(place.dual, duals.ClosedForm):
        q1, q2 = positions.across(*pairing.second(op.source), before.distance)
        distance = place.dual.distance(q1, q2, before.distance)
        derivative = place.dual.derivative(q1, q2, before.distance) if before.ntk is not None else None
    else:
        tables = pairing.held(place.register, "tables")
        distance, derivative = _dual_of_tables(
            place.dual, tables, before, pairing.right is None, before.ntk is not None
        )
    ntk = None if before.ntk is None or derivative is None else before.ntk * derivative
    if ntk is not None and op.scale is not None:
        ntk = ntk + _at(op.scale, _of_scale(op, pairing, place, before))
    return Register(distance, ntk)


def _of_scale(op: ops.Dual, pairing: Pairing, place: Place, before: Register) -> Tensor:
    """E[uσ'(u) vσ'(v)], by its formula or as a covariance found by quadrature."""
    if isinstance(place.dual, duals.ClosedForm) and place.dual.scale_derivative is not None:
        q1, q2 = positions.across(*pairing.second(op.source), before.distance)
        return place.dual.scale_derivative(q1, q2, before.distance)
    if place.scale_dual is None:
        raise UnsupportedLayer(
            f"{op.activation.name} at '{op.path}' reads what a normalisation layer scales by trained numbers, and "
            "it has no rule for their part of the tangent kernel; freeze them with requires_grad_(False)"
        )
    tables = pairing.held(place.register, "scale_tables")
    distance, _ = _dual_of_tables(place.scale_dual, tables, before, pairing.right is None, False)
    v1, v2 = positions.across(*pairing.scale_second(place.register), distance)
    return (v1 + v2 - distance) / 2


def _at(scale: ops.Scale, values: Tensor) -> Tensor:
    """Values at all pairs of positions, or only at equal ones."""
    if scale == "shared" or values.ndim == 3:
        return values
    same = torch.eye(values.shape[1], dtype=torch.bool, device=values.device)
    return torch.where(same[None, :, None, :], values, torch.zeros_like(values))


@pair_step.register
def _(op: ops.Normalize, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    q1, q2 = positions.across(*pairing.second(op.source), before.distance)
    r1, r2 = positions.across(*pairing.norms(place.register), before.distance)
    product = r1 * r2
    distance = (before.distance + (r2 - r1) * (q1 / r1 - q2 / r2)) / product
    return Register(distance.clamp(min=0), None if before.ntk is None else before.ntk / product)


@pair_step.register
def _(op: ops.Mask, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    q1, q2 = positions.across(*pairing.second(op.source), before.distance)
    same = pairing.same[:, None] if before.distance.ndim == 3 else pairing.same[:, None, :, None]
    if before.distance.ndim == 4 and not op.whole_channels:
        equal = torch.eye(before.distance.shape[1], dtype=torch.bool, device=same.device)
        same = same & equal[None, :, None, :]
    apart = before.distance + (1 / op.keep - 1) * (q1 + q2)
    distance = torch.where(same, before.distance / op.keep, apart)
    ntk = None if before.ntk is None else torch.where(same, before.ntk / op.keep, before.ntk)
    return Register(distance, ntk)


@pair_step.register
def _(
    op: ops.ScaleAndShift, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    if before.ntk is None:
        return before
    own = torch.full_like(before.ntk, op.shift_rate)
    if op.scale_rate:
        own = own + op.scale_rate * pairing.covariance(op.source, before.distance)
    return Register(before.distance, before.ntk + _at("shared" if op.shared else "own", own))


@pair_step.register
def _(op: ops.Window, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    if place.diagonal:  # both positions are inside, or none is
        distance = positions.window_mean(before.distance, op.axes, place.grid)
    else:
        distance = positions.window_distance(before.distance, *pairing.second(op.source), op.axes, place.grid)
    ntk = None if before.ntk is None else positions.window_mean(before.ntk, op.axes, place.grid)
    return Register(distance, ntk)


@pair_step.register
def _(op: ops.Trace, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    before = registers[op.source].laid_out(True)
    ntk = None if before.ntk is None else before.ntk.mean(dim=1, keepdim=True)
    return Register(before.distance.mean(dim=1, keepdim=True), ntk)


@pair_step.register
def _(op: ops.Combine, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    parts = [registers[t].laid_out(place.diagonal) for t in op.terms]
    distance = sum_of(op.weights, [part.distance for part in parts])
    for i, j, c in op.mean_products:
        gaps = []
        for register in (i, j):
            m1, m2 = positions.across(*pairing.means(register), distance)
            gaps.append(m1 - m2)
        distance = distance + 2 * c * gaps[0] * gaps[1]
    ntk = sum_of(op.weights, [part.ntk for part in parts if part.ntk is not None]) if want_ntk else None
    return Register(distance.clamp(min=0) if op.mean_products else distance, ntk)


@pair_step.register
def _(op: ops.Multiply, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool) -> Register:
    one, two = (registers[source].laid_out(place.diagonal) for source in op.sources)
    (a1, a2), (b1, b2) = (positions.across(*pairing.second(source), one.distance) for source in op.sources)
    d_one, d_two = one.distance, two.distance
    distance = ((a1 - a2) * (b1 - b2) + (a1 + a2) * d_two + (b1 + b2) * d_one - d_one * d_two) / 2
    ntk = None
    if one.ntk is not None and two.ntk is not None:
        ntk = one.ntk * pairing.covariance(op.two, d_two) + pairing.covariance(op.one, d_one) * two.ntk
    return Register(distance.clamp(min=0), ntk)


def sum_of(weights: tuple[float, ...], parts: list[Tensor]) -> Tensor:
    """Σ wᵢ xᵢ."""
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total


def _dual_of_tables(
    dual: duals.Dual, tables: tuple[duals.Samples, duals.Samples], before: Register, alone: bool, want: bool
) -> tuple[Tensor, Tensor | None]:
    """A dual that has tables for each sample and position takes matrices of pairs, one after another.

    Args:
        dual: what to compute.
        tables: of both sides.
        before: D of the pairs.
        alone: whether the samples meet themselves only.
        want: whether the derivative is wanted.
    """
    left, right = tables
    d = before.distance
    n, p, m = d.shape[:3]
    if alone and d.ndim == 3:  # each position of each sample with itself, in line
        results, shape, dim = [dual.pairs(left, right, d.flatten(), want)], (n, p, 1), 0
    elif alone:
        rows = [slice(i * p, (i + 1) * p) for i in range(n)]
        results = [dual.pairs(left[r], left[r], d[i, :, 0], want) for i, r in enumerate(rows)]
        shape, dim = (n, p, 1, p), 0
    elif d.ndim == 3:
        at = [slice(k, None, p) for k in range(p)]
        results = [dual.pairs(left[a], right[a], d[:, k], want) for k, a in enumerate(at)]
        shape, dim = (n, p, m), 1
    else:
        results, shape, dim = [dual.pairs(left, right, d.reshape(n * p, m * p), want)], (n, p, m, p), 0
    distances, derivatives = zip(*results, strict=True)
    whole = torch.stack(distances, dim).reshape(shape)
    return whole, torch.stack(derivatives, dim).reshape(shape) if want else None
