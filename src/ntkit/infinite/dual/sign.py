"""sign(x): E[σσ] = 1 − 2θ/π. Its derivative is 0 almost everywhere, and 0 by convention.

Reference: Cho & Saul 2009, arc-cosine kernel of order 0.
"""

from __future__ import annotations

from math import pi

from ntkit.infinite.dual.angle import half_sine_squared
from ntkit.infinite.dual.elementary import angle, where


def variance(q):
    """E[σ(u)²] = 1, or 0 for u = 0."""
    return where(q > 0, q * 0 + 1, q * 0)


def mean(q):
    """E[σ(u)] = 0."""
    return 0 * q


def distance(q1, q2, d):
    """E[(σu − σv)²] = 4θ/π; where one side is 0, the other's second moment."""
    one_is_zero = variance(q1) + variance(q2)
    return where(q1 * q2 > 0, 4 / pi * angle(half_sine_squared(q1, q2, d)), one_is_zero)


def derivative(q1, q2, d):
    """0 by convention."""
    return 0 * d


def scale_derivative(q1, q2, d):
    """0 by convention."""
    return 0 * d
