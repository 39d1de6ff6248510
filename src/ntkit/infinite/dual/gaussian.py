"""a · exp(b x²): with F = 1 − 2b(q1 + q2) + 4b²(q1 q2 − s²) and fi = 1 − 4b qi,

    E[σσ] = a² F^(−1/2),   E[σ'σ'] = 4 a² b² s F^(−3/2),   E[σ(u)²] = a² f^(−1/2).

F = (f1 + f2)/2 + 4b²(q1 q2 − s²), so the distance is a sum of two differences that are taken without cancellation.
For b > 0 the moments are infinite from q = 1/(4b) on.

Reference: Gaussian integrals.
"""

from __future__ import annotations

from ntkit.errors import InvalidInput
from ntkit.infinite.dual.elementary import sqrt
from ntkit.infinite.dual.erf import determinant


def check(q, a, b):
    """Raise where the second moment is infinite."""
    if b > 0 and bool((q >= 1 / (4 * b)).any()):
        raise InvalidInput(
            f"Gaussian(a={a:g}, b={b:g}) has infinite moments for pre-activations of variance >= {1 / (4 * b):g}, and "
            f"{float(q.max()):g} arrives; use b < 0, smaller weights or smaller inputs"
        )


def variance(q, a, b):
    """E[σ(u)²]."""
    return a**2 / sqrt(1 - 4 * b * q)


def mean(q, a, b):
    """E[σ(u)] = a/√(1 − 2bq)."""
    return a / sqrt(1 - 2 * b * q)


def distance(q1, q2, d, a, b):
    """E[(σu − σv)²] = a² (f1^(−1/2) + f2^(−1/2) − 2 F^(−1/2))."""
    root1, root2 = sqrt(1 - 4 * b * q1), sqrt(1 - 4 * b * q2)
    middle = 1 - 2 * b * (q1 + q2)
    lift = 4 * b**2 * determinant(q1, q2, d)
    full = sqrt(middle + lift)
    half = sqrt(middle)
    from_angle = 2 * lift / (half * full * (half + full))
    product = root1 * root2
    gap = 4 * b * (q1 - q2) / (root1 + root2)
    numerator = gap**2 * (root1**2 + root2**2 + 4 * product) / 2
    from_length = numerator / (((root1 + root2) * half + 2 * product) * product * half)
    return a**2 * (from_angle + from_length)


def derivative(q1, q2, d, a, b):
    """E[σ'(u) σ'(v)]."""
    full = 1 - 2 * b * (q1 + q2) + 4 * b**2 * determinant(q1, q2, d)
    return 2 * a**2 * b**2 * (q1 + q2 - d) / (full * sqrt(full))


def scale_derivative(q1, q2, d, a, b):
    """E[uσ'(u) vσ'(v)] = 4a²b² F^(−5/2) ((q1 − 2bΔ)(q2 − 2bΔ) + 2s²), Δ = q1 q2 − s²."""
    delta = determinant(q1, q2, d)
    full = 1 - 2 * b * (q1 + q2) + 4 * b**2 * delta
    fourth = (q1 - 2 * b * delta) * (q2 - 2 * b * delta) + (q1 + q2 - d) ** 2 / 2
    return 4 * a**2 * b**2 * fourth / (full**2 * sqrt(full))
