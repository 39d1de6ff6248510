"""`spectrum`: the eigenpairs of a kernel, by its entries or its products."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ntkit._arrays import Array, to_tensor
from ntkit.errors import InvalidInput, ToleranceNotReached
from ntkit.spectra.block_lanczos import leading_eigenpairs
from ntkit.spectra.eigen import Spectrum
from ntkit.spectra.eigensolvers import DENSE_BELOW, dense_eigenpairs, fix_signs
from ntkit.spectra.maps import SymmetricMap, power_of_four, read_map
from ntkit.spectra.similarity import frobenius_norm
from ntkit.spectra.symmetric import SymmetricKernel, check_kernel, largest_magnitude, require_square

_LANCZOS_FRACTION = 20  # Lanczos pays for at most one pair in this many; beyond, LAPACK is as fast and surer
_TOLERANCE = 1e-13  # of ‖K v − λ v‖ over the largest |λ|
_OPERATOR_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # what rounding in its products leaves


def spectrum(
    K: Float[Array, "n n"] | Float[Array, "n n o o"] | LinearOperator,
    k: int | None = None,
    *,
    method: Literal["auto", "dense", "lanczos"] = "auto",
    end: Literal["top", "bottom"] = "top",
) -> Spectrum:
    """The eigenpairs of a kernel, K v_i = λ_i v_i, largest first.

    A 4-D kernel is flattened sample-major to (n·O, n·O). Everything is computed in float64, but for an operator's
    products. Lanczos takes products with K alone: of a matrix it makes no copy, of an operator it never asks for
    entries.

    Args:
        K: kernel of n samples with themselves, (n, n) or (n, n, O, O), or an operator such as `ntkit.NTKOperator`.
        k: how many pairs of one end; all by default, which an operator does not have.
        method: "dense" (LAPACK), "lanczos" (blocks of vectors, k < N), or "auto": Lanczos for at most N/20 pairs of a
            matrix with more than 500 rows, and for operators. Both give the same pairs.
        end: "top" for the largest eigenvalues, "bottom" for the smallest. At the bottom of a kernel eigenvalues
            crowd, and Lanczos may not part them: "dense" does.

    Returns:
        A `Spectrum`, arrays of the kind and dtype of `K`; numpy of an operator.

    Raises:
        InvalidInput: `K` is not square, symmetric and finite, or is zero everywhere; `k` is not between 1 and
            N.
        ToleranceNotReached: Lanczos does not find the pairs of an operator.
        MemoryLimitExceeded: the eigendecomposition would not fit in memory.

    Example:
        >>> import ntkit, numpy as np
        >>> result = ntkit.spectrum(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> result.eigenvalues.round(6).tolist()
        [3.0, 1.0]
    """
    if end not in ("top", "bottom"):
        raise InvalidInput(f"end must be 'top' or 'bottom', got {end!r}")
    if isinstance(K, LinearOperator):
        return _of_operator(read_map(K), k, method, end)
    tensor = to_tensor(K, "K").detach()
    require_square(tensor, "K")
    largest_magnitude(tensor, "K")
    size = len(tensor) * (tensor.shape[2] if tensor.ndim == 4 else 1)
    count = _read_count(size if k is None else k, size)
    if _choose_method(method, size, count) == "lanczos":
        kernel = read_map(K)
        found = _by_products(kernel, count, end, _TOLERANCE)
        if found is not None:
            return _spectrum(K, kernel, *found, end)
    dense = check_kernel(K)
    values, vectors = dense_eigenpairs(dense.matrix)
    kept = slice(0, count) if end == "top" else slice(size - count, size)
    values, vectors = values[kept], vectors[:, kept].contiguous()
    residuals = None if count == size else _residuals(dense, values, vectors)
    return _spectrum(K, dense, values, vectors, residuals, end)


def _spectrum(
    K: Any,
    kernel: SymmetricMap | SymmetricKernel,
    values: Tensor,
    vectors: Tensor,
    residuals: Tensor | None,
    end: Literal["top", "bottom"],
) -> Spectrum:
    """In the kind of `K`."""
    device = K.device if isinstance(K, Tensor) else torch.device("cpu")

    def as_given(tensor: Tensor) -> Any:
        found = tensor.to(kernel.dtype).to(device)
        return found if isinstance(K, Tensor) else found.numpy()

    whole = isinstance(kernel, SymmetricMap)
    return Spectrum(
        eigenvalues=as_given(values),
        eigenvectors=as_given(vectors),
        trace=kernel.trace if whole else float(kernel.matrix.trace()),
        norm=kernel.norm if whole else frobenius_norm(kernel.matrix),
        n_samples=kernel.n_samples,
        n_outputs=kernel.n_outputs,
        residuals=None if residuals is None else as_given(residuals),
        end=end,
    )


def _of_operator(kernel: SymmetricMap, k: int | None, method: str, end: Literal["top", "bottom"]) -> Spectrum:
    if method == "dense":
        raise InvalidInput('method="dense" needs entries, which an operator does not have; pass K.to_dense()')
    if k is None or k == kernel.size:
        raise InvalidInput(
            f"of an operator some of the {kernel.size} eigenpairs are found, not all; say how many, as k=50, or pass "
            "K.to_dense()"
        )
    count = _read_count(k, kernel.size)
    _choose_method(method, kernel.size, count)
    found = _by_products(kernel, count, end, _OPERATOR_TOLERANCE[kernel.dtype])
    if found is None:
        raise ToleranceNotReached(
            f"Lanczos did not find the {count} eigenpairs at the {end} of this operator, which lie too close together; "
            "take more or fewer of them, or a model in float64"
        )
    return _spectrum(None, kernel, *found, end)


def _by_products(
    kernel: SymmetricMap, k: int, end: str, tolerance: float
) -> tuple[Tensor, Tensor, Float[Tensor, "k"]] | None:
    """Eigenpairs of one end with their residuals; None where Lanczos misses one."""
    sign = 1.0 if end == "top" else -1.0
    found = leading_eigenpairs(lambda v: sign * kernel.product(v), kernel.size, k, tolerance)
    if found is None:
        return None
    values, vectors = sign * found[0], fix_signs(found[1])
    if end == "bottom":
        values, vectors = values.flip(0), vectors.flip(1)
    values, vectors = (part.to(kernel.dtype).double() for part in (values, vectors))  # as they are given to the caller
    return values * kernel.scale, vectors, kernel.scale * (kernel.product(vectors) - vectors * values).norm(dim=0)


def _residuals(kernel: SymmetricKernel, values: Tensor, vectors: Tensor) -> Float[Tensor, "k"]:
    """‖K v − λ v‖ of the numbers that the caller gets, which are rounded to the kernel's own precision."""
    scale = power_of_four(float(kernel.matrix.abs().max()))
    values, vectors = (part.to(kernel.dtype).double() for part in (values, vectors))
    return scale * ((kernel.matrix / scale) @ vectors - vectors * (values / scale)).norm(dim=0)


def _read_count(k: Any, size: int) -> int:
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= int(k) <= size:
        raise InvalidInput(f"k must be a whole number of eigenpairs from 1 to {size}, got {k!r}")
    return int(k)


def _choose_method(method: str, size: int, k: int) -> str:
    """The one place where "auto" becomes a solver."""
    if method == "auto":
        return "lanczos" if size > DENSE_BELOW and k * _LANCZOS_FRACTION <= size else "dense"
    if method not in ("dense", "lanczos"):
        raise InvalidInput(f"method must be 'auto', 'dense' or 'lanczos', got {method!r}")
    if method == "lanczos" and k >= size:
        raise InvalidInput(f"method='lanczos' finds fewer than all {size} eigenpairs, got k={k}; use method='dense'")
    return method
