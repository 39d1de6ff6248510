"""erf(x): E[σσ] = (2/π) arcsin(2s/√A), A = (1 + 2 q1)(1 + 2 q2), s the covariance.

Near the diagonal the distance (2/π)(φ1 + φ2 − 2 φ12), sin φi = 2qi/(1+2qi), sin φ12 = 2s/√A, is taken from
A (sin²((φ1+φ2)/2) − sin² φ12) = n/2,  n = 8(q1 q2 − s²) + 4(q1 − q2)²/(1 + 2(q1+q2) + √((1+4q1)(1+4q2))),
in which every term is positive.

Reference: Williams 1996 for the covariance; the difference form is derived by sin² x − sin² y = sin(x+y) sin(x−y).
"""

from __future__ import annotations

from math import pi

from ntkit.infinite.dual.elementary import arcsin, clip, geometric_mean, sin, sqrt, squared_gap, where


def variance(q):
    """E[σ(u)²] = (2/π) arcsin(2q/(1 + 2q))."""
    return 2 / pi * arcsin(2 * q / (1 + 2 * q))


def mean(q):
    """E[σ(u)] = 0."""
    return 0 * q


def shortfall(q1, q2, d):
    """√(q1 q2) − s, from the distance."""
    return clip((d - squared_gap(q1, q2)) / 2, 0.0, float("inf"))


def determinant(q1, q2, d):
    """q1 q2 − s², from the distance: (√(q1 q2) − s)(√(q1 q2) + s)."""
    below = shortfall(q1, q2, d)
    return below * clip(2 * geometric_mean(q1, q2) - below, 0.0, float("inf"))


def distance(q1, q2, d):
    """E[(σu − σv)²]."""
    a = (1 + 2 * q1) * (1 + 2 * q2)
    phi1, phi2 = arcsin(2 * q1 / (1 + 2 * q1)), arcsin(2 * q2 / (1 + 2 * q2))
    phi12 = arcsin(clip((q1 + q2 - d) / sqrt(a), -1.0, 1.0))
    middle = (phi1 + phi2) / 2
    root = sqrt((1 + 4 * q1) * (1 + 4 * q2))
    n = 8 * determinant(q1, q2, d) + 4 * (q1 - q2) ** 2 / (1 + 2 * (q1 + q2) + root)
    near = (q1 + q2 > d) & (middle > 0)
    sine = where(near, sin(middle + phi12), 1.0)
    close = arcsin(clip(n / (2 * a * sine), 0.0, 1.0))
    # the arcsine of the difference is only the difference while that is below a right angle, as it is for s > 0
    return 4 / pi * where(near, close, middle - phi12)


def derivative(q1, q2, d):
    """E[σ'(u) σ'(v)] = (4/π) (1 + 2(q1 + q2) + 4(q1 q2 − s²))^(−1/2)."""
    return 4 / pi / sqrt(1 + 2 * (q1 + q2) + 4 * determinant(q1, q2, d))


def scale_derivative(q1, q2, d):
    """E[uσ'(u) vσ'(v)] = (4/π) s (1 + 2(q1 + q2) + 4(q1 q2 − s²))^(−3/2)."""
    a = 1 + 2 * (q1 + q2) + 4 * determinant(q1, q2, d)
    return 2 / pi * (q1 + q2 - d) / (a * sqrt(a))
