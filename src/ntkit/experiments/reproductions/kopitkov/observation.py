"""What is seen of a network at one step of its training: its tangent kernel's spectrum, and what lies in it.

Everything is computed in float64 on a copy of the network. G is the kernel on the N points of the task, v_i its
eigenvectors, and cos²α(φ, k) = Σ_{i≤k} ⟨φ, v_i⟩²/‖φ‖² the energy of φ in its top k directions. A step of gradient
descent is predicted to change the outputs by df = −δ G m to first order.

Reference: Kopitkov & Indelman, Neural spectrum alignment, ICANN 2020.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from ntkit.empirical import empirical_ntk
from ntkit.experiments.reproductions.kopitkov.image import grid_points
from ntkit.experiments.reproductions.kopitkov.tasks import Task
from ntkit.experiments.reproductions.kopitkov.training import Row
from ntkit.spectra import Spectrum, spectrum

EIGENFUNCTIONS = 6
_GRID_BLOCK = 2048  # points of the plane whose kernel with the samples is held at once


@dataclass(frozen=True)
class Watch:
    """What to look at.

    Args:
        top_target: directions in which the target's energy is compared with shuffled ones'.
        top_output: directions that the output is to lie in; energies are kept up to these.
        eigenpairs: computed; None for all.
        shuffles: permutations of the target's values.
        grid: points a side of the maps.
        seed: of the permutations.
    """

    top_target: int
    top_output: int
    eigenpairs: int | None
    shuffles: int
    grid: int
    seed: int


class Observer:
    """Sees a network in training.

    Args:
        task: what it learns.
        watch: what to look at.
        start: the network at its start, where its kernel is to be set beside the present one, else None.
        eigenfunctions_at: steps at which eigenfunctions are drawn.
        picture_at: step at which the output over the plane is.
    """

    def __init__(
        self, task: Task, watch: Watch, *, start: nn.Module | None, eigenfunctions_at: tuple[int, ...], picture_at: int
    ):
        self._task, self._watch = task, watch
        self._x = torch.from_numpy(task.plane.standardised())
        rng = np.random.default_rng(watch.seed)
        self._shuffled = [rng.permutation(task.target) for _ in range(watch.shuffles)]
        self._eigenfunctions_at, self._picture_at = eigenfunctions_at, picture_at
        self._start = start

    def __call__(self, step: int, network: nn.Module, rate: float) -> Row:
        """The row of a step."""
        watch, target = self._watch, self._task.target
        model = copy.deepcopy(network).double()
        K = self._kernel(model)
        found = spectrum(K, watch.eigenpairs)
        f = self._outputs(model)
        row: Row = {
            "step": np.array(step),
            "rate": np.array(rate),
            "error": np.array(0.5 * np.mean((f - target) ** 2)),
            "eigenvalues": np.asarray(found.eigenvalues),
            "energy_shuffled": np.array([found.energy(phi)[watch.top_target - 1] for phi in self._shuffled]),
        }
        for name, phi in (("target", target), ("output", f), ("residual", f - target)):
            row[f"energy_{name}"] = np.asarray(found.energy(phi))[: watch.top_output]
        if step in self._eigenfunctions_at:
            row["eigenfunctions"] = self._eigenfunctions(model, K)
        if step == self._picture_at:
            row["picture"] = self._outputs(model, self._grid()).reshape(watch.grid, watch.grid)
        if self._start is not None:
            K_start, top_start = self._at_start
            row["energy_output_in_start"] = np.array(top_start.energy(f)[-1])
            row |= first_order_errors(model, self._x, target, rate, {"": K, "_by_start": K_start})
        return row

    @cached_property
    def _at_start(self) -> tuple[np.ndarray, Spectrum]:
        """Kernel and top directions of the start, computed only where a step is to be seen."""
        assert self._start is not None
        K = self._kernel(copy.deepcopy(self._start).double())
        return K, spectrum(K, self._watch.top_output)

    def _kernel(self, model: nn.Module, points: torch.Tensor | None = None) -> Float[np.ndarray, "m n"]:
        x1, x2 = (self._x, None) if points is None else (points, self._x)
        return np.asarray(empirical_ntk(model, x1, x2, outputs="trace"))

    def _outputs(self, model: nn.Module, points: torch.Tensor | None = None) -> Float[np.ndarray, "m"]:
        with torch.no_grad():
            return model(self._x if points is None else points)[:, 0].numpy()

    def _grid(self) -> torch.Tensor:
        return torch.from_numpy(self._task.plane.standardised(grid_points(self._watch.grid)))

    def _eigenfunctions(self, model: nn.Module, K: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "6 g g"]:
        """The first eigenfunctions over the plane, by Nyström's extension."""
        leading = spectrum(K, EIGENFUNCTIONS)
        blocks = [np.asarray(leading.extend(self._kernel(model, block))) for block in self._grid().split(_GRID_BLOCK)]
        return np.concatenate(blocks).T.reshape(EIGENFUNCTIONS, self._watch.grid, self._watch.grid)


def first_order_errors(
    model: nn.Module,
    x: Float[torch.Tensor, "n 2"],
    y: Float[np.ndarray, "n"],
    rate: float,
    kernels: dict[str, Float[np.ndarray, "n n"]],
) -> Row:
    """‖df − df_approx‖/‖df‖ of a step of gradient descent on (1/N) Σ ½(f − y)², which the model makes.

    Args:
        model: float64; it is one step on afterwards.
        x: all samples.
        y: targets.
        rate: δ of the step.
        kernels: suffix of the name → G in df_approx = −(δ/N) G (f − y).
    """
    outputs = model(x)[:, 0]
    f = outputs.detach().numpy().copy()
    m = (f - y) / len(y)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(outputs, parameters, torch.from_numpy(m))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= rate * gradient
        df = model(x)[:, 0].numpy() - f
    size = np.linalg.norm(df)
    return {
        f"first_order{suffix}": np.array(np.linalg.norm(df + rate * (K @ m)) / size) for suffix, K in kernels.items()
    }
