"""`Spectrum`: the eigenpairs of a kernel, and how a function on the samples lies in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import Array, like, to_tensor
from ntkit.errors import InvalidInput
from ntkit.spectra.decay import ROUNDING, PowerLaw, fit_power_law
from ntkit.spectra.similarity import cosine_with_target
from ntkit.spectra.symmetric import check_columns, flatten_kernel, largest_magnitude, require_semidefinite

_EXTENDED = 1e-12  # of the largest eigenvalue: off the samples, eigenfunctions of less are noise


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenpairs of a kernel K, all of them, or the k at one end.

    Attributes:
        eigenvalues: (k,), of K itself (not K/n), descending. Negative ones are reported as they are.
        eigenvectors: (N, k), in columns, N = n or n·O; each one's largest entry is positive.
        trace: Tr K, of the whole kernel, also where only k pairs were computed; None for an operator that has none.
        norm: ‖K‖_F, of the whole kernel; None for an operator.
        n_samples: n.
        n_outputs: O of a 4-D kernel (n, n, O, O) or of an operator; None for a 2-D kernel.
        residuals: (k,), ‖K v − λ v‖ of k pairs: an eigenvalue of K lies within it of λ. None for all pairs.
        end: which pairs: the "top" ones or the "bottom" ones.
    """

    eigenvalues: Float[Array, "k"]
    eigenvectors: Float[Array, "N k"]
    trace: float | None
    norm: float | None
    n_samples: int
    n_outputs: int | None
    residuals: Float[Array, "k"] | None = None
    end: Literal["top", "bottom"] = "top"

    @property
    def is_partial(self) -> bool:
        """Whether only some eigenpairs are here."""
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
        if self.end == "bottom" and self.is_partial:
            raise InvalidInput(
                'energy() needs the top eigenpairs, but this spectrum holds those at the bottom; use end="top"'
            )
        columns = self._columns(phi, "phi")
        energies = (self._vectors.T @ columns).square().sum(dim=1).cumsum(dim=0) / columns.square().sum()
        energies = energies.clamp(max=1.0)  # the vectors have unit length up to rounding
        return like(energies.to(to_tensor(self.eigenvalues, "eigenvalues").dtype), self.eigenvalues)

    def cosine(self, phi: Float[Array, "..."]) -> Float[Array, "k"]:
        """cos α(φ, k) = √E_k: of the angle between a function and the space of the top k eigenvectors.

        Args:
            phi: as of `energy`.

        Returns:
            Cosines (k,), rising.

        Raises:
            InvalidInput: as `energy`.

        Example:
            >>> import ntkit, numpy as np
            >>> ntkit.spectrum(np.diag([3.0, 2.0])).cosine(np.array([3.0, 4.0])).round(6).tolist()
            [0.6, 1.0]

        Reference:
            Kopitkov & Indelman, "Neural Spectrum Alignment", ICANN 2020.
        """
        return self.energy(phi) ** 0.5

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
        assert self.norm is not None  # as all pairs are those of a matrix
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
        values = require_semidefinite(self._values, "effective_rank()")
        share = values / values.sum()
        return float(torch.special.entr(share).sum().exp())

    def participation_ratio(self) -> float:
        """(Σ λ)² / Σ λ²: how many eigenvalues there are that count, from 1 to N.

        Raises:
            InvalidInput: the trace or the norm is not known, as of an operator.

        Example:
            >>> import ntkit, numpy as np
            >>> round(ntkit.spectrum(np.diag([2.0, 2.0, 0.0])).participation_ratio(), 6)
            2.0
        """
        if self.trace is None or self.norm is None:
            raise InvalidInput(
                "participation_ratio() needs the trace and the norm, which are not known of an operator; use "
                "ntkit.spectra.spectral_density(K)"
            )
        return (self.trace / self.norm) ** 2

    def power_law(self, first: int = 1, last: int | None = None, *, confidence: float = 0.95) -> PowerLaw:
        """The exponent α of eigenvalues that fall as λ_i ∝ i^{−α}, between two ranks.

        A straight line through the logarithms of eigenvalues, averaged in bins of equal width in log i, so that the
        many small ones weigh no more than the few large; the interval is Student's, from the scatter of the bins. Of
        eigenvalues with noise of their own, which sorting bends at the ends, it covers the exponent in eight of ten
        draws, not 19 of 20.

        Args:
            first: rank of the first eigenvalue of the fit, from 1.
            last: of the last; default the last one that is more than rounding.
            confidence: probability of the interval.

        Returns:
            The exponent with its interval.

        Raises:
            InvalidInput: fewer than eight eigenvalues that are more than rounding lie between the ranks, or they are
                not those of the top.

        Example:
            >>> import ntkit, numpy as np
            >>> law = ntkit.spectrum(np.diag(np.arange(1.0, 101.0) ** -1.5)).power_law()
            >>> round(law.exponent, 6)
            1.5
        """
        if self.end == "bottom" and self.is_partial:
            raise InvalidInput('power_law() needs the top eigenvalues; use end="top"')
        values = to_tensor(self.eigenvalues, "eigenvalues")
        floor = ROUNDING[values.dtype] * float(values.max())
        return fit_power_law(self._values.cpu().numpy(), floor, first, last, confidence)

    def extend(self, K: Float[Array, "m n"] | Float[Array, "m n o o"]) -> Float[Array, "M k"]:
        """Eigenfunctions at other points, v_i(x) = Σ_j K(x, x_j) v_ij / λ_i, which on the samples are the eigenvectors.

        Args:
            K: kernel of the other points with the samples, as kernel.ntk(x_other, x).

        Returns:
            (M, k), M = m or m·O.

        Raises:
            InvalidInput: `K` has another shape, or an eigenvalue is too small to divide by.

        Example:
            >>> import ntkit, numpy as np
            >>> K = np.array([[2.0, 1.0], [1.0, 2.0]])
            >>> found = ntkit.spectrum(K)
            >>> bool(np.allclose(found.extend(K), found.eigenvectors))
            True

        Reference:
            Baker, "The numerical treatment of integral equations", 1977; Williams & Seeger, "Using the Nyström
            method to speed up kernel machines", NeurIPS 2000.
        """
        cross = to_tensor(K, "K").detach()
        size, o = len(self._vectors), self.n_outputs or 1
        wanted = (None, self.n_samples) if o == 1 and cross.ndim == 2 else (None, self.n_samples, o, o)
        if cross.ndim != len(wanted) or tuple(cross.shape[1:]) != wanted[1:]:
            shape = ", ".join(["m", *map(str, wanted[1:])])
            raise InvalidInput(
                f"K must be the kernel of other points with the {self.n_samples} samples, ({shape}), got "
                f"{tuple(cross.shape)}; compute it with kernel.ntk(x_other, x)"
            )
        values = self._values
        count = int((values > _EXTENDED * values.abs().max()).sum())
        if count < len(values):
            raise InvalidInput(
                f"extend() divides by eigenvalues, of which only {count} of {len(values)} exceed {_EXTENDED:g} of the "
                f"largest; take ntkit.spectrum(K, k={max(count, 1)})"
            )
        rows = flatten_kernel(cross)
        assert rows.shape[1] == size
        largest = values.abs().max()  # the smallest eigenvalues' inverses may be no numbers, those of their shares are
        found = (rows.double().to(values.device) / largest) @ (self._vectors / (values / largest))
        return like(found.to(to_tensor(self.eigenvectors, "eigenvectors").dtype), self.eigenvectors)

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
                f"{question}() needs all {size} eigenpairs, but this spectrum holds {k} at the {self.end}; {remedy}"
            )
