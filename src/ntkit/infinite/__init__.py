"""Exact kernels of infinitely wide networks: `InfiniteKernel(model)`.

specs ──rules/──► program ──torch_interpreter──► matrices; `dual/` holds what activations do to Gaussian pairs.
"""

from ntkit.infinite.evaluation import Kernels
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.infinite.plan import Plan

__all__ = ["InfiniteKernel", "Kernels", "Plan"]
