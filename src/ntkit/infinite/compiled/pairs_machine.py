"""The compiled interpreter for vectors: strips of pairs of one left sample with many right ones.

The same accumulator as in machine.py (rows r1, r2, D, T of `STRIP` numbers), but the numbers are different pairs and
not positions, so nothing is gathered and registers wait in strips of their own.
"""

from __future__ import annotations

import numpy as np

from ntkit.infinite.compiled import cache, lanes
from ntkit.infinite.compiled.duals import STRIP
from ntkit.infinite.compiled.lanes import LANES
from ntkit.infinite.compiled.machine import INNER, OPTIONS, R1, R2, STRIP_ROWS, D, T
from ntkit.infinite.compiled.machine import WORK as REGISTERS

DATA, ROOT, LOAD, STORE, ROOTS, AFFINE, DUAL, ADD, SCALE, MEANS, OUTPUT, TIMES, KEEP = range(13)
CLOSE = np.float32(1e-3)  # of q1 + q2: a smaller squared distance is taken from the data themselves
_R2, _D, _T = STRIP, 2 * STRIP, 3 * STRIP
# whole numbers would make float64 of float32
_OPPOSITE, _PARALLEL, _UNEVEN = np.float32(25), np.float32(800), np.float32(20)


@cache.kept(**INNER)
def is_delicate(p, s, d):
    """Whether the angle of a pair is lost in float32's D: opposite samples, parallel ones, very different lengths.

    With p = √(q1 q2) and h = sin²(θ/2) = (p − s)/2p, a relative error ε of D is one of ε D/4p in h. That is too much
    where D/4p ≫ √h, and near θ = π where D/4p ≫ √(1 − h), and in any case where D/4p is large.
    """
    opposite, parallel, uneven = _OPPOSITE * (p + s) < p, _PARALLEL * p * (p - s) < d * d, d > _UNEVEN * p
    return (p > 0) & (opposite | parallel | uneven)


@cache.kept(**INNER)
def is_close(s, d):
    """Whether the difference that D comes from has cancelled."""
    return d <= CLOSE * (s + s + d)


@cache.kept(**INNER)
def read_data(work, products, column, x, y, i, first, n, q1, q2, r1, r2, same, exact):
    """D = q1 + q2 − 2 s from the products d s; pairs too close for that from Σ (x − y)²/d, a sample with itself is 0.

    Delicate pairs are counted, and where `exact` taken from the data as well.
    """
    share = 1.0 / x.shape[1]
    # parts of arrays, for an index that may be negative keeps a loop from vectorising
    products, q2, r2 = products[column : column + n], q2[first : first + n], r2[first : first + n]
    for k in range(n):  # s waits in T's strip, so that the next loop works on one array
        s = share * products[k]
        work[_T + k] = s
        work[k] = r1
        work[_R2 + k] = r2[k]
        work[_D + k] = (q1 + q2[k]) - 2 * s
    special = 0
    for k in range(n):
        p, s, d = work[k] * work[_R2 + k], work[_T + k], work[_D + k]
        special += is_close(s, d) | is_delicate(p, s, d)
    delicate = 0
    if special > 0:
        for k in range(n):
            p, s, d = work[k] * work[_R2 + k], work[_T + k], work[_D + k]
            close, counted = is_close(s, d), is_delicate(p, s, d)
            delicate += counted & (not close)
            if close or (exact and counted):
                total = 0.0
                if first + k != same:
                    for c in range(x.shape[1]):
                        gap = float(x[i, c]) - float(y[first + k, c])
                        total += gap * gap
                work[_D + k] = total / x.shape[1]
    return delicate


