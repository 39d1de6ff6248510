"""Moments of a pair by direct integration over the plane, for pairs so close to ρ = ±1 that a series converges slowly.

With z, e independent, u = r1 (c z + s e), v = r2 (± c z ∓ s e …) has correlation c² − s² = cos θ for c = cos(θ/2),
s = sin(θ/2). At fixed z the kinks of σ(u) and σ(v) are points of e, and as functions of z the inner integrals change
within a few s/c around the kinks' images and have corners where two kinks meet: panels end there, so Gauss–Legendre
sees smooth functions only.

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
_NODES = 10
_CROSS_ALL = 16  # breaks up to which every two kinks' crossing is a panel's edge
_EVALUATIONS_AT_ONCE = 200_000  # arrays of this size stay in cache; larger ones cost more in page faults than in sums


def plane_moments(
    expression: Function, r1: Tensor, r2: Tensor, apart: Tensor, breaks: Tensor, nodes: int = _NODES
) -> tuple[Tensor, Tensor]:
    """E[(σu − σv)²] and E[σ'(u) σ'(v)].

    Args:
        expression: the function σ.
        r1: standard deviations of u, (n,).
        r2: standard deviations of v, (n,).
        apart: 1 − ρ, (n,).
        breaks: where σ is not smooth, (k,).
        nodes: on each panel.

    Returns:
        Both moments, (n,).
    """
    k = len(breaks)
    outer = len(_OUTER) + 2 * len(_AROUND) * k + (k * k if k <= _CROSS_ALL else k)
    inner = len(_INNER) + 2 * k
    rows = max(1, _EVALUATIONS_AT_ONCE // (outer * inner * nodes**2))
    parts = [
        _moments(expression, block[0], block[1], block[2], breaks, nodes)
        for block in zip(*(t.split(rows) for t in (r1, r2, apart)), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _moments(
    expression: Function, r1: Tensor, r2: Tensor, apart: Tensor, breaks: Tensor, nodes: int
) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(torch.float64).tiny ** 0.5
    s, c = torch.sqrt(apart / 2).clamp(min=tiny), torch.sqrt(1 - apart / 2).clamp(min=tiny)
    safe1, safe2 = r1.clamp(min=tiny), r2.clamp(min=tiny)
    images = torch.cat([breaks / safe1[:, None], breaks / safe2[:, None]], dim=1)  # (n, 2k)
    # u = r1 (c z + s e), v = r2 (c z − s e): symmetric in z and e, so the narrower variable is the inner one
    swap = (s > c)[:, None]
    wide, narrow = torch.where(swap, s[:, None], c[:, None]), torch.where(swap, c[:, None], s[:, None])
    sign = torch.where(swap[:, 0], -1.0, 1.0)  # v = ± r2 (wide z − narrow e)
    flipped = torch.cat([images[:, : len(breaks)], sign[:, None] * images[:, len(breaks) :]], dim=1)
    around = torch.tensor(_AROUND, dtype=torch.float64)
    z_edges = flipped[:, :, None] / wide[:, :, None] + narrow[:, :, None] / wide[:, :, None] * around
    k = len(breaks)
    z_edges = torch.cat([z_edges.flatten(1), _crossings(flipped, k) / wide], dim=1)
    z, z_weight = _panels(torch.tensor(_OUTER, dtype=torch.float64), z_edges, nodes)
    center = wide[:, :, None] * z[:, :, None]
    e_first = (flipped[:, None, :k] - center) / narrow[:, :, None]
    e_second = (center - flipped[:, None, k:]) / narrow[:, :, None]
    edges = torch.cat([e_first, e_second], dim=2)
    e, e_weight = _panels(torch.tensor(_INNER, dtype=torch.float64), edges, nodes)
    middle, offset = center, narrow[:, :, None] * e
    u = r1[:, None, None] * (middle + offset)
    v = (sign * r2)[:, None, None] * (middle - offset)
    value_u, slope_u = value_and_slope(expression, u)
    value_v, slope_v = value_and_slope(expression, v)
    inner_distance = ((value_u - value_v) ** 2 * e_weight).sum(-1)
    inner_slope = (slope_u * slope_v * e_weight).sum(-1)
    return (inner_distance * z_weight).sum(-1), (inner_slope * z_weight).sum(-1)


def _crossings(images: Tensor, k: int) -> Tensor:
    """Where a kink of σ(u) and one of σ(v) meet at the same e: the inner integral has a corner there.

    Of many breaks, which are edges of short panels around few kinks, only those with themselves.
    """
    first, second = images[:, :k], images[:, k:]
    if k <= _CROSS_ALL:
        first, second = first.repeat_interleave(k, dim=1), second.repeat(1, k)
    return (first + second) / 2


def _panels(base: Tensor, extra: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and normal weights on the panels between `base` and `extra` edges, along the last axis."""
    edges = torch.cat([base.expand(*extra.shape[:-1], -1), extra.clamp(-_REACH, _REACH)], dim=-1).sort(dim=-1).values
    return normal_nodes(edges[..., :-1], edges[..., 1:], nodes)
