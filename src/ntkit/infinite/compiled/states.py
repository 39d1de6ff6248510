"""What is known of each sample alone: second moments and means of every register at every position, in float64.

Everything but pooling maps them position by position. A pooled second moment needs the sample's own covariance within
the windows: q' = A m − r with m = W q, A = W 1 and the spread r = ½ (W D Wᵀ) on the diagonal, for which each sample
runs through the machine as a pair with itself, stage by stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import torch

from ntkit.errors import InvalidInput, NtkitError
from ntkit.infinite import program as ops
from ntkit.infinite.compiled.lanes import LANES
from ntkit.infinite.compiled.pooling import finish_stage, pooled, self_distances, sums_of_weights, windowed
from ntkit.infinite.compiled.runner import AfterStage, Group, Runner
from ntkit.infinite.compiled.schedule import Planes, total_weights
from ntkit.infinite.compiled.stage import Stage
from ntkit.infinite.dual import ClosedForm
from ntkit.infinite.placement import Placement

Values = dict[int, np.ndarray]  # register -> (samples, positions)
_PART = 2**15  # numbers from which torch shares work out over threads, which then go on waiting, busily, beside ours


@dataclass
class States:
    """Quantities of n samples, by register: the data (channels first), second moments, means, spreads r, sums m."""

    n: int
    data: Values = field(default_factory=dict)
    moments: Values = field(default_factory=dict)
    means: Values = field(default_factory=dict)
    spreads: Values = field(default_factory=dict)
    sums: Values = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n

    def of_kind(self, kind: str) -> Values:
        """The quantities of a kind, as `Planes` names them."""
        kinds = {"data": self.data, "mean": self.means, "spread": self.spreads, "sum": self.sums}
        return kinds.get(kind, self.moments)  # "second moment" and "root"

    def pack(self, planes: Planes, packed: np.ndarray) -> None:
        """Writes the columns that are known."""
        for (kind, register), column in planes.columns.items():
            values = self.of_kind(kind).get(register)
            if values is not None:
                into = packed[:, column : column + values.shape[1]]
                if kind == "root":
                    np.sqrt(values, out=into, casting="same_kind")
                else:
                    into[...] = values

    def packed(self, planes: Planes, dtype: np.dtype) -> np.ndarray:
        """(samples, width): the columns that a schedule reads."""
        packed = np.zeros((len(self), max(planes.width, 1)), dtype=dtype)
        self.pack(planes, packed)
        return packed

    def write(self, part: States, rows: slice, kept: Set[tuple[str, int]]) -> None:
        """Takes over from a part, which holds some of the samples, what is named by kind and register."""
        for kind, register in kept:
            mine, values = self.of_kind(kind), part.of_kind(kind).get(register)
            if values is not None and kind != "data":
                if register not in mine:
                    mine[register] = np.empty((len(self), values.shape[1]), dtype=values.dtype)
                mine[register][rows] = values


def packed_sides(left: States, right: States, planes: Planes, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The columns of both sides, once where they are the same samples."""
    one = left.packed(planes, dtype)
    return one, one if right is left else right.packed(planes, dtype)


