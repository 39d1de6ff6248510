"""What is known of each sample alone: second moments and means of every register at every position, in float64.

Everything but pooling maps them position by position. A pooled second moment needs the sample's own covariance within
the windows: q' = A m − r with m = W q, A = W 1 and the spread r = ½ (W D Wᵀ) on the diagonal, for which each sample
runs through the machine as a pair with itself, stage by stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ntkit.errors import InvalidInput, NtkitError
from ntkit.infinite import program as ops
from ntkit.infinite.compiled.lanes import LANES, SIDE
from ntkit.infinite.compiled.pooling import finish_stage, pooled, self_distances, sums_of_weights, windowed
from ntkit.infinite.compiled.runner import AfterStage, Group, Runner
from ntkit.infinite.compiled.samples import mean_squares, put_in_blocks
from ntkit.infinite.compiled.schedule import Planes, total_weights
from ntkit.infinite.compiled.stage import Stage
from ntkit.infinite.dual import ClosedForm
from ntkit.infinite.inputs import require_norms
from ntkit.infinite.placement import Placement

Values = dict[int, np.ndarray]  # register -> (positions, samples)
_PART = 2**16  # numbers of a register that are computed at once, so that they stay in cache
_ALONE = 2**15 - 1  # more numbers torch shares out over threads, which then go on waiting, busily, beside ours


@dataclass
class States:
    """What is known of n samples.

    Args:
        n: samples.
        data: register -> the data, (samples, values), channels first.
        packed: name of a layout -> its rows, as `Layout` arranges them.
        moments: second moments by register, as long as they are needed; `means` and `spreads` (r) the same.
    """

    n: int
    data: Values
    packed: dict[str, np.ndarray]
    moments: Values = field(default_factory=dict)
    means: Values = field(default_factory=dict)
    spreads: Values = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n


@dataclass(frozen=True)
class Layout:
    """Rows that are wanted of each sample, and how they lie.

    Args:
        planes: what they are.
        dtype: their precision.
        in_blocks: whether they lie as (blocks, width, `SIDE`), the last block filled up with its last sample, else as
            (width, samples): samples last in any case, for those of a tile are read together.
    """

    planes: Planes
    dtype: np.dtype
    in_blocks: bool = False

    def room(self, n: int) -> np.ndarray:
        """For n samples."""
        width = max(self.planes.width, 1)
        return np.zeros((-(-n // SIDE), width, SIDE) if self.in_blocks else (width, n), dtype=self.dtype)

    def put(self, into: np.ndarray, row: int, values: np.ndarray, root: bool) -> None:
        """Writes (positions, samples), or their roots, into the rows from one on."""
        if self.in_blocks:
            put_in_blocks(np.sqrt(values) if root else values, into, row)
            return
        with np.errstate(over="ignore"):  # what float32 cannot hold shows in the results
            if root:
                np.sqrt(values, out=into[row : row + len(values)], casting="same_kind")
            else:
                into[row : row + len(values)] = values

    def join(self, into: np.ndarray, samples: slice, part: np.ndarray) -> None:
        """Writes what is known of a part of the samples; its first one begins a block."""
        if self.in_blocks:
            first = samples.start // SIDE
            into[first : first + len(part)] = part
        else:
            into[:, samples] = part


class StateBuilder:
    """Computes `States`.

    Args:
        placement: program and sizes.
        duals: register -> its dual.
        near: runs the pairs of positions that pooled second moments need, in float64; None where there are none. Its
            layout is named "near".
        layouts: name -> what is wanted.
    """

    def __init__(
        self,
        placement: Placement,
        duals: Mapping[int, ClosedForm],
        near: Runner | None,
        layouts: Mapping[str, Layout],
    ):
        self.placement, self.duals, self.near, self.layouts = placement, duals, near, layouts
        self.instructions = placement.program.instructions
        self.read_means = self._read_means()
        self.readers = [sum(i in op.sources for op in self.instructions) for i in range(len(self.instructions))]
        self.largest = max(map(placement.positions, range(len(self.instructions))))

    def _read_means(self) -> set[int]:
        """Registers whose means are read, directly or through pooling."""
        found: set[int] = set()
        for i in range(len(self.instructions) - 1, -1, -1):
            op = self.instructions[i]
            if isinstance(op, ops.Combine):
                found.update(register for one, two, _ in op.mean_products for register in (one, two))
            elif i in found and isinstance(
                op, (ops.Pool, ops.Trace, ops.Normalize, ops.ScaleAndShift)
            ):  # an activation makes its mean itself
                found.update(op.sources)
        return found

    def build(self, x: np.ndarray) -> States:
        """States of samples x (n, *sample), which may be float32; second moments are computed in float64."""
        reads = ((i, op) for i, op in enumerate(self.instructions) if isinstance(op, ops.Read))
        states = States(len(x), {i: self._data(op, x) for i, op in reads}, self._room(len(x)))
        size = max(1, _PART // self.largest)
        if self.near is not None:
            size = LANES * self.near.group_size(-(-len(x) // LANES))
        size = max(SIDE, size // SIDE * SIDE)
        if size >= len(x):
            self._compute(states)
            return states
        for first in range(0, len(x), size):
            samples = slice(first, min(first + size, len(x)))
            data = {register: values[samples] for register, values in states.data.items()}
            part = States(samples.stop - first, data, self._room(samples.stop - first))
            self._compute(part)
            for name, rows in part.packed.items():
                self.layouts[name].join(states.packed[name], samples, rows)
        return states

    def _room(self, n: int) -> dict[str, np.ndarray]:
        return {name: layout.room(n) for name, layout in self.layouts.items()}

    def _compute(self, states: States) -> None:
        for register, values in states.data.items():
            self._pack(states, "data", register, values.T)
        waiting = list(self.readers)
        if self.near is not None:
            self._with_spreads(states, self.near, waiting)
        self._advance(states, math.inf, waiting)

    def _pack(self, states: States, kind: str, register: int, values: np.ndarray) -> None:
        """Puts (positions, samples) where they are wanted."""
        for name, layout in self.layouts.items():
            row = layout.planes.rows.get((kind, register))
            if row is not None:
                layout.put(states.packed[name], row, values, kind == "root")

    def _with_spreads(self, states: States, near: Runner, waiting: list[int]) -> None:
        """All that pooling in all stages needs."""
        schedule, n, packed = near.schedule, len(states), states.packed["near"]

        def add_spread(register: int, values: np.ndarray) -> None:
            states.spreads[register] = values
            self._pack(states, "spread", register, values)

        def around(group: Group) -> AfterStage:
            def after_stage(stage: Stage) -> None:
                for target in stage.writes:
                    if schedule.is_pool(target):
                        sums = self_distances(group.tensors, schedule.tensors[target], self.placement.positions(target))
                        add_spread(target, sums[:, :n] / 2)
                self._advance(states, stage.number + 1, waiting)
                finish_stage(stage, schedule, group, packed, packed, None)

            return after_stage

        self._advance(states, schedule.stages[0].number, waiting)
        same = np.arange(n)
        totals = near.run(packed, packed, (same, same), around)
        for k, total in enumerate(schedule.totals):
            add_spread(total, totals[k, :1] / 2)

    def _advance(self, states: States, stage: int | float, waiting: list[int]) -> None:
        """Computes what is not yet known, up to a stage; vectors at the end. `waiting` counts readers yet to come."""
        frames = {} if self.near is None else self.near.schedule.frames
        for i, op in enumerate(self.instructions):
            due = math.isinf(stage) or (i in frames and frames[i].stage <= stage)
            if waiting[i] < 0 or i in states.moments or not due or not all(s in states.moments for s in op.sources):
                continue
            self._step(i, op, states)
            for kind, values in (("second moment", states.moments), ("root", states.moments), ("mean", states.means)):
                if i in values:
                    self._pack(states, kind, i, values[i])
            for source in {i, *op.sources}:
                waiting[source] -= source != i
                if waiting[source] == 0:  # memory in use is memory in cache
                    waiting[source] = -1
                    del states.moments[source]
                    states.means.pop(source, None)

    def _step(self, i: int, op: ops.Instruction, states: States) -> None:
        q = states.moments
        match op:
            case ops.Read():
                q[i] = self._mean_square(op, states.data[i])
            case ops.Affine():
                w, b, *_ = op.numbers
                q[i] = w * q[op.source]
                if b:
                    q[i] += b
            case ops.Dual():
                self._dual(i, op, states)
            case ops.Window():
                q[i] = windowed(op, q[op.source], self.placement.grids[op.source])
            case ops.Trace():
                weights = total_weights(op, self.placement.grids[op.source])
                q[i] = np.einsum("p,pn->n", weights, q[op.source])[None]
                if op.source in states.means and self.placement.positions(op.source) == 1:
                    states.means[i] = states.means[op.source]
            case ops.Pool():
                self._pool(i, op, states)
            case ops.Normalize():
                self._normalize(i, op, states)
            case ops.ScaleAndShift():
                q[i] = q[op.source]
                if op.source in states.means:
                    states.means[i] = states.means[op.source]
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
        """Over channels, or where there are no positions over all values."""
        if not op.position_axes:
            return np.einsum("nc,nc->n", data, data, dtype=np.float64)[None] / data.shape[1]
        values = np.ascontiguousarray(data).reshape(len(data), self.placement.channels(op), -1)
        means = np.empty((values.shape[2], len(data)))
        mean_squares(values, np.empty(values.shape[2]), means)
        return means

    def _dual(self, i: int, op: ops.Dual, states: States) -> None:
        before = states.moments[op.source]
        parts = torch.from_numpy(before.ravel()).split(_ALONE)
        try:
            found = [self.duals[i].moments(part, i in self.read_means) for part in parts]
        except NtkitError as error:
            raise type(error)(f"at '{op.path}': {error}") from None
        states.moments[i] = np.concatenate([moment.numpy() for moment, _ in found]).reshape(before.shape)
        if i in self.read_means:
            means = [mean.numpy() for _, mean in found if mean is not None]
            states.means[i] = np.concatenate(means).reshape(before.shape)
        if not states.moments[i].max() < np.inf:
            raise InvalidInput(
                f"the second moment after {op.activation.name} at '{op.path}' overflows float64; use smaller weights "
                "or inputs"
            )

    def _pool(self, i: int, op: ops.Pool, states: States) -> None:
        grid = self.placement.grids[op.source]
        sums = pooled(op, states.moments[op.source], grid)
        self._pack(states, "sum", i, sums)
        states.moments[i] = sums_of_weights(op, grid)[:, None] * sums - states.spreads.get(i, 0.0)
        if op.source in states.means:
            states.means[i] = pooled(op, states.means[op.source], grid)

    def _normalize(self, i: int, op: ops.Normalize, states: States) -> None:
        before = states.moments[op.source]
        square = before.mean(axis=0, keepdims=True) if op.over_positions else before
        norm = np.broadcast_to(np.sqrt(square + op.eps), before.shape)
        require_norms(norm, op)
        states.moments[i] = before / norm**2
        if op.source in states.means:
            states.means[i] = states.means[op.source] / norm
        self._pack(states, "norm", i, norm)
        self._pack(states, "share of norm", i, before / norm)
        self._pack(states, "inverse norm", i, 1 / norm)
