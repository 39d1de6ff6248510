"""The largest stable learning rate, predicted and found, and what happens beyond it.

Gradient descent on the linearised network is stable for lr < 2N/λ_max of its tangent kernel. Found by bisection on
real training runs: stable means that the loss never rises from one step to the next within 30 steps. Between 2N/λ_max
and about twice that a finite network can recover after a rise: the catapult range (Lewkowycz et al. 2020).

Thirty steps see an unstable direction only where the labels lie in it: a linear model, too, is found stable somewhat
beyond 2N/λ_max when little of the labels lies in the top direction. `LabelSpectrum` says by how much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import eigsh
from torch import Tensor

from ntkit._progress import Reporter
from ntkit.empirical.operator import NTKOperator
from ntkit.errors import InvalidInput
from ntkit.experiments.training_runs import Problem, descend

STEPS = 30
_PRECISION = 1.005  # ratio of the two ends that bisection stops at
_NO_RISE = 1 + 1e-6  # what float32 rounding may do to a loss that stands still
_SCAN = (0.25, 0.5, 0.8, 0.95, 1.05, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0)
_SCAN_STEPS = 100
_CAP = 1e6

STABLE, RECOVERS, DIVERGES = 0, 1, 2


@dataclass(frozen=True)
class Scan:
    """Training runs at several rates.

    Args:
        multiples: rates in units of the predicted largest one.
        losses: (m, t) losses relative to the first, at most 1e6.
        outcomes: (m,) STABLE, RECOVERS or DIVERGES.
    """

    multiples: np.ndarray
    losses: np.ndarray
    outcomes: np.ndarray


def largest_eigenvalue(operator: NTKOperator) -> float:
    """λ_max of a network's tangent kernel, matrix-free by Lanczos from a fixed start."""
    size = operator.shape[0]
    if size <= 2:
        return float(np.linalg.eigvalsh(np.asarray(operator.to_dense()))[-1])
    start = np.random.default_rng(0).standard_normal(size).astype(operator.dtype)
    values = eigsh(operator, k=1, which="LA", v0=start, tol=1e-5, return_eigenvectors=False)  # pyright: ignore[reportArgumentType]
    return float(values[0])


def predicted_rate(operator: NTKOperator) -> float:
    """2N/λ_max of the network's own kernel."""
    largest = largest_eigenvalue(operator)
    if largest <= 0:
        raise InvalidInput(
            f"the network's tangent kernel has no positive eigenvalue (the largest is {largest:g}), so it cannot "
            "learn; check that its trained parameters reach the output"
        )
    return 2 * operator.n_samples / largest


@dataclass(frozen=True)
class LabelSpectrum:
    """Where the labels lie in a kernel's spectrum, as far as the loss of the first steps can tell.

    Lanczos from the labels for k steps gives k nodes λ and weights w with Σ w λʲ = yᵀKʲy for all j < 2k, and so the
    loss of the linear model, L_t = (1/2N) Σ w (1 − lr λ/N)²ᵗ, exactly for t < k.

    Args:
        nodes: (k,) Ritz values.
        weights: (k,) shares of ‖y‖².
        n_samples: N.

    Reference: Golub & Meurant 2010, chapter 6.
    """

    nodes: np.ndarray
    weights: np.ndarray
    n_samples: int

    def losses(self, lr: float, steps: int) -> np.ndarray:
        """L_t/L_0 for t = 0 … steps."""
        factors = 1 - lr * self.nodes / self.n_samples
        return (self.weights * factors ** (2 * np.arange(steps + 1)[:, None])).sum(axis=1)

    def largest_stable_rate(self, steps: int) -> float:
        """The largest rate at which the linear model's loss does not rise within `steps` steps."""
        low, high = 0.0, 8 * self.n_samples / float(self.nodes.max())
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            path = self.losses(middle, steps)
            low, high = (low, middle) if (path[1:] > path[:-1] * _NO_RISE).any() else (middle, high)
        return low


def label_spectrum(operator: NTKOperator, y: Float[Tensor, "n o"], steps: int, reporter: Reporter) -> LabelSpectrum:
    """The labels' spectrum, exact for the losses of `steps` steps, by Lanczos with full reorthogonalisation."""
    start = y.flatten().double()
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in reporter.track(range(min(steps + 1, len(start))), "where the labels lie in the spectrum", steps + 1):
        image = (operator @ basis[-1]).double()
        diagonal.append(float(image @ basis[-1]))
        for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
            for direction in basis:
                image = image - (image @ direction) * direction
        size = float(image.norm())
        if size < 1e-6 * abs(diagonal[0]):
            break
        beside.append(size)
        basis.append(image / size)
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[: len(diagonal) - 1]))
    return LabelSpectrum(nodes, vectors[0] ** 2, operator.n_samples)


def is_stable(problem: Problem, lr: float, steps: int = STEPS) -> bool:
    """Whether the loss never rises from one step to the next."""
    before, made = math.inf, -1
    for state in descend(problem, lr, steps):
        if state.loss > before * _NO_RISE:
            return False
        before, made = state.loss, state.step
    return made == steps


def largest_stable_rate(problem: Problem, guess: float, reporter: Reporter, what: str, *, within: float = 2.0) -> float:
    """The largest stable rate, by bisection around `guess`, to half a percent.

    Args:
        problem: network and data.
        guess: where to look first.
        reporter: shows the runs.
        what: their name.
        within: the factor on both sides of the guess in which to look first; beyond, every octave is looked at.

    Raises:
        InvalidInput: no rate within a factor of a million of the guess is at the edge of stability.
    """
    with reporter.stage(what, 10) as advance:

        def stable(rate: float) -> bool:
            if not 1e-6 < rate / guess < 1e6:
                raise InvalidInput(
                    f"no edge of stability was found between {guess * 1e-6:g} and {guess * 1e6:g}: training behaves "
                    "alike at all of these rates; check the scale of data and targets"
                )
            advance()
            return is_stable(problem, rate)

        low, high = guess / within, guess * within
        if stable(low):
            while stable(high):
                low, high = high, high * 2
        else:
            while not stable(low / 2):
                low /= 2
            low, high = low / 2, low
        while high / low > _PRECISION:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def scan_rates(problem: Problem, predicted: float, reporter: Reporter) -> Scan:
    """What training does at rates below, within and above the catapult range."""
    losses = np.full((len(_SCAN), _SCAN_STEPS + 1), _CAP)
    outcomes = np.zeros(len(_SCAN), dtype=np.int64)
    rows = reporter.track(enumerate(_SCAN), "training at rates around the prediction", len(_SCAN))
    for i, multiple in rows:
        first = None
        for state in descend(problem, multiple * predicted, _SCAN_STEPS):
            first = first or state.loss
            losses[i, state.step] = min(state.loss / first, _CAP)
            if losses[i, state.step] >= _CAP:
                break
        outcomes[i] = outcome(losses[i])
    return Scan(np.array(_SCAN), losses, outcomes)


def outcome(path: Float[np.ndarray, "t"]) -> int:
    """STABLE where the loss never rises within 30 steps; else RECOVERS where it ends below its start, or DIVERGES.

    Args:
        path: losses relative to the first.
    """
    early = path[: STEPS + 1]
    rises = bool((early[1:] > early[:-1] * _NO_RISE).any())
    return (RECOVERS if path[-1] < 1 else DIVERGES) if rises else STABLE
