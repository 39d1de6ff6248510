"""The dual of any elementwise function, by Hermite series whose order is chosen to a stated tolerance.

With h_k the normalised Hermite polynomials, a_k(q) = E[σ(√q g) h_k(g)], b_k(q) the same for σ', and ρ the correlation,
Mehler's formula separates the two samples of a pair:

    E[(σu − σv)²] = Σ_k (a_k − a'_k)² + 2 Σ_k a_k a'_k (1 − ρᵏ),   E[σ'σ'] = Σ_k b_k b'_k ρᵏ.

The first sum is used for close pairs, where it does not cancel; E[σ²] + E[σ'²] − 2 Σ_k a_k a'_k ρᵏ, by Horner's
rule and only up to the order that the block's largest |ρ| needs, for all others.

So a pair costs one polynomial, and the coefficients are one-dimensional integrals, once a sample. What a series cut at
order K leaves out of a covariance is bounded by Parseval: |error| ≤ |ρ|ᴷ⁺¹ √(t t'), t = E[σ²] − Σ_{k≤K} a_k²; where the
rest is lumped into one term, which may have the wrong sign, by twice that. Functions with kinks have slowly falling
coefficients; the pairs whose bound is above the tolerance, all close to ρ = ±1, are integrated directly (`plane.py`).
x σ'(x), whose covariance a trained scale of x adds, is one more function (`of_scale`).

Reference: Mehler 1866; for kernels Daniely, Frostig & Singer 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ntkit.errors import InvalidInput, ToleranceNotReached
from ntkit.infinite.dual.angle import half_sine_squared
from ntkit.infinite.dual.base import Samples
from ntkit.infinite.dual.elementary import sqrt
from ntkit.infinite.dual.kinks import breakpoints
from ntkit.infinite.dual.plane import plane_moments
from ntkit.infinite.dual.quadrature import Function, TimesSlope, normal_nodes, value_and_slope

_REACH = 14.0  # integrals run over |g| ≤ 14, where exp(−g²/4) is below 1e-21
_PANEL, _NODES = 0.25, 20  # width of a panel and nodes on it: enough for h_k up to the largest order
_ORDERS = (16, 32, 64, 128, 256, 512, 1024, 2048)
_ORDERS_WITH_KINKS = (64, 512)
_ROUNDING = 1e-11  # what float64 leaves of moments of steep and kinked functions; measured: 4e-12
_CLOSE = 1e-3  # 1 − ρ below which the difference of moments would lose more than three digits


@dataclass(frozen=True)
class Series:
    """The dual of an expression.

    Args:
        expression: the function σ.
        tolerance: bound on what is left out of E[σ(u)σ(v)] relative to √(E[σ(u)²] E[σ(v)²]), and the same for σ'.
    """

    expression: Function
    tolerance: float

    def of_scale(self) -> Series:
        """The dual of x σ'(x), from which E[uσ'(u) vσ'(v)] comes: what a trained scale of x adds."""
        assert not isinstance(self.expression, TimesSlope)
        return Series(TimesSlope(self.expression), self.tolerance)

    @property
    def error(self) -> float:
        """Bound on |error| of E[σ(u)σ(v)] / √(E[σ(u)²] E[σ(v)²]), rounding included, and the same for σ'."""
        return max(self.tolerance, _ROUNDING)

    def samples(self, q: Tensor) -> Samples:
        """Second moment, mean and Hermite coefficients for variances q (n,)."""
        if not 1e-13 <= self.tolerance < 1:
            raise ToleranceNotReached(
                f"the tolerance must be at least 1e-13, which is what float64 holds, and below 1, got "
                f"{self.tolerance:g}"
            )
        distinct, inverse = torch.unique(q.detach(), return_inverse=True)
        root = distinct.double().sqrt()
        # a kink further out than nine standard deviations moves no moment by more than 1e-18
        breaks = breakpoints(self.expression, 9.0 * float(root.max()))
        if q.requires_grad:
            if len(breaks.cuts):
                raise ToleranceNotReached(
                    f"gradients through {self.expression} are not available: it has kinks at "
                    f"{[round(float(b), 6) for b in breaks.cuts[:5]]}, where its quadrature has no exact derivative; "
                    "use a smooth activation, or one with a closed form"
                )
            # at 0 the correlation has no slope, but the moments have: they are taken a rounding beside it
            q = q.clamp(min=1e-16 * float(distinct.max()))
            root, inverse = sqrt(q.double()), None  # each sample keeps its own graph
        tables: dict[str, Tensor] = {}
        for order in _ORDERS_WITH_KINKS if len(breaks.cuts) else _ORDERS:
            tables = _coefficients(self.expression, root, breaks.cuts, order)
            if self._converged(tables):
                break
        if inverse is not None:
            tables = {name: table[inverse] for name, table in tables.items()}
        tables["kinks"], tables["panels"] = breaks.kinks.expand(len(q), -1), breaks.panels.expand(len(q), -1)
        return Samples(q, tables["a_square"].to(q.dtype), tables["a"][:, 0].to(q.dtype), tables)

    def _converged(self, tables: dict[str, Tensor]) -> bool:
        """Whether the series may be used up to ρ = ±1."""
        return all(
            bool((2 * tables[f"{name}_tail"] <= self.tolerance * tables[f"{name}_square"]).all()) for name in ("a", "b")
        )

    def pairs(self, left: Samples, right: Samples, d: Tensor, derivative: bool) -> tuple[Tensor, Tensor | None]:
        """Distance after and derivative's covariance for every pair; `d` (n, m), or (n,) for pairs in line."""
        across = d.ndim == 2
        one, two = (_columns(s.tables, axis, across) for s, axis in ((left, 1), (right, 0)))
        q1, q2 = (left.q[:, None], right.q[None, :]) if across else (left.q, right.q)
        apart = 2 * half_sine_squared(q1.double(), q2.double(), d.double())  # 1 − ρ
        close = apart < _CLOSE
        order = self._order(left.tables, right.tables, torch.where(close, 1.0, apart))
        distance, covariance = _sum_far(one, two, 1 - apart, order, derivative)
        # a sample with itself: its own moments; where gradients are wanted, each side of the pair needs its own part
        same = (apart == 0) & (q1 == q2) & (not apart.requires_grad)
        slow = self._unconverged(one, two, apart, derivative) & ~same
        if apart.requires_grad and bool(slow.any()):
            raise ToleranceNotReached(
                f"gradients through {self.expression} are not available here: it is too steep for pre-activations of "
                f"variance up to {float(torch.maximum(q1.max(), q2.max())):.3g}, so that its series does not reach the "
                f"tolerance {self.tolerance:g}; use smaller weights or inputs, or a larger tolerance"
            )
        for pairs, refine in ((close & ~slow & ~same, self._close), (slow, self._slow), (same, self._same)):
            if bool(pairs.any()):
                rows, columns = torch.nonzero(pairs, as_tuple=True) if across else (pairs.nonzero()[:, 0],) * 2
                refined = refine(left, right, rows, columns, apart[pairs])
                distance = distance.masked_scatter(pairs, refined[0])
                if covariance is not None:
                    covariance = covariance.masked_scatter(pairs, refined[1])
        return distance.to(d.dtype), None if covariance is None else covariance.to(d.dtype)

    def _order(self, one: dict[str, Tensor], two: dict[str, Tensor], apart: Tensor) -> int:
        """The lowest order whose bound for the most correlated of these pairs is a hundredth of the tolerance."""
        largest = float((1 - apart).detach().abs().max())
        highest = one["a"].shape[1] - 1
        power = largest ** torch.arange(1, highest + 2, dtype=torch.float64)
        enough = torch.ones(highest + 1, dtype=torch.bool)
        for name in ("a", "b"):
            left_out = []
            for side in (one, two):
                square = side[f"{name}_square"].detach()[:, None]
                rest = (1 - (side[name].detach() ** 2).cumsum(1) / square.clamp(min=1e-300)).clamp(min=0)
                rest = torch.where(square > 0, rest, 0.0)  # a function that is 0 needs no order
                left_out.append(rest.amax(0))
            enough &= power * torch.sqrt(left_out[0] * left_out[1]).cpu() <= self.tolerance / 100
        return int(enough.int().argmax()) if bool(enough.any()) else highest

    @staticmethod
    def _close(left: Samples, right: Samples, rows: Tensor, columns: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of chosen pairs (k,) by the sum that does not cancel."""
        one = {
            name: left.tables[name][rows].mT if name != "a_tail" else left.tables[name][rows]
            for name in ("a", "b", "a_tail")
        }
        two = {
            name: right.tables[name][columns].mT if name != "a_tail" else right.tables[name][columns]
            for name in ("a", "b", "a_tail")
        }
        return _sum_close(one, two, apart)

    @staticmethod
    def _same(left: Samples, right: Samples, rows: Tensor, columns: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of pairs (k,) of equal samples; the slopes of their distance vanish."""
        return torch.zeros_like(apart), left.tables["b_square"][rows]

    def _slow(
        self, left: Samples, right: Samples, rows: Tensor, columns: Tensor, apart: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Moments of chosen pairs (k,) by integration over the plane."""
        r1, r2 = left.q[rows].double().sqrt(), right.q[columns].double().sqrt()
        return plane_moments(self.expression, r1, r2, apart, left.tables["kinks"][0], left.tables["panels"][0])

    def _unconverged(self, one: dict[str, Tensor], two: dict[str, Tensor], apart: Tensor, derivative: bool) -> Tensor:
        """Which pairs' bound is above the tolerance."""
        order = len(one["a"]) - 1
        decay = (1 - apart).detach().abs() ** (order + 1)
        slow = torch.zeros_like(apart, dtype=torch.bool)
        for name in ("a", "b") if derivative else ("a",):
            tails = torch.sqrt(one[f"{name}_tail"] * two[f"{name}_tail"]).detach()
            scale = torch.sqrt(one[f"{name}_square"] * two[f"{name}_square"]).detach()
            slow |= 2 * decay * tails > self.tolerance * scale
        return slow


def _columns(tables: dict[str, Tensor], axis: int, across: bool) -> dict[str, Tensor]:
    """Tables of one side, shaped to broadcast over pairs; coefficients get their order as first axis."""
    shaped = {}
    for name, table in tables.items():
        if name not in ("kinks", "panels"):
            moved = table.T if table.ndim == 2 else table
            shaped[name] = moved.unsqueeze(moved.ndim - 1 + axis) if across else moved
    return shaped


def _sum_far(
    one: dict[str, Tensor], two: dict[str, Tensor], rho: Tensor, order: int, derivative: bool
) -> tuple[Tensor, Tensor | None]:
    """E[σ²] + E[σ'²] − 2 Σ a a' ρᵏ and Σ b b' ρᵏ, by Horner's rule."""
    covariance = _horner(one["a"], two["a"], rho, order)
    distance = one["a_square"] + two["a_square"] - 2 * covariance
    return distance, _horner(one["b"], two["b"], rho, order) if derivative else None


def _horner(a1: Tensor, a2: Tensor, rho: Tensor, order: int) -> Tensor:
    total = a1[order] * a2[order] + torch.zeros_like(rho)
    for k in range(order - 1, -1, -1):
        if rho.requires_grad:
            total = total * rho + a1[k] * a2[k]
        else:
            total.mul_(rho).addcmul_(a1[k], a2[k])
    return total


def _sum_close(one: dict[str, Tensor], two: dict[str, Tensor], apart: Tensor) -> tuple[Tensor, Tensor]:
    """Σ (a − a')² + 2 Σ a a' (1 − ρᵏ) and Σ b b' ρᵏ; 1 − ρᵏ⁺¹ = ρ (1 − ρᵏ) + (1 − ρ) never cancels.

    What lies beyond the last order is lumped into one more term, which vanishes for identical samples.
    """
    rho = 1 - apart
    below_one = torch.zeros_like(apart)
    distance, covariance = (one["a"][0] - two["a"][0]) ** 2, one["b"][0] * two["b"][0]
    for k in range(1, len(one["a"])):
        below_one = below_one * rho + apart
        distance = distance + (one["a"][k] - two["a"][k]) ** 2 + 2 * one["a"][k] * two["a"][k] * below_one
        covariance = covariance + one["b"][k] * two["b"][k] * (1 - below_one)
    below_one = below_one * rho + apart
    rest_one, rest_two = torch.sqrt(one["a_tail"]), torch.sqrt(two["a_tail"])
    return distance + (rest_one - rest_two) ** 2 + 2 * rest_one * rest_two * below_one, covariance


def _coefficients(expression: Function, root: Tensor, breaks: Tensor, order: int) -> dict[str, Tensor]:
    """a_k, b_k up to `order`, second moments and what the series leaves out of them, for standard deviations (n,)."""
    edges, g, weight, basis = _grid(order)
    weights = weight.expand(len(root), -1)
    cuts = None
    if len(breaks):
        cuts, touched = _cut_panels(breaks[None, :] / root.clamp(min=1e-150)[:, None], edges)
        weights = weights * ~touched.repeat_interleave(_NODES, dim=1)
    moments = _project(expression, root[:, None] * g, weights, basis=basis)
    if cuts is not None:
        g_cut, weight_cut = normal_nodes(cuts[0], cuts[1], _NODES)
        extra = _project(expression, root[:, None] * g_cut, weight_cut, g=g_cut, order=order)
        moments = {name: moments[name] + extra[name] for name in moments}
    for name in ("a", "b"):
        rest = moments[f"{name}_square"] - (moments[name] ** 2).sum(-1)
        moments[f"{name}_tail"] = rest.clamp(min=0).detach()
    return moments


@lru_cache(maxsize=4)
def _grid(order: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edges of the panels on |g| ≤ 14, their nodes (k,), weights times the normal density, and h_0 … h_order there."""
    edges = torch.arange(-_REACH, _REACH + _PANEL / 2, _PANEL, dtype=torch.float64)
    g, weight = normal_nodes(edges[:-1], edges[1:], _NODES)
    return edges, g, weight, torch.stack(list(_hermite(g, order)))


def _cut_panels(cuts: Tensor, edges: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Where panels are cut in pieces: the pieces' ends (n, 2k), and which panels (n, panels) they replace."""
    inside = (cuts > -_REACH) & (cuts < _REACH)
    cuts = torch.where(inside, cuts, torch.sign(cuts) * _REACH)
    panel = ((cuts + _REACH) / _PANEL).floor().long().clamp(0, len(edges) - 2)
    touched = torch.zeros(len(cuts), len(edges) - 1, dtype=torch.bool)
    touched.scatter_(1, panel, True)
    before = torch.roll(cuts, 1, dims=1)
    before[:, 0] = -_REACH
    same_as_next = torch.zeros_like(inside)
    same_as_next[:, :-1] = panel[:, 1:] == panel[:, :-1]
    left = torch.cat([torch.maximum(edges[panel], before), cuts], dim=1)
    right = torch.cat([cuts, torch.where(same_as_next, cuts, edges[panel + 1])], dim=1)
    return (left, right), touched


def _hermite(g: Tensor, order: int) -> Iterator[Tensor]:
    """h_0, …, h_order at g: h_{k+1} = (g h_k − √k h_{k−1})/√(k+1)."""
    before, now = torch.zeros_like(g), torch.ones_like(g)
    for k in range(order + 1):
        yield now
        before, now = now, (g * now - math.sqrt(k) * before) / math.sqrt(k + 1)


def _project(
    expression: Function,
    x: Tensor,
    weights: Tensor,
    *,
    basis: Tensor | None = None,
    g: Tensor | None = None,
    order: int = 0,
) -> dict[str, Tensor]:
    """Integrals of σ and σ' against h_k, and of their squares, where σ is sampled at x (n, nodes).

    `basis` holds h_k (orders, nodes) where all samples share the nodes; else `g` (n, nodes) says where they are.
    """
    value, slope = value_and_slope(expression, x)
    _check_growth(expression, value, weights, whole_line=basis is not None)
    result = {}
    for name, f in (("a", value), ("b", slope)):
        weighted = f * weights
        if basis is not None:
            result[name] = weighted @ basis.T
        else:
            assert g is not None
            result[name] = torch.stack([(weighted * h).sum(-1) for h in _hermite(g, order)], dim=-1)
        result[f"{name}_square"] = (f * weighted).sum(-1)
    return result


def _check_growth(expression: Function, value: Tensor, weight: Tensor, whole_line: bool) -> None:
    if not bool(torch.isfinite(value).all()):
        raise InvalidInput(
            f"the activation {expression} is not finite on the whole line, so its moments under a Gaussian do not "
            "exist; use a function that is defined for every x"
        )
    if not whole_line:
        return
    with torch.no_grad():
        integrand = value**2 * weight
        edge = torch.maximum(integrand[:, 0], integrand[:, -1])
        if bool((edge > 1e-9 * integrand.amax(dim=1).clamp(min=1e-300)).any()):
            raise InvalidInput(
                f"the activation {expression} grows too fast for pre-activations of this size: its second moment is "
                "not reached within 14 standard deviations; use smaller weights or inputs"
            )
