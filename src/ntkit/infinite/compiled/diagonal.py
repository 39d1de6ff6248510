"""Networks without pooling: all that is needed are equal positions, one slice in one stage, for every pair of samples.

The same operations as machine.py's, for the one case that both positions are the row's own number: no tables of
coordinates, 3 × 3 windows without a list of taps, and tiles of `SIDE` left by `SIDE` right samples, so that little has
to be read of each sample.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkit.infinite.compiled import cache, strips
from ntkit.infinite.compiled import machine as m
from ntkit.infinite.compiled.lanes import LANES, SIDE
from ntkit.infinite.compiled.runner import TILES_AT_ONCE, Runner, aligned_zeros
from ntkit.infinite.compiled.threads import available, parts, run_jobs

_KNOWN = (m.READ, m.LOAD, m.GATHER, m.ROOTS, m.AFFINE, m.DUAL, m.ADD, m.SCALE, m.MEANS, m.TIMES, m.STORE, m.SUM)
TABLE, TAPS, WIDTH = range(
    3
)  # columns of a window: where its rows of taps begin, taps; of a 3 × 3 one the image's width


@cache.kept(**m.INNER)
def neighbours(work, first, rows, width, positions, zeros, source, source_t, with_t, scale):
    """Means over 3 × 3 windows for rows of a strip, image row by image row."""
    done = 0
    while done < rows:
        begin = (first + done) // width * width
        j = first + done - begin
        j_end = min(width, j + rows - done)
        below = begin + width if begin + width < positions else -1
        images, columns = (begin - width, begin, below), (j, j_end, width)
        if with_t:
            sources, to = (source + 1, source_t + 1), (m.D + done, m.T + done)
            strips.mean_of_neighbours(work, to, sources, images, zeros, columns, scale)
        else:
            strips.mean_of_neighbours(work, (m.D + done,), (source + 1,), images, zeros, columns, scale)
        done += j_end - j


@cache.kept(**m.INNER)
def run_strip(
    work, ops, numbers, first_op, last_op, first, rows, positions, windows, taps, zeros, weights, left, right,
    places, sums,
):  # fmt: skip
    """Takes one strip through the operations of a pass; see `machine.run_strip` for their columns.

    left, right: blocks of samples, whose numbers of this tile begin at `places`.
    """
    for o in range(first_op, last_op):
        code, a, b, t_in, t_out, c = ops[o, 0], ops[o, 1], ops[o, 2], ops[o, 3], ops[o, 4], ops[o, 5]
        x = numbers[o, 0]
        if code == m.READ:
            for r in range(rows):
                shift = (a + first + r) * SIDE
                both = places[0] + shift, places[1] + shift
                strips.mean_square_difference(work, m.D + r, left, right, both, b, positions * SIDE, x)
        elif code == m.GATHER:
            window = windows[c]
            if window[WIDTH]:
                neighbours(work, first, rows, window[WIDTH], positions, zeros, a, b, t_in != 0, x)
            else:
                table = window[TABLE] + first * window[TAPS]
                m.gather(work, taps, table, window[TAPS], rows, a, b, t_in != 0, x)
        elif code == m.ROOTS:
            shift = (a + first) * SIDE
            strips.place_sides(work, (m.R1, m.R2), left, right, (places[0] + shift, places[1] + shift), rows)
        elif code == m.MEANS:
            for r in range(rows):
                shifts = (a + first + r) * SIDE, (b + first + r) * SIDE
                strips.add_product_of_differences(work, m.D + r, left, right, places, shifts, x)
        elif code == m.TIMES:
            for r in range(rows):
                shift = (a + first + r) * SIDE
                strips.multiply_by_sides(work, m.D + r, left, right, (places[0] + shift, places[1] + shift))
                if t_in:
                    strips.multiply_by_sides(work, m.T + r, left, right, (places[0] + shift, places[1] + shift))
        elif code == m.SUM:
            strips.add_weighted_sum(sums, 2 * a, work, m.D, weights, b + first, rows)
            if t_in:
                strips.add_weighted_sum(sums, 2 * a + 1, work, m.T, weights, b + first, rows)
        else:
            m.run_plain(work, code, a, b, t_in, t_out, numbers[o], first, rows)


@cache.kept(**m.OPTIONS)
def run_tiles(work, ops, numbers, passes, windows, taps, zeros, weights, left, right, width, tiles, sums):
    """Takes tiles, (block of the left samples, block of the right ones), through the stage.

    left, right: `width` rows of `SIDE` numbers for each block. passes: first operation, last one, positions.
    """
    for tile in range(len(tiles)):
        places = tiles[tile, 0] * width * SIDE, tiles[tile, 1] * width * SIDE
        for k in range(len(passes)):
            positions = passes[k, 2]
            for first in range(0, positions, m.STRIP_ROWS):
                run_strip(
                    work, ops, numbers, passes[k, 0], passes[k, 1], first,
                    min(m.STRIP_ROWS, positions - first), positions, windows, taps, zeros, weights, left, right,
                    places, sums[tile],
                )  # fmt: skip


def fits(runner: Runner) -> bool:
    """Whether a schedule has equal positions only."""
    stages = runner.schedule.stages
    return len(stages) == 1 and not stages[0].slices.any() and {op[0] for op in stages[0].tables.ops} <= set(_KNOWN)


class DiagonalRunner:
    """Runs a schedule that `fits`.

    Args:
        runner: that of the schedule, whose tables are taken.
    """

    def __init__(self, runner: Runner):
        (arrays,), (stage,) = runner.stages, runner.schedule.stages
        self.dtype, self.width, self.count = runner.dtype, max(runner.schedule.planes.width, 1), len(stage.sums)
        self.ops, self.numbers, levels = arrays["ops"], arrays["numbers"], arrays["levels"]
        self.passes = arrays["passes"].copy()
        self.passes[:, 2] = levels[self.passes[:, 2], m.POSITIONS]
        windows = [_window(conv, levels, arrays["taps"]) for conv in arrays["convs"]]
        lengths = [0, *np.cumsum([table.size for table, _ in windows])]
        columns = [(place, table.shape[1], width) for place, (table, width) in zip(lengths, windows, strict=False)]
        self.windows = np.array(columns, dtype=np.int64).reshape(-1, 3)
        self.taps = np.concatenate([*(table.ravel() for table, _ in windows), np.zeros(1)]).astype(np.int32)
        self.zeros = stage.rows  # behind everything, as many as the widest image has columns
        self.rows = stage.rows + max((width for _, width in windows), default=0)
        self.weights = self._weights(runner.schedule.all_weights)

    def _weights(self, given: np.ndarray) -> np.ndarray:
        """Of positions in sums: in those over pairs of positions that of a position with itself is its square."""
        weights = given.copy()
        for first, last, positions in self.passes:
            for code, _, place, _, _, only_equal, *_ in self.ops[first:last]:
                if code == m.SUM and not only_equal:
                    weights[place : place + positions] **= 2
        return weights

    def matrices(self, left: np.ndarray, right: np.ndarray, symmetric: bool) -> np.ndarray:
        """Totals of D and T, (totals, 2, n, m), of samples in blocks; of symmetric ones on and above the diagonal."""
        n, m = len(left), len(right)
        i, j = np.triu_indices(n) if symmetric else np.indices((n, m)).reshape(2, -1)
        totals = np.zeros((self.count, 2, n, SIDE, m, SIDE))
        totals[:, :, i, :, j] = self._run(left, right, np.column_stack([i, j]))
        return totals.reshape(self.count, 2, n * SIDE, m * SIDE)

    def equal(self, blocks: np.ndarray) -> np.ndarray:
        """Totals of D and T, (totals, 2, n), of samples with themselves."""
        number, side = np.arange(len(blocks)), np.arange(SIDE)
        sums = self._run(blocks, blocks, np.column_stack([number, number]))[..., side, side]
        return sums.transpose(1, 2, 0, 3).reshape(self.count, 2, -1)

    def _run(self, left: np.ndarray, right: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        """Totals of D and T, (tiles, totals, 2, SIDE, SIDE) in float64; tiles are (left block, right block)."""
        sums = np.zeros((len(tiles), self.count * 2 * LANES))

        def worker() -> Callable[[slice], None]:
            work = aligned_zeros(self.rows * LANES, self.dtype)

            def run(part: slice) -> None:
                run_tiles(
                    work, self.ops, self.numbers, self.passes, self.windows, self.taps, self.zeros, self.weights,
                    left.ravel(), right.ravel(), self.width, tiles[part], sums[part],
                )  # fmt: skip

            return run

        run_jobs(parts(len(tiles), TILES_AT_ONCE, available()), worker)
        return sums.reshape(-1, self.count, 2, SIDE, SIDE)


def _window(conv: np.ndarray, levels: np.ndarray, taps: np.ndarray) -> tuple[np.ndarray, int]:
    """(source row of every tap, (positions, taps): r + 1, 0 outside; the image's width where it is a 3 × 3 window)."""
    size, out = levels[conv[m.LEVEL_IN]][:3], levels[conv[m.LEVEL_OUT]][:3]
    axes = []
    for axis in range(3):
        place, kernel = conv[m.TAPS0 + axis], conv[m.KERNEL0 + axis]
        axes.append(taps[place : place + out[axis] * kernel].reshape(out[axis], kernel))
    table = np.zeros((1, 1), dtype=np.int64)
    for axis, n in zip(axes, size, strict=True):
        both = table[:, None, :, None] * n + axis[None, :, None, :]
        outside = (table < 0)[:, None, :, None] | (axis < 0)[None, :, None, :]
        table = np.where(outside, -1, both).reshape(both.shape[0] * both.shape[1], -1)
    same = [np.arange(n)[:, None] + np.arange(-reach, reach + 1) for n, reach in zip(size, (0, 1, 1), strict=True)]
    inside = [np.where(tap < n, tap, -1) for tap, n in zip(same, size, strict=True)]
    is_neighbours = size[0] == 1 and all(np.array_equal(a, b) for a, b in zip(axes, inside, strict=True))
    return table + 1, int(size[2]) if is_neighbours else 0
