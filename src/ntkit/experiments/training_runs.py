"""Real training: full-batch gradient descent on L = (1/N) Σ ½‖f(x) − offset − y‖², step by step.

With the untrained network's outputs as `offset` this trains the centred network f − f₀ without a second forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """What a network is trained on.

    Args:
        model: the network at its start; never changed, runs train copies.
        x: training inputs.
        y: targets.
        offset: outputs of the untrained network on x, or zeros for the plain network.
    """

    model: nn.Module
    x: Float[Tensor, "n *features"]
    y: Float[Tensor, "n o"]
    offset: Float[Tensor, "n o"]

    @classmethod
    def of(cls, model: nn.Module, x: Tensor, y: Tensor, *, centered: bool) -> Problem:
        """The problem of the centred network f − f₀, or of the plain one."""
        with torch.no_grad():
            start = model(x)
        return cls(model, x, y, start if centered else torch.zeros_like(start))


@dataclass(frozen=True)
class State:
    """The network after `step` steps.

    Args:
        step: how many steps were made.
        loss: of the training set.
        model: the network in training; copy what must not change.
    """

    step: int
    loss: float
    model: nn.Module


def squared_loss(f: Any, y: Any) -> Any:
    """(1/N) Σ ½‖f − y‖² of outputs and targets (n, o), torch or numpy."""
    return 0.5 * ((f - y) ** 2).sum(1).mean()


def descend(problem: Problem, lr: float, steps: int) -> Iterator[State]:
    """The states 0 … steps of gradient descent; ends early when the loss is no longer finite.

    Args:
        problem: network and data.
        lr: learning rate.
        steps: how many steps.
    """
    model = copy.deepcopy(problem.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    target = problem.y + problem.offset
    for step in range(steps + 1):
        loss = squared_loss(model(problem.x), target)
        value = float(loss.detach())
        if value != value or value == float("inf"):
            return
        yield State(step, value, model)
        if step < steps:
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter -= lr * gradient
