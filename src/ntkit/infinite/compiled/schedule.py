"""A placed program as tables for the machine, stage by stage, with what the stages share.

Registers of one position ("vectors") are not part of it: where one reads a register with positions, the machine sums
that up (a *total*), and `pairs.py` goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ntkit.infinite import program as ops
from ntkit.infinite.compiled.frames import frames_of, product_of_axes
from ntkit.infinite.compiled.pooling import spread_pools, sums_of_weights
from ntkit.infinite.compiled.stage import Stage, StageBuilder
from ntkit.infinite.flow import registers_with_tangents
from ntkit.infinite.placement import Offsets, Placement


@dataclass
class Planes:
    """Where each sample's quantities by position lie in its state.

    Args:
        rows: (kind, register) -> first row; kinds are "data", "second moment", its "root", "mean",
            and of pools "spread" and "sum".
        width: rows in all.
    """

    rows: dict[tuple[str, int], int] = field(default_factory=dict)
    width: int = 0

    def place(self, kind: str, register: int, size: int) -> int:
        """The first row, made where it is new."""
        if (kind, register) not in self.rows:
            self.rows[kind, register] = self.width
            self.width += size
        return self.rows[kind, register]


class Schedule:
    """The tables of a placed program.

    Args:
        placement: program and sizes.
        targets: registers wanted, with the offsets at which they are wanted.
        with_ntk: whether the tangent kernel is carried.
    """

    def __init__(self, placement: Placement, targets: Mapping[int, Offsets], with_ntk: bool):
        self.placement, self.with_ntk = placement, with_ntk
        self.instructions = placement.program.instructions
        self.needs = placement.needed(targets)
        self.frames = {i: frame for i, frame in frames_of(placement).items() if self.needs[i] is not None}
        self.has_t = registers_with_tangents(placement.program, with_ntk)
        self.planes = Planes()
        self.spread = set(spread_pools(placement))
        self.weights = [np.zeros(1)]  # of totals, by position
        self.totals = [i for i in range(len(self.instructions)) if self.is_total(i)]
        self.tensors: dict[int, int] = {}  # exported register -> first row of its tensor
        self.tensor_rows = 0
        for i in self.frames:
            if self.is_exported(i):
                self.tensors[i] = self.tensor_rows
                self.tensor_rows += placement.positions(i) ** 2 * (1 + self.has_t[i])
        numbers = sorted({frame.stage for frame in self.frames.values()})
        self.stages: list[Stage] = [StageBuilder(self, number).build() for number in numbers]
        self.all_weights = np.concatenate(self.weights)

    def is_pool(self, i: int) -> bool:
        """Whether a register is written by the stage before its own."""
        return isinstance(self.instructions[i], ops.Pool)

    def is_total(self, i: int) -> bool:
        """Whether a register is a vector summed up from one with positions."""
        sources = self.instructions[i].sources
        return self.needs[i] is not None and i not in self.frames and any(s in self.frames for s in sources)

    def is_exported(self, i: int) -> bool:
        """Whether a register lies in a tensor: pooled ones, and those that a later stage reads."""
        later = (j for j in self.readers(i) if j in self.frames and self.frames[j].stage > self.frames[i].stage)
        return self.is_pool(i) or any(not self.is_pool(j) for j in later)

    def readers(self, i: int) -> list[int]:
        """Registers that are computed from a register."""
        return [j for j, op in enumerate(self.instructions) if i in op.sources and self.needs[j] is not None]

    def place_pool_planes(self, i: int, op: ops.Pool) -> None:
        """Rows for what pooling takes away from summed distances; see pooling.py."""
        positions = self.placement.positions(i)
        if i in self.spread:
            self.planes.place("spread", i, positions)
        if np.ptp(sums_of_weights(op, self.placement.grids[op.source])) > 0:
            self.planes.place("sum", i, positions)

    def place_weights(self, total: int) -> tuple[int, bool]:
        """(first weight of a total, whether only equal positions count)."""
        op = self.instructions[total]
        grid = self.placement.grids[op.sources[0]]
        weights = total_weights(op, grid)
        first = sum(len(w) for w in self.weights)
        self.weights.append(weights)
        return first, not isinstance(op, ops.Pool)


def total_weights(op: ops.Instruction, grid: tuple[int, ...]) -> np.ndarray:
    """The weight of every position in an instruction that sums all of them up."""
    match op:
        case ops.Trace():
            return np.full(math.prod(grid), 1 / math.prod(grid))
        case ops.Window():
            return product_of_axes([axis.counts(n)[0] for axis, n in zip(op.axes, grid, strict=True)]) / op.taps
        case ops.Pool():
            return product_of_axes([axis.matrix(n)[0] for axis, n in zip(op.axes, grid, strict=True)]) * op.factor
    raise TypeError(f"{op} does not sum over positions")
