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
from ntkit.infinite.compiled.lanes import LANES
from ntkit.infinite.compiled.pooling import finish_stage, pooled, self_distances, sums_of_weights, windowed
from ntkit.infinite.compiled.runner import AfterStage, Group, Runner
from ntkit.infinite.compiled.schedule import Planes, total_weights
from ntkit.infinite.compiled.stage import Stage
from ntkit.infinite.dual import ClosedForm
from ntkit.infinite.placement import Placement

Values = dict[int, np.ndarray]  # register -> (samples, positions)


@dataclass
class States:
    """Quantities of some samples, by register: the data (channels first), second moments, means, spreads r, sums m."""

    data: Values = field(default_factory=dict)
    moments: Values = field(default_factory=dict)
    means: Values = field(default_factory=dict)
    spreads: Values = field(default_factory=dict)
    sums: Values = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.moments.values())))

    def pack(self, planes: Planes, packed: np.ndarray) -> None:
        """Writes the columns that are known."""
        kinds = {"data": self.data, "second moment": self.moments, "mean": self.means, "spread": self.spreads}
        kinds |= {"sum": self.sums, "root": self.moments}
        for (kind, register), column in planes.columns.items():
            if register in kinds[kind]:
                values = np.sqrt(self.moments[register]) if kind == "root" else kinds[kind][register]
                packed[:, column : column + values.shape[1]] = values

    def packed(self, planes: Planes, dtype: np.dtype) -> np.ndarray:
        """(samples, width): the columns that a schedule reads."""
        packed = np.zeros((len(self), max(planes.width, 1)), dtype=dtype)
        self.pack(planes, packed)
        return packed

    @classmethod
    def joined(cls, parts: list[States]) -> States:
        """Samples of all parts, one after another."""
        if len(parts) == 1:
            return parts[0]
        kinds = ("data", "moments", "means", "spreads", "sums")
        join = {k: {i: np.concatenate([getattr(p, k)[i] for p in parts]) for i in getattr(parts[0], k)} for k in kinds}
        return cls(**join)


class StateBuilder:
    """Computes `States`.

    Args:
        placement: program and sizes.
        duals: register -> its dual.
        near: runs the pairs of positions that pooled second moments need, in float64; None where there are none.
    """

    def __init__(self, placement: Placement, duals: Mapping[int, ClosedForm], near: Runner | None):
        self.placement, self.duals, self.near = placement, duals, near
        self.instructions = placement.program.instructions

    def build(self, x: np.ndarray) -> States:
        """States of samples x (n, *sample), which may be float32; all but the data are float64."""
        if self.near is None:
            states = States()
            self._advance(states, x, math.inf)
            return states
        size = LANES * self.near.group_size(-(-len(x) // LANES))
        return States.joined([self._with_spreads(x[k : k + size]) for k in range(0, len(x), size)])

    def _with_spreads(self, x: np.ndarray) -> States:
        assert self.near is not None
        states, schedule, n = States(), self.near.schedule, len(x)
        packed = np.zeros((n, max(schedule.planes.width, 1)))

        def around(group: Group) -> AfterStage:
            def after_stage(stage: Stage) -> None:
                for target in stage.writes:
                    if schedule.is_pool(target):
                        sums = self_distances(group.tensors, schedule.tensors[target], self.placement.positions(target))
                        states.spreads[target] = sums[:n] / 2
                self._advance(states, x, stage.number + 1)
                states.pack(schedule.planes, packed)
                finish_stage(stage, schedule, group, packed, packed, None)

            return after_stage

        self._advance(states, x, schedule.stages[0].number)
        states.pack(schedule.planes, packed)
        same = np.arange(n)
        totals = self.near.run(packed, packed, (same, same), around)
        for k, total in enumerate(schedule.totals):
            states.spreads[total] = totals[k, 0, :, None] / 2
        self._advance(states, x, math.inf)
        return states

    def _advance(self, states: States, x: np.ndarray, stage: int | float) -> None:
        """Computes what is not yet known, up to a stage; vectors at the end."""
        frames = {} if self.near is None else self.near.schedule.frames
        for i, op in enumerate(self.instructions):
            due = math.isinf(stage) or (i in frames and frames[i].stage <= stage)
            if i not in states.moments and due and all(source in states.moments for source in op.sources):
                self._step(i, op, states, x)

    def _step(self, i: int, op: ops.Instruction, states: States, x: np.ndarray) -> None:
        q = states.moments
        match op:
            case ops.Read():
                states.data[i], q[i] = self._read(op, x)
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

    def _read(self, op: ops.Read, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not op.position_axes:
            data = x.reshape(len(x), -1)
            return data, np.einsum("nd,nd->n", data, data, dtype=np.float64)[:, None] / data.shape[1]
        data = x.transpose(0, *([] if op.channel_axis is None else [op.channel_axis]), *op.position_axes)
        data = data.reshape(len(x), self.placement.channels(op), -1)
        return data.reshape(len(x), -1), np.square(data, dtype=np.float64).mean(1)

    def _dual(self, i: int, op: ops.Dual, states: States) -> None:
        before = states.moments[op.source]
        try:
            samples = self.duals[i].samples(torch.from_numpy(before.ravel()))
        except NtkitError as error:
            raise type(error)(f"at '{op.path}': {error}") from None
        states.moments[i] = samples.variance.numpy().reshape(before.shape)
        states.means[i] = samples.mean.numpy().reshape(before.shape)
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
