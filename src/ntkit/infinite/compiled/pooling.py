"""Pooling in the compiled engine: from summed distances to distances of pooled values.

D'[P, P'] = Σ W[P, p] W[P', p'] D[p, p'] − r[P] − r'[P'] + (A[P] − A[P']) (m[P] − m'[P'])

with each side's spread r, m = W q and A = W 1 (states.py). For near-equal samples this cancels, so the entries that
feed equal positions are computed in float64 (the *near* schedule) and put into float32's tensors. Where no activation
comes later, only covariances matter; there q' = A m and r = 0 stand for the same covariance, and nothing cancels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ntkit.architecture.windows import WindowAxis
from ntkit.infinite import program as ops
from ntkit.infinite.compiled import machine
from ntkit.infinite.compiled.frames import product_of_axes, triple
from ntkit.infinite.compiled.lanes import LANES
from ntkit.infinite.compiled.samples import add_taps
from ntkit.infinite.compiled.threads import available, run_jobs
from ntkit.infinite.placement import Grid, Placement
from ntkit.infinite.program import Program

if TYPE_CHECKING:
    from ntkit.infinite.compiled.runner import Group
    from ntkit.infinite.compiled.schedule import Schedule
    from ntkit.infinite.compiled.stage import Stage


def feeding_activations(program: Program) -> set[int]:
    """Registers that an activation or a norm reads, directly or through others."""
    found: set[int] = set()
    for i in range(len(program.instructions) - 1, -1, -1):
        op = program.instructions[i]
        if isinstance(op, (ops.Dual, ops.Normalize)) or i in found:
            found.update(op.sources)
    return found


def spread_pools(placement: Placement) -> list[int]:
    """Pooled registers whose second moment an activation needs."""
    feeding = feeding_activations(placement.program)
    pools = [i for i, op in enumerate(placement.program.instructions) if isinstance(op, ops.Pool) and i in feeding]
    return [i for i in pools if placement.positions(placement.program.instructions[i].sources[0]) > 1]


def sums_of_weights(op: ops.Pool, grid: Grid) -> np.ndarray:
    """A[P], by position."""
    return op.factor * product_of_axes([axis.matrix(n).sum(1) for axis, n in zip(op.axes, grid, strict=True)])


def pooled(op: ops.Pool, values: np.ndarray, grid: Grid) -> np.ndarray:
    """W applied to (positions, samples)."""
    result = values.reshape(*grid, -1)
    for k, (axis, n) in enumerate(zip(op.axes, grid, strict=True)):
        result = np.moveaxis(np.tensordot(axis.matrix(n), result, axes=(1, k)), 0, k)
    return op.factor * result.reshape(-1, values.shape[1])


def windowed(op: ops.Window, values: np.ndarray, grid: Grid) -> np.ndarray:
    """The mean over taps of (positions, samples), zero outside."""
    result = np.ascontiguousarray(values)
    before, behind = 1, values.size
    for axis, n in zip(op.axes, grid, strict=True):
        behind //= n
        taps, source = _taps(axis, n), result.reshape(before, n, behind)
        result = np.zeros((before, len(taps), behind))
        add_taps(source, taps, result)
        before *= len(taps)
    result /= op.taps
    return result.reshape(-1, values.shape[1])


@lru_cache(maxsize=256)
def _taps(axis: WindowAxis, n: int) -> np.ndarray:
    return axis.taps(n)


def self_distances(tensor: np.ndarray, place: int, positions: int) -> np.ndarray:
    """Summed D of equal positions, (positions, samples), from tensors (tiles, numbers) of samples with themselves."""
    rows = place + np.arange(positions) * (positions + 1)
    lanes = tensor.reshape(len(tensor), -1, LANES)[:, rows]
    return lanes.transpose(1, 0, 2).reshape(positions, -1)


def mask_of_three(grid: Grid, offsets: tuple[np.ndarray, ...] | None) -> np.ndarray:
    """Needed offsets as three rows of equal length, False where there is no need."""
    sizes = triple(grid)
    mask = np.zeros((3, 2 * max(sizes) - 1), dtype=np.bool_)
    if offsets is None:
        return mask
    full = [np.ones(1, dtype=bool)] * (3 - len(grid)) + list(offsets)
    for row, axis in zip(mask, full, strict=True):
        row[: len(axis)] = axis
    return mask


def finish_stage(
    stage: Stage,
    schedule: Schedule,
    group: Group,
    left: np.ndarray,
    right: np.ndarray,
    exact: tuple[Schedule, Group] | None,
) -> None:
    """Turns the sums that a stage has written into distances of pooled values.

    Args:
        stage: whose tensors to finish.
        schedule: of the stage.
        group: the tiles.
        left: states of the left samples.
        right: states of the right samples.
        exact: schedule and finished group of the near pairs in float64, where there is one.
    """
    for target in dict.fromkeys(stage.writes):
        if schedule.is_pool(target):
            planes = [(kind, schedule.planes.rows.get((kind, target))) for kind in ("spread", "sum")]
            if exact is not None or any(row is not None for _, row in planes):
                _finish(target, planes, schedule, group, left, right, exact)


def _finish(target, rows_of, schedule, group, left, right, exact) -> None:
    placement = schedule.placement
    op, positions, grid = schedule.instructions[target], placement.positions(target), placement.grids[target]
    totals = sums_of_weights(op, placement.grids[op.sources[0]])
    planes = []  # of the left spread, the right spread, the left sum, the right sum
    for _, row in rows_of:
        for states in (left, right):
            held = (
                np.zeros((positions, states.shape[1]), states.dtype) if row is None else states[row : row + positions]
            )
            planes.append(held)
    needed, near = mask_of_three(grid, schedule.needs[target]), mask_of_three(grid, None)
    other, place = np.zeros((len(group.left), 0)), 0
    if exact is not None and target in exact[0].tensors:
        near, other, place = mask_of_three(grid, exact[0].needs[target]), exact[1].tensors, exact[0].tensors[target]
    parts = np.linspace(0, positions, 1 + min(positions, -(-4 * available() // len(group.left)))).astype(int).tolist()
    jobs = [(tile, rows) for tile in range(len(group.left)) for rows in itertools.pairwise(parts)]

    def worker() -> Callable[[tuple[int, tuple[int, int]]], None]:
        work = np.zeros(4 * positions * LANES, dtype=group.tensors.dtype)

        def finish(job: tuple[int, tuple[int, int]]) -> None:
            tile, rows = job
            for k, plane in enumerate(planes):
                machine.gather_planes(work, k * positions, plane, (group.left, group.right)[k % 2][tile])
            machine.finish_pool(
                work, 0, positions, 2 * positions, 3 * positions, totals, group.tensors[tile],
                schedule.tensors[target], np.array(triple(grid)), other[tile], place, needed, near, rows,
            )  # fmt: skip

        return finish

    run_jobs(jobs, worker)
