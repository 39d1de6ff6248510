"""How fast eigenvalues fall."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import t as student

from ntkit.errors import InvalidInput

ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the largest eigenvalue: what may be rounding alone
_BINS = 20
_LEAST = 8  # eigenvalues


@dataclass(frozen=True)
class PowerLaw:
    """λ_i ≈ scale · i^{−exponent} for ranks i from `first` to `last`.

    Attributes:
        exponent: α.
        low: lower end of its interval.
        high: upper end.
        scale: that of the line at i = 1.
        first: rank of the first eigenvalue of the fit.
        last: of the last.
    """

    exponent: float
    low: float
    high: float
    scale: float
    first: int
    last: int


def fit_power_law(
    eigenvalues: Float[np.ndarray, "k"], floor: float, first: int, last: int | None, confidence: float
) -> PowerLaw:
    """See `Spectrum.power_law`; eigenvalues up to `floor` are rounding."""
    positive = int((eigenvalues > max(floor, 0.0)).sum())
    last = positive if last is None else last
    for name, value in (("first", first), ("last", last)):
        if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= value <= positive:
            raise InvalidInput(
                f"{name} must be the rank of an eigenvalue that is more than rounding, from 1 to {positive}, got "
                f"{value!r}"
            )
    if last - first + 1 < _LEAST:
        raise InvalidInput(
            f"a power law is fitted to {_LEAST} eigenvalues or more, got the {max(0, last - first + 1)} "
            f"of ranks {first} to {last}"
        )
    if isinstance(confidence, bool) or not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise InvalidInput(f"confidence must lie between 0 and 1, got {confidence!r}")
    ranks = np.log(np.arange(first, last + 1))
    edges = np.linspace(ranks[0], ranks[-1], _BINS + 1)
    bins = np.unique(np.searchsorted(edges[1:-1], ranks, side="right"), return_inverse=True)[1]
    size = np.bincount(bins)
    x, y = (np.bincount(bins, values) / size for values in (ranks, np.log(eigenvalues[first - 1 : last])))
    apart = x - x.mean()
    slope = float(apart @ y / (apart @ apart))
    left = y - y.mean() - slope * apart
    error = float(np.sqrt(left @ left / (len(x) - 2) / (apart @ apart)))
    reach = float(student.ppf((1 + float(confidence)) / 2, len(x) - 2)) * error
    scale = float(np.exp(y.mean() - slope * x.mean()))
    return PowerLaw(-slope, -slope - reach, -slope + reach, scale, int(first), int(last))
