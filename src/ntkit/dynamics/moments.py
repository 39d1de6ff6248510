"""The moments asked for: increasing times of a flow, increasing step numbers of a descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ntkit._memory import require_bytes
from ntkit.errors import InvalidInput

_MAX_STEP = 2**53  # beyond, float64 cannot tell neighbouring steps apart


def check_times(times: Any) -> Float64[Tensor, "t"]:
    """Times as float64: at least one, finite, nonnegative, strictly increasing."""
    moments = _vector(times, "times", "a sequence or an array")
    if not np.issubdtype(moments.dtype, np.number) or np.iscomplexobj(moments):
        raise InvalidInput(f"times must be real numbers, got dtype {moments.dtype}")
    moments = moments.astype(np.float64)
    if not np.isfinite(moments).all():
        raise InvalidInput(f"times must be finite, got {_first(moments, ~np.isfinite(moments))}")
    _check_increasing(moments, "times")
    return torch.from_numpy(moments)


def check_steps(steps: Any) -> Int64[Tensor, "t"]:
    """Step numbers as int64; a whole number T stands for 0, 1, …, T."""
    if isinstance(steps, (int, np.integer)) and not isinstance(steps, bool):
        if not 0 <= steps < _MAX_STEP:
            raise InvalidInput(f"steps must be a whole number from 0, or an increasing sequence of them, got {steps}")
        _require_room(int(steps) + 1, "steps")
        return torch.arange(int(steps) + 1)
    moments = _vector(steps, "steps", "a whole number, a sequence or an array")
    if not np.issubdtype(moments.dtype, np.integer):
        raise InvalidInput(
            f"steps must be a whole number or an increasing sequence of whole numbers, got dtype {moments.dtype}"
        )
    _check_increasing(moments, "steps")
    if moments[-1] >= _MAX_STEP:
        raise InvalidInput(f"steps must be below 2^53, got {moments[-1]}")
    return torch.from_numpy(moments.astype(np.int64))


def _vector(moments: Any, name: str, wanted: str) -> np.ndarray:
    listed = moments.detach().cpu().numpy() if isinstance(moments, Tensor) else moments
    if not isinstance(listed, (Sequence, np.ndarray)) or isinstance(listed, str):
        raise InvalidInput(f"{name} must be {wanted}, got {type(moments).__name__}")
    if isinstance(listed, Sequence):  # a range holds no numbers until it is an array
        _require_room(len(listed), name)
    vector = np.asarray(listed)
    if vector.ndim != 1 or vector.size == 0:
        raise InvalidInput(f"{name} must be one increasing sequence with at least one entry, got shape {vector.shape}")
    return vector


def _require_room(count: int, name: str) -> None:
    require_bytes(8 * count, f"a list of {count} {name}", f"pass fewer, as a sequence of the {name} wanted")


def _check_increasing(moments: np.ndarray, name: str) -> None:
    if (moments < 0).any():
        raise InvalidInput(f"{name} must not be negative, got {_first(moments, moments < 0)}; training starts at 0")
    falling = moments[1:] <= moments[:-1]
    if falling.any():
        after = int(np.argmax(falling))
        raise InvalidInput(
            f"{name} must increase strictly, but {moments[after]} is followed by {moments[after + 1]}; "
            f"pass sorted(set({name}))"
        )


def _first(moments: np.ndarray, where: np.ndarray) -> str:
    index = int(np.argmax(where))
    return f"{moments[index]} at index {index}"
