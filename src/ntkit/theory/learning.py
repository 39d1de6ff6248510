"""Errors of kernel regression, predicted from a kernel's eigenvalues and the target's coefficients.

With n samples, eigenvalues λ_i (of the operator, or of K/M over a pool of M samples), coefficients v_i and ridge δ in
(K + δ 1)^{-1} y, κ solves

    n = Σ_i λ_i/(λ_i + κ) + δ/κ.

Mode i is learned to L_i = λ_i/(λ_i + κ) on average, and with E₀ = n/(n − Σ_i L_i²)

    test = E₀ (Σ_i (1 − L_i)² v_i² + ε²),      train = (δ/(n κ))² test.

Eigenfunctions of which none is learned, but which are so many that their eigenvalues' sum τ is not small, add τ/κ on
the right: to everything that is learned they are a ridge.

Bordelon, Canatar & Pehlevan 2020; Canatar, Bordelon & Pehlevan 2021; in this form Simon et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from torch import Tensor

from ntkit._arrays import Array, to_tensor
from ntkit.errors import InvalidInput
from ntkit.spectra.eigen import Spectrum
from ntkit.spectra.eigensolvers import dense_eigenpairs
from ntkit.spectra.symmetric import check_columns, check_kernel, require_semidefinite

_NOTHING = 1e-14  # of the largest eigenvalue: less is none


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Predicted mean errors, Σ_o (f_o − y_o)² per sample, over draws of training sets.

    Attributes:
        samples: (s,), n.
        test: (s,), mean squared error on fresh samples, their noise included.
        train: (s,), on the training samples.
        kappa: (s,), κ: modes of larger eigenvalues are learned.
    """

    samples: Int[np.ndarray, "s"]
    test: Float[np.ndarray, "s"]
    train: Float[np.ndarray, "s"]
    kappa: Float[np.ndarray, "s"]

    def learnability(self, eigenvalues: Float[Array, "k"]) -> Float[np.ndarray, "s k"]:
        """L = λ/(λ + κ), the mean share of an eigenfunction that is learned, from 0 to 1.

        Args:
            eigenvalues: λ, of the kernel as an operator.

        Raises:
            InvalidInput: they are not of shape (k,), or negative.
        """
        values = _nonnegative(eigenvalues, "eigenvalues")
        return values / (values + self.kappa[:, None])


def learning_curve(
    eigenvalues: Float[Array, "k"],
    power: Float[Array, "k"],
    samples: Sequence[int] | Int[np.ndarray, "s"],
    *,
    multiplicities: Float[Array, "k"] | None = None,
    ridge: float = 0.0,
    noise: float = 0.0,
    tail: float = 0.0,
) -> LearningCurve:
    """The errors of kernel (ridge) regression with n samples, from the kernel's spectrum and the target's power in it.

    Args:
        eigenvalues: λ, of the kernel as an operator, as in `ntkit.theory.sphere(…).ntk.eigenvalues`.
        power: Σ v² of the target in the eigenfunctions of each eigenvalue; in all it is the target's mean square.
        samples: numbers n of training samples.
        multiplicities: how many eigenfunctions each eigenvalue has; default 1.
        ridge: δ ≥ 0, added to the diagonal of the training samples' kernel.
        noise: ε², the variance of noise in training and test targets.
        tail: τ, the sum of eigenvalues that are not given. Left out, errors of kernels with long tails come out far
            too small: ReLU's beyond degree 8 on a sphere in 25 dimensions (depth 3) hold 12 % of the trace.

    Returns:
        A `LearningCurve`.

    Raises:
        InvalidInput: shapes differ, values are negative, or as many samples as eigenfunctions without a ridge.

    Example:
        >>> import numpy as np, ntkit
        >>> curve = ntkit.theory.learning_curve(np.array([1.0]), np.array([1.0]), [10, 90],
        ...     multiplicities=np.array([100.0]))
        >>> curve.test.round(6).tolist()
        [0.9, 0.1]

    Reference:
        Canatar, Bordelon & Pehlevan, "Spectral bias and task-model alignment explain generalization in kernel
        regression and infinitely wide neural networks", 2021; Simon et al., "The eigenlearning framework", 2021.
    """
    values, energy = (_nonnegative(array, name) for array, name in ((eigenvalues, "eigenvalues"), (power, "power")))
    counts = np.ones_like(values) if multiplicities is None else _nonnegative(multiplicities, "multiplicities")
    if not values.shape == energy.shape == counts.shape:
        raise InvalidInput(
            f"eigenvalues, power and multiplicities must have one shape (k,), got {values.shape}, {energy.shape} and "
            f"{counts.shape}"
        )
    if not values.max() > 0:
        raise InvalidInput("eigenvalues must not all be 0: such a kernel learns nothing")
    ridge, noise, tail = _number(ridge, "ridge"), _number(noise, "noise"), _number(tail, "tail")
    numbers = _counts(samples)
    points = [_point(values, energy, counts, n, ridge, noise, tail) for n in numbers]
    test, train, kappa = (np.array(column) for column in zip(*points, strict=True))
    return LearningCurve(np.array(numbers), test, train, kappa)


