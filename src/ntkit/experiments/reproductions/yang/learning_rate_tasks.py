"""What is trained on what: the Boolean cube and real images, and the networks of Yang & Salman 2019.

All corners of {−1, 1}^d have the parities χ_S(x) = Π_{i∈S} x_i as a basis. The target over them has equal power in
every degree, so that every eigenspace is seen.

A fully connected network whose weights are isotropic Gaussians sees inputs by their inner products alone, also while
it trains on them. So N images of d > N pixels may be turned into N coordinates each: Xᵀ = V S Uᵀ, X V = U S, whose
inner products are the same. With X V √(N/d) the division by √fan_in gives what it gave before. The law of the network,
its kernels and its training are unchanged; the first layer has N columns in place of d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

import ntkit.nn
from ntkit.data import Dataset
from ntkit.experiments.networks import ACTIVATIONS

CUBE, MIXED = "cube", "degree-mixed"
ONE_HOT, CENTRED = "one-hot", "centred"


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs, and the targets that networks are trained towards on them.

    Args:
        name: of the data.
        x: inputs as networks take them.
        targets: by name; the first is the main one.
        scrambled: the inputs after the pixels of each image were put into an order of its own; None for the cube.
    """

    name: str
    x: Float[np.ndarray, "n d"]
    targets: Mapping[str, Float[np.ndarray, "n o"]]
    scrambled: Float[np.ndarray, "n d2"] | None = None

    @property
    def n_outputs(self) -> int:
        """Outputs that a network needs."""
        return next(iter(self.targets.values())).shape[1]


def corners(bits: int) -> Int[np.ndarray, "n d"]:
    """All of {−1, 1}^bits, in the order of binary numbers with −1 for a 1.

    Example:
        >>> corners(2).tolist()
        [[1, 1], [1, -1], [-1, 1], [-1, -1]]
    """
    numbers = np.arange(2**bits)[:, None] >> np.arange(bits - 1, -1, -1)
    return 1 - 2 * (numbers & 1)


def parities(bits: int) -> Float[np.ndarray, "n n"]:
    """χ_S(x) for all corners x (rows) and all sets S (columns), which are in the order of the corners too.

    Example:
        >>> parities(2)[1].tolist()
        [1.0, -1.0, 1.0, -1.0]
    """
    chosen = (corners(bits) < 0).astype(np.float64)
    return 1 - 2 * ((chosen @ chosen.T) % 2)


def degrees(bits: int) -> Int[np.ndarray, "n"]:
    """|S| of each set in the order of `parities`."""
    return (corners(bits) < 0).sum(axis=1)


def cube_task(bits: int, seed: int) -> Task:
    """All corners, and a random function with 1/(bits + 1) of its mean square, which is 1, in every degree."""
    of_degree, rng = degrees(bits), np.random.default_rng(seed)
    power = np.zeros(2**bits)
    for k in range(bits + 1):
        drawn = rng.standard_normal(int((of_degree == k).sum()))
        power[of_degree == k] = drawn / (np.linalg.norm(drawn) * np.sqrt(bits + 1))
    return Task(CUBE, corners(bits).astype(np.float64), {MIXED: (parities(bits) @ power)[:, None]})


def image_task(data: Dataset, seed: int) -> Task:
    """The training images, with one-hot labels, which contain the constant, and with the centred ones of a study."""
    x = data.x_train.reshape(len(data.x_train), -1).astype(np.float64)
    mixed = np.random.default_rng(seed).permuted(x, axis=1)
    targets = {name: data.targets(centered=name == CENTRED)[0] for name in (ONE_HOT, CENTRED)}
    return Task(data.name, in_own_span(x), targets, in_own_span(mixed))


def in_own_span(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d2"]:
    """The same inner products, divided by the number of features, with at most n features.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((3, 50))
        >>> z = in_own_span(x)
        >>> z.shape, bool(np.allclose(z @ z.T / 3, x @ x.T / 50))
        ((3, 3), True)
    """
    n, d = x.shape
    if d <= n:
        return x
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    return left * sizes * np.sqrt(n / d)


@dataclass(frozen=True)
class Scales:
    """σ_w and σ_b of every layer, the last one too, as Yang & Salman 2019 have them."""

    w_std: float
    b_std: float


def network(activation: str, depth: int, width: int, task: Task, scales: Scales, draw: int) -> nn.Sequential:
    """A fully connected network with `depth` hidden layers, drawn by the number."""
    sizes = [task.x.shape[1]] + [width] * depth
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence((draw, depth, width)).generate_state(1)[0]))
        for i, o in pairwise(sizes):
            layers += [ntkit.nn.Linear(i, o, scales.w_std, scales.b_std), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers, ntkit.nn.Linear(width, task.n_outputs, scales.w_std, scales.b_std))
