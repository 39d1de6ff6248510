"""`spectral_density`: how many eigenvalues lie where, from products with a few random vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ntkit._arrays import Array
from ntkit._memory import require_bytes
from ntkit.matrix_free.products import require_count, require_number
from ntkit.spectra.maps import read_map

_EXHAUSTED = 1e-12  # of the largest entry of a tridiagonal matrix: a Krylov space that ends


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The density of a kernel's eigenvalues, as Gauss's rules of Lanczos from random starts: one row a start.

    Attributes:
        nodes: (p, m), where mass lies.
        weights: (p, m), how much; each row sums to 1.
        size: N, the number of eigenvalues.
    """

    nodes: Float[np.ndarray, "p m"]
    weights: Float[np.ndarray, "p m"]
    size: int

    def count_above(self, threshold: float) -> tuple[float, float]:
        """How many eigenvalues exceed a threshold, and the standard error over starts (nan of one start alone).

        Where eigenvalues lie densely the count is good to the mass of a node, about N/m, beside that.
        """
        each = self.size * (self.weights * (self.nodes > threshold)).sum(1)
        error = float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else float("nan")
        return float(each.mean()), error

    def smoothed(self, points: Float[np.ndarray, "x"], width: float) -> Float[np.ndarray, "x"]:
        """The density at some points, each eigenvalue spread over a Gaussian of this standard deviation.

        Raises:
            InvalidInput: the width is no positive number.
        """
        width = require_number(width, "width", positive=True)
        apart = (points[:, None] - self.nodes.ravel()) / width
        mass = self.weights.ravel() / len(self.weights)
        return (np.exp(-(apart**2) / 2) / (width * (2 * np.pi) ** 0.5)) @ mass


def spectral_density(
    K: Float[Array, "n n"] | Float[Array, "n n o o"] | LinearOperator,
    *,
    starts: int = 10,
    steps: int = 80,
    seed: int = 0,
) -> SpectralDensity:
    """The density of a kernel's eigenvalues by stochastic Lanczos quadrature.

    From a random z the quadratic form zᵀ f(K) z ≈ ‖z‖² Σ_j w_j f(θ_j), with θ the eigenvalues of the tridiagonal
    matrix that `steps` steps of Lanczos make, and w the squares of the first entries of its eigenvectors; exact for
    polynomials f of degree below 2·steps. Over z of independent signs it is Tr f(K) in the mean.

    Args:
        K: kernel of n samples with themselves, (n, n) or (n, n, O, O), or an operator such as `ntkit.NTKOperator`.
        starts: random vectors.
        steps: products with each; all starts are multiplied at once.
        seed: of the random vectors.

    Returns:
        A `SpectralDensity`.

    Raises:
        InvalidInput: `K` is not square, symmetric and finite; `starts` or `steps` is no whole number from 1,
            or `seed` none from 0.
        MemoryLimitExceeded: N · starts · steps numbers do not fit.

    Example:
        >>> import ntkit, numpy as np
        >>> density = ntkit.spectra.spectral_density(np.diag([3.0, 3.0, 1.0, 1.0]), steps=2)
        >>> [round(number, 6) for number in density.count_above(2.0)]
        [2.0, 0.0]

    Reference:
        Lin, Saad & Yang, "Approximating spectral densities of large matrices", 2016; Ghorbani, Krishnan & Xiao, "An
        investigation into neural net optimization via Hessian eigenvalue density", 2019.
    """
    kernel = read_map(K)
    starts, steps = require_count(starts, "starts", 1), min(require_count(steps, "steps", 1), kernel.size)
    what = f"the Lanczos vectors of {starts} starts, {steps} steps and {kernel.size} rows"
    require_bytes(8 * kernel.size * starts * (steps + 4), what, "take fewer starts or steps")
    generator = torch.Generator().manual_seed(require_count(seed, "seed", 0))
    signs = torch.randint(2, (kernel.size, starts), generator=generator) * 2 - 1
    tridiagonal = _lanczos(kernel.product, signs.double() / kernel.size**0.5, steps)
    nodes, weights = np.zeros((2, starts, steps))
    for start, (diagonal, beside) in enumerate(zip(*tridiagonal, strict=True)):
        values, vectors = eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
        nodes[start], weights[start] = values * kernel.scale, vectors[0] ** 2
    return SpectralDensity(nodes, weights, kernel.size)


def _lanczos(
    product: Callable[[Tensor], Tensor], q: Float[Tensor, "N p"], steps: int
) -> tuple[Float[np.ndarray, "p m"], Float[np.ndarray, "p m"]]:
    """Diagonals and their neighbours of the tridiagonal matrices of each start, orthogonalised in full, twice."""
    basis = torch.zeros(steps, *q.shape, dtype=torch.float64)
    diagonal, beside = torch.zeros(q.shape[1], steps).double(), torch.zeros(q.shape[1], steps).double()
    for j in range(steps):
        basis[j] = q
        after = product(q)
        diagonal[:, j] = (q * after).sum(0)
        for _ in range(2):
            after -= torch.einsum("jnp,jp->np", basis[: j + 1], torch.einsum("jnp,np->jp", basis[: j + 1], after))
        length = after.norm(dim=0)
        ended = length <= _EXHAUSTED * torch.maximum(diagonal.abs().amax(1), beside.amax(1))
        beside[:, j] = length.masked_fill(ended, 0.0)  # what follows has no weight
        q = torch.where(ended, 0.0, after / length.clamp(min=torch.finfo(torch.float64).tiny))
    return diagonal.numpy(), beside.numpy()
