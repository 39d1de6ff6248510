"""Runs a schedule over pairs of samples: tiles of lanes, jobs of slices, stages in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ntkit.infinite import program as ops
from ntkit.infinite.compiled import machine as m
from ntkit.infinite.compiled.frames import triple
from ntkit.infinite.compiled.lanes import LANES
from ntkit.infinite.compiled.schedule import Schedule
from ntkit.infinite.compiled.stage import Stage
from ntkit.infinite.compiled.threads import available, parts, run_jobs
from ntkit.infinite.placement import through_windows

_GROUP_BYTES = 256 * 2**20  # tensors and sums of the tiles that are in work at once
TILES_AT_ONCE = 64  # of one job, where all of them go through a single slice
_JOB_LISTS = 64  # that are remembered
_EVERYWHERE = (-(2**40), 2**40)


@dataclass(frozen=True)
class Job:
    """Tiles and slices for one call of the machine, and the band of output offsets that it may write."""

    tiles: slice
    slices: np.ndarray
    places: np.ndarray
    band: tuple[int, int]


@dataclass
class Group:
    """Tiles in work together.

    Args:
        left: samples of the lanes, (tiles, LANES); `right` the same.
        tensors: what stages hand on, (tiles, numbers).
        totals: sums of D and T, (tiles, totals, 2, LANES).
    """

    left: np.ndarray
    right: np.ndarray
    tensors: np.ndarray
    totals: np.ndarray


AfterStage = Callable[[Stage], None]
Around = Callable[[Group], AfterStage]


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes, so that no row lies across two cache lines."""
    item = np.dtype(dtype).itemsize
    room = np.zeros(size + 64 // item, dtype=dtype)
    first = -room.ctypes.data % 64 // item
    return room[first : first + size]


class Runner:
    """Runs one schedule in one precision.

    Args:
        schedule: the tables.
        dtype: of the arithmetic.
        address_of: (register of a dual, with derivative) -> address of its compiled loop.
    """

    def __init__(self, schedule: Schedule, dtype: np.dtype, address_of: Callable[[int, bool], int]):
        self.schedule, self.dtype = schedule, np.dtype(dtype)
        self.stages = [self._arrays(stage, address_of) for stage in schedule.stages]
        self._known_jobs: dict[tuple[int, int, int], list[Job]] = {}

    def _arrays(self, stage: Stage, address_of: Callable[[int, bool], int]) -> dict[str, np.ndarray]:
        tables = stage.tables
        codes = np.array(tables.ops, dtype=np.int64).reshape(-1, 8)
        for operation, register in stage.duals:
            codes[operation, 1] = address_of(register, bool(codes[operation, 3]))
        return {
            "ops": codes,
            "numbers": np.array(tables.numbers, dtype=self.dtype).reshape(-1, 4),
            "passes": np.array(tables.passes, dtype=np.int64).reshape(-1, 3),
            "levels": np.array(tables.levels, dtype=np.int64).reshape(-1, 9),
            "convs": np.array(tables.convs, dtype=np.int64).reshape(-1, 11),
            "taps": np.concatenate([*tables.taps, np.zeros(1)]).astype(np.int64),
            "pools": np.array(tables.pools, dtype=np.int64).reshape(-1, 3),
            "readers": np.concatenate([*tables.readers, np.zeros(1)]).astype(np.int64),
            "shares": np.concatenate([*tables.shares, np.zeros(1)]),
        }

    def run(
        self, left: np.ndarray, right: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], around: Around | None = None
    ) -> np.ndarray:
        """Totals of D and T, (totals, 2, pairs) in float64.

        Args:
            left: states of the left samples, (width, samples).
            right: the same of the right ones.
            pairs: indices of the left and the right sample of every pair.
            around: for each group of tiles, what to call after each of its stages.
        """
        n = len(pairs[0])
        tiles = -(-n // LANES)
        padded = [np.concatenate([side, np.repeat(side[-1:], tiles * LANES - n)]).reshape(-1, LANES) for side in pairs]
        totals = np.empty((len(self.schedule.totals), 2, tiles * LANES))
        size = self.group_size(tiles)
        for begin in range(0, tiles, size):
            here = slice(begin, min(begin + size, tiles))
            group = self.new_group(padded[0][here], padded[1][here])
            self.run_group(group, left, right, None if around is None else around(group))
            part = group.totals.transpose(1, 2, 0, 3).reshape(len(self.schedule.totals), 2, len(group.left) * LANES)
            totals[:, :, begin * LANES : here.stop * LANES] = part
        return totals[:, :, :n]

    def new_group(self, left: np.ndarray, right: np.ndarray) -> Group:
        """Tiles of these samples, (tiles, LANES), before the first stage."""
        tensors = np.zeros((len(left), max(self.schedule.tensor_rows, 1) * LANES), dtype=self.dtype)
        return Group(left, right, tensors, np.zeros((len(left), len(self.schedule.totals), 2, LANES)))

    def run_group(self, group: Group, left: np.ndarray, right: np.ndarray, after_stage: AfterStage | None) -> None:
        """Takes a group through all stages."""
        for number, stage in enumerate(self.schedule.stages):
            self._run_stage(number, stage, group, left, right)
            if after_stage is not None:
                after_stage(stage)

    def group_size(self, tiles: int) -> int:
        """How many tiles are in work at once."""
        slices = max((len(stage.slices) for stage in self.schedule.stages if stage.sums), default=0)
        each = LANES * (self.schedule.tensor_rows * self.dtype.itemsize + 16 * slices * len(self.schedule.totals))
        return max(1, min(tiles, _GROUP_BYTES // max(each, 1)))

    def _run_stage(self, number: int, stage: Stage, group: Group, left: np.ndarray, right: np.ndarray) -> None:
        arrays, width = self.stages[number], max(self.schedule.planes.width, 1)
        count = len(group.left)
        sums = np.zeros((count, len(stage.slices), max(len(self.schedule.totals), 1) * 2 * LANES))

        def worker() -> Callable[[Job], None]:
            work = aligned_zeros((stage.rows + 2 * width) * LANES, self.dtype)
            integers = np.zeros(stage.tables.integers + 1, dtype=np.int32)
            loaded, placed = np.full((2, LANES), -1, dtype=np.int64), np.full(1, -1, dtype=np.int64)
            geometries = np.zeros((len(stage.tables.levels), 11), dtype=np.int64)

            def run(job: Job) -> None:
                m.run_slices(
                    work, integers, arrays["ops"], arrays["numbers"], arrays["passes"], arrays["levels"],
                    arrays["convs"], arrays["taps"], arrays["pools"], arrays["readers"], arrays["shares"],
                    self.schedule.all_weights, job.slices, job.places, stage.rows, stage.rows + width, left, right,
                    group.left[job.tiles], group.right[job.tiles], loaded, placed, geometries,
                    group.tensors[job.tiles], sums[job.tiles], np.array(job.band),
                )  # fmt: skip

            return run

        run_jobs(self._jobs(number, count, available()), worker)
        if stage.sums:
            group.totals += sums.sum(axis=1).reshape(count, len(self.schedule.totals), 2, LANES)

    # ---- jobs --------------------------------------------------------------------------------------------------

    def _jobs(self, number: int, tiles: int, threads: int) -> list[Job]:
        """Of one stage; found once, for small kernels take no longer than this."""
        key = number, tiles, threads
        if key not in self._known_jobs:
            if len(self._known_jobs) > _JOB_LISTS:
                self._known_jobs.clear()
            self._known_jobs[key] = self._new_jobs(self.schedule.stages[number], tiles, threads)
        return self._known_jobs[key]

    def _new_jobs(self, stage: Stage, tiles: int, threads: int) -> list[Job]:
        owned = np.ones(len(stage.slices), dtype=np.int64)
        everything = np.column_stack([stage.slices, owned])
        places = np.arange(len(stage.slices))
        if stage.writes:
            shares = self._bands(stage, 1 if tiles >= 2 * threads or threads == 1 else -(-4 * threads // tiles))
        else:
            chunks = min(len(places), 1 if tiles >= 4 * threads or threads == 1 else -(-8 * threads // tiles))
            # copies, for to numba every stretch of memory is a type of its own
            shares = [(everything[k::chunks].copy(), places[k::chunks].copy(), _EVERYWHERE) for k in range(chunks)]
        single = len(stage.slices) == 1
        steps = parts(tiles, TILES_AT_ONCE, threads) if single else [slice(t, t + 1) for t in range(tiles)]
        return [Job(step, slices, where, band) for step in steps for slices, where, band in shares]

    def _bands(self, stage: Stage, wanted: int) -> list[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
        """Slices of every band of output offsets; a slice's share of the sums belongs to the first band that has it."""
        grids = {triple(self.schedule.placement.grids[w]) for w in stage.writes}
        places = np.arange(len(stage.slices))
        everything = np.column_stack([stage.slices, np.ones_like(places)])
        if len(grids) > 1 or wanted == 1:
            return [(everything, places, _EVERYWHERE)]
        n = grids.pop()[stage.axis]
        reached = [self._reached(stage, offset, n) for offset in range(-(n - 1), n)]
        work = np.array(
            [np.isin(stage.slices[:, stage.axis], list(r)).sum() * (n - abs(k - n + 1)) for k, r in enumerate(reached)]
        )
        shares = np.cumsum(work) / max(work.sum(), 1)
        edges = np.unique(np.searchsorted(shares, np.arange(1, wanted) / wanted))
        bounds = [0, *[int(e) + 1 for e in edges], len(reached)]
        parts, seen = [], np.zeros(len(places), dtype=bool)
        for low, high in itertools.pairwise(bounds):
            offsets = set().union(*reached[low:high])
            inside = np.isin(stage.slices[:, stage.axis], list(offsets))
            slices = np.column_stack([stage.slices, ~seen])[inside].astype(np.int64)
            seen |= inside
            if len(slices):
                parts.append((slices, places[inside], (low - (n - 1), high - (n - 1))))
        if not seen.all():
            parts.append((everything[~seen], places[~seen], (0, 0)))
        return parts

    def _reached(self, stage: Stage, offset: int, n: int) -> set[int]:
        """Root offsets on the band's axis that add to an output offset."""
        found: set[int] = set()
        schedule = self.schedule
        for target in stage.writes:
            op = schedule.instructions[target]
            source = op.sources[0] if isinstance(op, ops.Pool) else target
            frame, grid = schedule.frames[source], schedule.placement.grids[source]
            axis = stage.axis - (3 - len(grid))
            mask = np.arange(-(n - 1), n) == offset
            matrix = op.axes[axis].matrix(grid[axis]) if isinstance(op, ops.Pool) else np.eye(n)
            offsets = np.flatnonzero(through_windows(matrix, mask)) - (grid[axis] - 1)
            if frame.modular:
                offsets = offsets % grid[axis]
            found |= set((offsets * frame.factor[stage.axis]).tolist())
        return found
