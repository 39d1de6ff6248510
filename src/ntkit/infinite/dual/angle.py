"""The angle between two Gaussians from their squared distance, without cancellation.

With D = q1 + q2 − 2√(q1 q2) cos θ:  sin²(θ/2) = (D − (√q1 − √q2)²) / (4 √(q1 q2)).
"""

from __future__ import annotations

from ntkit.infinite.dual.elementary import arcsin, clip, sqrt, where


def half_sine_squared(q1, q2, d):
    """sin²(θ/2); 1/2, a right angle, where a variance is 0."""
    scale = sqrt(q1 * q2)
    gap = (q1 - q2) / where(q1 + q2 > 0, sqrt(q1) + sqrt(q2), 1.0)
    apart = clip((d - gap * gap) / where(scale > 0, 4 * scale, 1.0), 0.0, 1.0)
    return where(scale > 0, apart, 0.5)


def angle(h):
    """θ from h = sin²(θ/2)."""
    return 2 * arcsin(sqrt(h))


def sine_minus_theta_cosine(h, theta):
    """sin θ − θ cos θ, by its series θ³/3 − θ⁵/30 + … where the difference would cancel."""
    t2 = theta * theta
    series = 0.0
    for coefficient in _SERIES:
        series = series * t2 + coefficient
    direct = 2 * sqrt(h * (1 - h)) - theta * (1 - 2 * h)
    return where(theta < 0.5, series * t2 * theta, direct)


# coefficients of θ³, θ⁵, … are (−1)^(k+1) 2k/(2k+1)!, highest first; eight are exact to 1e-16 below θ = 1/2
_SERIES = (
    -16 / 355687428096000,
    14 / 1307674368000,
    -12 / 6227020800,
    10 / 39916800,
    -8 / 362880,
    6 / 5040,
    -4 / 120,
    2 / 6,
)
