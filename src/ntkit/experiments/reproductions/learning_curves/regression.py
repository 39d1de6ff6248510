"""Kernel regression on random parts of a pool: mean errors over draws, with their standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve

from ntkit._progress import Reporter
from ntkit.experiments.reproductions.learning_curves.tasks import Task


@dataclass(frozen=True, eq=False)
class Measured:
    """Over draws of training samples, for each target and number of samples.

    Args:
        error: (t, s) mean squared error on the samples of the pool that were not drawn, Σ over outputs.
        error_spread: (t, s) its standard error.
        share: (t, s) the share of the target that is learned, Σ f y / Σ y² over the pool.
        share_spread: (t, s) its standard error.
    """

    error: Float[np.ndarray, "t s"]
    error_spread: Float[np.ndarray, "t s"]
    share: Float[np.ndarray, "t s"]
    share_spread: Float[np.ndarray, "t s"]


def measure_regression(task: Task, samples: tuple[int, ...], draws: int, seed: int, reporter: Reporter) -> Measured:
    """f = K(·, X) (K(X, X) + δ 1)⁻¹ y for random X of each size, all targets of a draw from one factorisation."""
    widths = [target.y.shape[1] for target in task.targets]
    y, ends = np.concatenate([target.y for target in task.targets], axis=1), np.cumsum(widths)[:-1]
    found = np.empty((2, len(widths), len(samples), draws))
    runs = [(i, n, draw) for i, n in enumerate(samples) for draw in range(draws)]
    for i, n, draw in reporter.track(runs, f"regression on {task.title}", len(runs)):
        order = np.random.default_rng([seed, n, draw]).permutation(len(task.K))
        used, unused = order[:n], order[n:]
        K = task.K[np.ix_(used, used)]
        alpha = solve(K + task.ridge * np.eye(n), y[used], assume_a="pos")
        f = np.empty_like(y)
        f[used], f[unused] = K @ alpha, task.K[np.ix_(unused, used)] @ alpha
        errors, products = ((f - y)[unused] ** 2).mean(axis=0), (f * y).sum(axis=0)
        for t, (e, p, own) in enumerate(zip(*(np.split(a, ends, axis=-1) for a in (errors, products, y)), strict=True)):
            found[:, t, i, draw] = e.sum(), p.sum() / (own**2).sum()
    means, spreads = found.mean(axis=-1), found.std(axis=-1, ddof=1) / np.sqrt(draws)
    return Measured(means[0], spreads[0], means[1], spreads[1])
