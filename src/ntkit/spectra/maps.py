"""A kernel by its products: a matrix that is never copied, or an operator whose entries are never formed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ntkit._arrays import check_finite, to_tensor
from ntkit.errors import InvalidInput
from ntkit.spectra.symmetric import flatten_kernel, largest_magnitude, require_square, require_symmetric

_BLOCK = 1 << 24  # entries of a matrix that are made float64 at once
_ASYMMETRY = {torch.float32: 1e-3, torch.float64: 1e-6}  # of an operator's products


@dataclass(frozen=True)
class SymmetricMap:
    """A kernel as v -> K v.

    Attributes:
        product: v -> K v / scale, (N, c) -> (N, c), float64 on the CPU.
        scale: a power of four near K's entries, which keeps squares of products from under- and overflowing.
        size: N, n or n·O.
        n_samples: n.
        n_outputs: O of a kernel whose outputs meet; None where there is one, or any number that do not.
        dtype: of the kernel.
        trace: Tr K; None where it is not known.
        norm: ‖K‖_F; None where it is not known.
    """

    product: Callable[[Float[Tensor, "N c"]], Float[Tensor, "N c"]]
    scale: float
    size: int
    n_samples: int
    n_outputs: int | None
    dtype: torch.dtype
    trace: float | None
    norm: float | None


def read_map(K: Any) -> SymmetricMap:
    """A caller's kernel or operator.

    Raises:
        InvalidInput: it is not square, symmetric and finite.
    """
    if isinstance(K, LinearOperator):
        return operator_map(K)
    tensor = to_tensor(K, "K").detach()
    require_square(tensor, "K")
    return matrix_map(tensor)


def matrix_map(K: Tensor) -> SymmetricMap:
    """That of a kernel (n, n) or (n, n, O, O), known to be finite, checked to be symmetric a block at a time."""
    matrix = flatten_kernel(K)
    blocks = [slice(i, i + _rows(matrix)) for i in range(0, len(matrix), _rows(matrix))]
    gap = max(float((matrix[rows] - matrix[:, rows].T).abs().max()) for rows in blocks)
    largest = largest_magnitude(matrix, "K")
    require_symmetric("K", K.dtype, gap, largest)
    scale = power_of_four(largest)

    def applied(v: Tensor) -> Tensor:
        v = v.to(matrix.device)
        found, back = torch.empty_like(v), torch.zeros_like(v)
        double = torch.empty_like(matrix[blocks[0]], dtype=torch.float64)  # one room for all blocks: pages cost time
        for rows in blocks:
            block = matrix[rows]
            if block.dtype != torch.float64:
                block = double[: len(block)].copy_(block)
            torch.mm(block, v, out=found[rows])
            if gap:
                back.addmm_(block.T, v[rows])
        return (found / 2 + back / 2 if gap else found).cpu()  # what rounding made unequal counts half each

    squares = sum(float((matrix[rows].double() / scale).square().sum()) for rows in blocks)
    o = K.shape[2] if K.ndim == 4 else None
    return SymmetricMap(
        _scaled(applied, scale),
        scale,
        len(matrix),
        K.shape[0],
        o,
        K.dtype,
        float(matrix.diagonal().double().sum()),
        scale * squares**0.5,
    )


def operator_map(operator: LinearOperator) -> SymmetricMap:
    """That of a SciPy operator such as `ntkit.NTKOperator`, checked to be symmetric on two vectors.

    Raises:
        InvalidInput: it is not square, real and symmetric, or is zero.
    """
    size, columns = operator.shape
    if size != columns or size == 0:
        raise InvalidInput(f"K must be a square operator, got shape {operator.shape}")
    dtype = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}.get(np.dtype(operator.dtype))
    if dtype is None:
        raise InvalidInput(f"K must be an operator of float32 or float64 numbers, got {operator.dtype}")

    def applied(v: Tensor) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(operator.matmat(v.numpy()))).double()
        check_finite(found, "the product with K", "check the operator")
        return found

    u, v = (torch.randn(size, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    there, back = applied(v), applied(u)
    scale = power_of_four(largest_magnitude(torch.cat([there, back]), "K"))
    there, back = there / scale, back / scale
    gap = abs(float((u * there).sum() - (v * back).sum()))
    bound = float(u.norm() * there.norm() + v.norm() * back.norm())
    if gap > _ASYMMETRY[dtype] * bound:
        raise InvalidInput(
            f"K must be symmetric, but u·Kv and v·Ku differ by {gap * scale:.3g} for vectors with |u||Kv| + |v||Ku| "
            f"= {bound * scale:.3g}"
        )
    samples, outputs = getattr(operator, "n_samples", size), getattr(operator, "n_outputs", None)
    trace: Any = getattr(operator, "trace", None)
    trace = None if trace is None else float(trace())
    return SymmetricMap(_scaled(applied, scale), scale, size, samples, outputs, dtype, trace, None)


def power_of_four(number: float) -> float:
    """The largest one that is not above a positive number; dividing by it, or by its root, rounds nothing.

    Example:
        >>> power_of_four(17.0), power_of_four(0.3)
        (16.0, 0.25)
    """
    exponent = math.frexp(number)[1] - 1
    return math.ldexp(1.0, exponent - exponent % 2)


def _scaled(
    applied: Callable[[Float[Tensor, "N c"]], Float[Tensor, "N c"]], scale: float
) -> Callable[[Float[Tensor, "N c"]], Float[Tensor, "N c"]]:
    """v -> K v / scale, half of the division before and half after."""
    root = math.sqrt(scale)
    return lambda v: applied(v / root) / root


def _rows(matrix: Tensor) -> int:
    return max(1, _BLOCK // len(matrix))
