"""Predicted training and test curves beside the actual run.

Three functions follow the same gradient descent: the centred network itself, the network linearised at its start
(which is what the kernel at initialisation predicts, without forming that kernel), and the exact kernel.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntkit._progress import Reporter
from ntkit.dynamics import gradient_descent
from ntkit.empirical.operator import Tangent
from ntkit.experiments.training_runs import Problem, descend, squared_loss


@dataclass
class Curve:
    """Outputs at the recorded steps.

    Args:
        train_loss: of each recorded step.
        test_loss: of each recorded step.
        test_outputs: (m, o) of each recorded step.
    """

    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_outputs: list[np.ndarray] = field(default_factory=list)

    def record(self, train_loss: float, test: Float[np.ndarray, "m o"], y_test: Float[np.ndarray, "m o"]) -> None:
        """Add a step."""
        self.train_loss.append(train_loss)
        self.test_loss.append(float(squared_loss(test, y_test)))
        self.test_outputs.append(test)


def recorded_steps(steps: int) -> list[int]:
    """0, 1, 2, … and then about 24 steps a factor of ten, ending at `steps`."""
    grid = np.unique(np.round(np.geomspace(1, steps, max(2, int(24 * np.log10(max(steps, 2)))))).astype(int))
    return [0, *map(int, grid)]


def actual_curve(
    problem: Problem,
    x_test: Tensor,
    y_test: Float[np.ndarray, "m o"],
    lr: float,
    steps: list[int],
    reporter: Reporter,
    visit: list[int],
) -> tuple[Curve, dict[int, nn.Module]]:
    """The centred network's own curve, and copies of the network at the steps `visit`."""
    curve, kept, wanted, checkpoints = Curve(), {}, set(steps), set(visit)
    with torch.no_grad():
        offset = problem.model(x_test)
    for state in reporter.track(descend(problem, lr, steps[-1]), "training the network", steps[-1] + 1):
        if state.step in wanted:
            with torch.no_grad():
                test = (state.model(x_test) - offset).double().cpu().numpy()
            curve.record(state.loss, test, y_test)
        if state.step in checkpoints:
            kept[state.step] = copy.deepcopy(state.model)
    return curve, kept


def linearised_curve(
    problem: Problem,
    x_test: Tensor,
    y_test: Float[np.ndarray, "m o"],
    lr: float,
    steps: list[int],
    reporter: Reporter,
) -> Curve:
    """What the kernel at initialisation predicts: f_{t+1} = f_t − (lr/N) Θ₀ (f_t − y), with Θ₀ v = J Jᵀ v."""
    train, test = Tangent(problem.model, problem.x), Tangent(problem.model, x_test)
    moved = {name: torch.zeros_like(p) for name, p in train.point.items()}
    f = torch.zeros_like(problem.y)
    curve, wanted = Curve(), set(steps)
    for step in reporter.track(range(steps[-1] + 1), "prediction of the kernel at initialisation", steps[-1] + 1):
        residual = f - problem.y
        if step in wanted:
            curve.record(float(squared_loss(f, problem.y)), test.push(moved).double().cpu().numpy(), y_test)
        gradient = train.pull(residual / len(residual))
        for name, g in gradient.items():
            moved[name] -= lr * g
        f = f - lr * train.push(gradient)
    return curve


def exact_curve(
    K: Float[np.ndarray, "n n"],
    K_test: Float[np.ndarray, "m n"],
    y: Float[np.ndarray, "n o"],
    y_test: Float[np.ndarray, "m o"],
    lr: float,
    steps: list[int],
) -> Curve:
    """What the exact kernel predicts, in closed form."""
    path = gradient_descent(K, y, lr=lr, steps=steps, K_test=K_test)
    assert path.test is not None
    curve = Curve()
    for train, test in zip(np.asarray(path.train), np.asarray(path.test), strict=True):
        curve.record(float(squared_loss(train, y)), test, y_test)
    return curve
