"""`spectrum`: the eigenpairs of a kernel, and how a function on the samples lies in them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import Array, like, to_tensor
from ntkit.errors import InvalidInput
from ntkit.spectra.eigensolvers import DENSE_BELOW, dense_eigenpairs, leading_eigenpairs
from ntkit.spectra.similarity import cosine_with_target, frobenius_norm
from ntkit.spectra.symmetric import check_columns, check_kernel, largest_magnitude

_LANCZOS_FRACTION = 20  # Lanczos pays for at most one pair in this many; beyond, LAPACK is as fast and surer
_NEGATIVE_SHARE = 1e-3  # of the positive eigenvalues' sum: more than rounding, in float32 too


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenpairs of a kernel K, all of them or the k leading ones.

    Attributes:
        eigenvalues: (k,), of K itself (not K/n), descending. Negative ones are reported as they are.
        eigenvectors: (N, k), in columns, N = n or n·O; each one's largest entry is positive.
        trace: Tr K, of the whole kernel, also where only k pairs were computed.
        norm: ‖K‖_F, of the whole kernel.
        n_samples: n.
        n_outputs: O of a 4-D kernel (n, n, O, O); None for a 2-D one.
    """

    eigenvalues: Float[Array, "k"]
    eigenvectors: Float[Array, "N k"]
    trace: float
    norm: float
    n_samples: int
    n_outputs: int | None

    @property
    def is_partial(self) -> bool:
        """Whether only the leading eigenpairs are here."""
        return self.eigenvectors.shape[1] < self.eigenvectors.shape[0]

    def energy(self, phi: Float[Array, "..."]) -> Float[Array, "k"]:
        """The share of a function that lies in the top directions: E_k = Σ_{i≤k} ‖v_iᵀφ‖² / ‖φ‖².

        Cumulative, from 0 to 1; several outputs are summed over. It needs no more than the top pairs, so it
        is exact for a partial spectrum too. Between two equal eigenvalues the split depends on the basis
        chosen.

        Args:
            phi: the function's values, (n,) or (n, outputs); beside a 4-D kernel (n, O) or (n·O,).

        Returns:
            Cumulative relative energies (k,), the kind and dtype of the kernel.

        Raises:
            InvalidInput: `phi` has another shape, integers, values that are not finite, or is zero
                everywhere.

        Example:
            >>> import ntkit, numpy as np
            >>> ntkit.spectrum(np.diag([3.0, 2.0, 1.0])).energy(np.array([1.0, 0.0, 1.0])).tolist()
            [0.5, 0.5, 1.0]

        Reference:
            Kopitkov & Indelman, "Neural Spectrum Alignment", ICANN 2020.
        """
        columns = self._columns(phi, "phi")
        energies = (self._vectors.T @ columns).square().sum(dim=1).cumsum(dim=0) / columns.square().sum()
        energies = energies.clamp(max=1.0)  # the vectors have unit length up to rounding
        return like(energies.to(to_tensor(self.eigenvalues, "eigenvalues").dtype), self.eigenvalues)

    def alignment(self, y: Float[Array, "..."]) -> float:
        """The kernel's alignment with targets, Σ λ_i ‖v_iᵀY‖² / (‖K‖_F ‖YYᵀ‖_F), as `ntkit.alignment(K, y)`.

        Args:
            y: targets (n,) or (n, outputs); beside a 4-D kernel (n, O) or (n·O,).

        Raises:
            InvalidInput: the spectrum is partial (yᵀKy depends on the missing pairs), or `y` is not fit.

        Example:
            >>> import ntkit, numpy as np
            >>> round(ntkit.spectrum(np.eye(4)).alignment(np.ones(4)), 6)
            0.5

        Reference:
            Cristianini et al., "On kernel-target alignment", NeurIPS 2001.
        """
        self._require_full("alignment", "use ntkit.alignment(K, y)")
        columns = self._columns(y, "y")
        coefficients = (self._vectors.T @ columns).square().sum(dim=1)
        return cosine_with_target(float(self._values / self.norm @ coefficients), columns)

    def effective_rank(self) -> float:
        """exp(H), H = −Σ p_i ln p_i the entropy of p_i = λ_i / Σ λ: from 1 (one direction) to N (all equal).

        Negative eigenvalues that rounding explains (under 0.1% of the positive sum) count as zero.

        Raises:
            InvalidInput: the spectrum is partial, or K is not positive semi-definite.

        Example:
            >>> import ntkit, numpy as np
            >>> round(ntkit.spectrum(2 * np.eye(4)).effective_rank(), 6)
            4.0

        Reference:
            Roy & Vetterli, "The effective rank", EUSIPCO 2007.
        """
        self._require_full("effective_rank", "use ntkit.spectrum(K)")
        values = self._values
        positive, negative = float(values.clamp(min=0).sum()), float(-values.clamp(max=0).sum())
        if positive == 0.0 or negative > _NEGATIVE_SHARE * positive:
            raise InvalidInput(
                "effective_rank() needs a positive semi-definite kernel, but the positive eigenvalues sum to "
                f"{positive:.3g} and the negative ones to {-negative:.3g}; compute the kernel in float64, "
                "or check that it is one"
            )
        share = values.clamp(min=0) / positive
        return float(torch.special.entr(share).sum().exp())

    def _columns(self, phi: Array, name: str) -> Float[Tensor, "N c"]:
        """A target, checked, and scaled to a largest entry of one, where nothing overflows when squared."""
        columns = check_columns(phi, name, self.n_samples, self.n_outputs)
        return columns.to(self._vectors.device) / largest_magnitude(columns, name)

    @property
    def _values(self) -> Float[Tensor, "k"]:
        return to_tensor(self.eigenvalues, "eigenvalues").double()

    @property
    def _vectors(self) -> Float[Tensor, "N k"]:
        return to_tensor(self.eigenvectors, "eigenvectors").double()

    def _require_full(self, question: str, remedy: str) -> None:
        if self.is_partial:
            size, k = self.eigenvectors.shape
            raise InvalidInput(
                f"{question}() needs all {size} eigenpairs, but this spectrum holds the {k} leading ones; {remedy}"
            )


