"""a · sin(b x + c), and a · cos(b x + c), which is the sine with c + π/2.

u − v has variance D and u + v has S = 2(q1 + q2) − D, so with C = cos 2c

    E[σσ]         = (a²/2)(exp(−b²D/2) − C exp(−b²S/2))
    E[(σu − σv)²] = a² (E (1 + C exp(−b²S/2)) − (C/2)(exp(−b²q1) − exp(−b²q2))²),   E = 1 − exp(−b²D/2)
    E[σ'σ']       = (a²b²/2)(exp(−b²D/2) + C exp(−b²S/2)).

Reference: the characteristic function of a Gaussian.
"""

from __future__ import annotations

from math import cos, sin

from ntkit.infinite.dual.elementary import exp, expm1


def variance(q, a, b, c):
    """E[σ(u)²]; for c = 0 the form 1 − exp(−2b²q) that does not cancel."""
    return a**2 / 2 * ((1 - cos(2 * c)) - cos(2 * c) * expm1(-2 * b**2 * q))


def mean(q, a, b, c):
    """E[σ(u)] = a sin(c) exp(−b²q/2)."""
    return a * sin(c) * exp(-(b**2) * q / 2)


def distance(q1, q2, d, a, b, c):
    """E[(σu − σv)²]."""
    sign = cos(2 * c)
    apart = -expm1(-(b**2) * d / 2)
    together = exp(-(b**2) * (q1 + q2 - d / 2))
    return a**2 * (apart * (1 + sign * together) - sign / 2 * (exp(-(b**2) * q1) - exp(-(b**2) * q2)) ** 2)


def derivative(q1, q2, d, a, b, c):
    """E[σ'(u) σ'(v)]."""
    return a**2 * b**2 / 2 * (exp(-(b**2) * d / 2) + cos(2 * c) * exp(-(b**2) * (q1 + q2 - d / 2)))


def scale_derivative(q1, q2, d, a, b, c):
    """E[uσ'(u) vσ'(v)], by E[uv exp(i t·x)] = (s − (Σt)₁ (Σt)₂) exp(−t·Σt/2) at t = b (1, −1) and b (1, 1)."""
    s = (q1 + q2 - d) / 2
    apart = (s + b**2 * (q1 - s) * (q2 - s)) * exp(-(b**2) * d / 2)
    together = (s - b**2 * (q1 + s) * (q2 + s)) * exp(-(b**2) * (q1 + q2 - d / 2))
    return a**2 * b**2 / 2 * (apart + cos(2 * c) * together)
