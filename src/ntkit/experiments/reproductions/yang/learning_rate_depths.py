"""Which depth is best on real data: regression with the exact tangent kernel, without a ridge, at many depths.

The fractional variance of a degree, by which Yang & Salman 2019 find the optimal depth over the cube, has no meaning
for images. What is left to ask is which depth errs least on images that were not trained on, and where the kernel
points at the labels best. Errors are of several disjoint draws of training images; depths are compared draw by draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from ntkit.data import Dataset, one_hot
from ntkit.experiments.reproductions.experiment import Arrays, Findings, Workbench
from ntkit.experiments.reproductions.yang.learning_rate_layers import connected
from ntkit.experiments.reproductions.yang.learning_rate_tasks import Scales
from ntkit.infinite import InfiniteKernel
from ntkit.spectra import alignment

MEASURES = ("error", "squared", "shuffled_error", "shuffled_squared", "alignment")


@dataclass(frozen=True)
class DepthSize:
    """How much is asked of real data.

    Args:
        depths: hidden layers.
        sizes: training images of one draw, ascending.
        draws: how many times they are drawn.
        n_test: test images.
    """

    depths: tuple[int, ...]
    sizes: tuple[int, ...]
    draws: int
    n_test: int


class Excess(NamedTuple):
    """By how much one depth errs more than the best one, and the standard error over draws."""

    mean: float
    error: float

    @property
    def in_errors(self) -> float:
        """The mean in standard errors, which are at least 10⁻⁹: where all draws agree, finite all the same."""
        return self.mean / max(self.error, 1e-9)


def measure_depths(
    data: Dataset, size: DepthSize, scales: Scales, seed: int, bench: Workbench, arrays: Arrays
) -> Findings:
    """Errors and alignments of one data set at every depth; arrays have draws × depths."""
    x, x_test = (part.reshape(len(part), -1).astype(np.float64) for part in (data.x_train, data.x_test))
    kernel = InfiniteKernel(connected(x.shape[1], size.depths, scales))
    rng, largest = np.random.default_rng(seed), max(size.sizes)
    rows: dict[int, list[np.ndarray]] = {n: [] for n in size.sizes}
    draws = bench.reporter.track(range(size.draws), f"regression at every depth, {data.name}", size.draws)
    for draw in draws:
        chosen = slice(draw * largest, (draw + 1) * largest)
        trains, tests = kernel.ntk(x[chosen]), kernel.ntk(x_test, x[chosen])
        for n in size.sizes:
            labels = np.stack([data.y_train[chosen][:n], rng.permutation(data.y_train[chosen][:n])])
            each = [_regress(K[:n, :n], K_test[:, :n], labels, data) for K, K_test in zip(trains, tests, strict=True)]
            rows[n].append(np.array(each))
    for n, found in rows.items():
        for i, name in enumerate(MEASURES):
            arrays[f"depths_{name}_{data.name}_{n}"] = np.stack(found)[:, :, i]
    return {
        "set": data.name, "depths": list(size.depths), "sizes": list(size.sizes), "draws": size.draws,
        "n_test": size.n_test, "classes": len(data.classes),
        "best": [_best(arrays, data.name, n, size.depths) for n in size.sizes],
    }  # fmt: skip


def _regress(
    K: Float[np.ndarray, "n n"], K_test: Float[np.ndarray, "m n"], labels: np.ndarray, data: Dataset
) -> tuple[float, ...]:
    """The `MEASURES` of one kernel; `labels` are the true ones and the shuffled ones."""
    classes = len(data.classes)
    true, shuffled = (np.asarray(one_hot(y, classes, True)) for y in labels)
    wanted = data.targets(centered=True)[1]
    outputs = K_test @ scipy.linalg.solve(K, np.hstack([true, shuffled]), assume_a="pos")
    measured = []
    for f in (outputs[:, :classes], outputs[:, classes:]):
        wrong = float((f.argmax(axis=1) != data.y_test).mean())
        measured += [wrong, float(((f - wanted) ** 2).sum() / (wanted**2).sum())]
    return (*measured, alignment(K, true, centered=True))


def _best(arrays: Arrays, name: str, n: int, depths: tuple[int, ...]) -> Findings:
    """The depths of least error and of largest alignment, and how much worse both ends are, at one size."""
    of = {measure: arrays[f"depths_{measure}_{name}_{n}"] for measure in MEASURES}
    ends = {"shallowest": 0, "deepest": len(depths) - 1}
    return {
        "n_train": n,
        "error": depths[int(of["error"].mean(axis=0).argmin())],
        "squared": depths[int(of["squared"].mean(axis=0).argmin())],
        "alignment": depths[int(of["alignment"].mean(axis=0).argmax())],
        "least": float(of["error"].mean(axis=0).min()),
        "shuffled_least": float(of["shuffled_error"].mean(axis=0).min()),
        "excess": {end: excess(of["error"], at)._asdict() for end, at in ends.items()},
        "excess_in_errors": {end: excess(of["error"], at).in_errors for end, at in ends.items()},
        "shuffled_in_errors": {end: excess(of["shuffled_error"], at).in_errors for end, at in ends.items()},
    }


def excess(errors: Float[np.ndarray, "draws depths"], at: int) -> Excess:
    """How much more depth number `at` errs than the best; on each draw the best is the one of the other draws.

    So the depth that is called best was not chosen on the images that it is judged by.
    """
    n = len(errors)
    others = (errors.sum(axis=0) - errors) / (n - 1)
    gaps = errors[:, at] - errors[np.arange(n), others.argmin(axis=1)]
    return Excess(float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(n)))
