"""Products of matrices on CPUs, in float32 by oneDNN, which torch brings.

On processors of other makers than its own, MKL, by which torch multiplies, leaves half of their vector units idle (2.4
times the time on a Zen 5 with AVX-512). torch gives a model's linear layers to oneDNN when it compiles them; by the
same operation we do, in the passes through a model too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_WORTH_A_LIBRARY = 1_000_000  # multiplications: fewer are done before another library's plan is made
_WORTH_A_CALL = 8_000_000  # the same for one of many, which torch does in one go
_FEW = 4  # products of fewer columns are no work for matrix units


def row_products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The products of all rows, (n, d) and (m, d) to (n, m), in their dtype."""
    return products_of_rows(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def float32_products_are_exact() -> bool:
    """Whether torch computes float32 products in float32, which its user may have allowed it not to do."""
    backends: Any = torch.backends
    settings = [place.fp32_precision for place in (backends.mkldnn.matmul, backends.mkldnn, backends)]
    return next((setting for setting in settings if setting != "none"), "ieee") == "ieee"


def products_of_rows(
    x: Float[Tensor, "*b n d"], y: Float[Tensor, "*b m d"], shift: float = 0.0
) -> Float[Tensor, "*b n m"]:
    """x yᵀ + shift, by the faster library where both do."""
    if _is_for_onednn(x, y):
        return _linear(x, y, x.new_full((len(y),), shift) if shift else None)
    product = x @ y.mT
    return product.add_(shift) if shift else product


def products_of_columns(x: Float[Tensor, "n t *p"], y: Float[Tensor, "n t q"], *, out: Float[Tensor, "n _ q"]) -> None:
    """xᵀ y of every entry of a batch, written into `out`; axes p become one."""
    small = x[0].numel() * y.shape[-1] < _WORTH_A_CALL
    if small or not _is_for_onednn(x[0].flatten(1).t(), y[0].t()):
        torch.bmm(x.flatten(2).mT, y, out=out)
        return
    for one, two, place in zip(x, y, out, strict=True):
        place.copy_(_linear(one.movedim(0, -1).flatten(0, -2), two.t(), None))


@contextmanager
def fast_products(like: Tensor) -> Iterator[None]:
    """Products of float32 matrices on CPUs, in torch's own layers and their derivatives, are oneDNN's.

    Args:
        like: a tensor of the kind that is computed with: others are left to torch.
    """
    if like.dtype != torch.float32 or like.device.type != "cpu" or _onednn() is None:
        yield
    else:
        with _ByOneDNN():
            yield


class _ByOneDNN(TorchDispatchMode):
    """Sees every operation below autograd, and does two of them otherwise."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what keeps compilers away costs more than all that is done here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.addmm.default and not kwargs:
            shift, x, w = args
            if shift.dim() == 1 and len(shift) == w.shape[1] and _is_for_onednn(x, w.t()):
                return _linear(x, w.t(), shift)
        elif func is torch.ops.aten.mm.default:
            x, w = args
            if _is_for_onednn(x, w.t()):
                return _linear(x, w.t(), None)
        elif func is torch.ops.aten._local_scalar_dense.default and not isinstance(args[0], Tensor):
            return args[0]  # a number that a graph keeps as a tensor comes as itself, which torch then refuses
        return func(*args, **(kwargs or {}))


def _is_for_onednn(x: Tensor, y: Tensor) -> bool:
    """Whether x yᵀ is large enough, and of the kind that oneDNN multiplies."""
    return (
        x.dim() == 2
        and x.shape[1] >= _FEW
        and x.shape[0] * y.shape[0] * x.shape[1] >= _WORTH_A_LIBRARY
        and x.dtype == y.dtype == torch.float32
        and x.device.type == "cpu"
        and _onednn() is not None
    )


def _linear(x: Tensor, y: Tensor, shift: Tensor | None) -> Tensor:
    multiply = _onednn()
    assert multiply is not None
    y = y if y.is_contiguous() or y.t().is_contiguous() else y.contiguous()  # turned or not, but nothing between
    return multiply(x.contiguous(), y, shift, "none", [], "")


@cache
def _onednn() -> Callable[..., Tensor] | None:
    """torch's operation x yᵀ + shift by oneDNN; None where this torch has none."""
    if not torch.backends.mkldnn.is_available():
        return None
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if packet is None else packet.default
