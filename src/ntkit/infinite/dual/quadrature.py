"""What the quadratures of this folder share: Gauss–Legendre panels under the normal density, and σ with its slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ntkit.architecture.expressions import Expression, apply_expression
from ntkit.errors import InvalidInput


@dataclass(frozen=True)
class TimesSlope:
    """The function x σ'(x), whose covariance is what a trained scale of x adds to the tangent kernel.

    Args:
        of: σ.
    """

    of: Expression

    def __str__(self) -> str:
        return f"x times the slope of {self.of}"


Function = Expression | TimesSlope


@lru_cache
def legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre quadrature on [−1, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(x), torch.from_numpy(w)


def normal_nodes(left: Tensor, right: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n nodes on every panel (last axis) in a row, with weights times the standard normal density."""
    x, w = legendre(n)
    half = ((right - left) / 2)[..., None]
    g = (left[..., None] + half + half * x).flatten(-2)
    return g, (half * w).flatten(-2) * torch.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)


def value_and_slope(expression: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """σ(x) and σ'(x), the latter by autograd; both keep a graph to `x` where it has one."""
    if isinstance(expression, TimesSlope):  # nothing reads its own slope, which need not exist: 0 stands for it
        value = x * value_and_slope(expression.of, x)[1]
        return value, torch.zeros_like(value)
    keep = x.requires_grad
    with torch.enable_grad():
        leaf = x if keep else x.detach().requires_grad_(True)
        value = apply_expression(expression, leaf)
        if value.requires_grad and value.dtype != x.dtype:
            raise InvalidInput(
                f"the activation {expression} computes in {value.dtype}, whose rounding would be taken for kinks; let "
                f"it compute in the dtype of its argument, {x.dtype}"
            )
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=keep, materialize_grads=True)
        else:
            slope = torch.zeros_like(leaf)  # a constant
    return (value, slope) if keep else (value.detach(), slope.detach())
