"""What the tests of Monte Carlo kernels share: a small random network, and when two results are the same."""

from __future__ import annotations

import numpy as np
from torch import nn

from layer_cases import linear
from ntkit.infinite import MonteCarloKernels


def mlp(width: int = 32, outputs: int = 1) -> nn.Module:
    return nn.Sequential(linear(4, width), nn.ReLU(), linear(width, outputs))


def equal(one: MonteCarloKernels, two: MonteCarloKernels) -> bool:
    arrays = ("nngp", "ntk", "nngp_error", "ntk_error")
    same = all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays)
    return same and (one.draws, one.precision) == (two.draws, two.precision)
