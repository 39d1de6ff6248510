"""From admitted samples to a kernel: prove routes on a few samples, check sizes, run the routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import check_finite
from ntkit._memory import room_beside
from ntkit.empirical.assign import Assignment, assign, remember, remembered
from ntkit.empirical.blocks import add_diagonal, add_gram
from ntkit.empirical.contraction import Outputs
from ntkit.empirical.costs import Plan, result_numbers
from ntkit.empirical.graph import Reassign, Stale
from ntkit.empirical.inputs import FEW, a_few, batch_size, join
from ntkit.empirical.network import Network
from ntkit.empirical.passes import Task
from ntkit.empirical.schedule import describe, schedule


@dataclass(frozen=True)
class Engine:
    """What one call of an `EmpiricalKernel` computes with; its samples are already known to be good.

    Args:
        network: the model at this moment.
        outputs: which pairs of outputs.
        memory_limit: bytes for result and intermediates; None means half of what is free beside the result.
    """

    network: Network
    outputs: Outputs
    memory_limit: int | None

    def gram(self, x1: Any, x2: Any) -> dict[str, Float[Tensor, "n m *o"]]:
        """k(x1_n, x2_m) of each part of the kernel; x2 = None means x1 and gives exactly symmetric results."""
        n, m = batch_size(x1), batch_size(x1 if x2 is None else x2)
        task = Task(self.outputs, n, None if x2 is None else m)

        def run(assignment: Assignment, strictly: bool) -> dict[str, Tensor]:
            budget = self._budget(assignment, (n, m))
            result = self._zeros(assignment, (n, m))
            for job in schedule(self.network, assignment, task, budget, strictly):
                add_gram(result, job.route, job.work, assignment.n_outputs, x1, x2, self.outputs)
            return result

        return self._finished(x1, x2, run)

    def diagonal(self, x: Any) -> dict[str, Float[Tensor, "n *o"]]:
        """k(x_n, x_n) of each part of the kernel."""
        n = batch_size(x)
        task = Task(self.outputs, n, diagonal=True)

        def run(assignment: Assignment, strictly: bool) -> dict[str, Tensor]:
            budget = self._budget(assignment, (n,))
            result = self._zeros(assignment, (n,))
            for job in schedule(self.network, assignment, task, budget, strictly):
                add_diagonal(result, job.route, job.work, assignment.n_outputs, x, self.outputs)
            return result

        return self._finished(x, None, run)

    def plan(self, x: Any) -> Plan:
        """How `gram(x, None)` will be computed."""
        n = batch_size(x)
        assignment = assign(self.network, _probe(x, None), frozenset())
        task = Task(self.outputs, n)
        jobs = schedule(self.network, assignment, task, self._budget(assignment, (n, n)))
        return describe(self.network, assignment, jobs, task)

    def _finished(self, x: Any, x2: Any, run: Callable[[Assignment, bool], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Run, again with fewer rules where later samples break what was proved on a few."""
        known = remembered(self.network, x)
        excluded: frozenset[str] = frozenset()
        while True:
            assignment = assign(self.network, _probe(x, x2), excluded) if known is None else known
            try:
                result = run(assignment, known is not None)
                break
            except Stale:
                known = None
            except Reassign as found:  # each time names at least one parameter more
                excluded, known = excluded | found.names, None
        if assignment.orders and not excluded:  # the way is seen where rules are used
            remember(self.network, x, assignment)
        for kernel in result.values():
            if self.outputs == "mean":
                kernel /= assignment.n_outputs
            check_finite(kernel, "the tangent kernel (products of the model's derivatives at these parameters)")
        return result

    def _shape(self, assignment: Assignment, samples: tuple[int, ...]) -> tuple[int, ...]:
        o = assignment.n_outputs
        return samples + {"full": (o, o), "diagonal": (o,)}.get(self.outputs, ())

    def _zeros(self, assignment: Assignment, samples: tuple[int, ...]) -> dict[str, Tensor]:
        kind = {"dtype": self.network.result_dtype, "device": self.network.device}
        parts = dict.fromkeys(self.network.part_of.values())
        return {part: torch.zeros(self._shape(assignment, samples), **kind) for part in parts}

    def _budget(self, assignment: Assignment, samples: tuple[int, ...]) -> int:
        """Bytes left for intermediates once the result, whose size is checked here, is allocated."""
        shape = self._shape(assignment, samples)
        pairs = samples[0] * samples[-1] if len(samples) == 2 else samples[0]
        parts = len(set(self.network.part_of.values()))
        itemsize = self.network.result_dtype.itemsize
        needed = parts * pairs * result_numbers(assignment.n_outputs, self.outputs) * itemsize
        remedy = (
            'take outputs="trace" or fewer samples, raise memory_limit, or use NTKOperator(model, x), which never '
            "forms the kernel"
        )
        what = f"the kernel, shape {shape}," if parts == 1 else f"a kernel of shape {shape} for each of {parts} parts"
        return room_beside(needed, what, remedy, self.memory_limit, self.network.device)


def _probe(x1: Any, x2: Any) -> Any:
    """A few samples spread over both batches."""
    return a_few(x1) if x2 is None else join(a_few(x1, FEW // 2), a_few(x2, FEW // 2))
