"""Eigenvalues by degree: what they are, and how they come from a kernel's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

from ntkit._arrays import Array
from ntkit.errors import InvalidInput
from ntkit.theory.learning import LearningCurve, learning_curve
from ntkit.theory.recursion import Kernels


class Weights(NamedTuple):
    """Of each degree, multiplicity · eigenvalue, and what it may be wrong by."""

    values: Float[np.ndarray, "*networks k"]
    floor: Float[np.ndarray, "*networks k"]

    def squeezed(self) -> Weights:
        """Without the axis of networks where there is one."""
        return Weights(*(value[0] if len(value) == 1 else value for value in self))

    def seen(self) -> Float[np.ndarray, "*networks k"]:
        """Values that the floor does not hide, 0 for others; none is below 0, as of no kernel."""
        return np.where(np.abs(self.values) > self.floor, np.maximum(self.values, 0.0), 0.0)


Found: TypeAlias = tuple[Weights, Weights, tuple[float, float]]  # of NNGP and NTK; their traces


@dataclass(frozen=True, eq=False)
class DegreeSpectrum:
    """Eigenvalues of a kernel as an operator on functions, f ↦ E_x'[K(·, x') f(x')], by degree of the eigenfunctions.

    Attributes:
        eigenvalues: (k,), those of polynomials of degree 0, 1, …; 0 where it is only known that the noise floor is not
            exceeded.
        multiplicities: (k,), how many eigenfunctions have each.
        noise_floor: (k,), what rounding in the kernel's values may have changed each eigenvalue by.
        trace: E K(x, x), the sum of all eigenvalues, of degrees that are not here too.
    """

    eigenvalues: Float[np.ndarray, "k"]
    multiplicities: Float[np.ndarray, "k"]
    noise_floor: Float[np.ndarray, "k"]
    trace: float

    @property
    def fractional_variance(self) -> Float[np.ndarray, "k"]:
        """The share of each degree in a random function's variance, multiplicity · eigenvalue / trace."""
        return self.multiplicities * self.eigenvalues / self.trace

    @property
    def max_learning_rate(self) -> float:
        """2 / λ_max: below it descent on the mean of ½ (f − y)² over all inputs is stable, whatever y is."""
        return 2 / float(self.eigenvalues.max())

    def learning_curve(
        self,
        power: Float[Array, "k"],
        samples: Sequence[int] | Int[np.ndarray, "s"],
        *,
        ridge: float = 0.0,
        noise: float = 0.0,
    ) -> LearningCurve:
        """`ntkit.theory.learning_curve` of this kernel; degrees that are not here are its tail.

        Args:
            power: (k,), the target's in each degree.
            samples: numbers of training samples.
            ridge: added to the diagonal of the training samples' kernel.
            noise: variance of noise in the targets; power in degrees that are not here is added to it.

        Returns:
            A `LearningCurve`.

        Raises:
            InvalidInput: as `ntkit.theory.learning_curve`.

        Example:
            >>> import numpy as np, ntkit
            >>> sphere = ntkit.theory.sphere("relu", 2, 2**0.5, 0.1, d=25, degrees=4)
            >>> curve = sphere.ntk.learning_curve(np.array([0.0, 1.0, 0.0, 0.0, 0.0]), [25, 250])
            >>> curve.test.round(2).tolist()
            [0.53, 0.02]
        """
        missing = self.trace - float((self.multiplicities * self.eigenvalues).sum())
        return learning_curve(
            self.eigenvalues, power, samples, multiplicities=self.multiplicities, ridge=ridge, noise=noise,
            tail=max(missing, 0.0),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class TheorySpectrum:
    """The spectra of a network's two kernels.

    Attributes:
        nngp: of the conjugate kernel, which is that of training the last layer alone.
        ntk: of the tangent kernel.
    """

    nngp: DegreeSpectrum
    ntk: DegreeSpectrum


def weights_of(
    projection: Float[np.ndarray, "k r"], kernels: Kernels, error: Float[np.ndarray, "k"]
) -> tuple[Weights, Weights]:
    """Those of the conjugate and of the tangent kernel, from values at nodes: weight_k = Σ_r W[k, r] Φ_r.

    Of degrees from 1 the first come from distances, s = s(1) − D/2, as a constant has no part in them: in deep networks
    D is much smaller than s, and has as many digits. Where s is small as a difference, its error is of D's size.

    Args:
        projection: W.
        kernels: at the nodes, r times the number of networks.
        error: relative, of each product in the sum of a degree.
    """
    nngp, ntk, distance = (value.numpy().reshape(-1, projection.shape[1]) for value in kernels)
    sizes = error[:, None] * np.abs(projection)
    of_nngp, its_floor = -(distance @ projection.T) / 2, (distance @ sizes.T) / 2
    of_nngp[:, 0], its_floor[:, 0] = nngp @ projection[0], (np.abs(nngp) + distance / 2) @ sizes[0]
    found = Weights(of_nngp, its_floor), Weights(ntk @ projection.T, (np.abs(ntk) + distance / 2) @ sizes.T)
    return found[0].squeezed(), found[1].squeezed()


def until_it_stays(found_with: Callable[[int], Found], sizes: Sequence[int]) -> Found:
    """What finer quadratures give, until one changes nothing that can be seen; floors hold its last change."""
    *before, _ = found_with(sizes[0])
    *now, traces = found_with(sizes[1])
    for size in sizes[2:]:
        if all(bool((gap <= new.floor).all()) for gap, new in zip(_moved(now, before), now, strict=True)):
            break
        before = now
        *now, traces = found_with(size)
    finest = zip(now, _moved(now, before), strict=True)
    nngp, ntk = (Weights(new.values, np.maximum(new.floor, gap)) for new, gap in finest)
    return nngp, ntk, traces


def _moved(now: Sequence[Weights], before: Sequence[Weights]) -> list[Float[np.ndarray, "k"]]:
    return [np.abs(new.values - old.values) for new, old in zip(now, before, strict=True)]


def by_degree(weights: Weights, multiplicities: Float[np.ndarray, "k"], trace: float) -> DegreeSpectrum:
    """Eigenvalues from weights; what the floor hides is 0."""
    return DegreeSpectrum(weights.seen() / multiplicities, multiplicities, weights.floor / multiplicities, trace)


def require_finite(kernels: Kernels, networks: int = 1) -> None:
    """Raise `InvalidInput` where a kernel has outgrown float64, or that of one of several networks is zero."""
    if not all(bool(torch.isfinite(value).all()) for value in kernels):
        raise InvalidInput("kernels must be finite, but they outgrow float64 at this depth; take a smaller w_std")
    if not bool((kernels.ntk.reshape(networks, -1) != 0).any(dim=1).all()):
        which = "the kernel" if networks == 1 else "the kernel of some of the scales"
        raise InvalidInput(f"{which} is zero everywhere, so it has no spectrum; take w_std or b_std above 0")
