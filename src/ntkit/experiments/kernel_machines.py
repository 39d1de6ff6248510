"""The kernel machines that a network corresponds to, with a ridge chosen by leave-one-out in closed form.

f(x) = k(x, X)(K + r I)⁻¹ Y. Leaving sample i out changes its prediction to y_i − [(K + rI)⁻¹ Y]_i / [(K + rI)⁻¹]_ii,
so one eigendecomposition gives the leave-one-out error of every ridge.

Reference: Golub, Heath & Wahba 1979; Rasmussen & Williams 2006, section 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve

from ntkit.errors import InvalidInput

RIDGES = tuple(10.0**e for e in np.arange(-8, 1.01, 0.5))  # in units of the mean of K's diagonal


@dataclass(frozen=True)
class Machine:
    """A fitted kernel machine.

    Args:
        train_loo: leave-one-out predictions of the training samples.
        test: predictions of the test samples.
        ridge: r in units of the mean of K's diagonal.
    """

    train_loo: Float[np.ndarray, "n o"]
    test: Float[np.ndarray, "m o"]
    ridge: float


def fit_machine(K: Float[np.ndarray, "n n"], K_test: Float[np.ndarray, "m n"], y: Float[np.ndarray, "n o"]) -> Machine:
    """Kernel regression with the ridge of least squared leave-one-out error.

    Args:
        K: kernel of the training samples.
        K_test: kernel of test and training samples.
        y: targets.

    Raises:
        InvalidInput: K is zero.
    """
    scale = float(np.trace(K)) / len(K)
    if scale <= 0:
        raise InvalidInput(f"the kernel's diagonal has mean {scale:g}, and must be positive to regress with")
    values, vectors = np.linalg.eigh(K)
    projected = vectors.T @ y
    best: Machine | None = None
    least = np.inf
    for ridge in RIDGES:
        # a ridge that rounding of K's smallest eigenvalues could outweigh is no ridge
        shifted = values + ridge * scale
        if shifted[0] <= 1e-12 * values[-1]:
            continue
        dual = vectors @ (projected / shifted[:, None])
        loo = y - dual / ((vectors**2) @ (1 / shifted))[:, None]
        error = float(((loo - y) ** 2).mean())
        if error < least:
            least, best = error, Machine(loo, K_test @ dual, ridge)
    if best is None:
        raise InvalidInput("the kernel is too far from positive semi-definite to regress with; check it is symmetric")
    return best


def learning_sizes(n: int) -> tuple[int, ...]:
    """Numbers of training samples to try of n ≥ 2: n/64, n/32 … n/2 and 3n/4, whole and different ones.

    Example:
        >>> learning_sizes(500)
        (8, 16, 31, 62, 125, 250, 375)
    """
    shares = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
    return tuple(sorted({max(1, round(n * share)) for share in shares} - {n}))


def errors_of_parts(
    K: Float[np.ndarray, "n n"],
    K_test: Float[np.ndarray, "m n"],
    y: Float[np.ndarray, "n o"],
    y_test: Float[np.ndarray, "m o"],
    size: int,
    ridge: float,
    draws: int,
) -> Float[np.ndarray, "d"]:
    """Mean squared test errors, Σ over outputs, of kernel regression on random parts of the training samples.

    Args:
        K: kernel of the training samples.
        K_test: kernel of test and training samples.
        y: targets.
        y_test: test targets.
        size: samples in a part.
        ridge: r.
        draws: how many parts.
    """
    found = []
    for draw in range(draws):
        used = np.random.default_rng([size, draw]).permutation(len(K))[:size]
        alpha = solve(K[np.ix_(used, used)] + ridge * np.eye(size), y[used], assume_a="sym")
        found.append(float(((K_test[:, used] @ alpha - y_test) ** 2).sum(axis=1).mean()))
    return np.array(found)
