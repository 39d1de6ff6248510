"""The compiled interpreter: a program's instructions, executed slice by slice of the pixel-pair covariance.

Under a convolution the covariance of position p of one image and p' of another moves only together with pairs of the
same offset δ = p' − p. So a tile of `LANES` sample pairs falls apart into slices, one an offset, each a small image of
rows (row = one position p, all lanes). A slice goes through all layers while it lies in the processor's cache.

Operations work on an accumulator, a strip of up to `STRIP_ROWS` rows of r1, r2 (roots of the second moments), D and T;
a *pass* takes one strip after another of a slice through its operations. Only a convolution needs a whole slice of its
source, which an earlier pass has stored. What the codes mean stands at `run_strip`; `schedule.py` writes them.
"""

from __future__ import annotations

from ntkit.infinite.compiled import cache, lanes
from ntkit.infinite.compiled.duals import STRIP
from ntkit.infinite.compiled.lanes import LANES
from ntkit.infinite.distance import ROUNDING

STRIP_ROWS = STRIP // LANES
# rows of the accumulator; slices lie from WORK on
R1, R2, D, T, WORK = 0, STRIP_ROWS, 2 * STRIP_ROWS, 3 * STRIP_ROWS, 4 * STRIP_ROWS

READ, LOAD, GATHER, RIM, TENSOR, ROOTS, AFFINE, DUAL, ADD, SCALE, MEANS, STORE, PUSH, SUM, GATHER_PAIRS, TIMES = range(
    16
)

# columns of the tables that schedule.py writes
SIZE0, SIZE1, SIZE2, FACTOR0, FACTOR1, FACTOR2, MODULAR, POSITIONS, COORDINATES = range(9)  # a level
LEVEL_IN, LEVEL_OUT, KERNEL0, KERNEL1, KERNEL2, TAPS0, TAPS1, TAPS2, TABLE, OUTLINE, BEHIND = range(11)  # a convolution
READERS, COORDINATES_BEHIND, OUT_POSITIONS = range(3)  # a pooling layer
# columns of the geometry of one slice at one level
ACTIVE, OFFSET0, OFFSET1, OFFSET2, START0, START1, START2, COUNT0, COUNT1, COUNT2, ROWS = range(11)

# without reference counts: threads share the tables, and counting their users would make each wait for the other
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "_nrt": False, "no_cfunc_wrapper": True}
INNER = {**OPTIONS, "no_cpython_wrapper": True}  # called by others here: what Python would need is left out


@cache.kept(**INNER)
def place_slice(level, offset, geometry, integers):
    """Which positions the slice of this offset has at a level, and where: geometry, and coordinates of every row."""
    rows = 1
    geometry[ACTIVE] = 1
    for axis in range(3):
        size, factor = level[SIZE0 + axis], level[FACTOR0 + axis]
        d = offset[axis] // factor
        if d * factor != offset[axis] or abs(d) >= size:
            geometry[ACTIVE] = 0
            return
        start, count = 0, size
        if not level[MODULAR]:
            start, count = max(0, -d), size - abs(d)
        geometry[OFFSET0 + axis], geometry[START0 + axis], geometry[COUNT0 + axis] = d, start, count
        rows *= count
    geometry[ROWS] = rows
    place, size2 = level[COORDINATES], level[SIZE2]
    start2, count2, offset2 = geometry[START2], geometry[COUNT2], geometry[OFFSET2]
    for i in range(geometry[COUNT0]):
        p0 = geometry[START0] + i
        q0 = (p0 + geometry[OFFSET0]) % level[SIZE0]
        for j in range(geometry[COUNT1]):
            p1 = geometry[START1] + j
            q1 = (p1 + geometry[OFFSET1]) % level[SIZE1]
            left, right = (p0 * level[SIZE1] + p1) * size2, (q0 * level[SIZE1] + q1) * size2
            for p2 in range(start2, start2 + count2):
                q2 = p2 + offset2
                integers[place] = left + p2
                integers[place + 1] = right + (q2 - size2 if q2 >= size2 else q2)
                place += 2


