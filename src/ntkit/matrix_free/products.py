"""The one thing known of a matrix, v -> A v, and what every algorithm asks of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import check_finite
from ntkit.errors import InvalidInput

Product: TypeAlias = Callable[[Tensor], Tensor]  # (N, k) -> (N, k), linear and symmetric


def apply(product: Product, v: Float[Tensor, "N k"], dtype: torch.dtype) -> Float[Tensor, "N k"]:
    """A v in float64, the product itself in `dtype`.

    Raises:
        InvalidInput: the product has another shape than v, or values that are not finite.
    """
    result: Any = product(v.to(dtype))
    if not isinstance(result, Tensor) or result.shape != v.shape:
        got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise InvalidInput(
            f"product must give a tensor of its argument's shape {tuple(v.shape)}, got {got}; it maps columns (N, k) "
            "to columns"
        )
    check_finite(result.detach(), "the product with the matrix", "check the matrix, or compute it in float64")
    return result.detach().double()


def require_count(value: Any, name: str, least: int, most: int | None = None) -> int:
    """`value` as a whole number in its range.

    Raises:
        InvalidInput: it is none.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidInput(f"{name} must be a whole number, {bound}, got {value!r}")
    return number


def require_number(value: Any, name: str, *, positive: bool = False) -> float:
    """`value` as a finite number that is not negative, or positive.

    Raises:
        InvalidInput: it is none.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise InvalidInput(f"{name} must be a finite number {'> 0' if positive else '>= 0'}, got {value!r}")
    return number
