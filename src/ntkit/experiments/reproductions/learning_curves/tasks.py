"""What is learned: functions on the circle and on the sphere, and classes of images.

Each task is a pool of samples with one kernel, several targets on it, and a prediction for each target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import nn

from ntkit import data as datasets
from ntkit import theory
from ntkit.infinite import InfiniteKernel
from ntkit.spectra import Spectrum, spectrum
from ntkit.theory import LearningCurve

W_STD, B_STD, DEPTH = math.sqrt(2), 0.1, 3
DIMENSION = 25  # of the sphere's space, as in Canatar et al. 2021
MODES = (0, 2, 5, 10)  # on the circle, as in Simon et al. 2021
DEGREES = (1, 2, 3)  # on the sphere
_DIRECTIONS = 200  # whose zonal functions make one random harmonic
KNOWN_DEGREES = 60  # of the sphere's spectrum; the rest is its tail
FEW_DEGREES = 8  # the control knows these alone, and no tail

Predict = Callable[[Sequence[int]], LearningCurve]


@dataclass(frozen=True, eq=False)
class Target:
    """One function to be learned.

    Args:
        name: what it is, for people.
        y: (M, o), its values on the pool, Σ over outputs of mean square 1.
        predict: sample numbers -> errors on samples that are not trained on.
        control: the same from what is known to be wrong.
        eigenvalue: of the kernel as an operator, where the target is an eigenfunction.
    """

    name: str
    y: Float[np.ndarray, "M o"]
    predict: Predict
    control: Predict
    eigenvalue: float | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A pool, its kernel, and what is learned on it.

    Args:
        key: one word.
        title: for people.
        K: (M, M), the kernel.
        ridge: δ.
        targets: what is learned.
        control: what `Target.control` gets wrong.
        source: where the samples come from.
        stands_in: whether these are other images than the ones asked for.
    """

    key: str
    title: str
    K: Float[np.ndarray, "M M"]
    ridge: float
    targets: tuple[Target, ...]
    control: str
    source: str
    stands_in: bool = False


def network(features: int) -> InfiniteKernel:
    """Three hidden ReLU layers, σ_w² = 2, σ_b² = 0.01."""
    layers: list[nn.Module] = []
    for i in (features, *(1 for _ in range(DEPTH - 1))):
        layers += [nn.Linear(i, 1), nn.ReLU()]
    return InfiniteKernel(nn.Sequential(*layers, nn.Linear(1, 1)), w_std=W_STD, b_std=B_STD)


