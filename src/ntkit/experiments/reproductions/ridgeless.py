"""Kernel regression without a ridge, f(x) = k(x, X) K⁻¹ Y, and how far its accuracy can be trusted.

Two chances move a measured accuracy: which test samples were drawn, √(p(1 − p)/m), and which training samples. The
second is estimated by the delete-half jackknife: the spread of the accuracies of machines trained on random halves,
Var ≈ (n − d)/d · mean (a_b − ā)² with d = n/2 samples left out, so without a factor.

Reference: Arora et al. 2019, their code; Shao & Wu, A general theory for jackknife variance estimation, 1989.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

from ntkit.errors import InvalidInput

TARGET_SHIFT = 0.1  # targets are 0.9 for the class and −0.1 for the nine others


@dataclass(frozen=True, eq=False)
class RidgelessMachine:
    """The class of largest k(x, X) K⁻¹ Y, with Y one-hot less 0.1.

    Args:
        K: kernel of the training samples.
        K_test: kernel of test and training samples.
        y: classes of the training samples.
        y_test: classes of the test samples.
        n_classes: how many there are.

    Example:
        >>> machine = RidgelessMachine(np.eye(2), np.array([[0.2, 0.9]]), np.array([0, 1]), np.array([1]), 2)
        >>> machine.right()
        array([ True])
    """

    K: Float[np.ndarray, "n n"]
    K_test: Float[np.ndarray, "m n"]
    y: Int[np.ndarray, "n"]
    y_test: Int[np.ndarray, "m"]
    n_classes: int

    def right(self, chosen: Int[np.ndarray, "k"] | slice = slice(None)) -> Bool[np.ndarray, "m"]:
        """Which test samples are classified right by the machine of the chosen training samples.

        Raises:
            InvalidInput: their kernel is singular.
        """
        K = self.K[chosen][:, chosen].astype(np.float64, order="F")
        targets = np.eye(self.n_classes)[self.y[chosen]] - TARGET_SHIFT
        try:
            weights = scipy.linalg.solve(K, targets, assume_a="sym", overwrite_a=True)
        except np.linalg.LinAlgError as error:
            raise InvalidInput(
                f"the kernel of {len(K)} training samples is singular, so it cannot be solved without a ridge; are "
                "two samples equal?"
            ) from error
        return (self.K_test[:, chosen] @ weights).argmax(axis=1) == self.y_test

    def learning_curve(self, sizes: Int[np.ndarray, "k"]) -> Bool[np.ndarray, "k m"]:
        """Which test samples are right when the first `sizes` training samples are used."""
        return np.stack([self.right(slice(size)) for size in sizes])

    def training_spread(self, halves: int, seed: int) -> float:
        """The standard error of the accuracy over draws of the training samples, from so many random halves."""
        rng, n = np.random.default_rng(seed), len(self.y)
        chosen = [np.sort(rng.permutation(n)[: n // 2]) for _ in range(halves)]
        return float(np.std([self.right(half).mean() for half in chosen]))

    def eigenvalues(self) -> Float[np.ndarray, "n"]:
        """Of K, descending, in float64."""
        return scipy.linalg.eigvalsh(self.K.astype(np.float64, order="F"), overwrite_a=True)[::-1].copy()


def binomial_error(share: float, m: int) -> float:
    """The standard error of a share of m samples, √(p(1 − p)/m).

    Example:
        >>> round(binomial_error(0.5, 100), 3)
        0.05
    """
    return math.sqrt(share * (1 - share) / m)
