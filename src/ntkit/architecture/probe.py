"""Whether a function from outside is one that acts on each entry alone: tried on a few numbers where it is used.

What ntkit cannot trace it takes at its word, and quadrature would make a number of anything. A function that mixes
entries, or draws random numbers, has no dual.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ntkit.architecture.expressions import Expression, apply_expression
from ntkit.errors import InvalidInput, NtkitError

_ORDER = [20 * k % 51 for k in range(51)]  # none, or what sorts would pass
_NUMBERS = torch.linspace(-2.9, 3.1, 51, dtype=torch.float64, device="cpu")[_ORDER].reshape(3, 17)
_PART = (slice(1, 2), slice(5, 13))
_ROUNDING = 1e-9  # of the largest value: vectorised loops round their last entries differently


def require_elementwise(function: Expression, who: str) -> None:
    """Raise `InvalidInput` unless a function maps real numbers to real numbers, each alone, the same every time.

    Args:
        function: of x, from outside.
        who: how errors name it.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        value, again, part = (_value(function, x, who) for x in (_NUMBERS, _NUMBERS, _NUMBERS[_PART]))
    if not torch.allclose(value, again, rtol=0, atol=0, equal_nan=True):
        raise InvalidInput(
            f"{who} must give the same values of the same numbers, and gives others the second time, so it has no "
            "kernel; take out what is random; for dropout there is nn.Dropout"
        )
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        got, at = float(value[~finite][0]), float(_NUMBERS[~finite][0])
        raise InvalidInput(
            f"{who} must be finite for every number, got {got} at x = {at:.3g}; use a function that is defined on the "
            "whole line"
        )
    if not bool(((value[_PART] - part).abs() <= _ROUNDING * value.abs().max()).all()):
        raise InvalidInput(
            f"{who} must act on each entry alone, and gives other values of a part of a tensor than of the whole; give "
            "a layer that mixes entries a rule with ntkit.infinite.register_layer"
        )


def _value(function: Expression, numbers: Tensor, who: str) -> Tensor:
    """What it gives where gradients are wanted, as quadrature asks for it."""
    shape = tuple(numbers.shape)
    x = numbers.clone().requires_grad_(True).clone()
    try:
        value: Any = apply_expression(function, x)
    except NtkitError:
        raise
    except Exception as error:  # a function from outside may raise anything
        raise InvalidInput(
            f"{who} must take real numbers in a tensor of any shape, and fails for shape {shape}: {error}; write it so "
            "that it acts on each entry alone"
        ) from error
    if not torch.equal(x, numbers):
        raise InvalidInput(f"{who} overwrites its argument; write it with operations that are not in place")
    if not isinstance(value, Tensor) or value.is_complex() or value.shape != x.shape:
        got = f"shape {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise InvalidInput(
            f"{who} must give a tensor of real numbers of its argument's shape {shape}, got {got}; return one value "
            "for every entry"
        )
    return value.detach().to(x.dtype)
