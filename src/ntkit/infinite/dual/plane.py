"""Moments of a pair by direct integration over the plane, for pairs so close to ρ = ±1 that a series converges slowly.

With z, e independent, u = r1 (c z + s e), v = r2 (± c z ∓ s e …) has correlation c² − s² = cos θ for c = cos(θ/2),
s = sin(θ/2). At fixed z the kinks of σ(u) and σ(v) are points of e, and as functions of z the inner integrals change
within a few s/c around the kinks' images and have corners where two kinks meet: panels end there, so Gauss–Legendre
sees smooth functions only. Where σ is smooth, but steep beside a panel's width, the panels are those on which its
Legendre coefficients have fallen (`kinks.py`): a mean over e is no steeper than σ.

E[(σu − σv)²] is integrated as it stands: every term is positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntkit.infinite.dual.quadrature import Function, normal_nodes, value_and_slope

_REACH = 9.0
_OUTER = tuple(float(z) for z in range(-9, 10))
_INNER = (-9.0, -6.0, -3.5, -1.5, 0.0, 1.5, 3.5, 6.0, 9.0)
_AROUND = (-9.0, -4.0, -1.5, 0.0, 1.5, 4.0, 9.0)  # in units of s/c around a kink's image
_NODES = 12
_CROSS_ALL = 16  # kinks up to which every two kinks' crossing is a panel's edge
_EDGES_AT_ONCE = 200_000
_EVALUATIONS_AT_ONCE = 200_000  # arrays of this size stay in cache; larger ones cost more in page faults than in sums


def plane_moments(
    expression: Function,
    r1: Tensor,
    r2: Tensor,
    apart: Tensor,
    kinks: Tensor,
    panels: Tensor,
    nodes: int = _NODES,
) -> tuple[Tensor, Tensor]:
    """E[(σu − σv)²] and E[σ'(u) σ'(v)].

    Args:
        expression: the function σ.
        r1: standard deviations of u, (n,).
        r2: standard deviations of v, (n,).
        apart: 1 − ρ, (n,).
        kinks: where σ is not smooth, (k,).
        panels: edges of the panels on which a steep σ is resolved, (p,).
        nodes: on each panel.

    Returns:
        Both moments, (n,).
    """
    k, p = len(kinks), len(panels)
    outer = nodes * (len(_OUTER) + 2 * len(_AROUND) * k + (k * k if k <= _CROSS_ALL else k) + 2 * p)
    rows = max(1, _EDGES_AT_ONCE // outer)
    parts = [
        _moments(expression, block[0], block[1], block[2], kinks, panels, nodes)
        for block in zip(*(t.split(rows) for t in (r1, r2, apart)), strict=True)
    ]
    distance, slopes = zip(*parts, strict=True)
    return torch.cat(distance), torch.cat(slopes)


def _moments(
    expression: Function, r1: Tensor, r2: Tensor, apart: Tensor, kinks: Tensor, panels: Tensor, nodes: int
) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(torch.float64).tiny ** 0.5
    s, c = torch.sqrt(apart / 2).clamp(min=tiny), torch.sqrt(1 - apart / 2).clamp(min=tiny)
    # u = r1 (c z + s e), v = r2 (c z − s e): symmetric in z and e, so the narrower variable is the inner one
    swap = s > c
    wide, narrow = torch.where(swap, s, c), torch.where(swap, c, s)
    sign = torch.where(swap, -1.0, 1.0)  # v = ± r2 (wide z − narrow e)
    scales = r1.clamp(min=tiny)[:, None], (sign * r2.clamp(min=tiny))[:, None]
    kinks_u, kinks_v = (kinks / scale for scale in scales)
    panels_u, panels_v = (panels / scale for scale in scales)
    images = torch.cat([kinks_u, kinks_v], dim=1)
    around = images[:, :, None] + narrow[:, None, None] * torch.tensor(_AROUND, dtype=torch.float64)
    extra = torch.cat([around.flatten(1), _crossings(kinks_u, kinks_v), panels_u, panels_v], dim=1) / wide[:, None]
    z, z_weight = _panels(torch.tensor(_OUTER, dtype=torch.float64), extra, nodes)
    pair, _ = torch.nonzero(z_weight, as_tuple=True)  # panels of no width have no weight
    middle, weight = (t[z_weight != 0] for t in (wide[:, None] * z, z_weight))
    points_u, points_v = torch.cat([kinks_u, panels_u], dim=1), torch.cat([kinks_v, panels_v], dim=1)
    result = torch.zeros(2, len(r1), dtype=torch.float64)
    for rows in torch.arange(len(pair)).split(max(1, _EDGES_AT_ONCE // (2 * points_u.shape[1] + 1))):
        at, center = pair[rows], middle[rows]
        edges = torch.cat([points_u[at] - center[:, None], center[:, None] - points_v[at]], dim=1) / narrow[at, None]
        found = _inner_moments(expression, center, (r1[at], (sign * r2)[at], narrow[at]), edges, nodes)
        result.index_add_(1, at, weight[rows] * found)
    return result[0], result[1]


def _inner_moments(
    expression: Function, middle: Tensor, scales: tuple[Tensor, Tensor, Tensor], edges: Tensor, nodes: int
) -> Tensor:
    """Means over e of (σu − σv)² and σ'(u) σ'(v) at u = r1 (middle + narrow e), v = r2 (middle − narrow e), (2, rows).

    Args:
        expression: the function σ.
        middle: (rows,).
        scales: r1, r2 and narrow, each (rows,).
        edges: of panels, (rows, edges); those beyond the reach count for nothing.
        nodes: on each panel.
    """
    base = torch.tensor(_INNER, dtype=torch.float64)
    inside = (edges.abs() < _REACH).sum(dim=1)
    found = torch.empty(2, len(middle), dtype=torch.float64)
    for count in inside.unique().tolist():  # rows of as many panels together
        alike = torch.nonzero(inside == count)[:, 0]
        for rows in alike.split(max(1, _EVALUATIONS_AT_ONCE // (nodes * (len(base) + int(count))))):
            e, weight = _panels(base, edges[rows], nodes)
            r1, r2, narrow, center = (t[rows, None] for t in (*scales, middle))
            value_u, slope_u = value_and_slope(expression, r1 * (center + narrow * e))
            value_v, slope_v = value_and_slope(expression, r2 * (center - narrow * e))
            found[0, rows] = ((value_u - value_v) ** 2 * weight).sum(-1)
            found[1, rows] = (slope_u * slope_v * weight).sum(-1)
    return found


def _crossings(first: Tensor, second: Tensor) -> Tensor:
    """Where a kink of σ(u) and one of σ(v) meet at the same e: the inner integral has a corner there.

    Of many kinks only those with themselves.
    """
    k = first.shape[1]
    if k <= _CROSS_ALL:
        first, second = first.repeat_interleave(k, dim=1), second.repeat(1, k)
    return (first + second) / 2


def _panels(base: Tensor, extra: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and normal weights on the panels between `base` and those `extra` edges that are within reach."""
    inside = extra.abs() < _REACH
    extra = torch.where(inside, extra, _REACH).sort(dim=-1).values[..., : int(inside.sum(dim=-1).max())]
    edges = torch.cat([base.expand(*extra.shape[:-1], -1), extra], dim=-1).sort(dim=-1).values
    return normal_nodes(edges[..., :-1], edges[..., 1:], nodes)
