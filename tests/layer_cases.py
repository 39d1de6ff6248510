"""What the tests of single layers share: layers of common scales, samples, and the comparison with wide networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import ntkit

W, B = 1.3, 0.2  # w_std, b_std of every layer


def linear(inputs: int, outputs: int = 64) -> nn.Module:
    return ntkit.nn.Linear(inputs, outputs, W, B)


def conv(inputs: int, outputs: int = 64, kernel: Any = 3, **more: Any) -> nn.Module:
    return ntkit.nn.Conv2d(inputs, outputs, kernel, w_std=W, b_std=B, **more)


def up(inputs: int, outputs: int = 8, kernel: Any = 3, rank: int = 2, **more: Any) -> nn.Module:
    """A transposed convolution."""
    return getattr(ntkit.nn, f"ConvTranspose{rank}d")(inputs, outputs, kernel, w_std=W, b_std=B, **more)


def data(n: int, *sample: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *sample, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def readout_kernel(features: Tensor) -> Tensor:
    """The covariance of a linear read-out of random features (n, features)."""
    return W**2 * features @ features.T / features.shape[1] + B**2


def assert_limit(draws: list[Tensor], exact: Tensor) -> None:
    """The mean of random kernels is the exact one within four standard errors, and 1 % for their finite width."""
    values = torch.stack(draws)
    error = (values.mean(0) - exact).abs()
    bound = 4 * values.std(0) / len(draws) ** 0.5 + 0.01 * exact.abs().max()
    assert (error < bound).all(), (values.mean(0), exact)