@cache.kept(**INNER)
def place_taps(conv, levels, geometries, taps, integers):
    """The source row of every tap of every output row (0: outside, r + 1: row r), and the rim.

    The rim are positions that lie inside their image while the other side's lie outside: there D is the second moment
    of the one inside. Their rows stand behind the slice's own. The list of the rim: count, then (position + size of the
    grid · side) of each.
    """
    source, target = levels[conv[LEVEL_IN]], geometries[conv[LEVEL_OUT]]
    inner, out = geometries[conv[LEVEL_IN]], levels[conv[LEVEL_OUT]]
    place, rim, k0, k1, k2 = conv[TABLE], conv[OUTLINE], conv[KERNEL0], conv[KERNEL1], conv[KERNEL2]
    taps0, taps1, taps2, size1, size2 = conv[TAPS0], conv[TAPS1], conv[TAPS2], source[SIZE1], source[SIZE2]
    start0, start1, start2, count1, count2 = inner[START0], inner[START1], inner[START2], inner[COUNT1], inner[COUNT2]
    first2, last2, offset2, out2 = target[START2], target[START2] + target[COUNT2], target[OFFSET2], out[SIZE2]
    positions, behind, n_rim = source[POSITIONS], conv[BEHIND], 0
    known = rim + 1 + 2 * positions  # (side, position) -> 1 + its place in the list, where it has one
    for k in range(2 * positions):
        integers[known + k] = 0
    for i in range(target[COUNT0]):
        p0 = target[START0] + i
        q0 = (p0 + target[OFFSET0]) % out[SIZE0]
        for j in range(target[COUNT1]):
            p1 = target[START1] + j
            q1 = (p1 + target[OFFSET1]) % out[SIZE1]
            for p2 in range(first2, last2):
                q2 = p2 + offset2
                left2, right2 = taps2 + p2 * k2, taps2 + (q2 - out2 if q2 >= out2 else q2) * k2
                for a0 in range(k0):
                    x0, y0 = lanes.at(taps, taps0 + p0 * k0 + a0), lanes.at(taps, taps0 + q0 * k0 + a0)
                    for a1 in range(k1):
                        x1, y1 = lanes.at(taps, taps1 + p1 * k1 + a1), lanes.at(taps, taps1 + q1 * k1 + a1)
                        left, right = x0 | x1, y0 | y1  # negative where either is
                        base = ((x0 - start0) * count1 + x1 - start1) * count2 + 1 - start2
                        for a2 in range(k2):
                            x2, y2 = lanes.at(taps, left2 + a2), lanes.at(taps, right2 + a2)
                            here, there = left | x2, right | y2
                            row = base + x2 if here | there >= 0 else 0
                            if here ^ there < 0:
                                position = (x0 * size1 + x1) * size2 + x2
                                if here < 0:
                                    position = positions + (y0 * size1 + y1) * size2 + y2
                                if integers[known + position] == 0:
                                    n_rim += 1
                                    integers[known + position] = n_rim
                                    integers[rim + n_rim] = position
                                row = behind + integers[known + position]
                            integers[place] = row
                            place += 1
    integers[rim] = n_rim


@cache.kept(**INNER)
def gather(work, integers, table, taps, rows, source, source_t, with_t, scale):
    """Rows of D, and of T where asked for, become means over their taps in the source slices."""
    for r in range(rows):
        t = table + r * taps
        if taps == 9:
            if with_t:
                lanes.mean_of_9_taps(work, (D + r, T + r), integers, t, (source, source_t), scale)
            else:
                lanes.mean_of_9_taps(work, (D + r,), integers, t, (source,), scale)
            continue
        for part in range(2 if with_t else 1):
            row, first = (T + r, source_t) if part else (D + r, source)
            lanes.fill_row(work, row, work, (), work[0] * 0)
            a = 0
            while a + 3 <= taps:
                three = (
                    first + lanes.at(integers, t + a),
                    first + lanes.at(integers, t + a + 1),
                    first + lanes.at(integers, t + a + 2),
                )
                lanes.add_3_rows(work, row, work, three, scale)
                a += 3
            while a < taps:
                lanes.add_row(work, row, work, (first + lanes.at(integers, t + a),), scale)
                a += 1


