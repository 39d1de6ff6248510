"""Gradients of kernels in the inputs: finite, also between equal samples, and equal to finite differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ntkit.errors import ToleranceNotReached
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.testing.contract import Contract

_STEP = 1e-4  # of central differences of second and fourth order, whose error is its fourth power


def check_gradients(contract: Contract, kernel: InfiniteKernel, x: Tensor) -> None:
    """Properties of d/dx Σ C ∘ K(x, x) for a random C, along a random direction; none where gradients are refused.

    Args:
        contract: takes the property.
        kernel: of a model with one output.
        x: samples (n, …), all different.

    Raises:
        ContractViolation: a gradient is not finite, or not what differences give.
    """
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(2, len(x), len(x), dtype=torch.float64, generator=generator)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)

    def total(samples: Tensor) -> Any:
        found = kernel(samples, engine="torch")
        return (weights[0] * found.nngp).sum() + (weights[1] * found.ntk).sum()

    remedy = (
        "write square roots and arcsines with ntkit.infinite.dual.elementary, whose slopes at their ends are finite"
    )
    twins = torch.cat([x[:2], x[:1]]).requires_grad_(True)
    try:
        found = kernel(twins, engine="torch")
    except ToleranceNotReached:  # a function with kinks and no formulas
        return
    (gradient,) = torch.autograd.grad(found.nngp.sum() + found.ntk.sum(), twins)
    if not bool(torch.isfinite(gradient).all()):
        contract.fail("gradients", "wanted finite gradients between equal samples, got nan or infinity", remedy)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    got = (gradient * direction).sum()
    steps = [(float(total(x + k * _STEP * direction)) - float(total(x - k * _STEP * direction))) / k for k in (1, 2)]
    wanted = torch.tensor((4 * steps[0] - steps[1]) / (6 * _STEP), dtype=torch.float64)
    allowed = 1e-6 * (gradient.abs() * direction.abs()).sum()
    contract.close("gradients", got[None], wanted[None], allowed[None], remedy, lambda i: "a random direction of x")
