"""σ(x) + c for any σ in closed form: differences and derivatives are those of σ.

    E[(σu + c)²] = E[(σu − σu')²]/2 + (E[σu] + c)²,  u' an independent copy of u, which is at distance D = 2q.

Both terms are positive, where E[σ²] + 2c E[σ] + c² would cancel for means near −c.
"""

from __future__ import annotations

from dataclasses import replace

from ntkit.infinite.dual.base import ClosedForm


def with_offset(dual: ClosedForm, c: float) -> ClosedForm:
    """The dual of σ + c."""
    return replace(
        dual, variance_of=lambda q: variance(q, dual, c), mean_of=lambda q: mean(q, dual, c), safe_in_single=False
    )


def variance(q, dual, c):
    """E[(σ(u) + c)²]."""
    return dual.distance(q, q, 2 * q) / 2 + (dual.mean_of(q) + c) ** 2


def mean(q, dual, c):
    """E[σ(u)] + c."""
    return dual.mean_of(q) + c
