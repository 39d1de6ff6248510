"""The kernel machines that a network corresponds to, with a ridge chosen by leave-one-out in closed form.

f(x) = k(x, X)(K + r I)⁻¹ Y. Leaving sample i out changes its prediction to y_i − [(K + rI)⁻¹ Y]_i / [(K + rI)⁻¹]_ii,
so one eigendecomposition gives the leave-one-out error of every ridge.

Reference: Golub, Heath & Wahba 1979; Rasmussen & Williams 2006, section 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

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
