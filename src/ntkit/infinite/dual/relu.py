"""a · min(x, 0) + b · max(x, 0), and so ReLU (0, 1), LeakyReLU (a, 1) and |x| (−1, 1).

σ(x) = α x + β |x| with α = (b + a)/2, β = (b − a)/2; the cross terms are odd and vanish. With
E|u||v| = (2/π) √(q1 q2) (sin θ + (π/2 − θ) cos θ):

    E[(σu − σv)²] = (α² + β²) D − (4/π) β² √(q1 q2) (sin θ − θ cos θ),   E[σ'σ'] = α² + β² − (2/π) β² θ.

Reference: Cho & Saul 2009, arc-cosine kernels of order 0 and 1.
"""

from __future__ import annotations

from math import pi

from ntkit.infinite.dual.angle import half_sine_squared
from ntkit.infinite.dual.elementary import angle, geometric_mean, sine_minus_theta_cosine, sqrt


def safe_in_single(a, b):
    """Measured: kernels of ratios far from 0 and −1 have smaller eigenvalues than float32 arithmetic keeps."""
    return min(abs(a), abs(b)) <= 0.01 * max(abs(a), abs(b)) or a == -b


def variance(q, a, b):
    """E[σ(u)²] = (a² + b²)/2 · q."""
    return (a**2 + b**2) / 2 * q


def mean(q, a, b):
    """E[σ(u)] = (b − a)/2 · √(2q/π)."""
    return (b - a) / 2 * sqrt(2 * q / pi)


def distance(q1, q2, d, a, b):
    """E[(σu − σv)²]."""
    alpha, beta = (b + a) / 2, (b - a) / 2
    bend = geometric_mean(q1, q2) * sine_minus_theta_cosine(half_sine_squared(q1, q2, d))
    return (alpha**2 + beta**2) * d - 4 * beta**2 / pi * bend


def derivative(q1, q2, d, a, b):
    """E[σ'(u) σ'(v)]."""
    alpha, beta = (b + a) / 2, (b - a) / 2
    return alpha**2 + beta**2 - 2 * beta**2 / pi * angle(half_sine_squared(q1, q2, d))


def scale_derivative(q1, q2, d, a, b):
    """E[uσ'(u) vσ'(v)] = E[σσ], for σ is homogeneous."""
    return (variance(q1, a, b) + variance(q2, a, b) - distance(q1, q2, d, a, b)) / 2
