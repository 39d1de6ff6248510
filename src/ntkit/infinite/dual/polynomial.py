"""Polynomials, by a Hermite series that ends.

With h_k the normalised Hermite polynomials, σ(√q g) = Σ_k A_k(q) q^(k/2) h_k(g), so that with s the covariance

    E[σσ]             = Σ_k A_k A'_k sᵏ,   E[σ(u)] = A_0,   E[σ'σ'] = Σ_k k A_k A'_k sᵏ⁻¹
    E[uσ'(u) vσ'(v)]  = Σ_k C_k C'_k sᵏ,   C_k = k A_k + 2q dA_k/dq
    E[(σu − σv)²]     = Σ_k A_k A'_k D_k + (A_k − A'_k)(q1ᵏ A_k − q2ᵏ A'_k),   D_k = q1ᵏ + q2ᵏ − 2sᵏ.

The A_k are polynomials in q, given as rows of coefficients in powers of q − origin:

    σ = Σ_j c_j xʲ:   A_k = Σ_i c_{k+2i} (k+2i)!/(2ⁱ i! √k!) qⁱ
    σ = h_n:          A_{n−2i} = √(n!/(n−2i)!)/(2ⁱ i!) (q − 1)ⁱ, all others 0.

Reference: Mehler's formula; the multiplication theorem of Hermite polynomials (DLMF 18.18.11).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import factorial, inf, sqrt

from ntkit.errors import InvalidInput

Rows = tuple[tuple[float, ...], ...]


@lru_cache
def rows_of_powers(coefficients: tuple[float, ...]) -> Rows:
    """The rows of Σ_j c_j xʲ, origin 0."""
    n = len(coefficients) - 1
    return tuple(
        _shortened(
            coefficients[k + 2 * i] and coefficients[k + 2 * i] * _root(factorial(k + 2 * i), factorial(k), i)
            for i in range((n - k) // 2 + 1)
        )
        for k in range(n + 1)
    )


@lru_cache
def rows_of_hermite(n: int) -> Rows:
    """The rows of h_n, origin 1."""
    rows: list[tuple[float, ...]] = [() for _ in range(n + 1)]
    for i in range(n // 2 + 1):
        rows[n - 2 * i] = (0.0,) * i + (_root(factorial(n), factorial(n - 2 * i), i, power=1),)
    return tuple(rows)


def _root(top: int, bottom: int, i: int, power: int = 2) -> float:
    """√(topᵖᵒʷᵉʳ/bottom)/(2ⁱ i!), rounded once before the root; infinite where float64 overflows."""
    try:
        return sqrt(top**power / (bottom * (2**i * factorial(i)) ** 2))
    except OverflowError:
        return inf


def _shortened(row: Iterable[float]) -> tuple[float, ...]:
    """Without zeros at the end."""
    kept = list(row)
    while kept and kept[-1] == 0:
        kept.pop()
    return tuple(kept)


def horner(row, x):
    """Σ_i row_i xⁱ, by Horner's rule; 0 for an empty row."""
    total = row[-1] if row else 0.0
    for c in reversed(row[:-1]):
        total = total * x + c
    return total


def _slope_at(row, x):
    return horner(tuple(i * c for i, c in enumerate(row))[1:], x)


def check(q, rows, origin):
    """Raise where the second moment overflows the number type."""
    largest = q.max() if q.numel() else q
    if not bool(variance(largest, rows, origin).isfinite().all()):
        raise InvalidInput(
            f"a polynomial of degree {len(rows) - 1} overflows {q.dtype} for pre-activations of variance "
            f"{float(largest):g}; use a lower degree, float64, or smaller inputs"
        )


def variance(q, rows, origin):
    """E[σ(u)²] = Σ_k A_k² qᵏ."""
    return 0 * q + sum(horner(row, q - origin) ** 2 * q**k for k, row in enumerate(rows) if row)


def mean(q, rows, origin):
    """E[σ(u)] = A_0."""
    return 0 * q + horner(rows[0], q - origin)


def distance(q1, q2, d, rows, origin):
    """E[(σu − σv)²]; with m and g half the sum and the difference of q1 and q2, t_k = (q1ᵏ − q2ᵏ)/2,

    D_{k+1}/2 = m D_k/2 + g t_k + sᵏ D/2 and t_{k+1} = m t_k + g (q1ᵏ + q2ᵏ)/2, which do not cancel for close pairs.
    """
    m, g = (q1 + q2) / 2, (q1 - q2) / 2
    s, half = m - d / 2, d / 2
    total, below, t = 0 * d, 0 * d, 0 * d  # below is D_k/2
    for k, row in enumerate(rows):
        if row:
            one, two = horner(row, q1 - origin), horner(row, q2 - origin)
            total = total + 2 * one * two * below + (one - two) * (q1**k * one - q2**k * two)
        below, t = m * below + g * t + s**k * half, m * t + g * (q1**k + q2**k) / 2
    return total


def derivative(q1, q2, d, rows, origin):
    """E[σ'(u) σ'(v)]."""
    s = (q1 + q2 - d) / 2
    rows_here = ((k, row) for k, row in enumerate(rows) if k and row)
    return 0 * d + sum(k * horner(row, q1 - origin) * horner(row, q2 - origin) * s ** (k - 1) for k, row in rows_here)


def scale_derivative(q1, q2, d, rows, origin):
    """E[uσ'(u) vσ'(v)]."""
    s = (q1 + q2 - d) / 2

    def grown(row, k, q):
        return k * horner(row, q - origin) + 2 * q * _slope_at(row, q - origin)

    return 0 * d + sum(grown(row, k, q1) * grown(row, k, q2) * s**k for k, row in enumerate(rows) if row)
