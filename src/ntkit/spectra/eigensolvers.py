"""Eigenpairs of symmetric float64 matrices: all of them by LAPACK, or the leading few by Lanczos.

Lanczos is ARPACK's implicitly restarted iteration (Lehoucq, Sorensen & Yang 1998) from a fixed start vector,
so a result repeats to the last digit. From one start vector it can miss copies of a repeated eigenvalue,
which kernels such as K ⊗ I_O have: `leading_eigenpairs` therefore looks once more, and gives way to the dense
solver if it must.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from ntkit._memory import require_bytes

DENSE_BELOW = 500  # rows; below, LAPACK takes a fraction of a second
_RELATIVE_MISS = 1e-8  # an eigenvalue this far (of the largest) above the k-th found was missed


def dense_eigenpairs(matrix: Float[Tensor, "N N"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N N"]]:
    """All eigenvalues, descending, and their eigenvectors in columns, with a fixed sign."""
    size = len(matrix)
    # A working copy, the eigenvectors, two workspaces of the divide-and-conquer solver, the reordering.
    require_bytes(
        5 * 8 * size**2,
        f"the eigendecomposition of a kernel with {size} rows",
        "use fewer samples, or only the leading eigenpairs: ntkit.spectrum(K, k=...)",
    )
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), fix_signs(vectors.flip(1))


def leading_eigenpairs(matrix: Float[Tensor, "N N"], k: int) -> tuple[Float[Tensor, "k"], Float[Tensor, "N k"]]:
    """The k largest eigenvalues, descending, and their eigenvectors, by Lanczos to machine precision."""
    try:
        values, vectors = _lanczos(lambda v: matrix @ v, matrix, k, tolerance=0.0, start=0)
        lowest, largest = float(values[-1]), float(values.abs().max())

        def deflated(v: Tensor) -> Tensor:
            # The directions found are lowered to the k-th eigenvalue: what still lies above it was missed.
            return matrix @ v - vectors @ ((values - lowest) * (vectors.T @ v))

        # Another start: the missed copies are orthogonal to the first start's whole Krylov space.
        (above,), _ = _lanczos(deflated, matrix, 1, tolerance=_RELATIVE_MISS, start=1)
        complete = float(above) <= lowest + 2 * _RELATIVE_MISS * largest
    except ArpackError:
        return _dense_leading(matrix, k)
    return (values, fix_signs(vectors)) if complete else _dense_leading(matrix, k)


def _dense_leading(matrix: Float[Tensor, "N N"], k: int) -> tuple[Tensor, Tensor]:
    values, vectors = dense_eigenpairs(matrix)
    return values[:k], vectors[:, :k].contiguous()


def largest_eigenvalue(matrix: Float[Tensor, "N N"]) -> float:
    """λ_max alone, to a relative 1e-10."""
    if len(matrix) <= DENSE_BELOW:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    try:
        return float(_lanczos(lambda v: matrix @ v, matrix, 1, tolerance=1e-10, start=0)[0][0])
    except ArpackError:
        # No gap below the largest eigenvalue that Lanczos could use: the dense solver needs none.
        return float(torch.linalg.eigvalsh(matrix)[-1])


def fix_signs(vectors: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    """Each column with its largest entry positive (the first of those within 0.1% of the largest)."""
    size = vectors.abs()
    first = (size >= 0.999 * size.amax(dim=0)).to(torch.int8).argmax(dim=0)
    return vectors * torch.where(vectors.gather(0, first[None]) < 0, -1.0, 1.0)


def _lanczos(
    product: Callable[[Tensor], Tensor], matrix: Tensor, k: int, tolerance: float, start: int
) -> tuple[Tensor, Tensor]:
    """ARPACK on `product`, in float64; the vectors travel to the matrix's device and back."""
    size = len(matrix)

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(v.reshape(-1).copy()).to(matrix.device)).cpu().numpy()

    # Where the start's Krylov space is exhausted ARPACK draws a new vector; newer SciPy takes its seed.
    seeded: dict[str, Any] = {"rng": start} if "rng" in signature(eigsh).parameters else {}
    values, vectors = eigsh(
        LinearOperator((size, size), matvec=matvec, dtype=np.float64),  # pyright: ignore[reportCallIssue]
        k=k,
        which="LA",
        v0=np.random.default_rng(start).standard_normal(size),
        tol=tolerance,  # pyright: ignore[reportArgumentType] # a float; SciPy's default 0 misleads
        **seeded,
    )
    order = np.argsort(values)[::-1].copy()
    values, vectors = torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order])
    return values.to(matrix.device), vectors.to(matrix.device)