@cache.kept(**INNER)
def gather_pairs(work, taps, tables, kernel, r, tensor, place, positions, moments, with_t, scale):
    """A row of D, and of T where asked for, becomes the mean over its taps in the source's tensor.

    tables: where the taps of the two positions begin; moments: rows of the second moments, which D is where only the
    other position has an input.
    """
    lanes.fill_row(work, D + r, work, (), work[0] * 0)
    lanes.fill_row(work, T + r, work, (), work[0] * 0)
    for k in range(kernel):
        here, there = lanes.at(taps, tables[0] + k), lanes.at(taps, tables[1] + k)
        if here >= 0 and there >= 0:
            source = place + here * positions + there
            lanes.add_row(work, D + r, tensor, (source,), scale)
            if with_t:
                lanes.add_row(work, T + r, tensor, (source + positions**2,), scale)
        elif here >= 0:
            lanes.add_row(work, D + r, work, (moments[0] + here,), scale)
        elif there >= 0:
            lanes.add_row(work, D + r, work, (moments[1] + there,), scale)


@cache.kept(**INNER)
def push(work, integers, coordinates, rows, pool, readers, shares, tensor, place, band, has_t):
    """Adds a strip's rows to the pooled covariance: every row to all pairs of windows that hold its two positions.

    readers[readers[READERS + p] … readers[READERS + p + 1]] are the outputs that read p, with weights `shares`, and
    behind them their coordinates on the axis of bands. Only outputs whose offset on it lies in `band` are written, so
    that two jobs never write the same place.
    """
    first, behind, positions = pool[READERS], pool[COORDINATES_BEHIND], pool[OUT_POSITIONS]
    for r in range(rows):
        p, q = lanes.at(integers, coordinates + 2 * r), lanes.at(integers, coordinates + 2 * r + 1)
        begin, end = lanes.at(readers, first + q), lanes.at(readers, first + q + 1)
        for i in range(lanes.at(readers, first + p), lanes.at(readers, first + p + 1)):
            left, here = place + lanes.at(readers, i) * positions, lanes.at(readers, i + behind)
            for j in range(begin, end):
                apart = lanes.at(readers, j + behind) - here
                if band[0] <= apart and apart < band[1]:
                    to, weight = left + lanes.at(readers, j), shares[i] * shares[j]
                    lanes.add_row(tensor, to, work, (D + r,), weight)
                    if has_t:
                        lanes.add_row(tensor, to + positions * positions, work, (T + r,), weight)


@cache.kept(**INNER)
def run_plain(work, code, a, b, t_in, t_out, numbers, first, rows):
    """The operations on a strip that look at no positions, of this machine and of diagonal.py's."""
    x, y, z, w = numbers[0], numbers[1], numbers[2], numbers[3]
    if code == LOAD:
        for r in range(rows):
            lanes.copy_row(work, D + r, work, (a + 1 + first + r,), x)
            if t_in:
                lanes.copy_row(work, T + r, work, (b + 1 + first + r,), x)
    elif code == AFFINE:  # D ← x D, T ← x T + y (r1² + r2² − w D) + z
        for r in range(rows):
            if t_out:
                lanes.affine_row(work, (R1 + r, R2 + r, D + r, T + r), (x, y, z, w), t_in != 0)
            else:
                lanes.scale_row(work, D + r, work, (D + r,), x)
    elif code == DUAL:
        lanes.call_at(a, work, rows * LANES)
    elif code == ADD:
        for r in range(rows):
            lanes.add_row(work, D + r, work, (a + 1 + first + r,), x)
            if t_in:
                lanes.add_row(work, T + r, work, (b + 1 + first + r,), x)
    elif code == SCALE:
        for r in range(rows):
            lanes.scale_row(work, D + r, work, (D + r,), x)
            if t_in:
                lanes.scale_row(work, T + r, work, (T + r,), x)
            elif t_out:
                lanes.fill_row(work, T + r, work, (), x * 0)
    elif code == STORE:
        for r in range(rows):
            lanes.copy_row(work, a + 1 + first + r, work, (D + r,), x)
            if t_out:
                lanes.copy_row(work, b + 1 + first + r, work, (T + r,), x)


