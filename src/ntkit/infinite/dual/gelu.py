"""GELU, x Φ(x) = x/2 + x ψ(x)/2 with ψ(x) = erf(x/√2).

By Stein's lemma, with s the covariance, Δ = (1 + q1)(1 + q2) − s², I = E[ψψ] = (2/π) arcsin(s/√((1+q1)(1+q2))) and
J = E[ψ'ψ'] = (2/π)/√Δ:

    E[σσ]   = ¼ (s + s I + J (q1 q2 + s² (1 − q1 q2)/((1+q1)(1+q2))))
    E[σ'σ'] = ¼ (1 + I + J s (1/(1+q1) + 1/(1+q2) + 1/Δ)).

Reference: derived here; the same moments stand in Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2020.
"""

from __future__ import annotations

from math import pi

from ntkit.infinite.dual.elementary import arcsin, clip, sqrt
from ntkit.infinite.dual.erf import determinant


def _covariance(q1, q2, d):
    s = (q1 + q2 - d) / 2
    outer = (1 + q1) * (1 + q2)
    delta = 1 + q1 + q2 + determinant(q1, q2, d)
    i = 2 / pi * arcsin(clip(s / sqrt(outer), -1.0, 1.0))
    return s, outer, delta, i, 2 / pi / sqrt(delta)


def variance(q):
    """E[σ(u)²]."""
    i = 2 / pi * arcsin(q / (1 + q))
    return (q + q * i + 4 / pi * q**2 / ((1 + q) * sqrt(1 + 2 * q))) / 4


def mean(q):
    """E[σ(u)] = q/√(2π(1 + q))."""
    return q / sqrt(2 * pi * (1 + q))


def distance(q1, q2, d):
    """E[(σu − σv)²] as the difference of moments, which costs relative accuracy only where D is below 1e-8 of q."""
    s, outer, _, i, j = _covariance(q1, q2, d)
    covariance = (s + s * i + j * (q1 * q2 + s**2 * (1 - q1 * q2) / outer)) / 4
    apart = variance(q1) + variance(q2) - 2 * covariance
    # rounding: the same sample with itself is exactly 0 apart, and nothing is less
    return clip(apart, 0.0, float("inf")) * (d > 0)


def derivative(q1, q2, d):
    """E[σ'(u) σ'(v)]."""
    s, _, delta, i, j = _covariance(q1, q2, d)
    return (1 + i + j * s * (1 / (1 + q1) + 1 / (1 + q2) + 1 / delta)) / 4
