"""Which numbers can scale a layer, or be a size of it."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

from ntkit.errors import InvalidInput


def is_finite_scale(value: Any) -> bool:
    """Whether `value` is a finite number whose square, which every kernel takes, is finite in float64 as well.

    Example:
        >>> is_finite_scale(2.0), is_finite_scale(1e200), is_finite_scale("2")
        (True, False, False)
    """
    if not isinstance(value, (int, float)):
        return False
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond float64
        return False
    return math.isfinite(number * number)


def check_scales(layer: str, w_std: float, b_std: float) -> None:
    """Raise `InvalidInput` where a scale is negative or not finite."""
    for name, value in (("w_std", w_std), ("b_std", b_std)):
        if not (is_finite_scale(value) and value >= 0):
            raise InvalidInput(
                f"{layer}: {name} must be a finite number >= 0, got {value!r}; its square must be finite too"
            )


def check_sizes(layer: str, **sizes: int) -> None:
    """Raise `InvalidInput` where a size is no whole number from 1."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise InvalidInput(f"{layer}: {name} must be a whole number from 1, got {value!r}")
