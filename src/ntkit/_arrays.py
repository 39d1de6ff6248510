"""Torch in, torch out; numpy in, numpy out: the one place where public functions take and give arrays.

Index letters used in shapes throughout: n, m samples; o outputs; d features; c channels; h, w pixels;
p parameters; k eigenvalues; t times or steps.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ntkit.errors import InvalidInput

Array = Tensor | np.ndarray
ArrayT = TypeVar("ArrayT", Tensor, np.ndarray)


def to_tensor(x: Any, name: str, repair: str = "remove or repair them") -> Tensor:
    """`x` as a floating-point tensor that shares its memory where possible.

    Args:
        x: what the caller gave.
        name: what an error calls it.
        repair: what to do about values that are not finite.

    Raises:
        InvalidInput: `x` is no array, not dense, not floating point, or has a value that is not finite.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidInput(
            f"{name} is a masked array, whose mask would be lost; fill it with x.filled(...) or leave masked rows out"
        )
    if isinstance(x, np.ndarray):
        if x.dtype not in (np.float32, np.float64):
            raise InvalidInput(
                f"{name} must be a float32 or float64 array, got dtype {x.dtype}; convert it with x.astype(np.float64)"
            )
        if any(stride < 0 for stride in x.strides) or not x.flags.writeable:
            x = x.copy()  # torch can view neither reversed nor read-only memory
        tensor = torch.from_numpy(x)
    elif isinstance(x, Tensor):
        tensor = x
        _check_dense(tensor, name)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise InvalidInput(f"{name} must be float32 or float64, got {tensor.dtype}; convert it with x.double()")
    else:
        raise InvalidInput(f"{name} must be a torch tensor or a numpy array, got {type(x).__name__}")
    check_finite(tensor, name, repair)
    return tensor


def to_tokens(x: Any, name: str) -> Tensor:
    """`x`, which holds numbers of tokens, as a tensor of float64, which kernels are computed in.

    Raises:
        InvalidInput: `x` is no array of whole numbers.
    """
    if not isinstance(x, (Tensor, np.ndarray)) or isinstance(x, np.ma.MaskedArray):
        raise InvalidInput(f"{name} must be a torch tensor or a numpy array of whole numbers, got {type(x).__name__}")
    tensor = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x)) if x.dtype.kind in "iu" else None
    if tensor is None or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidInput(
            f"{name} must hold whole numbers, as the model embeds tokens, got dtype {x.dtype}; convert it with "
            "x.long() or x.astype(np.int64)"
        )
    _check_dense(tensor, name)
    return tensor.double()


def _check_dense(tensor: Tensor, name: str) -> None:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # pyright: ignore[reportAttributeAccessIssue]
        raise InvalidInput(
            f"{name} is a tensor inside a transformation of torch.func (vmap, grad, jacrev), which hides its values; "
            "call the kernel outside of it, and differentiate with torch.autograd (functional.jacobian gives all)"
        )
    if tensor.layout != torch.strided:
        raise InvalidInput(f"{name} must be a dense tensor, got layout {tensor.layout}; convert it with x.to_dense()")
    if tensor.is_meta:
        raise InvalidInput(
            f"{name} must be a dense tensor with values, got one on the meta device, which has none; make it on a "
            "real device"
        )


def check_finite(tensor: Tensor, name: str, repair: str = "remove or repair them") -> None:
    """Raise `InvalidInput` that counts and locates the first value that is NaN or infinite."""
    if _sum_is_finite(tensor.detach()):
        return
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        where = tuple(int(i) for i in torch.nonzero(~finite)[0])
        count = int((~finite).sum())
        raise InvalidInput(
            f"{name} must be finite, got {count} value(s) that are NaN or infinite, the first at index {where}; "
            f"{repair}"
        )


def _sum_is_finite(tensor: Tensor) -> bool:
    """Whether the sum of all values is finite, and so each of them: ten times as fast as asking each."""
    if tensor.device.type != "cpu" or tensor.dtype == torch.bfloat16:
        return bool(torch.isfinite(tensor.sum(dtype=torch.float64)))
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(tensor.numpy().sum()))


def like(result: Tensor, *references: Any) -> Any:
    """`result` as numpy when the first reference is a numpy array, else unchanged."""
    return result.detach().cpu().numpy() if isinstance(references[0], np.ndarray) else result
