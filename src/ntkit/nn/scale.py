"""Which numbers can scale a layer."""

from __future__ import annotations

import math
from typing import Any


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