@cache.kept(**INNER)
def run_strip(
    work, ops, numbers, i, first, n, left, right, products, x, y, same, distances, tangents, nngp, ntk, row, column,
    exact,
):  # fmt: skip
    """Takes the pairs of left sample i with n right samples through all operations.

    Columns of an operation: code; what it reads or writes; a second such place; whether T comes in, whether T goes out.
    left: quantities of left samples, (samples, columns); right: of right samples, (columns, samples). distances,
    tangents: D and T of what is given, (roots, samples, samples). nngp, ntk: results of this block, or where KEEP puts
    D and T, of all samples like what is given. row, column: of the first pair in products and in a block's results.
    """
    rows, delicate = (n + LANES - 1) // LANES, 0
    for o in range(len(ops)):
        code, a, b, t_in, t_out = ops[o, 0], ops[o, 1], ops[o, 2], ops[o, 3], ops[o, 4]
        u, v, w, one = numbers[o, 0], numbers[o, 1], numbers[o, 2], numbers[o, 3]
        place = REGISTERS + 2 * STRIP_ROWS * a
        if code == DATA:
            if products is not None:  # where there are none, numba leaves this out
                q1, r1 = left[i, a], left[i, b]
                row_of = products[row]
                delicate += read_data(work, row_of, column, x, y, i, first, n, q1, right[a], r1, right[b], same, exact)
        elif code == ROOT:
            d = distances[a, i, first : first + n]
            for k in range(n):
                work[_D + k] = d[k]
            if t_in:
                t = tangents[a, i, first : first + n]
                for k in range(n):
                    work[_T + k] = t[k]
        elif code == LOAD:
            for r in range(rows):
                lanes.copy_row(work, D + r, work, (place + r,), u)
                lanes.copy_row(work, T + r, work, (place + STRIP_ROWS + r,), u)
        elif code == STORE:
            for r in range(rows):
                lanes.copy_row(work, place + r, work, (D + r,), u)
                lanes.copy_row(work, place + STRIP_ROWS + r, work, (T + r,), u)
        elif code == ROOTS:
            # what may change while the loop runs keeps it from vectorising
            here, there = left[i, a], right[a, first : first + n]
            for k in range(n):
                work[k] = here
                work[_R2 + k] = there[k]
        elif code == AFFINE:  # D ← u D, T ← u T + v (r1² + r2² − D) + w
            for r in range(rows):
                if t_out:
                    lanes.affine_row(work, (R1 + r, R2 + r, D + r, T + r), (u, v, w, one), t_in != 0)
                else:
                    lanes.scale_row(work, D + r, work, (D + r,), u)
        elif code == DUAL:
            lanes.call_at(a, work, n)
        elif code == ADD:
            for r in range(rows):
                lanes.add_row(work, D + r, work, (place + r,), u)
                if t_in:
                    lanes.add_row(work, T + r, work, (place + STRIP_ROWS + r,), u)
        elif code == SCALE:
            for r in range(rows):
                lanes.scale_row(work, D + r, work, (D + r,), u)
                if t_in:
                    lanes.scale_row(work, T + r, work, (T + r,), u)
                else:
                    lanes.fill_row(work, T + r, work, (), u * 0)
        elif code == MEANS:
            mean1, mean2, means1, means2 = (
                left[i, a],
                left[i, b],
                right[a, first : first + n],
                right[b, first : first + n],
            )
            for k in range(n):
                work[_D + k] += u * (mean1 - means1[k]) * (mean2 - means2[k])
        elif code == TIMES:
            here, there = left[i, a], right[a, first : first + n]
            for k in range(n):
                work[_D + k] *= here * there[k]
            if t_in:
                for k in range(n):
                    work[_T + k] *= here * there[k]
        elif code == OUTPUT:
            if nngp.shape[0] > 0:
                q1, q2, target = left[i, b], right[b, first : first + n], nngp[a, row, column : column + n]
                for k in range(n):
                    target[k] = (q1 + q2[k] - work[_D + k]) / 2
            if ntk.shape[0] > 0:
                target = ntk[a, row, column : column + n]
                for k in range(n):
                    target[k] = work[_T + k] if t_in else 0.0
        elif code == KEEP:
            target = nngp[a, i, first : first + n]
            for k in range(n):
                target[k] = work[_D + k]
            if ntk.shape[0] > 0:
                target = ntk[a, i, first : first + n]
                for k in range(n):
                    target[k] = work[_T + k] if t_in else 0.0
    return delicate


@cache.kept(**OPTIONS)
def run_block(
    work, ops, numbers, rows, columns, diagonal, left, right, products, x, y, distances, tangents, nngp, ntk, exact
):
    """A block of pairs: rows (from, to) and at most `STRIP` columns (from, to); of a symmetric one the upper half.

    diagonal: column of row 0's own sample, or −1 where the two sides are different samples. Gives the number of
    delicate pairs; see `read_data`.
    """
    delicate = 0
    for i in range(rows[0], rows[1]):
        begin = columns[0]
        if diagonal >= 0:
            begin = max(begin, i + diagonal)
        same = i + diagonal if diagonal >= 0 else -1
        n = columns[1] - begin
        if n > 0:
            delicate += run_strip(
                work, ops, numbers, i, begin, n, left, right, products, x, y, same, distances, tangents, nngp, ntk,
                i - rows[0], begin - columns[0], exact,
            )  # fmt: skip
    return delicate
