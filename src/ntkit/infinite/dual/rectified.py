"""max(x, 0)ⁿ: the arc-cosine kernel of order n,

    E[σσ] = Pⁿ J_n(θ)/(2π),   J_n = (π − θ) p_n(cos θ) + sin θ · r_n(cos θ),   P = √(q1 q2),   E[σ'σ'] = n² E_{n−1}[σσ]

with p_0 = 1, r_0 = 0 and, for c = cos θ,

    p_{n+1} = (1 − c²) p_n' + (2n+1) c p_n,   r_{n+1} = p_n + 2n c r_n + (1 − c²) r_n'.

Half of the even and odd parts of max(x, 0)ⁿ is xⁿ/2. So the distance is half of that of xⁿ and

    (Pⁿ/π)(θ p_n − sin θ r_n) = (Pⁿ/π)(θ sin² θ (n² r_{n−1} − r_n') − (sin θ − θ cos θ) r_n),

where the first form cancels for small θ, and the second does not.

Reference: Cho & Saul 2009, equations 3 to 7, for J_n; the recursion and the second form are derived here.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi, prod
from math import sqrt as root

from numpy.polynomial import Polynomial

from ntkit.errors import InvalidInput
from ntkit.infinite.dual import polynomial
from ntkit.infinite.dual.angle import half_sine_squared
from ntkit.infinite.dual.elementary import angle, geometric_mean, sine_minus_theta_cosine, sqrt


@lru_cache
def angular(n: int) -> tuple[Polynomial, Polynomial]:
    """(p_n, r_n)."""
    p, r = Polynomial([1.0]), Polynomial([0.0])
    c, sine_squared = Polynomial([0.0, 1.0]), Polynomial([1.0, 0.0, -1.0])
    for k in range(n):
        p, r = sine_squared * p.deriv() + (2 * k + 1) * c * p, p + 2 * k * c * r + sine_squared * r.deriv()
    return p, r


def double_factorial(n: int) -> float:
    """n!! with (−1)!! = 0!! = 1; infinite where float64 overflows."""
    return prod(map(float, range(n, 0, -2)), start=1.0)


def check(q, n):
    """Raise where the second moment overflows the number type."""
    largest = q.max() if q.numel() else q
    if not bool(variance(largest, n).isfinite().all()):
        raise InvalidInput(
            f"RectifiedMonomial({n}) overflows {q.dtype} for pre-activations of variance {float(largest):g}; use a "
            "lower degree, float64, or smaller inputs"
        )


def variance(q, n):
    """E[σ(u)²] = (2n−1)!! qⁿ/2."""
    return double_factorial(2 * n - 1) / 2 * q**n


def mean(q, n):
    """E[σ(u)] = (n−1)!! q^(n/2)/2, times √(2/π) for odd n."""
    return double_factorial(n - 1) / 2 * (root(2 / pi) if n % 2 else 1.0) * sqrt(q) ** n


def distance(q1, q2, d, n):
    """E[(σu − σv)²]."""
    h = half_sine_squared(q1, q2, d)
    _, r = angular(n)
    straight = n**2 * angular(n - 1)[1] - r.deriv()
    bend = angle(h) * 4 * h * (1 - h) * _at(straight, h) - sine_minus_theta_cosine(h) * _at(r, h)
    whole = polynomial.distance(q1, q2, d, polynomial.rows_of_powers((0.0,) * n + (1.0,)), 0.0)
    return whole / 2 + geometric_mean(q1, q2) ** n / pi * bend


def derivative(q1, q2, d, n):
    """E[σ'(u) σ'(v)]."""
    h = half_sine_squared(q1, q2, d)
    p, r = angular(n - 1)
    arcs = (pi - angle(h)) * _at(p, h) + 2 * sqrt(h * (1 - h)) * _at(r, h)
    return n**2 / (2 * pi) * geometric_mean(q1, q2) ** (n - 1) * arcs


def scale_derivative(q1, q2, d, n):
    """E[uσ'(u) vσ'(v)] = n² E[σσ], for σ is homogeneous."""
    return n**2 / 2 * (variance(q1, n) + variance(q2, n) - distance(q1, q2, d, n))


def _at(p: Polynomial, h):
    """p(cos θ) for h = sin²(θ/2)."""
    return polynomial.horner(p.coef.tolist(), 1 - 2 * h)
