"""The free names that dual activations are written in. Given tensors they compute, given symbols they record.

Square root and arcsine have infinite slopes at the edge of their domains, which exact gradients of identical inputs
would turn into NaN. There the kernels' own derivatives along the inputs vanish, so the slope is set to 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ntkit.infinite.dual.symbols import recorded

NAMES: list[str] = []  # of all functions below


def free_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of tensors one that also records itself."""
    NAMES.append(function.__name__)

    @functools.wraps(function)
    def either(*operands: Any) -> Any:
        recording = recorded(*operands)
        return function(*operands) if recording is None else recording.add(function.__name__, operands)

    return either


@free_name
def exp(x: Tensor) -> Tensor:
    """eˣ."""
    return torch.exp(x)


@free_name
def expm1(x: Tensor) -> Tensor:
    """eˣ − 1."""
    return torch.expm1(x)


@free_name
def sin(x: Tensor) -> Tensor:
    """sin x."""
    return torch.sin(x)


@free_name
def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """x where the condition holds, else y."""
    return torch.where(condition, x, y)


@free_name
def sqrt(x: Tensor) -> Tensor:
    """√x, with slope 0 at 0."""
    if not x.requires_grad:
        return torch.sqrt(x)
    inside = x > 0
    return torch.where(inside, torch.sqrt(torch.where(inside, x, 1.0)), 0.0)


@free_name
def arcsin(x: Tensor) -> Tensor:
    """arcsin x, with slope 0 at ±1."""
    if not x.requires_grad:
        return torch.arcsin(x)
    inside = x.abs() < 1
    return torch.where(inside, torch.arcsin(torch.where(inside, x, 0.0)), torch.sign(x) * (torch.pi / 2))


@free_name
def clip(x: Tensor, low: float, high: float) -> Tensor:
    """x kept within [low, high]: rounding may leave the interval by an ulp."""
    return torch.clamp(x, low, high)


@free_name
def geometric_mean(q1: Tensor, q2: Tensor) -> Tensor:
    """√(q1 q2)."""
    return sqrt(q1 * q2)


@free_name
def squared_gap(q1: Tensor, q2: Tensor) -> Tensor:
    """(√q1 − √q2)², as (q1 − q2)²/(√q1 + √q2)², which does not cancel."""
    both = q1 + q2 + 2 * sqrt(q1 * q2)
    return (q1 - q2) * ((q1 - q2) / torch.where(both > 0, both, 1.0))


@free_name
def angle(h: Tensor) -> Tensor:
    """θ from h = sin²(θ/2)."""
    return 2 * arcsin(sqrt(h))


@free_name
def sine_minus_theta_cosine(h: Tensor) -> Tensor:
    """sin θ − θ cos θ from h = sin²(θ/2), by its series θ³/3 − θ⁵/30 + … where the difference would cancel."""
    theta = angle(h)
    t2 = theta * theta
    series = torch.zeros_like(h)
    for coefficient in _SERIES:
        series = series * t2 + coefficient
    direct = 2 * sqrt(h * (1 - h)) - theta * (1 - 2 * h)
    return torch.where(theta < 0.5, series * t2 * theta, direct)


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