def spectrum(
    K: Float[Array, "n n"] | Float[Array, "n n o o"],
    k: int | None = None,
    *,
    method: Literal["auto", "dense", "lanczos"] = "auto",
) -> Spectrum:
    """The eigenpairs of a kernel, K v_i = λ_i v_i, largest first.

    A 4-D kernel is flattened sample-major to (n·O, n·O). Everything is computed in float64.

    Args:
        K: kernel of n samples with themselves, (n, n) or (n, n, O, O).
        k: how many leading pairs; all by default.
        method: "dense" (LAPACK), "lanczos" (ARPACK, k < N), or "auto": Lanczos for at most N/20 pairs of a
            matrix with more than 500 rows. Both give the same pairs.

    Returns:
        A `Spectrum`, arrays of the kind and dtype of `K`.

    Raises:
        InvalidInput: `K` is not square, symmetric and finite, or is zero everywhere; `k` is not between 1 and
            N.
        MemoryLimitExceeded: the eigendecomposition would not fit in memory.

    Example:
        >>> import ntkit, numpy as np
        >>> result = ntkit.spectrum(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> result.eigenvalues.round(6).tolist()
        [3.0, 1.0]
    """
    kernel = check_kernel(K)
    largest_magnitude(kernel.matrix, "K")
    size = kernel.size
    count = size if k is None else k
    if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= size:
        raise InvalidInput(f"k must be a whole number of eigenpairs from 1 to {size}, got {k!r}")
    if _choose_method(method, size, count) == "lanczos":
        values, vectors = leading_eigenpairs(kernel.matrix, count)
    else:
        values, vectors = dense_eigenpairs(kernel.matrix)
        values, vectors = values[:count], vectors[:, :count].contiguous()
    return Spectrum(
        eigenvalues=like(values.to(kernel.dtype), K),
        eigenvectors=like(vectors.to(kernel.dtype), K),
        trace=float(kernel.matrix.trace()),
        norm=frobenius_norm(kernel.matrix),
        n_samples=kernel.n_samples,
        n_outputs=kernel.n_outputs,
    )


def _choose_method(method: str, size: int, k: int) -> str:
    """The one place where "auto" becomes a solver."""
    if method == "auto":
        return "lanczos" if size > DENSE_BELOW and k * _LANCZOS_FRACTION <= size else "dense"
    if method not in ("dense", "lanczos"):
        raise InvalidInput(f"method must be 'auto', 'dense' or 'lanczos', got {method!r}")
    if method == "lanczos" and k >= size:
        raise InvalidInput(f"method='lanczos' finds fewer than all {size} eigenpairs, got k={k}; use method='dense'")
    return method
