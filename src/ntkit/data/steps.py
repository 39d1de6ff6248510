"""Preprocessing as named steps. A step sees the training inputs only and answers with the map for all inputs.

Adding a step is adding one function (n, ...) → `Fitted` to `STEPS`. Means and variances are taken with 1/n,
in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
from jaxtyping import Float
from scipy import linalg

from ntkit._memory import require_bytes
from ntkit.data.dataset import Dataset
from ntkit.errors import DataError

Inputs = Float[np.ndarray, "n ..."]

# A direction whose variance is below this part of the largest one's is numerically noise: float32 data carry
# rounding of relative variance about 1e-15, and dividing by it would make that rounding the signal.
NEGLIGIBLE_VARIANCE = 1e-10


@dataclass(frozen=True)
class Fitted:
    """A step fitted on the training inputs: the map, and what a reader should know of it (or nothing)."""

    transform: Callable[[np.ndarray], np.ndarray]
    note: str = ""


def flatten(x: Inputs) -> Fitted:
    """(n, c, h, w) → (n, c·h·w)."""
    return Fitted(lambda z: z.reshape(len(z), -1))


def center(x: Inputs) -> Fitted:
    """z − mean(x)."""
    mean = x.mean(axis=0)
    return Fitted(lambda z: z - mean)


def standardize(x: Inputs) -> Fitted:
    """(z − mean(x)) / std(x), feature by feature; a feature that is constant in training becomes 0."""
    return _standardize(x, axes=(0,), what="feature")


def standardize_channels(x: Inputs) -> Fitted:
    """(z − mean(x)) / std(x) with one mean and one deviation a channel, over samples and positions."""
    if x.ndim < 3:
        raise DataError(
            f"standardize-channels is for inputs (n, channels, positions …), got {x.shape}; use standardize"
        )
    return _standardize(x, axes=(0, *range(2, x.ndim)), what="channel")


def whiten(x: Inputs) -> Fitted:
    """ZCA whitening: (z − mean) V Λ^(−½) Vᵀ with the covariance V Λ Vᵀ of x; keeps the shape.

    Reference: A. Bell, T. Sejnowski, The "independent components" of natural scenes are edge filters, 1997.
    """
    mean, directions, scaled, note = _principal_directions(x)

    def turn_back(z: np.ndarray) -> np.ndarray:  # in two products: V Λ^(−½) Vᵀ itself is (d, d)
        return ((z.reshape(len(z), -1) - mean) @ scaled @ directions.T).reshape(z.shape)

    return Fitted(turn_back, note)


def whiten_pca(x: Inputs) -> Fitted:
    """PCA whitening: (z − mean) V Λ^(−½), coordinates (n, rank) in order of falling variance."""
    mean, _, scaled, note = _principal_directions(x)
    return Fitted(lambda z: (z.reshape(len(z), -1) - mean) @ scaled, note)


def unit_norm(x: Inputs) -> Fitted:
    """z·√d/‖z‖ sample by sample, d the number of features: every sample on the sphere of radius √d."""

    def scale(z: np.ndarray) -> np.ndarray:
        flat = z.reshape(len(z), -1)
        norms = np.linalg.norm(flat, axis=1)
        if (norms == 0).any():
            raise DataError(
                f"unit-norm needs samples that are not zero, got zero at sample {int(np.argmin(norms))}; drop it"
            )
        return (flat * (np.sqrt(flat.shape[1]) / norms)[:, None]).reshape(z.shape)

    return Fitted(scale)


STEPS: dict[str, Callable[[np.ndarray], Fitted]] = {
    "center": center,
    "flatten": flatten,
    "standardize": standardize,
    "standardize-channels": standardize_channels,
    "unit-norm": unit_norm,
    "whiten": whiten,
    "whiten-pca": whiten_pca,
}


def apply_steps(dataset: Dataset, steps: Sequence[str]) -> Dataset:
    """The data set after the named steps, in order, each fitted on the training inputs alone.

    Args:
        dataset: the data; it is not changed.
        steps: names from `STEPS`.

    Returns:
        A new data set, with the names added to `steps` and what they have to say to `notes`.

    Raises:
        DataError: an unknown step, one that does not fit the data, or values too large to square.

    Example:
        >>> from ntkit.data import load
        >>> data = apply_steps(load("digits"), ["flatten", "standardize"])
        >>> data.input_shape, data.steps
        ((64,), ('flatten', 'standardize'))
    """
    for name in steps:
        if name not in STEPS:
            close = get_close_matches(name, STEPS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"there is no step {name!r}; the steps are {', '.join(STEPS)}{hint}")
    for name in steps:
        dataset = _apply(dataset, name)
    return dataset


def _apply(dataset: Dataset, name: str) -> Dataset:
    dtype = dataset.x_train.dtype
    require_bytes(4 * 8 * (dataset.x_train.size + dataset.x_test.size), f"the step {name!r}", "lower n_train or n_test")
    x_train, x_test = (_squarable(x.astype(np.float64), name) for x in (dataset.x_train, dataset.x_test))
    fitted = STEPS[name](x_train)
    return replace(
        dataset,
        x_train=fitted.transform(x_train).astype(dtype),
        x_test=fitted.transform(x_test).astype(dtype),
        steps=(*dataset.steps, name),
        notes=(*dataset.notes, f"{name}: {fitted.note}") if fitted.note else dataset.notes,
    )


def _squarable(x: Inputs, name: str) -> Inputs:
    """`x`, unless its squares would overflow or vanish: variances would be infinite or zero."""
    largest = float(np.abs(x).max())
    if not (largest == 0 or 1e-100 < largest < 1e100):
        raise DataError(
            f"the step {name!r} needs values between 1e-100 and 1e100 in size, got {largest:.3g}; rescale x"
        )
    return x


def _standardize(x: Inputs, axes: tuple[int, ...], what: str) -> Fitted:
    mean = x.mean(axis=axes, keepdims=True)
    deviation = x.std(axis=axes, keepdims=True)
    # Told by the range and not by the deviation: the mean of a constant 0.1 is not exactly 0.1.
    constant = x.max(axis=axes, keepdims=True) == x.min(axis=axes, keepdims=True)
    constant |= deviation == 0  # a spread so small that its square is no number
    inverse = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    count = int(constant.sum())
    note = f"{count} of {constant.size} {what}s are constant in training and became 0" if count else ""
    return Fitted(lambda z: (z - mean) * inverse, note)


def _principal_directions(x: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Mean (d,), directions V of some variance (d, rank), V Λ^(−½) (d, rank), and what was dropped.

    By the singular values of the centred inputs, X − mean = U S Vᵀ, λ = S²/n: the covariance itself would
    square the condition number.
    """
    flat = x.reshape(len(x), -1)
    n, d = flat.shape
    small = min(n, d)
    require_bytes(8 * (4 * n * d + 6 * small**2), "whitening", "lower n_train or the number of features")
    mean = flat.mean(axis=0)
    _, singular, directions = linalg.svd(flat - mean, full_matrices=False)
    variance = singular**2 / n
    kept = variance > max(NEGLIGIBLE_VARIANCE * variance[0], (1e-14 * np.abs(flat).max()) ** 2)
    rank = int(kept.sum())
    if rank == 0:
        raise DataError(f"whitening needs training samples that differ, got {n} that are all alike")
    notes = []
    if rank < d:
        notes.append(f"{rank} of {d} directions kept, the others have negligible variance in training and were dropped")
    if rank == n - 1:
        notes.append(f"with {n} training samples in {d} dimensions, whitening puts all of them equally far apart")
    kept_directions = directions[kept].T
    return mean, kept_directions, kept_directions / np.sqrt(variance[kept]), "; ".join(notes)
