"""Training runs that are watched at some of their steps, and go on from the last of these after an interruption."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ntkit.experiments.reproductions.kopitkov.tasks import Task

Row = dict[str, np.ndarray]  # what was seen at one step, by name
Observe = Callable[[int, nn.Module, float], Row]  # (step, network, learning rate of the next step)


@dataclass(frozen=True)
class Run:
    """How one network is trained.

    Args:
        key: names its arrays and files.
        title: for people.
        layers: of the network.
        rate: learning rate δ.
        optimiser: plain gradient steps, or Adam.
        halved_at: step from which on the rate is half as large; None for a constant rate.
    """

    key: str
    title: str
    layers: int
    rate: float
    optimiser: Literal["gd", "adam"] = "gd"
    halved_at: int | None = None

    def rate_at(self, step: int) -> float:
        """δ of the step from `step` to `step` + 1."""
        return self.rate / 2 if self.halved_at is not None and step >= self.halved_at else self.rate


def recorded_steps(steps: int, records: int, also: Sequence[int] = ()) -> list[int]:
    """0 … steps: so many evenly on a logarithmic axis, as many on a linear one, and those of `also`.

    Example:
        >>> recorded_steps(100, 3, also=(7,))
        [0, 1, 7, 10, 50, 100]
    """
    spaced = np.concatenate([np.geomspace(1, steps, records), np.linspace(0, steps, records), also])
    return sorted({int(step) for step in spaced.round()})


class Training:
    """A network in training; its state is kept in `folder` whenever it has been watched.

    Args:
        run: how.
        task: what is learned.
        model: the network at its start, which is trained itself.
        seed: of the samples of each step.
        folder: for this run alone, and for the same settings whenever it is used again.
    """

    def __init__(self, run: Run, task: Task, model: nn.Module, seed: int, folder: Path):
        self._run, self._task, self._model = run, task, model
        self._generator = torch.Generator().manual_seed(seed)
        make = torch.optim.SGD if run.optimiser == "gd" else torch.optim.Adam
        self._optimiser: torch.optim.Optimizer = make(model.parameters(), lr=run.rate)
        self._state, self._done = folder / f"{run.key}.pt", folder / f"{run.key}.done"
        self._rows: list[Row] = []
        self._step = 0

    def watch(self, steps: Sequence[int], observe: Observe, advance: Callable[[], None]) -> list[Row]:
        """What `observe` saw at each of `steps`, which rise from 0; those of an earlier run are not made again."""
        self._restore()
        for _ in self._rows:
            advance()
        for step in steps[len(self._rows) :]:
            self._train_until(step)
            self._rows.append(observe(step, self._model, self._run.rate_at(step)))
            self._keep()
            advance()
        return self._rows

    def _train_until(self, last: int) -> None:
        for step in range(self._step, last):
            for group in self._optimiser.param_groups:
                group["lr"] = self._run.rate_at(step)
            x, derivative = self._task.draw(self._generator)
            self._optimiser.zero_grad()
            f = self._model(x)
            f.backward(derivative(f.detach()))
            self._optimiser.step()
        self._step = last

    def _keep(self) -> None:
        """Writes the state; the file that names its step comes last, and says that it is whole."""
        state = {
            "step": self._step,
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
            "rows": [{name: torch.from_numpy(array) for name, array in row.items()} for row in self._rows],
        }
        part = self._state.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self._state)
        self._done.write_text(f"{self._step}\n")

    def _restore(self) -> None:
        if not self._done.exists():
            return
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        self._step = state["step"]
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self._rows = [{name: tensor.numpy() for name, tensor in row.items()} for row in state["rows"]]


def stacked(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Each quantity over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.stack([row[name] for row in rows if name in row]) for name in names}
