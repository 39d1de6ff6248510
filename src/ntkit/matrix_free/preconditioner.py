"""Preconditioners: from a few random products, for matrices whose eigenvalues decay; from a small matrix, factored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import check_finite
from ntkit.errors import InvalidInput
from ntkit.matrix_free.products import Product, apply, require_count, require_number

_SHIFTS = 4  # tries to decompose, each with a shift ten times as large: more would not be rounding


@dataclass(frozen=True, eq=False)
class NystromPreconditioner:
    """P⁻¹ = (λ_r + ridge) U (Λ + ridge)⁻¹ Uᵀ + (I − U Uᵀ) of an approximation U Λ Uᵀ; called with (N, k).

    Attributes:
        vectors: (N, r) orthonormal.
        eigenvalues: (r,) positive, descending.
        ridge: what the matrix has on its diagonal in addition.
    """

    vectors: Float[Tensor, "N r"]
    eigenvalues: Float[Tensor, " r"]
    ridge: float

    def __call__(self, v: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
        """P⁻¹ v."""
        if not len(self.eigenvalues):
            return v
        factors = (self.eigenvalues[-1] + self.ridge) / (self.eigenvalues + self.ridge) - 1
        return v + self.vectors @ (factors[:, None] * (self.vectors.T @ v))


def nystrom_preconditioner(
    product: Product,
    size: int,
    rank: int,
    ridge: float,
    seed: torch.Generator,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> NystromPreconditioner:
    """A preconditioner of A + ridge I from the randomized Nyström approximation A Ω (Ωᵀ A Ω)⁻¹ (A Ω)ᵀ.

    The condition number falls to about (λ_rank + ridge)/ridge, λ_rank being the eigenvalue where the rank ends.

    Args:
        product: v (N, k) -> A v (N, k), A symmetric without negative eigenvalues.
        size: N.
        rank: how many products, from 1 to N.
        ridge: >= 0.
        seed: the source of random numbers, on the CPU.
        dtype: of the vectors that are multiplied.
        device: where they are.

    Returns:
        A function (N, k) -> (N, k), in float64.

    Raises:
        InvalidInput: a bad size, rank or ridge; a matrix with negative eigenvalues; products that are not finite.

    Example:
        >>> import torch
        >>> values = 2.0 ** -torch.arange(100, dtype=torch.float64)
        >>> P = nystrom_preconditioner(lambda v: values[:, None] * v, 100, 20, 1e-3, torch.Generator().manual_seed(0))
        >>> A = torch.diag(values + 1e-3)
        >>> bool(torch.linalg.cond(A) > 1000), bool(torch.linalg.eigvals(P(A)).abs().max() < 0.002)
        (True, True)

    Reference: Frangella, Tropp & Udell 2023, Randomized Nyström preconditioning, algorithm 2.1.
    """
    size, rank = require_count(size, "size", 1), require_count(rank, "rank", 1, size)
    ridge = require_number(ridge, "ridge")
    tests = torch.linalg.qr(torch.randn(size, rank, generator=seed, dtype=torch.float64)).Q
    tests = tests.to(device, dtype).double()
    sketch = apply(product, tests, dtype)
    scale = float(torch.linalg.matrix_norm(sketch))
    if scale == 0.0:
        nothing = tests.new_zeros(0)
        return NystromPreconditioner(tests[:, :0], nothing, ridge)
    shift = torch.finfo(dtype).eps * size**0.5 * scale  # what rounding may cost; taken off again below
    factor, shift = _cholesky(tests, sketch, shift)
    columns = torch.linalg.solve_triangular(factor.mT, sketch + shift * tests, upper=True, left=False)
    vectors, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    eigenvalues = singular.square() - shift
    kept = int((eigenvalues > shift).sum())  # below, they are rounding
    return NystromPreconditioner(vectors[:, :kept], eigenvalues[:kept], ridge)


def _cholesky(tests: Tensor, sketch: Tensor, shift: float) -> tuple[Tensor, float]:
    """The lower factor of Ωᵀ (A + shift I) Ω, and the shift that it took."""
    core, gram = tests.T @ sketch, tests.T @ tests
    return _shifted_cholesky((core + core.T) / 2, gram, shift)


def _shifted_cholesky(matrix: Tensor, unit: Tensor, shift: float) -> tuple[Tensor, float]:
    """The lower factor of matrix + shift · unit, and the shift: as large as it must be for there to be a factor."""
    for _ in range(_SHIFTS):
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * unit)
        if not int(failed):
            return factor, shift
        shift *= 10
    raise InvalidInput(
        "the matrix must have no negative eigenvalues, but has some, too large to be rounding; check it, compute it "
        "in float64, or solve without a preconditioner"
    )


@dataclass(frozen=True, eq=False)
class RepeatedPreconditioner:
    """P⁻¹ = (K + ridge I)⁻¹ ⊗ I, the same small matrix for every output, sample-major; called with (n·o, k).

    Attributes:
        factor: (n, n) lower triangular.
        times: o.
    """

    factor: Float[Tensor, "n n"]
    times: int

    def __call__(self, v: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
        """P⁻¹ v."""
        return torch.cholesky_solve(v.reshape(len(self.factor), -1), self.factor).reshape(v.shape)


def repeated_preconditioner(K: Float[Tensor, "n n"], ridge: float, times: int) -> RepeatedPreconditioner:
    """The preconditioner (K + ridge I)⁻¹ ⊗ I of a matrix that is about K ⊗ I, by one Cholesky decomposition.

    What rounding in K's dtype may hide is added to its diagonal, so that K may be singular.

    Args:
        K: (n, n) symmetric without negative eigenvalues.
        ridge: >= 0.
        times: the size of I.

    Returns:
        A function (n·times, k) -> (n·times, k), in float64.

    Raises:
        InvalidInput: a bad argument, or a matrix with negative eigenvalues.

    Example:
        >>> import torch
        >>> P = repeated_preconditioner(torch.eye(2, dtype=torch.float64), 1.0, times=2)
        >>> P(torch.ones(4, 1, dtype=torch.float64)).flatten()
        tensor([0.5000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    ridge, times = require_number(ridge, "ridge"), require_count(times, "times", 1)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or not len(K):
        raise InvalidInput(f"K must be a square matrix (n, n), got shape {tuple(K.shape)}")
    check_finite(K, "K")
    matrix, unit = K.detach().double(), torch.eye(len(K), dtype=torch.float64, device=K.device)
    scale = float(torch.linalg.matrix_norm(matrix))
    shift = max(torch.finfo(K.dtype).eps * scale, torch.finfo(torch.float64).tiny)
    factor, _ = _shifted_cholesky((matrix + matrix.T) / 2 + ridge * unit, unit, shift)
    return RepeatedPreconditioner(factor, times)