def pool_learning_curve(
    K: Float[Array, "n n"] | Spectrum,
    y: Float[Array, "..."],
    samples: Sequence[int] | Int[np.ndarray, "s"],
    *,
    ridge: float = 0.0,
    unused: bool = True,
) -> LearningCurve:
    """The same from data alone: a pool's kernel and targets say what regression on n of its samples will do.

    Eigenvalues are those of K/M, and all of the target counts as signal. The theory's mean over the pool includes the
    n training samples; that over the M − n others is M/(M − n) times it where the errors of training are small.

    Args:
        K: kernel of the pool's M samples, or all its eigenpairs, `ntkit.spectrum(K)`, which serve several targets.
        y: their targets, (M,) or (M, outputs).
        samples: numbers n of training samples, below M.
        ridge: δ ≥ 0, added to the diagonal of the training samples' kernel.
        unused: whether the test error is that on samples that are not trained on.

    Returns:
        A `LearningCurve`.

    Raises:
        InvalidInput: as for `ntkit.spectrum` and `learning_curve`; n is not below M; eigenpairs are missing; the kernel
            is indefinite.
        MemoryLimitExceeded: the eigendecomposition would not fit in memory.

    Example:
        >>> import numpy as np, ntkit
        >>> curve = ntkit.theory.pool_learning_curve(np.eye(10), np.ones(10), [5])
        >>> curve.test.round(6).tolist()
        [1.0]

    Reference:
        As `learning_curve`.
    """
    if not isinstance(unused, bool):
        raise InvalidInput(f"unused must be True or False, got {unused!r}")
    values, vectors = _eigenpairs(K)
    size, numbers = len(values), _counts(samples)
    columns = check_columns(y, "y", size, None)
    if max(numbers) >= size:
        raise InvalidInput(f"samples must be below the {size} of the pool, got {max(numbers)}")
    energy = (vectors.T @ columns.to(vectors)).square().sum(1) / size
    kept = (require_semidefinite(values, "pool_learning_curve()") / size).cpu().numpy()
    kept[kept <= _NOTHING * kept.max()] = 0.0
    curve = learning_curve(kept, energy.cpu().numpy(), numbers, ridge=ridge)
    if not unused:
        return curve
    # over all M: n · train + (M − n) · test of the unused
    n = curve.samples
    return LearningCurve(n, (size * curve.test - n * curve.train) / (size - n), curve.train, curve.kappa)


def _eigenpairs(K: Any) -> tuple[Tensor, Tensor]:
    """All of a pool's, in float64."""
    if isinstance(K, Spectrum):
        if K.is_partial or K.n_outputs is not None:
            raise InvalidInput("K must hold all eigenpairs of a kernel (M, M), as ntkit.spectrum(K) gives them")
        return to_tensor(K.eigenvalues, "K").double(), to_tensor(K.eigenvectors, "K").double()
    kernel = check_kernel(K)
    if kernel.n_outputs is not None:
        raise InvalidInput("K must be the kernel of a pool, (M, M), got one with outputs, (M, M, O, O)")
    return dense_eigenpairs(kernel.matrix)


def _point(
    values: np.ndarray, energy: np.ndarray, counts: np.ndarray, n: int, ridge: float, noise: float, tail: float
) -> tuple[float, float, float]:
    """Test error, training error and κ at n samples."""
    modes = float(counts[values > 0].sum())
    if ridge + tail == 0 and n >= modes:
        raise InvalidInput(
            f"without a ridge samples must be fewer than the {modes:g} eigenfunctions with eigenvalues above 0, got "
            f"{n}; take a ridge above 0"
        )

    def missing(log_kappa: float) -> float:
        kappa = np.exp(log_kappa)
        return float((counts * values / (values + kappa)).sum() + (ridge + tail) / kappa - n)

    high = np.log(((counts * values).sum() + ridge + tail) / n) + 1e-9  # there both terms are at most their share of n
    low = high - 1.0
    while missing(low) < 0:
        low -= 2 * (high - low)
    root: Any = brentq(missing, low, high, xtol=1e-14)
    kappa = float(np.exp(root))
    learned = values / (values + kappa)
    # n − Σ L², by the equation of κ; the difference itself cancels where nearly all is learned
    left = float((counts * learned * (kappa / (values + kappa))).sum()) + (ridge + tail) / kappa
    factor = n / left
    test = factor * (float(((kappa / (values + kappa)) ** 2 * energy).sum()) + noise)
    return test, (ridge / (n * kappa)) ** 2 * test, kappa


def _nonnegative(array: Any, name: str) -> np.ndarray:
    values = to_tensor(array, name).detach().cpu().double().numpy()
    if values.ndim != 1 or values.size == 0:
        raise InvalidInput(f"{name} must have shape (k,), got {values.shape}")
    if values.min() < 0:
        raise InvalidInput(f"{name} must not be negative, got {values.min():.3g}; set what rounding made so to 0")
    return values


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < np.inf:
        raise InvalidInput(f"{name} must be a number from 0, got {value!r}")
    return float(value)


def _counts(samples: Any) -> list[int]:
    found = np.asarray(samples)
    if found.ndim != 1 or found.size == 0 or not np.issubdtype(found.dtype, np.integer) or found.min() < 1:
        raise InvalidInput(f"samples must be whole numbers from 1, as [64, 128], got {samples!r}")
    return [int(n) for n in found]
