"""The machine's tables of one stage, written entry by entry; their columns stand in machine.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ntkit.architecture.windows import OUTSIDE
from ntkit.infinite import program as ops
from ntkit.infinite.compiled.frames import Frame, band_axis, triple
from ntkit.infinite.placement import Grid


@dataclass
class Tables:
    """Operations, passes, levels, convolutions and pools of a stage.

    Args:
        largest: positions of the stage's largest grid.
    """

    largest: int
    ops: list[list[int]] = field(default_factory=list)
    numbers: list[list[float]] = field(default_factory=list)
    passes: list[list[int]] = field(default_factory=list)
    levels: list[list[int]] = field(default_factory=list)
    convs: list[list[int]] = field(default_factory=list)
    taps: list[np.ndarray] = field(default_factory=list)
    pools: list[list[int]] = field(default_factory=list)
    readers: list[np.ndarray] = field(default_factory=list)
    shares: list[np.ndarray] = field(default_factory=list)
    integers: int = 0  # room for coordinates and taps of one slice
    _known: dict[tuple, int] = field(default_factory=dict)

    def operation(
        self,
        code: int,
        a: int = 0,
        b: int = 0,
        *,
        t_in: bool = False,
        t_out: bool = False,
        c: int = 0,
        count: int = 0,
        plane: int = 0,
        numbers: tuple[float, ...] = (),
    ) -> None:
        """One more operation of the present pass."""
        self.ops.append([code, a, b, int(t_in), int(t_out), c, count, plane])
        self.numbers.append([*numbers, *[0.0] * (4 - len(numbers))])

    def level(self, grid: Grid, frame: Frame) -> int:
        """Number of the level of a grid with a frame's factor."""
        three = triple(grid)
        key = ("level", three, frame.factor, frame.modular)
        if key not in self._known:
            positions = int(np.prod(three))
            self._known[key] = len(self.levels)
            self.levels.append([*three, *frame.factor, int(frame.modular), positions, self.integers])
            self.integers += 2 * positions
        return self._known[key]

    def convolution(self, op: ops.Window, level_in: int, level_out: int, grid: Grid, out: Grid) -> int:
        """Number of the convolution from one level to another."""
        key = ("convolution", op.axes, level_in, level_out)
        if key not in self._known:
            per_axis = [np.zeros((1, 1), dtype=np.int64)] * (3 - len(grid))
            per_axis += [axis.taps(n) for axis, n in zip(op.axes, grid, strict=True)]
            places = [self._add_taps(taps) for taps in per_axis]
            room = int(np.prod(out)) * op.taps
            kernels = triple(tuple(axis.kernel for axis in op.axes))
            # rows 1 … largest of a slice are its own, its rim lies behind
            self.convs.append(
                [level_in, level_out, *kernels, *places, self.integers, self.integers + room, self.largest]
            )
            self.integers += room + 1 + 4 * int(np.prod(grid))
            self._known[key] = len(self.convs) - 1
        return self._known[key]

    def flat_taps(self, op: ops.Window, grid: Grid) -> int:
        """Where the table begins that holds, for each output position, the position of every tap, or `OUTSIDE`."""
        flat = np.zeros((1, 1), dtype=np.int64)
        for axis, n in zip(op.axes, grid, strict=True):
            taps = axis.taps(n)[None, :, None, :]
            outside = (flat == OUTSIDE)[:, None, :, None] | (taps == OUTSIDE)
            both = np.where(outside, OUTSIDE, flat[:, None, :, None] * n + taps)
            flat = both.reshape(both.shape[0] * both.shape[1], -1)
        return self._add_taps(flat)

    def _add_taps(self, taps: np.ndarray) -> int:
        place = sum(map(len, self.taps))
        self.taps.append(taps.ravel())
        return place

    def pool(self, op: ops.Pool | None, grid: Grid, out: Grid) -> int:
        """Number of the pooling layer from one grid to another; None keeps every position."""
        matrices = [np.eye(n) for n in grid]
        if op is not None:
            matrices = [axis.matrix(n) for axis, n in zip(op.axes, grid, strict=True)]
        matrices = [np.eye(1)] * (3 - len(grid)) + matrices
        matrices[0] = matrices[0] * (1.0 if op is None else op.factor)
        start = sum(map(len, self.readers))
        outputs, positions, weights = _product_of(matrices)
        order = np.argsort(positions, kind="stable")
        sources = math.prod(grid)
        ends = np.searchsorted(positions[order], np.arange(sources + 1)) + start + sources + 1
        axes = np.unravel_index(outputs[order], triple(out))
        self.readers += [ends, outputs[order], axes[band_axis(out)]]
        self.shares += [np.zeros(len(ends)), weights[order], np.zeros(len(order))]
        self.pools.append([start, len(order), math.prod(out)])
        return len(self.pools) - 1


def _product_of(matrices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, columns, values) of the entries other than 0 of a Kronecker product."""
    rows, columns, values = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.ones(1)
    for matrix in matrices:
        i, j = np.nonzero(matrix)
        rows = np.add.outer(rows * matrix.shape[0], i).ravel()
        columns = np.add.outer(columns * matrix.shape[1], j).ravel()
        values = np.multiply.outer(values, matrix[i, j]).ravel()
    return rows, columns, values