@cache.kept(**INNER)
def run_strip(
    work, integers, ops, numbers, first_op, last_op, first, rows, levels, level, convs, taps, pools, readers, shares,
    weights, left, right, tensor, sums, band, owned,
):  # fmt: skip
    """Takes one strip of a slice through the operations of a pass.

    Columns of an operation: code; what it reads or writes; positions or channels; whether D's companion T comes in;
    whether T goes out; a table's number or place; a count; a plane. left, right: rows where the two samples'
    quantities by position begin.
    """
    coordinates = level[COORDINATES]
    for o in range(first_op, last_op):
        code, a, b, t_in, t_out, c = ops[o, 0], ops[o, 1], ops[o, 2], ops[o, 3], ops[o, 4], ops[o, 5]
        x = numbers[o, 0]
        if code == READ:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                lanes.fill_row(work, D + r, work, (), work[0] * 0)
                for channel in range(b):
                    shift = a + channel * level[POSITIONS]
                    lanes.add_square_of_difference(work, D + r, work, (left + shift + p, right + shift + q), x)
                lanes.scale_row(work, D + r, work, (D + r,), x)
        elif code == GATHER:
            conv = convs[c]
            k = conv[KERNEL0] * conv[KERNEL1] * conv[KERNEL2]
            gather(work, integers, conv[TABLE] + first * k, k, rows, a, b, t_in != 0, x)
        elif code == RIM:  # once a slice, before its source is read
            if first == 0:
                rim, positions = convs[c, OUTLINE], levels[convs[c, LEVEL_IN], POSITIONS]
                for k in range(1, integers[rim] + 1):
                    position = integers[rim + k]
                    from_row = left + b + position if position < positions else right + b + position - positions
                    lanes.copy_row(work, a + convs[c, BEHIND] + k, work, (from_row,), x)
        elif code == TENSOR:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                place = a + p * level[POSITIONS] + q
                lanes.copy_row(work, D + r, tensor, (place,), x)
                if t_in:
                    lanes.copy_row(work, T + r, tensor, (place + level[POSITIONS] ** 2,), x)
        elif code == GATHER_PAIRS:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                moments = left + ops[o, 7], right + ops[o, 7]
                gather_pairs(work, taps, (c + p * b, c + q * b), b, r, tensor, a, ops[o, 6], moments, t_in != 0, x)
        elif code == ROOTS:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                lanes.copy_row(work, R1 + r, work, (left + a + p,), x)
                lanes.copy_row(work, R2 + r, work, (right + a + q,), x)
        elif code == MEANS:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                four = (left + a + p, right + a + q, left + b + p, right + b + q)
                lanes.add_product_of_differences(work, D + r, work, four, x)
        elif code == TIMES:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                lanes.multiply_row(work, D + r, work, (left + a + p, right + a + q), x)
                if t_in:
                    lanes.multiply_row(work, T + r, work, (left + a + p, right + a + q), x)
        elif code == PUSH:
            push(work, integers, coordinates + 2 * first, rows, pools[c], readers, shares, tensor, a, band, t_in)
        elif code == SUM and owned:
            for r in range(rows):
                p = lanes.at(integers, coordinates + 2 * (first + r))
                q = lanes.at(integers, coordinates + 2 * (first + r) + 1)
                weight = weights[b + p] * weights[b + q]
                if c:  # a trace: equal positions only
                    weight = weights[b + p] if p == q else 0.0
                lanes.add_row(sums, 2 * a, work, (D + r,), weight)
                if t_in:
                    lanes.add_row(sums, 2 * a + 1, work, (T + r,), weight)
        else:
            run_plain(work, code, a, b, t_in, t_out, numbers[o], first, rows)


@cache.kept(**OPTIONS)
def gather_planes(work, row, states, samples):
    """Puts one side's quantities, by position, side by side: row + k holds row k of `states`, of the lanes' samples."""
    for k in range(len(states)):
        for lane in range(LANES):
            work[(row + k) * LANES + lane] = states[k, samples[lane]]


