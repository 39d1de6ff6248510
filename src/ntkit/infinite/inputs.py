"""What comes in and where results go: samples checked against the model, dtypes, arrays to write into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkit._arrays import to_tensor
from ntkit.architecture import Network, sizes_of
from ntkit.errors import InvalidInput


@dataclass(frozen=True)
class Request:
    """How a kernel is wanted.

    Args:
        engine: "auto", "numba" or "torch".
        out_dtype: of the results; None for the inputs' own.
        out: where to write: an array, `Kernels` of arrays, or None.
        on_tile: called with rows and columns of each part that is complete.
    """

    engine: str
    out_dtype: Any
    out: Any
    on_tile: Callable[[slice, slice], None] | None

    def dtype(self, x: Tensor) -> torch.dtype:
        """The dtype of the results as torch names it.

        Raises:
            InvalidInput: it is neither float32 nor float64.
        """
        if self.out_dtype is None:
            return x.dtype
        for dtype, other in ((torch.float32, np.float32), (torch.float64, np.float64)):
            if self.out_dtype in (dtype, other) or (isinstance(self.out_dtype, np.dtype) and self.out_dtype == other):
                return dtype
        raise InvalidInput(f"out_dtype must be float32 or float64 of torch or numpy, got {self.out_dtype!r}")


def samples(network: Network, x: Any, name: str) -> Tensor:
    """`x` as a tensor of samples that the model takes.

    Raises:
        InvalidInput: no samples, no features, or a shape that the model does not take.
    """
    tensor = to_tensor(x, name)
    if tensor.ndim < 2 or len(tensor) == 0 or tensor[0].numel() == 0:
        raise InvalidInput(
            f"{name} must hold at least one sample of at least one feature, got shape {tuple(tensor.shape)}"
        )
    sizes_of(network, tuple(tensor.shape), name)
    return tensor


def check_shape_argument(shape: Any, name: str) -> None:
    """Raise `InvalidInput` where `shape` is none of samples."""
    sizes = shape if isinstance(shape, tuple) and len(shape) >= 2 else (0,)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise InvalidInput(
            f"{name} must be a tuple of at least two whole numbers from 1, samples first, got {shape!r}; pass "
            "tuple(x.shape)"
        )


def check_same_kind(x1: Any, x2: Any, one: Tensor, two: Tensor) -> None:
    """Raise `InvalidInput` where two inputs differ in library, dtype, device or the shape of a sample."""
    if type(x1) is not type(x2) and not (isinstance(x1, Tensor) and isinstance(x2, Tensor)):
        raise InvalidInput(f"x1 is a {type(x1).__name__} and x2 a {type(x2).__name__}; give both as the same kind")
    if x1.dtype != x2.dtype:
        raise InvalidInput(f"x1 is {x1.dtype} and x2 is {x2.dtype}; convert one of them")
    if one.device != two.device:
        raise InvalidInput(f"x1 is on {one.device} and x2 on {two.device}; move one of them")
    if one.shape[1:] != two.shape[1:]:
        raise InvalidInput(
            f"samples of x1 have shape {tuple(one.shape[1:])} and those of x2 {tuple(two.shape[1:])}; resize or "
            "reshape one of them"
        )


def check_no_gradients(tensors: dict[str, Tensor]) -> None:
    """Raise `InvalidInput` where gradients are wanted of results that are written into memory of the caller.

    A copy into `out` has no link to the inputs. As with torch's own out=, inputs under torch.no_grad() are fine.

    Args:
        tensors: by the names of the arguments.
    """
    wanted = [name for name, x in tensors.items() if x.requires_grad and torch.is_grad_enabled()]
    if wanted:
        detached = " and ".join(f"{name}.detach()" for name in wanted)
        raise InvalidInput(
            f"out= takes inputs without gradients, as what is written there has none, but {' and '.join(wanted)} "
            f"{'requires' if len(wanted) == 1 else 'require'} grad; leave out= away to keep the gradients, or pass "
            f"{detached}"
        )


def in_order(network: Network, out: Any) -> list[Any]:
    """What was given to write into, one for each output of the model.

    Raises:
        InvalidInput: it is not arranged as the model arranges its outputs.
    """
    keys, number = network.structure, len(network.outputs)
    if isinstance(keys, tuple):
        if isinstance(out, dict) and set(out) == set(keys):
            return [out[key] for key in keys]
        raise InvalidInput(f"out must be a dict with the keys of the model's outputs, {list(keys)}, got {_told(out)}")
    if keys == "tensor":
        return [out]
    if isinstance(out, (tuple, list)) and len(out) == number:
        return list(out)
    raise InvalidInput(f"out must be a {keys} of one result for each of the model's {number} outputs, got {_told(out)}")


def _told(out: Any) -> str:
    if isinstance(out, dict):
        return f"the keys {list(out)}"
    return f"{len(out)} in a {type(out).__name__}" if isinstance(out, (tuple, list)) else type(out).__name__


def target(out: Any, name: str, shape: tuple[int, int], dtype: torch.dtype, like: Any) -> np.ndarray | Tensor:
    """`out` after a check that results fit into it.

    Raises:
        InvalidInput: another kind, shape or dtype, or memory that cannot be written.
    """
    kind = "torch tensor" if isinstance(like, Tensor) else "numpy array"
    if not isinstance(out, Tensor if isinstance(like, Tensor) else np.ndarray):
        raise InvalidInput(f"{name} must be a {kind} like x1, got {type(out).__name__}")
    if tuple(out.shape) != shape:
        raise InvalidInput(f"{name} must have shape {shape}, got {tuple(out.shape)}")
    wanted, got = str(dtype).removeprefix("torch."), str(out.dtype).removeprefix("torch.")
    if got != wanted:
        raise InvalidInput(f"{name} must be {wanted}, got {got}; give an array of that dtype, or out_dtype=")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise InvalidInput(f"{name} cannot be written; open it in a mode that allows it")
    if isinstance(out, Tensor) and (out.requires_grad or out.device != like.device):
        got = "one that requires grad" if out.requires_grad else f"one on {out.device}"
        raise InvalidInput(
            f"{name} must be a tensor on {like.device} without gradients, got {got}; make it with torch.empty"
        )
    return out
