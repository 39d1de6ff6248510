"""A program put on images of one size: the grid of every register, and the pairs of positions that are needed.

Of the covariance between position p of one image and p' of another, a flattened head needs only p' = p, pooling all
pairs within its windows, global pooling all pairs. A convolution of stride s needs, for the offset δ = p' − p of its
output, only the offset s δ of its input. So the needs of every register are sets of offsets, axis by axis, found from
the outputs backwards; a set may be larger than necessary (slower, never wrong).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from ntkit.errors import InvalidInput
from ntkit.infinite.program import EmbedTokens, Instruction, MaskedMean, Mix, Pool, Program, Read, Trace, Window

Grid = tuple[int, ...]
Offsets = tuple[Bool[np.ndarray, "_"], ...]  # one mask an axis; entry δ + n − 1 says whether the offset δ is needed


@dataclass(frozen=True)
class Placement:
    """A program on samples of one shape.

    Args:
        program: what to compute.
        sample: shape of one sample, batch axis left out.
    """

    program: Program
    sample: tuple[int, ...]

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Positions of every register, axis by axis; () for vectors."""
        grids: list[Grid] = []
        for op in self.program.instructions:
            grids.append(_grid(op, grids, self.sample))
        return tuple(grids)

    def positions(self, register: int) -> int:
        """Number of positions of a register; 1 for vectors."""
        return math.prod(self.grids[register])

    def channels(self, read: Read) -> int:
        """Values that the data hold at every position."""
        return math.prod(self.sample) // math.prod(self.sample[axis - 1] for axis in read.position_axes)

    @cached_property
    def offsets(self) -> tuple[Offsets | None, ...]:
        """Offsets at which the outputs need each register; None where they do not need it."""
        return self.needed({output: only_offset_zero(self.grids[output]) for output in self.program.outputs})

    def needed(self, roots: Mapping[int, Offsets]) -> tuple[Offsets | None, ...]:
        """Offsets of every register that {register: offsets} need."""
        needs: list[Offsets | None] = [roots.get(i) for i in range(len(self.program.instructions))]
        for i in range(len(needs) - 1, -1, -1):
            need = needs[i]
            if need is None:
                continue
            op = self.program.instructions[i]
            for source in op.sources:
                needs[source] = _union(needs[source], _needed_of_source(op, need, self.grids[source]))
        return tuple(needs)

    def is_diagonal(self, register: int) -> bool:
        """Whether only equal positions of a register are needed."""
        need = self.offsets[register]
        return need is None or all(mask.sum() == 1 and mask[len(mask) // 2] for mask in need)

    def check_outputs(self, paths: tuple[str, ...]) -> None:
        """Raise `InvalidInput` where an output still has positions."""
        for register, path in zip(self.program.outputs, paths, strict=True):
            if self.positions(register) > 1:
                raise InvalidInput(
                    f"the model's output at '{path}' has a grid of {self.grids[register]} positions, and a kernel is "
                    "of one number a sample; end the model with a global pool, or with Flatten and a linear layer"
                )


def only_offset_zero(grid: Grid) -> Offsets:
    """Equal positions."""
    return tuple(np.arange(2 * n - 1) == n - 1 for n in grid)


def _grid(op: Instruction, grids: list[Grid], sample: tuple[int, ...]) -> Grid:
    match op:
        case Read() | EmbedTokens():
            return tuple(sample[axis - 1] for axis in op.position_axes)
        case Window() | Pool():
            source = grids[op.source]
            if len(source) != len(op.axes):
                raise InvalidInput(
                    f"a layer over {len(op.axes)} axes of positions meets values with {len(source)}; make them agree"
                )
            return tuple(axis.size(n) for axis, n in zip(op.axes, source, strict=True))
        case Trace() | MaskedMean():
            return ()
        case _:
            found = {grids[source] for source in op.sources}
            if len(found) > 1:
                raise InvalidInput(
                    f"values with positions {' and '.join(map(str, sorted(found)))} are combined; make them agree"
                )
            return found.pop()


def _union(one: Offsets | None, two: Offsets) -> Offsets:
    return two if one is None else tuple(a | b for a, b in zip(one, two, strict=True))


def _needed_of_source(op: Instruction, need: Offsets, grid: Grid) -> Offsets:
    match op:
        case Trace():
            return only_offset_zero(grid)
        case Mix():
            return tuple(np.ones(2 * n - 1, dtype=bool) for n in grid)
        case Window():
            return tuple(
                _through_taps(axis.taps(n), mask, n) for axis, mask, n in zip(op.axes, need, grid, strict=True)
            )
        case Pool():
            windows = (axis.matrix(n) for axis, n in zip(op.axes, grid, strict=True))
            return tuple(through_windows(w, mask) for w, mask in zip(windows, need, strict=True))
        case _:
            return need


def _through_taps(taps: np.ndarray, mask: np.ndarray, n: int) -> np.ndarray:
    """Offsets between the same tap of two output positions."""
    found = np.zeros(2 * n - 1, dtype=bool)
    out = len(taps)
    for offset in np.flatnonzero(mask) - (out - 1):
        left, right = taps[max(0, -offset) : out - max(0, offset)], taps[max(0, offset) : out + min(0, offset)]
        inside = (left >= 0) & (right >= 0)
        found[(right - left)[inside] + n - 1] = True
    return found


def through_windows(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Offsets between any two positions of two windows."""
    out, n = matrix.shape
    found = np.zeros(2 * n - 1, dtype=bool)
    windows = [np.flatnonzero(row) for row in matrix]
    for offset in np.flatnonzero(mask) - (out - 1):
        for i in range(max(0, -offset), out - max(0, offset)):
            left, right = windows[i], windows[i + offset]
            found[(right[None, :] - left[:, None]).ravel() + n - 1] = True
    return found
