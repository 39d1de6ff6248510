"""Exact kernels of infinitely wide networks: `InfiniteKernel(model)`; `monte_carlo_kernel` for those that have none.

specs ──rules/──► program ──torch_interpreter──► matrices; `dual/` holds what activations do to Gaussian pairs.
`monte_carlo/` takes means of finite networks' kernels; it is loaded when first used, as it needs `ntkit.empirical`.
"""

from typing import TYPE_CHECKING, Any

from ntkit.architecture.specs import Layer
from ntkit.infinite.evaluation import Kernels
from ntkit.infinite.extension import register_activation, register_layer
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.infinite.plan import Plan

if TYPE_CHECKING:
    from ntkit.infinite.monte_carlo import MonteCarloKernels as MonteCarloKernels
    from ntkit.infinite.monte_carlo import monte_carlo_kernel as monte_carlo_kernel

_LATER = ("MonteCarloKernels", "monte_carlo_kernel")

__all__ = [
    "InfiniteKernel",
    "Kernels",
    "Layer",
    "MonteCarloKernels",
    "Plan",
    "monte_carlo_kernel",
    "register_activation",
    "register_layer",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'ntkit.infinite' has no attribute {name!r}; it has {', '.join(__all__)}")
    from ntkit.infinite import monte_carlo

    value = getattr(monte_carlo, name)
    globals()[name] = value
    return value
