"""All eigenpairs of symmetric float64 matrices by LAPACK, and the largest eigenvalue alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._memory import require_bytes
from ntkit.spectra.block_lanczos import leading_eigenpairs

DENSE_BELOW = 500  # rows; below, LAPACK takes a fraction of a second


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


def largest_eigenvalue(matrix: Float[Tensor, "N N"]) -> float:
    """λ_max alone, to a relative 1e-10."""
    if len(matrix) <= DENSE_BELOW:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    found = leading_eigenpairs(lambda v: (matrix @ v.to(matrix.device)).cpu(), len(matrix), 1, 1e-10)
    # where no gap below the largest eigenvalue helps Lanczos, the dense solver needs none
    return float(torch.linalg.eigvalsh(matrix)[-1] if found is None else found[0][0])


def fix_signs(vectors: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    """Each column with its largest entry positive (the first of those within 0.1% of the largest)."""
    size = vectors.abs()
    first = (size >= 0.999 * size.amax(dim=0)).to(torch.int8).argmax(dim=0)
    return vectors * torch.where(vectors.gather(0, first[None]) < 0, -1.0, 1.0)
