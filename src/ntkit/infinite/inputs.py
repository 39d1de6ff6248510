"""What comes in and where results go: samples checked against the model, dtypes, arrays to write into."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkit._arrays import to_tensor, to_tokens
from ntkit.architecture import Network, sizes_of
from ntkit.errors import InvalidInput
from ntkit.infinite import program as ops
from ntkit.infinite.placement import Placement

_LEAST, _MOST = 1e-12, 1e12  # root mean squares whose squares, and what layers make of them, float32 holds well
_UNEVEN, _HOPELESS = 30, 1e8  # times as long as another an image may be in float32, and at all


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


def without_mask(network: Network, x: Any, name: str) -> tuple[Any, Any]:
    """(samples, which tokens of them are there) of what a model with a mask takes; None where all are.

    Raises:
        InvalidInput: a mask is given to a model that takes none, or something else than a pair.
    """
    if not isinstance(x, tuple):
        return x, None
    if not network.takes_mask:
        raise InvalidInput(f"{name} must be an array of samples, got a {type(x).__name__}; the model takes no mask")
    if len(x) != 2:
        raise InvalidInput(f"{name} must be an array, or a pair of an array and its mask, got {len(x)} things")
    return x[0], x[1]


def mask_of(mask: Any, x: Tensor, placement: Placement, name: str) -> Tensor | None:
    """Which tokens of samples x are there, in the order of the grid; None where the model takes no mask.

    Raises:
        InvalidInput: it is no array of True and False for every token, or a sample has no token at all.
    """
    masked = (register for op in placement.program.instructions for register in op.masked_registers)
    tokens = {placement.positions(register) for register in masked}
    if not tokens:
        return None
    if len(tokens) > 1:
        raise InvalidInput(f"the model masks values of {sorted(tokens)} tokens, and there is one mask; make them agree")
    (number,) = tokens
    if mask is None:
        return torch.ones(len(x), number, dtype=torch.bool, device=x.device)
    tensor = torch.from_numpy(np.ascontiguousarray(mask)) if isinstance(mask, np.ndarray) else mask
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(mask).__name__
        raise InvalidInput(f"the mask of {name} must be an array of bool, True where a token is there, got {got}")
    if len(tensor) != len(x) or tensor.flatten(1).shape[1] != number:
        raise InvalidInput(
            f"the mask of {name} must have {number} tokens for each of {len(x)} samples, got shape "
            f"{tuple(tensor.shape)}"
        )
    if tensor.device != x.device:
        raise InvalidInput(f"{name} is on {x.device} and its mask on {tensor.device}; move one of them")
    tensor = tensor.flatten(1)
    if not bool(tensor.any(1).all()):
        first = int((~tensor.any(1)).nonzero()[0])
        raise InvalidInput(f"every sample must have a token, but the mask of {name} leaves none of sample {first}")
    return tensor


def samples(network: Network, x: Any, name: str) -> Tensor:
    """`x` as a tensor of samples that the model takes.

    Raises:
        InvalidInput: no samples, no features, or a shape that the model does not take.
    """
    masked = "; put 0 where a mask leaves a token out" if network.takes_mask else ""
    tensor = to_tokens(x, name) if network.takes_tokens else to_tensor(x, name, f"remove or repair them{masked}")
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


def check_gradients_in_scales(scales: Collection[str], x1: Any, out: Any) -> None:
    """Raise `InvalidInput` where gradients in scales are wanted of results that can have none.

    Args:
        scales: names of those that require grad.
        x1: samples, whose library is that of the results.
        out: where to write; None for results of their own.
    """
    if not scales:
        return
    wanted = f"the kernel has gradients in {', '.join(scales)}"
    if isinstance(x1, np.ndarray):
        raise InvalidInput(
            f"{wanted}, and results of numpy arrays have none; pass torch.from_numpy(x), or compute under "
            "torch.no_grad()"
        )
    if out is not None:
        raise InvalidInput(
            f"{wanted}, and what is written into out= has none; leave out= away to keep the gradients, or compute "
            "under torch.no_grad()"
        )


def check_separate(targets: dict[str, Any], samples: dict[str, Tensor]) -> None:
    """Raise `InvalidInput` where memory to write into overlaps the inputs, other such memory, or itself."""
    arrays = {name: as_numpy(out) for name, out in targets.items() if _on_cpu(out)}
    read = {name: as_numpy(x) for name, x in samples.items() if _on_cpu(x)}
    for k, (name, out) in enumerate(arrays.items()):
        others = {**read, **dict(list(arrays.items())[:k])}
        shared = [other for other, array in others.items() if np.shares_memory(out, array)]
        (size1, stride1), (size2, stride2) = sorted(
            zip(out.shape, map(abs, out.strides), strict=True), key=lambda a: a[1]
        )
        if (size1 > 1 and stride1 < out.itemsize) or (size2 > 1 and stride2 < (size1 - 1) * stride1 + out.itemsize):
            shared.append("itself: several entries lie at one place")
        if shared:
            raise InvalidInput(
                f"{name} must be memory of its own, but it overlaps {' and '.join(shared)}; make it with "
                "torch.empty or np.empty"
            )


def _on_cpu(array: Any) -> bool:
    return isinstance(array, np.ndarray) or array.device.type == "cpu"


def as_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    """The same memory as a numpy array."""
    return array if isinstance(array, np.ndarray) else array.detach().numpy()


def check_on_tile(on_tile: Any) -> None:
    """Raise `InvalidInput` where it is no function."""
    if on_tile is not None and not callable(on_tile):
        raise InvalidInput(
            f"on_tile must be a function of two slices, the rows and columns that are complete, got {on_tile!r}"
        )


def require_finite(results: np.ndarray | Tensor, computed_in: Any = None) -> None:
    """Raise `InvalidInput` where a kernel has overflowed, before anything of it is delivered.

    Args:
        results: entries.
        computed_in: dtype of the arithmetic, where it may be narrower than that of the results.
    """
    finite = np.isfinite(results) if isinstance(results, np.ndarray) else torch.isfinite(results.detach())
    if not bool(finite.all()):
        single = "float32" in (str(results.dtype).removeprefix("torch."), str(computed_in))
        name, remedy = ("float32", ", or pass x.double(), which has more room") if single else ("float64", "")
        raise InvalidInput(
            f"the kernel's entries must fit into {name}, but some overflow; scale the samples or the weights down"
            f"{remedy}"
        )


def require_norms(norms: np.ndarray | Tensor, op: ops.Normalize) -> None:
    """Raise `InvalidInput` where a normalisation layer would divide by 0."""
    if bool((norms == 0).any()):
        raise InvalidInput(
            f"'{op.path}' divides by the root mean square of its input, and that is 0 for a sample; give it eps > 0, "
            "the layer before it a bias, or leave samples of zeros out"
        )


def check_image_scales(samples: list[Tensor]) -> tuple[float, float]:
    """The least and the largest root mean square of images, where float64 can hold what they differ by.

    Raises:
        InvalidInput: they lie too far apart.
    """
    low, high = _lengths(samples, samples[0].dtype)
    if not (low > _LEAST and high < _MOST):  # then float32's squares tell little
        low, high = _lengths(samples, torch.float64)
    if low > 0 and high > _HOPELESS * low:
        raise InvalidInput(
            f"root mean squares of images must lie within a factor of {_HOPELESS:g} of each other, got {low:.3g} and "
            f"{high:.3g}; normalise each image, and scale the kernel's entries afterwards if you need to"
        )
    return low, high


def arithmetic(samples: list[Tensor], images: bool) -> torch.dtype:
    """The precision to compute in: the samples' own, but float64 where float32 would lose what their scales differ by.

    The distance of two samples has the rounding of the larger one, and the angle comes from it divided by the product
    of both lengths. For vectors single pairs are noticed and computed in float64; of images all are.

    Raises:
        InvalidInput: images of scales so different that float64 loses them too.
    """
    own = samples[0].dtype
    if images:
        low, high = check_image_scales(samples)
    elif own == torch.float32:
        low, high = _lengths(samples, own)
    else:
        return own
    fits = low > _LEAST and high < _MOST and (not images or high <= _UNEVEN * low)
    return own if fits else torch.float64


def _lengths(samples: list[Tensor], dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest root mean square other than 0, of squares in a dtype; 0 where they underflow."""
    number = np.float32 if dtype == torch.float32 else np.float64
    low, high = np.inf, 0.0
    with np.errstate(over="ignore", under="ignore"):
        for x in samples:
            flat = as_numpy(x.detach().cpu()).reshape(len(x), -1)
            squares = np.einsum("nd,nd->n", flat, flat, dtype=number) / flat.shape[1]
            if flat[squares == 0].any():
                return 0.0, np.inf
            roots = np.sqrt(squares[squares > 0])
            low, high = float(roots.min(initial=low)), float(roots.max(initial=high))
    return (low, high) if high > 0 else (1.0, 1.0)  # nothing but zeros


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
