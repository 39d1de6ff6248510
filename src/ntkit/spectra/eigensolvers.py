"""Eigenpairs of symmetric float64 matrices: all of them by LAPACK, or the leading few by Lanczos.

Lanczos is ARPACK's implicitly restarted iteration (Lehoucq, Sorensen & Yang 1998) from a fixed start vector,
so a result repeats to the last digit. From one start vector it can miss copies of a repeated eigenvalue,
which kernels such as K ⊗ I_O have: `leading_eigenpairs` therefore looks once more, and says so if it did.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from ntkit._memory import require_bytes

Product: TypeAlias = Callable[[Tensor], Tensor]

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


def leading_eigenpairs(
    product: Product, size: int, k: int, tolerance: float = 0.0
) -> tuple[Float[Tensor, "k"], Float[Tensor, "N k"]] | None:
    """The k largest eigenvalues, descending, and their eigenvectors, by Lanczos; None where it does not find them all.

    Args:
        product: (N, c) -> K times it, float64.
        size: N.
        k: how many.
        tolerance: of the eigenvalues, relative; 0 is machine precision.
    """
    try:
        values, vectors = _lanczos(product, size, k, tolerance=tolerance, start=0)
        lowest, largest = float(values[-1]), float(values.abs().max())
        miss = max(_RELATIVE_MISS, tolerance)

        def deflated(v: Tensor) -> Tensor:
            # The directions found are lowered to the k-th eigenvalue: what still lies above it was missed.
            return product(v) - vectors @ ((values - lowest)[:, None] * (vectors.T @ v))

        # Another start: the missed copies are orthogonal to the first start's whole Krylov space.
        (above,), _ = _lanczos(deflated, size, 1, tolerance=miss, start=1)
    except ArpackError:
        return None
    return (values, fix_signs(vectors)) if float(above) <= lowest + 2 * miss * largest else None


def largest_eigenvalue(matrix: Float[Tensor, "N N"]) -> float:
    """λ_max alone, to a relative 1e-10."""
    if len(matrix) <= DENSE_BELOW:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    try:
        return float(_lanczos(lambda v: (matrix @ v.to(matrix.device)).cpu(), len(matrix), 1, 1e-10, start=0)[0][0])
    except ArpackError:
        # No gap below the largest eigenvalue that Lanczos could use: the dense solver needs none.
        return float(torch.linalg.eigvalsh(matrix)[-1])


def fix_signs(vectors: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    """Each column with its largest entry positive (the first of those within 0.1% of the largest)."""
    size = vectors.abs()
    first = (size >= 0.999 * size.amax(dim=0)).to(torch.int8).argmax(dim=0)
    return vectors * torch.where(vectors.gather(0, first[None]) < 0, -1.0, 1.0)


def _lanczos(product: Product, size: int, k: int, tolerance: float, start: int) -> tuple[Tensor, Tensor]:
    """ARPACK on `product`, in float64 on the CPU."""

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(v.reshape(-1, 1).copy())).numpy()[:, 0]

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
    return torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order])
