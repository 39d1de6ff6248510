"""xⁿ = Σ_k n!/(n−k)!!/k! · He_k(x) over k of n's parity, so that with ρ the correlation and P = √(q1 q2)

    E[uⁿvⁿ]       = Pⁿ Σ_k c_k ρᵏ,  c_k = (n!/(n−k)!!)²/k!,  Σ_k c_k = (2n−1)!!
    E[(uⁿ − vⁿ)²] = (2n−1)!! (r1ⁿ − r2ⁿ)² + 2 Pⁿ Σ_k c_k (1 − ρᵏ),  r = √q
    E[σ'σ']       = n² E[uⁿ⁻¹ vⁿ⁻¹].

Reference: Hermite expansion (Mehler's formula).
"""

from __future__ import annotations

from math import factorial, prod

from ntkit.errors import InvalidInput
from ntkit.infinite.dual.angle import half_sine_squared
from ntkit.infinite.dual.elementary import geometric_mean, sqrt


def double_factorial(n: int) -> float:
    """n!! with (−1)!! = 0!! = 1; infinite where float64 overflows."""
    return prod(map(float, range(n, 0, -2)), start=1.0)


def coefficients(n: int) -> dict[int, float]:
    """k -> c_k."""
    return {k: (factorial(n) / double_factorial(n - k)) ** 2 / factorial(k) for k in range(n % 2, n + 1, 2)}


def check(q, n):
    """Raise where the second moment overflows the number type."""
    largest = variance(q.max() if q.numel() else q, n)
    if not bool(largest.isfinite().all()):
        raise InvalidInput(
            f"Monomial({n}) overflows {q.dtype} for pre-activations of variance {float(q.max()):g}; use a lower "
            "degree, float64, or smaller inputs"
        )


def variance(q, n):
    """E[σ(u)²] = (2n−1)!! qⁿ."""
    return double_factorial(2 * n - 1) * q**n


def mean(q, n):
    """E[σ(u)] = (n−1)!! q^(n/2) for even n, else 0."""
    return double_factorial(n - 1) * q ** (n // 2) if n % 2 == 0 else 0 * q


def distance(q1, q2, d, n):
    """E[(σu − σv)²]."""
    h = half_sine_squared(q1, q2, d)
    r1, r2 = sqrt(q1), sqrt(q2)
    lengths = (r1**n - r2**n) ** 2 * double_factorial(2 * n - 1)
    angles, below_one = 0.0, 0.0 * h  # below_one is 1 − ρᵏ, by 1 − ρᵏ⁺¹ = ρ (1 − ρᵏ) + (1 − ρ)
    c = coefficients(n)
    for k in range(1, n + 1):
        below_one = (1 - 2 * h) * below_one + 2 * h
        if k in c:
            angles = angles + c[k] * below_one
    return lengths + 2 * geometric_mean(q1, q2) ** n * angles


def derivative(q1, q2, d, n):
    """E[σ'(u) σ'(v)]."""
    if n == 0:
        return 0 * d
    rho = 1 - 2 * half_sine_squared(q1, q2, d)
    total = sum(c * rho**k for k, c in coefficients(n - 1).items())
    return n**2 * geometric_mean(q1, q2) ** (n - 1) * total


def scale_derivative(q1, q2, d, n):
    """E[uσ'(u) vσ'(v)] = n² E[σσ], for σ is homogeneous."""
    return n**2 / 2 * (variance(q1, n) + variance(q2, n) - distance(q1, q2, d, n))
