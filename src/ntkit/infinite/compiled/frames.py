"""Which stage of a computation every register belongs to, and how its offsets count there.

Within a stage a register's covariance at offset δ comes from its source's at the one offset s δ (a convolution of
stride s), so slices go through it one by one. Pooling mixes offsets: it ends a stage, and its result lies in a tensor
that the next stage reads. Circular convolutions need offsets that wrap around ("modular" stages: classes of offsets
modulo the size of the grid); where a layer does not fit the offsets of its source's stage, as a transposed convolution
of stride s, whose offset δ comes from δ/s, the source is written to a tensor as it is and a new stage begins. Where
equal positions are all that is needed, the offset 0 of every layer comes from the offset 0 before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkit.architecture.windows import ConvAxis, TransposedAxis
from ntkit.infinite import program as ops
from ntkit.infinite.placement import Grid, Offsets, Placement

Triple = tuple[int, int, int]


def triple(sizes: tuple[int, ...], fill: int = 1) -> Triple:
    """One to three axes as three, `fill` in front."""
    return (*([fill] * (3 - len(sizes))), *sizes)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Frame:
    """How a register takes part in its stage.

    Args:
        stage: number of the stage.
        factor: root offsets between two of the register's own, axis by axis.
        modular: whether the stage's offsets wrap around.
    """

    stage: int
    factor: Triple
    modular: bool


def frames_of(placement: Placement) -> dict[int, Frame]:
    """The frame of every register that has more than one position."""
    instructions, grids = placement.program.instructions, placement.grids
    equal = needs_equal_positions_only(placement)
    wraps = not equal and any(isinstance(op, ops.Window) and _is_circular(op) for op in instructions)
    frames: dict[int, Frame] = {}
    for i, op in enumerate(instructions):
        if placement.positions(i) == 1:
            continue
        match op:
            case ops.Read():
                frames[i] = Frame(0, (1, 1, 1), wraps)
            case ops.Pool():
                frames[i] = Frame(frames[op.source].stage + 1, (1, 1, 1), wraps)
            case ops.Window() if not equal:
                frames[i] = _after_window(op, frames[op.source], grids[op.source], grids[i])
            case _:
                frames[i] = _common([frames[source] for source in op.sources], wraps)
    return frames


def _after_window(op: ops.Window, source: Frame, grid: Grid, out: Grid) -> Frame:
    stride = triple(tuple(axis.stride for axis in op.axes))
    factor = tuple(f * s for f, s in zip(source.factor, stride, strict=True))
    circular = _is_circular(op)
    if is_irregular(op, grid, out):
        return Frame(source.stage + 1, (1, 1, 1), False)
    if (source.modular and is_regular(op, grid, out)) or (not source.modular and not circular):
        return Frame(source.stage, factor, source.modular)  # pyright: ignore[reportArgumentType]
    return Frame(source.stage + 1, stride, circular)


def is_regular(op: ops.Window, grid: Grid, out: Grid) -> bool:
    """Whether the grid shrinks by just the stride: then classes of offsets stay classes."""
    return all(n == m * axis.stride for n, m, axis in zip(grid, out, op.axes, strict=True))


def is_irregular(op: ops.Window, grid: Grid, out: Grid) -> bool:
    """Whether output offsets other than 0 do not all come from one offset of the input, or class of offsets."""
    transposed = any(isinstance(axis, TransposedAxis) for axis in op.axes)
    return transposed or (_is_circular(op) and not is_regular(op, grid, out))


def needs_equal_positions_only(placement: Placement) -> bool:
    """Whether no pair of different positions is needed, as in front of a flattened head."""
    return all(placement.is_diagonal(i) for i in range(len(placement.grids)))


def _is_circular(op: ops.Window) -> bool:
    return any(isinstance(axis, ConvAxis) and axis.circular for axis in op.axes)


def _common(sources: list[Frame], wraps: bool) -> Frame:
    stage = max(frame.stage for frame in sources)
    latest = {frame for frame in sources if frame.stage == stage}
    return latest.pop() if len(latest) == 1 else Frame(stage + 1, (1, 1, 1), wraps)


def root_offsets(placement: Placement, frame: Frame, register: int, need: Offsets) -> set[Triple]:
    """The needed offsets of a register as offsets of its stage's root."""
    axes = [triple_axis.tolist() for triple_axis in _offsets_by_axis(placement, frame, register, need)]
    return {(a, b, c) for a in axes[0] for b in axes[1] for c in axes[2]}


def _offsets_by_axis(placement: Placement, frame: Frame, register: int, need: Offsets) -> list[np.ndarray]:
    grid = triple(placement.grids[register])
    masks = [np.ones(1, dtype=bool)] * (3 - len(need)) + list(need)
    found = []
    for n, factor, mask in zip(grid, frame.factor, masks, strict=True):
        offsets = np.flatnonzero(mask) - (n - 1)
        found.append(np.unique(offsets % n if frame.modular else offsets) * factor)
    return found


def band_axis(grid: Grid) -> int:
    """The first axis, of three, with more than one position: jobs that write a tensor share it out along this axis."""
    return next(axis for axis, n in enumerate(triple(grid)) if n > 1)


def product_of_axes(vectors: list[np.ndarray]) -> np.ndarray:
    """The weight of every position from one vector an axis."""
    result = np.ones(1)
    for vector in vectors:
        result = np.outer(result, vector).ravel()
    return result
