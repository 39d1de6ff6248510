"""The largest eigenpairs from products with blocks of vectors: block Lanczos with thick restarts.

A block of c columns lets one pass over a matrix serve c vectors, and finds up to c copies of a repeated eigenvalue,
which kernels such as K ⊗ I_O have and a single start vector misses. The basis is orthogonalised in full, twice, and
the matrix in it is taken from products, not from the three-term recurrence: rounding costs no copies.

Reference: Golub & Underwood, "The block Lanczos method for computing eigenvalues", 1977; thick restarts: Wu & Simon,
"Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._memory import require_bytes

Product: TypeAlias = Callable[[Tensor], Tensor]

_BLOCKS = 14  # of the basis before it is pressed together, or
_ROOM = 300  # columns where that is more
_COLUMNS = 8  # columns beyond the pairs asked for, at least; half as many as those where that is more
_PATIENCE = 60  # blocks before it gives up, or
_PRODUCTS = 4  # vectors a row where that is more
_GONE = 1e-14  # of the matrix: what is left of a column after orthogonalisation is rounding


def leading_eigenpairs(
    product: Product, size: int, k: int, tolerance: float
) -> tuple[Float[Tensor, "k"], Float[Tensor, "N k"]] | None:
    """The k largest eigenvalues, descending, and orthonormal eigenvectors; None where they do not converge.

    Args:
        product: (N, c) -> A times it, float64, A symmetric.
        size: N.
        k: how many, fewer than N.
        tolerance: of ‖A v − λ v‖, in units of the largest |λ|.

    Raises:
        MemoryLimitExceeded: the basis does not fit.
    """
    width = min(size, k + max(_COLUMNS, k // 2))
    room = min(size, max(_BLOCKS * width, _ROOM))
    what = f"Lanczos vectors for {k} eigenpairs of a kernel with {size} rows"
    require_bytes(8 * size * (room + room // 2 + 4 * width), what, "ask for fewer pairs")
    generator = torch.Generator().manual_seed(0)
    basis = torch.empty(room, size, dtype=torch.float64).T  # column by column in memory
    inner = torch.zeros(room, room, dtype=torch.float64)  # A in the basis
    held, left = 0, max(_PATIENCE, _PRODUCTS * size // width)
    block, _ = _next_block(torch.zeros(size, width, dtype=torch.float64), basis[:, :0], 0.0, generator)
    while left > 0:
        if held + block.shape[1] > room:
            held = _press(basis, inner, held, min(room - width, max(k + width // 2, room // 2)))
        start, held, left = held, held + block.shape[1], left - 1
        basis[:, start:held] = block
        image = product(block)
        inner[:held, start:held] = basis[:, :held].T @ image
        inner[start:held, :start] = inner[:start, start:held].T
        own = inner[start:held, start:held]
        own.copy_((own + own.T) / 2)
        values, vectors = torch.linalg.eigh(inner[:held, :held])
        scale = float(values.abs().max())
        # the last block meets what is outside the basis: A basis = basis inner + block' rest at its columns
        block, rest = _next_block(image - basis[:, :held] @ inner[:held, start:held], basis[:, :held], scale, generator)
        if held < k:
            continue
        residuals = (rest @ vectors[start:held, -k:]).norm(dim=0)
        if block.shape[1] == 0 or bool((residuals <= tolerance * scale).all()):
            return values[-k:].flip(0), (basis[:, :held] @ vectors[:, -k:]).flip(1)
    return None


def _press(basis: Float[Tensor, "N m"], inner: Float[Tensor, "m m"], held: int, kept: int) -> int:
    """The best directions of the basis in its first places; how many there are."""
    values, vectors = torch.linalg.eigh(inner[:held, :held])
    basis[:, :kept] = basis[:, :held] @ vectors[:, -kept:]
    inner.zero_()
    inner.diagonal()[:kept] = values[-kept:]
    return kept


def _next_block(
    columns: Float[Tensor, "N c"], basis: Float[Tensor, "N m"], scale: float, generator: torch.Generator
) -> tuple[Float[Tensor, "N c2"], Float[Tensor, "c2 c"]]:
    """Orthonormal columns beside the basis that span the given ones, and these in them; c2 = c while there is room.

    Directions of which rounding alone is left are drawn at random: where the basis holds a whole invariant subspace,
    the search goes on outside it.
    """
    width = min(columns.shape[1], len(columns) - basis.shape[1])
    columns = columns - basis @ (basis.T @ columns)
    left, sizes, right = torch.linalg.svd(columns, full_matrices=False)
    found = int((sizes[:width] > _GONE * scale).sum()) if scale > 0 else 0
    drawn = torch.randn(len(columns), width - found, generator=generator, dtype=torch.float64)
    block = torch.cat([left[:, :found], drawn], dim=1)
    for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
        block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
    signs = torch.ones(width, dtype=torch.float64)
    signs[:found] = (block[:, :found] * left[:, :found]).sum(dim=0).sign()  # QR turns columns round
    rest = torch.zeros(width, columns.shape[1], dtype=torch.float64)
    rest[:found] = sizes[:found, None] * right[:found]
    return block * signs, rest
