"""Mean and scatter of random matrices that come one after the other.

With m the mean of the first t values and S the sum of their squared deviations from it, the next value v gives

    m' = m + (v − m)/(t + 1),    S' = S + (v − m)(v − m'),

which does not cancel as a difference of large sums would. The standard error of the mean is √(S / (t (t − 1))): its
square is unbiased, whatever the distribution of the values.
Reference: Welford 1962, "Note on a method for calculating corrected sums of squares and products".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ntkit.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of a random matrix after `count` values.

    Args:
        count: of values.
        mean: of them.
        squares: sums of squared deviations from the mean.
    """

    count: int
    mean: Float64[np.ndarray, "n m"]
    squares: Float64[np.ndarray, "n m"]

    @classmethod
    def none(cls, n: int, m: int) -> Moments:
        """Before the first value."""
        return cls(0, np.zeros((n, m)), np.zeros((n, m)))

    def including(self, value: Float64[np.ndarray, "n m"]) -> Moments:
        """With one value more; the old moments stay as they were, so that an interruption never finds half of it.

        Raises:
            InvalidInput: squares overflow.
        """
        count = self.count + 1
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            before = value - self.mean
            mean = self.mean + before / count
            squares = self.squares + before * (value - mean)
        if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
            raise InvalidInput(
                "the squares of the kernel's entries must fit into float64, but some overflow; scale the samples or "
                "the weights down"
            )
        return Moments(count, mean, squares)

    @property
    def standard_error(self) -> Float64[np.ndarray, "n m"]:
        """Of the mean, entry by entry; of two values at least."""
        with np.errstate(under="ignore"):
            return np.sqrt(self.squares / (self.count * (self.count - 1)))

    @property
    def precision(self) -> float:
        """The largest standard error, as a part of the mean's largest entry; 0 where all values were equal."""
        error, largest = float(self.standard_error.max()), float(np.abs(self.mean).max())
        if error == 0:
            return 0.0
        return error / largest if largest > 0 else np.inf
