"""Predicted and found largest learning rates of full-batch descent on (1/N) Σ ½‖f − y‖².

Four predictions, each from the one before: 2N/λ_max of the exact kernel; of the network's own kernel, averaged over
outputs; of its own kernel with all outputs, whose λ_max is the largest of several that differ; and the rate at which
the loss of the network, linearised, first rises within the steps of the search, which depends on the labels too.

Found: the largest rate at which the loss never rises within 30 steps, of the centred network f − f₀ and of the plain
one. Beyond it: which rates recover after a rise, the catapult (Lewkowycz et al. 2020).

Reference: Yang & Salman 2019, their section on the largest learning rate; Jacot et al. 2018.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ntkit._progress import Reporter
from ntkit.dynamics import max_learning_rate
from ntkit.empirical import EmpiricalKernel
from ntkit.empirical.operator import NTKOperator
from ntkit.experiments import learning_rates
from ntkit.experiments.learning_rates import RECOVERS, STABLE, STEPS, LabelSpectrum
from ntkit.experiments.reproductions.experiment import Arrays, Findings, Workbench
from ntkit.experiments.reproductions.yang.learning_rate_tasks import CUBE, Scales, Task, network
from ntkit.experiments.training_runs import Problem
from ntkit.infinite import InfiniteKernel
from ntkit.theory import boolean_cube

_CLOSE = 1.15  # where a wide network's rate is looked for first, beside the linearised network's
_SILENT = Reporter(False)  # one bar for all networks, not five for each


@dataclass(frozen=True)
class Grid:
    """Networks to be trained: every depth with every width, each drawn several times."""

    activation: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    draws: int


@dataclass(frozen=True)
class Member:
    """One network of a grid."""

    activation: str
    depth: int
    width: int
    draw: int


def members(grids: tuple[Grid, ...]) -> list[Member]:
    """All networks, from the narrowest to the widest."""
    every = [Member(grid.activation, depth, width, draw) for grid in grids
             for depth in grid.depths for width in grid.widths for draw in range(grid.draws)]  # fmt: skip
    return sorted(every, key=lambda m: (m.width, m.depth, m.activation, m.draw))


def search_rates(
    tasks: list[Task], grids: tuple[Grid, ...], scales: Scales, seed: int, bench: Workbench
) -> tuple[list[Findings], list[Findings]]:
    """What the limits predict, and a row for each network and target with what was predicted and found."""
    limits = [_limit(task, activation, depth, scales) for task, activation, depth in _limits_of(tasks, grids, bench)]
    of = {(row["set"], row["activation"], row["depth"]): row for row in limits}
    rows: list[Findings] = []
    for width in sorted({m.width for m in members(grids)}):
        jobs = [(task, m) for m in members(grids) if m.width == width for task in tasks]
        for task, m in bench.reporter.track(jobs, f"networks of width {width:,}", len(jobs)):
            limit = of[task.name, m.activation, m.depth]
            file = bench.work / f"{task.name}-{m.activation}-{m.depth}x{m.width}-{m.draw}.done"
            rows += remembered(file, lambda task=task, m=m, limit=limit: _search(task, m, scales, seed, limit))
    return limits, rows


def _limits_of(tasks: list[Task], grids: tuple[Grid, ...], bench: Workbench) -> Iterator[tuple[Task, str, int]]:
    depths = sorted({(m.activation, m.depth) for m in members(grids)})
    jobs = [(task, *one) for task in tasks for one in depths]
    return bench.reporter.track(jobs, "exact kernels", len(jobs))


def _limit(task: Task, activation: str, depth: int, scales: Scales) -> Findings:
    """What networks of this depth are predicted to bear when they are infinitely wide, and by wrong formulas."""
    kernel = InfiniteKernel(network(activation, depth, 2, task, scales, 0))
    both = kernel(task.x)
    exact, conjugate = max_learning_rate(both.ntk), max_learning_rate(both.nngp)
    spectra = {name: spectrum_of_labels(both.ntk, y) for name, y in task.targets.items()}
    first = next(iter(spectra.values()))
    theory = None
    if task.name == CUBE:
        found = boolean_cube(activation, depth, scales.w_std, scales.b_std, task.x.shape[1])
        theory = {"ntk": found.ntk.max_learning_rate, "nngp": found.nngp.max_learning_rate}
    scrambled = None
    if task.scrambled is not None:
        other = Task(task.name, task.scrambled, task.targets)
        kernel = InfiniteKernel(network(activation, depth, 2, other, scales, 0))
        scrambled = max_learning_rate(kernel.ntk(task.scrambled))
    return {
        "set": task.name, "activation": activation, "depth": depth, "exact": exact, "conjugate": conjugate,
        "theory": theory, "scrambled": scrambled, "gap": float(first.nodes[-1] / first.nodes[-2]),
        "top_share": {name: float(spectrum.weights[-1]) for name, spectrum in spectra.items()},
    }  # fmt: skip


def spectrum_of_labels(K: Float[np.ndarray, "n n"], y: Float[np.ndarray, "n o"]) -> LabelSpectrum:
    """Where labels lie in the spectrum of K ⊗ I, whole: its losses are exact for any number of steps."""
    values, vectors = np.linalg.eigh(K)
    return LabelSpectrum(values, ((vectors.T @ y) ** 2).sum(axis=1) / (y**2).sum(), len(K))


def _search(task: Task, member: Member, scales: Scales, seed: int, limit: Findings) -> list[Findings]:
    """One network on all targets of a task; the plain network only where it is the first draw, on the main target."""
    model = network(member.activation, member.depth, member.width, task, scales, _number(seed, member.draw))
    x = torch.from_numpy(task.x).float()
    operator = NTKOperator(model, x)
    own = learning_rates.predicted_rate(operator)
    averaged = max_learning_rate(EmpiricalKernel(model, outputs="mean").ntk(x))
    rows = []
    for i, (name, targets) in enumerate(task.targets.items()):
        y = torch.from_numpy(targets).float()
        rise = learning_rates.label_spectrum(operator, y, STEPS, _SILENT).largest_stable_rate(STEPS)
        centred, plain = (Problem.of(model, x, y, centered=choice) for choice in (True, False))
        wanted = i == 0 and member.draw == 0
        rows.append(
            {
                "set": task.name, "labels": name, "activation": member.activation, "depth": member.depth,
                "width": member.width, "draw": member.draw, "exact": limit["exact"],
                "conjugate": limit["conjugate"], "averaged": averaged, "own": own,
                "first_rise": rise,
                "found": learning_rates.largest_stable_rate(centred, rise, _SILENT, "", within=_CLOSE),
                "plain": learning_rates.largest_stable_rate(plain, own, _SILENT, "") if wanted else None,
            }
        )  # fmt: skip
    return rows


def _number(seed: int, draw: int) -> int:
    """A number for each draw of each seed."""
    return 1000 * seed + draw


def scan_catapult(
    tasks: list[Task], depth: int, widths: tuple[int, ...], scales: Scales, seed: int, bench: Workbench, arrays: Arrays
) -> list[Findings]:
    """Rates around the prediction, ReLU networks on the main target: which are stable, recover or diverge."""
    rows = []
    jobs = [(task, width) for width in widths for task in tasks]
    for task, width in bench.reporter.track(jobs, "rates beyond the prediction", len(jobs)):
        model = network("relu", depth, width, task, scales, _number(seed, 0))
        x = torch.from_numpy(task.x).float()
        targets = next(iter(task.targets.values()))
        own = learning_rates.predicted_rate(NTKOperator(model, x))
        problem = Problem.of(model, x, torch.from_numpy(targets).float(), centered=True)
        scan = learning_rates.scan_rates(problem, own, _SILENT)
        arrays[f"scan_losses_{task.name}_{width}"] = scan.losses
        arrays[f"scan_outcomes_{task.name}_{width}"] = scan.outcomes
        arrays["scan_multiples"] = scan.multiples
        limit = InfiniteKernel(network("relu", depth, 2, task, scales, 0)).ntk(task.x)
        steps = scan.losses.shape[1] - 1
        rows.append(
            {
                "set": task.name, "depth": depth, "width": width, "own": own, "steps": steps,
                "stable_up_to": _largest(scan.multiples[scan.outcomes == STABLE]),
                "recovers_up_to": _largest(scan.multiples[scan.outcomes == RECOVERS]),
                "limit_recovers_up_to": limit_recovers(limit, targets, scan.multiples, steps),
            }
        )  # fmt: skip
    return rows


def limit_recovers(
    K: Float[np.ndarray, "n n"], y: Float[np.ndarray, "n o"], multiples: Float[np.ndarray, "m"], steps: int
) -> float:
    """The largest multiple of 2N/λ_max at which the infinitely wide network's loss rises and recovers; 0 for none."""
    spectrum, predicted = spectrum_of_labels(K, y), max_learning_rate(K)
    outcomes = [learning_rates.outcome(spectrum.losses(float(m) * predicted, steps)) for m in multiples]
    return _largest(multiples[np.array(outcomes) == RECOVERS])


def _largest(multiples: Float[np.ndarray, "m"]) -> float:
    return float(multiples.max()) if len(multiples) else 0.0


def remembered(file: Path, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, kept as JSON in `file`, from where an interrupted run takes it when it goes on."""
    if file.exists():
        return json.loads(file.read_text())
    result = compute()
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(result))
    os.replace(unfinished, file)
    return result