def circle(size: int, seed: int) -> Task:
    """`size` points evenly on the circle; the targets are its cosines, eigenfunctions of every kernel of angles."""
    angles = 2 * np.pi * np.arange(size) / size
    K = np.asarray(network(2).ntk(math.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    pairs = spectrum(K)
    order = np.random.default_rng(seed).permutation(size)
    targets = []
    for mode in MODES:
        y = math.sqrt(2 if mode else 1) * np.cos(mode * angles)[:, None]
        eigenvalue = float((y.T @ K @ y).item()) / size**2
        targets.append(Target(f"mode {mode}", y, _pool(pairs, y, 0.0), _pool(pairs, y[order], 0.0), eigenvalue))
    return Task("circle", "the circle", K, 0.0, tuple(targets), "shuffled target", f"{size} points, evenly spaced")


def sphere(size: int, seed: int) -> Task:
    """Random points of the sphere in 25 dimensions; each target is a random harmonic of one degree."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((size, DIMENSION))
    x *= math.sqrt(DIMENSION) / np.linalg.norm(x, axis=1, keepdims=True)
    of_degrees = theory.sphere("relu", DEPTH, W_STD, B_STD, DIMENSION, degrees=KNOWN_DEGREES).ntk
    few = FEW_DEGREES + 1
    values, multiplicities = of_degrees.eigenvalues[:few], of_degrees.multiplicities[:few]
    targets = []
    for degree in DEGREES:
        y = _harmonic(x, degree, draw)[:, None]

        def predict(samples: Sequence[int], degree: int = degree) -> LearningCurve:
            return of_degrees.learning_curve(np.eye(KNOWN_DEGREES + 1)[degree], samples)

        def control(samples: Sequence[int], degree: int = degree) -> LearningCurve:
            return theory.learning_curve(values, np.eye(few)[degree], samples, multiplicities=multiplicities)

        targets.append(Target(f"degree {degree}", y, predict, control, float(of_degrees.eigenvalues[degree])))
    return Task(
        "sphere", f"the sphere in {DIMENSION} dimensions", np.asarray(network(DIMENSION).ntk(x)), 0.0, tuple(targets),
        f"degrees beyond {FEW_DEGREES} left out", f"{size} random points",
    )  # fmt: skip


def images(name: str, size: int, ridge: float, seed: int, data_dir: Path | None, stand_in: str | None) -> Task:
    """A pool of images, each of mean square 1, and their classes as centred one-hot targets.

    Args:
        name: data set.
        size: M.
        ridge: δ over the kernel's mean diagonal.
        seed: of the choice of images, and of the control's shuffling.
        data_dir: folder of the data files.
        stand_in: data set used where `name` is not found and no folder was named; None for an error.
    """
    stands_in = stand_in is not None and _is_missing(name, data_dir)
    data = datasets.load(
        stand_in if stand_in and stands_in else name, data_dir=data_dir, n_train=size, n_test=1, seed=seed
    )
    x = data.x_train.reshape(size, -1).astype(np.float64)
    x /= np.sqrt((x**2).mean(axis=1, keepdims=True))
    y = np.asarray(data.targets(centered=True)[0], dtype=np.float64)
    y /= math.sqrt((y**2).sum(axis=1).mean())
    K = np.asarray(network(x.shape[1]).ntk(x))
    delta, pairs = ridge * float(K.diagonal().mean()), spectrum(K)
    shuffled = y[np.random.default_rng(seed).permutation(size)]
    target = Target("classes", y, _pool(pairs, y, delta), _pool(pairs, shuffled, delta))
    return Task(name, TITLES.get(name, name), K, delta, (target,), "shuffled labels", data.source, stands_in)


def image_sets(names: Sequence[str], data_dir: Path | None, stand_in: str | None) -> list[str]:
    """The data sets to take: all, but of those that something stands in for only the first, as it is the same thing."""
    missing = [name for name in names if stand_in is not None and _is_missing(name, data_dir)]
    return [name for name in names if name not in missing[1:]]


def _is_missing(name: str, data_dir: Path | None) -> bool:
    """Whether no folder was named, and the data set is not in the usual one either."""
    return data_dir is None and name not in datasets.sets_in()


TITLES: Mapping[str, str] = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def _pool(pairs: Spectrum, y: Float[np.ndarray, "M o"], ridge: float) -> Predict:
    return lambda samples: theory.pool_learning_curve(pairs, y, samples, ridge=ridge)


def _harmonic(x: Float[np.ndarray, "M d"], degree: int, draw: np.random.Generator) -> Float[np.ndarray, "M"]:
    """A random polynomial of one degree: zonal functions P(x·w) of many directions w, with Gaussian weights.

    P_{m+1} = ((2m + d − 2) t P_m − m P_{m−1}) / (m + d − 2) are the sphere's Legendre polynomials.
    """
    directions = draw.standard_normal((_DIRECTIONS, DIMENSION))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    t = x @ directions.T / math.sqrt(DIMENSION)
    before, now = np.ones_like(t), t
    for m in range(1, degree):
        before, now = now, ((2 * m + DIMENSION - 2) * t * now - m * before) / (m + DIMENSION - 2)
    y = now @ draw.standard_normal(_DIRECTIONS)
    return y / math.sqrt((y**2).mean())