@cache.kept(**OPTIONS)
def run_slices(
    work, integers, ops, numbers, passes, levels, convs, taps, pools, readers, shares, weights, slices, places, left,
    right, left_states, right_states, left_samples, right_samples, loaded, placed, geometries, tensors, sums, band,
):  # fmt: skip
    """Takes the listed slices of the tiles of a job through the whole stage.

    slices: (offset, offset, offset, whether this job adds it to the sums); places: where, on the second axis of sums.
    left, right: rows for the states of the lanes' samples, (tiles, LANES). loaded: the sample numbers that lie there.
    geometries: room for where the slice lies at each level. placed: the slice whose geometry and taps are there.
    tensors, sums: first axis the tiles.
    """
    for s in range(len(slices)):
        if placed[0] != places[s]:
            placed[0] = places[s]
            for k in range(len(levels)):
                place_slice(levels[k], slices[s], geometries[k], integers)
            for k in range(len(convs)):
                if geometries[convs[k, LEVEL_OUT], ACTIVE]:
                    place_taps(convs[k], levels, geometries, taps, integers)
        for tile in range(len(left_samples)):
            for side in range(2):
                samples = right_samples[tile] if side else left_samples[tile]
                changed = False
                for lane in range(LANES):
                    changed = changed or loaded[side, lane] != samples[lane]
                    loaded[side, lane] = samples[lane]
                if changed:
                    gather_planes(work, right if side else left, right_states if side else left_states, samples)
            for k in range(len(passes)):
                level, geometry = levels[passes[k, 2]], geometries[passes[k, 2]]
                if geometry[ACTIVE]:
                    for first in range(0, geometry[ROWS], STRIP_ROWS):
                        run_strip(
                            work, integers, ops, numbers, passes[k, 0], passes[k, 1], first,
                            min(STRIP_ROWS, geometry[ROWS] - first), levels, level, convs, taps, pools, readers,
                            shares, weights, left, right, tensors[tile], sums[tile, places[s]], band, slices[s, 3],
                        )  # fmt: skip


@cache.kept(**INNER)
def _holds(masks, grid, d0, d1, d2):
    """Whether masks of offsets, axis by axis, all hold."""
    return masks[0, d0 + grid[0] - 1] and masks[1, d1 + grid[1] - 1] and masks[2, d2 + grid[2] - 1]


@cache.kept(**OPTIONS)
def finish_pool(
    work, left, right, pooled_left, pooled_right, totals, tensor, place, grid, exact, exact_place, needed, near, rows
):
    """From sums of D over windows to D of the pooled values, both sides' spreads taken away.

    left, right: rows of the spreads; pooled_*: rows of the pooled second moments; totals: sums of weights by position.
    Where `needed` holds for the offset; where `near` does too, D comes from `exact`, which is computed in float64.
    What is below the rounding of the sums is 0, as it is for a sample with itself. rows: positions (from, to) of the
    left side.
    """
    positions = grid[0] * grid[1] * grid[2]
    for p in range(rows[0], rows[1]):
        p0, p1, p2 = p // (grid[1] * grid[2]), p // grid[2] % grid[1], p % grid[2]
        for q in range(positions):
            d0, d1, d2 = q // (grid[1] * grid[2]) - p0, q // grid[2] % grid[1] - p1, q % grid[2] - p2
            row = (place + p * positions + q) * LANES
            if not _holds(needed, grid, d0, d1, d2):
                continue
            if _holds(near, grid, d0, d1, d2):
                other = (exact_place + p * positions + q) * LANES
                for lane in range(LANES):
                    tensor[row + lane] = exact[other + lane]
            else:
                tilt = totals[p] - totals[q]
                for lane in range(LANES):
                    spread = work[(left + p) * LANES + lane] + work[(right + q) * LANES + lane]
                    d = tensor[row + lane] - spread
                    if tilt != 0:
                        gap = work[(pooled_left + p) * LANES + lane] - work[(pooled_right + q) * LANES + lane]
                        d += tilt * gap
                    tensor[row + lane] = d if d > ROUNDING * spread else 0