class StateBuilder:
    """Computes `States`.

    Args:
        placement: program and sizes.
        duals: register -> its dual.
        near: runs the pairs of positions that pooled second moments need, in float64; None where there are none.
        kept: kinds and registers that are read later.
    """

    def __init__(
        self,
        placement: Placement,
        duals: Mapping[int, ClosedForm],
        near: Runner | None,
        kept: Set[tuple[str, int]],
    ):
        self.placement, self.duals, self.near, self.kept = placement, duals, near, kept
        self.instructions = placement.program.instructions
        self.read_means = self._read_means()
        self.largest = max(map(placement.positions, range(len(self.instructions))))

    def _read_means(self) -> set[int]:
        """Registers whose means are read, directly or through pooling."""
        found: set[int] = set()
        for i in range(len(self.instructions) - 1, -1, -1):
            op = self.instructions[i]
            if isinstance(op, ops.Combine):
                found.update(register for one, two, _ in op.mean_products for register in (one, two))
            elif i in found:
                found.update(op.sources)
        return found

    def build(self, x: np.ndarray) -> States:
        """States of samples x (n, *sample), which may be float32; all but the data are float64."""
        reads = ((i, op) for i, op in enumerate(self.instructions) if isinstance(op, ops.Read))
        states = States(len(x), {i: self._data(op, x) for i, op in reads})
        if self.near is None:
            size, compute = max(1, (_PART - 1) // self.largest), self._alone
        else:
            size, compute = LANES * self.near.group_size(-(-len(x) // LANES)), self._with_spreads
        for k in range(0, len(x), size):
            self._add(states, slice(k, k + size), compute)
        return states

    def _add(self, states: States, rows: slice, compute: Callable[[States], None]) -> None:
        data = {register: values[rows] for register, values in states.data.items()}
        part = States(len(range(len(states))[rows]), data)
        compute(part)
        states.write(part, rows, self.kept)

    def _alone(self, states: States) -> None:
        self._advance(states, math.inf)

    def _with_spreads(self, states: States) -> None:
        assert self.near is not None
        schedule, n = self.near.schedule, len(states)
        packed = np.zeros((n, max(schedule.planes.width, 1)))

        def around(group: Group) -> AfterStage:
            def after_stage(stage: Stage) -> None:
                for target in stage.writes:
                    if schedule.is_pool(target):
                        sums = self_distances(group.tensors, schedule.tensors[target], self.placement.positions(target))
                        states.spreads[target] = sums[:n] / 2
                self._advance(states, stage.number + 1)
                states.pack(schedule.planes, packed)
                finish_stage(stage, schedule, group, packed, packed, None)

            return after_stage

        self._advance(states, schedule.stages[0].number)
        states.pack(schedule.planes, packed)
        same = np.arange(n)
        totals = self.near.run(packed, packed, (same, same), around)
        for k, total in enumerate(schedule.totals):
            states.spreads[total] = totals[k, 0, :, None] / 2
        self._advance(states, math.inf)

    def _advance(self, states: States, stage: int | float) -> None:
        """Computes what is not yet known, up to a stage; vectors at the end."""
        frames = {} if self.near is None else self.near.schedule.frames
        for i, op in enumerate(self.instructions):
            due = math.isinf(stage) or (i in frames and frames[i].stage <= stage)
            if i not in states.moments and due and all(source in states.moments for source in op.sources):
                self._step(i, op, states)

    def _step(self, i: int, op: ops.Instruction, states: States) -> None:
        q = states.moments
        match op:
            case ops.Read():
                q[i] = self._mean_square(op, states.data[i])
            case ops.Affine():
                q[i] = op.weight_variance * q[op.source] + op.bias_variance
            case ops.Dual():
                self._dual(i, op, states)
            case ops.Window():
                q[i] = windowed(op, q[op.source], self.placement.grids[op.source])
            case ops.Trace():
                q[i] = q[op.source] @ total_weights(op, self.placement.grids[op.source])[:, None]
                if op.source in states.means and self.placement.positions(op.source) == 1:
                    states.means[i] = states.means[op.source]
            case ops.Pool():
                self._pool(i, op, states)
            case ops.Combine():
                q[i] = sum(w * q[t] for t, w in zip(op.terms, op.weights, strict=True))  # pyright: ignore
                for one, two, c in op.mean_products:
                    q[i] = q[i] + 2 * c * states.means[one] * states.means[two]
            case _:
                raise TypeError(f"the compiled engine does not know the instruction {op}")

    def _data(self, op: ops.Read, x: np.ndarray) -> np.ndarray:
        """The data with channels first, (samples, values): a view where they lie so."""
        if op.position_axes:
            x = x.transpose(0, *([] if op.channel_axis is None else [op.channel_axis]), *op.position_axes)
        return x.reshape(len(x), -1)

    def _mean_square(self, op: ops.Read, data: np.ndarray) -> np.ndarray:
        if not op.position_axes:
            return np.einsum("nd,nd->n", data, data, dtype=np.float64)[:, None] / data.shape[1]
        return np.square(data.reshape(len(data), self.placement.channels(op), -1), dtype=np.float64).mean(1)

    def _dual(self, i: int, op: ops.Dual, states: States) -> None:
        before = states.moments[op.source]
        try:
            moment, mean = self.duals[i].moments(torch.from_numpy(before.ravel()), i in self.read_means)
        except NtkitError as error:
            raise type(error)(f"at '{op.path}': {error}") from None
        states.moments[i] = moment.numpy().reshape(before.shape)
        if mean is not None:
            states.means[i] = mean.numpy().reshape(before.shape)
        if not np.isfinite(states.moments[i]).all():
            raise InvalidInput(
                f"the second moment after {op.activation.name} at '{op.path}' overflows float64; use smaller weights "
                "or inputs"
            )

    def _pool(self, i: int, op: ops.Pool, states: States) -> None:
        grid = self.placement.grids[op.source]
        states.sums[i] = pooled(op, states.moments[op.source], grid)
        states.moments[i] = sums_of_weights(op, grid) * states.sums[i] - states.spreads.get(i, 0.0)
        if op.source in states.means:
            states.means[i] = pooled(op, states.means[op.source], grid)
