"""exp(x): u + v has variance 2(q1 + q2) − D, so

    E[σσ] = E[σ'σ'] = exp(q1 + q2 − D/2),   E[(σu − σv)²] = (exp(q1) − exp(q2))² + 2 exp(q1 + q2) (1 − exp(−D/2)).

Reference: the moments of log-normal variables.
"""

from __future__ import annotations

from ntkit.errors import InvalidInput
from ntkit.infinite.dual.elementary import exp, expm1

_MOST = 350.0  # exp(2q) fits into float64 up to 354


def check(q):
    """Raise where the second moment overflows."""
    if bool((q > _MOST).any()):
        raise InvalidInput(
            f"Exp overflows float64 for pre-activations of variance above {_MOST:g}, and {float(q.max()):g} arrives; "
            "use smaller weights or inputs"
        )


def variance(q):
    """E[σ(u)²] = exp(2q)."""
    return exp(2 * q)


def mean(q):
    """E[σ(u)] = exp(q/2)."""
    return exp(q / 2)


def distance(q1, q2, d):
    """E[(σu − σv)²]."""
    return (exp(q2) * expm1(q1 - q2)) ** 2 - 2 * exp(q1 + q2) * expm1(-d / 2)


def derivative(q1, q2, d):
    """E[σ'(u) σ'(v)] = E[σσ]."""
    return exp(q1 + q2 - d / 2)


def scale_derivative(q1, q2, d):
    """E[uσ'(u) vσ'(v)] = (s + (q1 + s)(q2 + s)) E[σσ]."""
    s = (q1 + q2 - d) / 2
    return (s + (q1 + s) * (q2 + s)) * exp(q1 + q2 - d / 2)
