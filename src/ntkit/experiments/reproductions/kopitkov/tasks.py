"""What a network learns, given by the derivative m of the loss with respect to its outputs.

Each step is ∇_θ L = Σ m(x) ∇_θ f(x) over the samples of that step, with the 1/N within m:

- least squares, L = (1/N) Σ ½(f − y)²: m = (f − y)/N over all samples or a batch of them;
- PSO-LDE, without labels and without L in closed form: samples x^U of an unknown density p^U, x^D of a known one p^D,
      m(x^U) = −M^U/N,  M^U = p^D / [exp(f)^α + (p^D)^α]^{1/α},
      m(x^D) = +M^D/N,  M^D = exp(f) / [exp(f)^α + (p^D)^α]^{1/α},
  which balance, p^U M^U = p^D M^D, where f = log p^U.

Reference: Kopitkov & Indelman, General probabilistic surface optimization and log density estimation, 2019.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.experiments.reproductions.kopitkov.image import brightness_at, density_of, draw_points

Derivative = Callable[[Tensor], Tensor]  # outputs (n, 1) -> m (n, 1)


@dataclass(frozen=True, eq=False)
class Plane:
    """Points of the unit square and the affine map that standardises them.

    Args:
        points: (n, 2) in [0, 1]².
    """

    points: Float[np.ndarray, "n 2"]

    def standardised(self, points: Float[np.ndarray, "m 2"] | None = None) -> Float[np.ndarray, "m 2"]:
        """Of mean 0 and standard deviation 1 over the points of the plane; these themselves by default."""
        mean, std = self.points.mean(axis=0), self.points.std(axis=0)
        return ((self.points if points is None else points) - mean) / std


class Task(ABC):
    """What to learn: `target` on the points of `plane`, and the samples of each step with their m."""

    plane: Plane
    target: Float[np.ndarray, "n"]

    @abstractmethod
    def draw(self, generator: torch.Generator) -> tuple[Tensor, Derivative]:
        """Inputs of a step, and m as a function of the outputs at them."""


def single(array: Float[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    """As a float32 tensor."""
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


class Regression(Task):
    """Least squares to the brightness of an image, standardised over the points.

    Args:
        image: what is learned.
        plane: where it is sampled.
        batch: samples of a step, drawn with replacement; None for all.
    """

    def __init__(self, image: Float[np.ndarray, "p p"], plane: Plane, batch: int | None = None):
        brightness = brightness_at(image, plane.points)
        self.plane = plane
        self.target = (brightness - brightness.mean()) / brightness.std()
        self._batch = batch
        self._x, self._y = single(plane.standardised()), single(self.target)[:, None]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Derivative]:
        """All samples, or a batch."""
        x, y = self._x, self._y
        if self._batch is not None:
            chosen = torch.randint(len(x), (self._batch,), generator=generator)
            x, y = x[chosen], y[chosen]
        return x, lambda f: (f - y) / len(y)


class DensityEstimation(Task):
    """The log density whose samples are the brighter the denser, by PSO-LDE; p^D is uniform on the unit square.

    Args:
        image: brightness.
        plane: where the kernel is taken; standardises the inputs.
        alpha: α of PSO-LDE.
        floor: what is added to the brightness, so that the logarithm is finite.
        pool: samples of p^U in all.
        batch: samples of p^U, and as many of p^D, in a step.
        seed: of the pool.
    """

    def __init__(
        self, image: Float[np.ndarray, "p p"], plane: Plane, *, alpha: float, floor: float, pool: int, batch: int,
        seed: int,
    ):  # fmt: skip
        density = density_of(image, floor)
        self.plane = plane
        self.target = np.log(brightness_at(density, plane.points))
        self._alpha, self._batch = alpha, batch
        self._pool = single(plane.standardised(draw_points(density, pool, np.random.default_rng(seed))))
        self._corner, opposite = (single(corner) for corner in plane.standardised(np.array([[0.0, 0.0], [1.0, 1.0]])))
        self._extent = opposite - self._corner

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Derivative]:
        """A batch of the pool, and as many uniform points."""
        chosen = torch.randint(len(self._pool), (self._batch,), generator=generator)
        uniform = self._corner + self._extent * torch.rand((self._batch, 2), generator=generator)
        return torch.cat([self._pool[chosen], uniform]), self._derivative

    def _derivative(self, f: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
        up, down = f.split(self._batch)
        return torch.cat([-magnitude_up(up, self._alpha), magnitude_down(down, self._alpha)]) / self._batch


def magnitude_up(f: Float[Tensor, "*n"], alpha: float) -> Float[Tensor, "*n"]:
    """M^U for p^D = 1: [exp(αf) + 1]^{−1/α}."""
    return torch.exp(-torch.nn.functional.softplus(alpha * f) / alpha)


def magnitude_down(f: Float[Tensor, "*n"], alpha: float) -> Float[Tensor, "*n"]:
    """M^D for p^D = 1: exp(f) [exp(αf) + 1]^{−1/α}, which is M^U of −f."""
    return magnitude_up(-f, alpha)
