"""Shares of degrees by the published route: the recursion in t = x·x'/d, then differences of two steps.

    c⁰ = σ_w² t + σ_b²,    cˡ = σ_w² V(cˡ⁻¹) + σ_b²,    Tˡ = cˡ + σ_w² V'(cˡ⁻¹) Tˡ⁻¹
    k times F(t) ← [F(t) − F(t − 4/d)]/4, then the mean of what is left under binomial weights: μ_k

A difference and a mean of neighbours, [F(t) − F(t − 2/d)]/2 and [F(t) + F(t − 2/d)]/2, make one step of 4/d. Nothing
here is shared with `ntkit.theory`, which it checks.

Reference: Yang & Salman, A fine-grained spectral perspective on neural networks, 2019, section 3 and appendix; their
code, github.com/thegregyang/NNspectra, theory.py.
"""

from __future__ import annotations

from math import comb, pi
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ntkit.errors import InvalidInput

Values = Float[np.ndarray, "r"]


class PublishedShares(NamedTuple):
    """Of the conjugate and of the tangent kernel."""

    nngp: float
    ntk: float


def shares_by_differences(
    activation: str, depth: int, w_square: float, b_square: float, d: int, degree: int
) -> PublishedShares:
    """The share of a degree in both kernels over {−1, 1}^d.

    Args:
        activation: "relu" or "erf".
        depth: hidden layers.
        w_square: σ_w².
        b_square: σ_b².
        d: bits.
        degree: at most d/2.

    Raises:
        InvalidInput: the degree is larger.
    """
    if 2 * degree > d:
        raise InvalidInput(f"degree must be at most half of d = {d} for steps of two, got {degree}")
    ck, ntk = _kernels(activation, depth, w_square, b_square, 1 - 2 * np.arange(d + 1) / d)
    return PublishedShares(_share(ck, d, degree), _share(ntk, d, degree))


def _kernels(activation: str, depth: int, w_square: float, b_square: float, t: Values) -> tuple[Values, Values]:
    duals = {"relu": _relu, "erf": _erf}[activation]
    c = w_square * t + b_square
    tangent = c
    for _ in range(depth):
        value, slope = duals(c, float(c[0]))
        c = w_square * value + b_square
        tangent = c + w_square * slope * tangent
    return c, tangent


def _relu(c: Values, q: float) -> tuple[Values, Values]:
    """E[φφ] and E[φ'φ'] of two Gaussians with variance q and covariance c (Cho & Saul 2009)."""
    cosine = np.clip(c / q, -1.0, 1.0)
    angle = pi - np.arccos(cosine)
    return q * (np.sqrt(1 - cosine**2) + angle * cosine) / (2 * pi), angle / (2 * pi)


def _erf(c: Values, q: float) -> tuple[Values, Values]:
    """The same for erf (Williams 1996)."""
    return 2 / pi * np.arcsin(c / (q + 0.5)), 4 / pi / np.sqrt((1 + 2 * q) ** 2 - 4 * c**2)


def _share(values: Values, d: int, degree: int) -> float:
    differences = values
    for _ in range(degree):
        differences = (differences[:-2] - differences[2:]) / 4
    left = d - 2 * degree
    weights = np.array([comb(left, r) / 2**left for r in range(left + 1)])
    return float(comb(d, degree) * (weights @ differences) / values[0])
