"""σ(x) + c for any σ in closed form: differences and derivatives are those of σ.

    E[(σu + c)²] = E[(σu − σu')²]/2 + (E[σu] + c)²,  u' an independent copy of u, which is at distance D = 2q.

Both terms are positive, where E[σ²] + 2c E[σ] + c² would cancel for means near −c.
"""

from __future__ import annotations

from dataclasses import replace

from ntkit.infinite.dual.base import ClosedForm


def shifted(dual: ClosedForm, c: float) -> ClosedForm:
    """The dual of σ + c."""

    def mean(q):
        """E[σ(u)] + c."""
        return dual.mean_of(q) + c

    def variance(q):
        """E[(σ(u) + c)²]."""
        return dual.distance(q, q, 2 * q) / 2 + mean(q) ** 2

    return replace(dual, variance_of=variance, mean_of=mean, safe_in_single=False)
