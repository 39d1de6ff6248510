"""The free names that dual activations are written in, bound to torch.

Square root and arcsine have infinite slopes at the edge of their domains, which exact gradients of identical inputs
would turn into NaN. There the kernels' own derivatives along the inputs vanish, so the slope is set to 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

cos, exp, expm1, sin, where = torch.cos, torch.exp, torch.expm1, torch.sin, torch.where


def sqrt(x: Tensor) -> Tensor:
    """√x, with slope 0 at 0."""
    if not x.requires_grad:
        return torch.sqrt(x)
    inside = x > 0
    return torch.where(inside, torch.sqrt(torch.where(inside, x, 1.0)), 0.0)


def arcsin(x: Tensor) -> Tensor:
    """arcsin x, with slope 0 at ±1."""
    if not x.requires_grad:
        return torch.arcsin(x)
    inside = x.abs() < 1
    return torch.where(inside, torch.arcsin(torch.where(inside, x, 0.0)), torch.sign(x) * (torch.pi / 2))


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """x kept within [low, high]: rounding may leave the interval by an ulp."""
    return torch.clamp(x, low, high)
