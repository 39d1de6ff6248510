"""Exact kernels of infinitely wide networks: `InfiniteKernel(model)`.

specs ──rules/──► program ──torch_interpreter──► matrices; `dual/` holds what activations do to Gaussian pairs.
"""

from ntkit.architecture.specs import Layer
from ntkit.infinite.evaluation import Kernels
from ntkit.infinite.extension import register_activation, register_layer
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.infinite.plan import Plan

__all__ = ["InfiniteKernel", "Kernels", "Layer", "Plan", "register_activation", "register_layer"]
