"""What is known of each layer family: ∂f/∂W = Σ_t g_t ⊗ a_t, a_t from its input, g_t the gradient of its output.

One family is one pair of registrations: `input_factors` gives, for each parameter, the rows a_t (scales
included), `output_factor` brings g to rows. A type without a registration has no rule, and its parameters
take the generic route. A subclass inherits its family's rule; if its forward does something else, the proof
in `assign.py` notices.
"""

from __future__ import annotations

import math
from functools import singledispatch

from jaxtyping import Float
from torch import Tensor, nn

import ntkit.nn


@singledispatch
def input_factors(layer: nn.Module, x: Tensor) -> dict[str, Float[Tensor, "n t _"]]:
    """The rows a_t of each parameter, by the parameter's name in the layer, t over positions.

    Args:
        layer: the layer.
        x: its input, batched on axis 0.

    Returns:
        New memory: what the model later does to `x` in place must not reach it.
    """
    raise TypeError(f"no rule for {type(layer).__name__}; register one with input_factors.register")


@singledispatch
def output_factor(layer: nn.Module, g: Tensor) -> Float[Tensor, "n t _"]:
    """The gradient with respect to the layer's output as rows g_t; by default features are on the last axis."""
    return _rows(g)


def has_rule(layer: nn.Module) -> bool:
    """Whether the layer's family is registered."""
    return input_factors.dispatch(type(layer)) is not input_factors.dispatch(object)


def _rows(x: Tensor) -> Tensor:
    positions = math.prod(x.shape[1:-1])  # 1 where there are no positions
    return x.reshape(x.shape[0], positions, x.shape[-1])


@input_factors.register(nn.Linear)
def _linear(layer: nn.Linear, x: Tensor) -> dict[str, Tensor]:
    """z = W x + b."""
    return _affine_factors(x, 1.0, 1.0)


@input_factors.register(ntkit.nn.Linear)
def _ntk_linear(layer: ntkit.nn.Linear, x: Tensor) -> dict[str, Tensor]:
    """z = w_std/√fan_in · W x + b_std · b."""
    return _affine_factors(x, layer.w_std / math.sqrt(layer.in_features), layer.b_std)


def _affine_factors(x: Tensor, weight_scale: float, bias_scale: float) -> dict[str, Tensor]:
    rows = _rows(x.detach())
    return {"weight": rows * weight_scale, "bias": rows.new_full((*rows.shape[:2], 1), bias_scale)}
