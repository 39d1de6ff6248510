"""LeakyReLU with slope a, and so ReLU (a = 0) and |x| (a = −1).

σ(x) = α x + β |x| with α = (1+a)/2, β = (1−a)/2; the cross terms are odd and vanish. With
E|u||v| = (2/π) √(q1 q2) (sin θ + (π/2 − θ) cos θ):

    E[(σu − σv)²] = (α² + β²) D − (4/π) β² √(q1 q2) (sin θ − θ cos θ),   E[σ'σ'] = α² + β² − (2/π) β² θ.

Reference: Cho & Saul 2009, arc-cosine kernels of order 0 and 1.
"""

from __future__ import annotations

from math import pi

from ntkit.infinite.dual.angle import half_sine_squared
from ntkit.infinite.dual.elementary import angle, geometric_mean, sine_minus_theta_cosine, sqrt


def safe_in_single(slope):
    """Measured: kernels of slopes far from 0 and −1 have smaller eigenvalues than float32 arithmetic keeps."""
    return abs(slope) <= 0.01 or slope == -1


def variance(q, slope):
    """E[σ(u)²] = (1 + a²)/2 · q."""
    return (1 + slope**2) / 2 * q


def mean(q, slope):
    """E[σ(u)] = (1 − a)/2 · √(2q/π)."""
    return (1 - slope) / 2 * sqrt(2 * q / pi)


def distance(q1, q2, d, slope):
    """E[(σu − σv)²]."""
    alpha, beta = (1 + slope) / 2, (1 - slope) / 2
    bend = geometric_mean(q1, q2) * sine_minus_theta_cosine(half_sine_squared(q1, q2, d))
    return (alpha**2 + beta**2) * d - 4 * beta**2 / pi * bend


def derivative(q1, q2, d, slope):
    """E[σ'(u) σ'(v)]."""
    alpha, beta = (1 + slope) / 2, (1 - slope) / 2
    return alpha**2 + beta**2 - 2 * beta**2 / pi * angle(half_sine_squared(q1, q2, d))


def scale_derivative(q1, q2, d, slope):
    """E[uσ'(u) vσ'(v)] = E[σσ], for σ is homogeneous."""
    return (variance(q1, slope) + variance(q2, slope) - distance(q1, q2, d, slope)) / 2
