"""Runs of instructions over all pairs of positions, for one left sample and a few right ones at a time.

What a run hands from step to step stays in cache: D and T wait in *slots*, (p, columns), where the columns are the
positions of the right samples side by side.
"""

from __future__ import annotations

from ntkit.infinite.compiled import cache, mixing
from ntkit.infinite.compiled.duals import STRIP
from ntkit.infinite.compiled.machine import INNER, OPTIONS
from ntkit.infinite.compiled.pairs_machine import run_strip
from ntkit.infinite.compiled.tiles import multiply

BRING, POINTWISE, MIX, TOTAL, HAND_ON = range(5)  # what a step does
ALL, UPPER, OWN = range(3)  # right samples: all, those from the left one's number on, or that number's alone


@cache.kept(**INNER)
def copy_block(to, row, column, source, from_row, from_column, rows, columns):
    """to[row …, column …] = source[from_row …, from_column …]."""
    for a in range(rows):
        target = to[row + a, column : column + columns]
        values = source[from_row + a, from_column : from_column + columns]
        for c in range(columns):
            target[c] = values[c]


@cache.kept(**INNER)
def run_pointwise(room, work, ops, numbers, with_data, left, right, x, y, turned, begin, end, exact):
    """Strips through operations of `pairs_machine`; gives the number of delicate pairs."""
    slots, rates, products = room[0], room[1], room[2]
    p, delicate = len(left), 0
    first, last = begin * p, end * p
    if with_data:
        multiply(products, (0, first), x, (0, 0), turned, (0, first), p, last - first, x.shape[1])
    for a in range(p):
        for c in range(first, last, STRIP):
            delicate += run_strip(
                work, ops, numbers, a, c, min(STRIP, last - c), left, right, products, x, y, -1, slots, rates, slots,
                rates, a, c, exact,
            )  # fmt: skip
    return delicate


@cache.kept(**INNER)
def run_steps(tables, room, work, p, which, i, strip, begin, end, left, right, same, given, made, exact):
    """All steps for left sample i and the right samples from `begin` to `end` of a strip."""
    slots, rates, half, half_rates = room[0], room[1], room[3], room[4]
    steps, ops, numbers = tables
    rows, x, columns, turned = (
        left[0][i * p : (i + 1) * p],
        left[1][i * p : (i + 1) * p],
        right[0][strip],
        right[2][strip],
    )
    at_once, with_t, lost = columns.shape[1] // p, rates.shape[0] > 0, 0
    y, own = right[1][strip * at_once * p :], which == OWN
    first = strip * at_once - (i if own else 0)  # the strip's first sample in what comes from outside
    equal = same[i, 0 if own else strip * at_once :]
    width, here, there = (end - begin) * p, begin * p, (first + begin) * p
    for k in range(len(steps)):
        code, a, b, c, plane = steps[k, 0], steps[k, 1], steps[k, 2], steps[k, 3], steps[k, 4]
        if code == BRING:
            copy_block(slots[a], 0, here, given[0][b], i * p, there, p, width)
            if with_t:
                copy_block(rates[a], 0, here, given[1][b], i * p, there, p, width)
        elif code == POINTWISE:
            lost += run_pointwise(room, work, ops[a:b], numbers[a:b], c, rows, columns, x, y, turned, begin, end, exact)
        elif code == MIX:
            mixing.mix(slots[a], slots[b], half, left[2][c, i], right[3][c], strip * at_once, begin, end)
            if with_t:
                mixing.mix(rates[a], rates[b], half_rates, left[3][c, i], right[4][c], strip * at_once, begin, end)
            lost += mixing.finish(slots[a], rows, columns, plane, equal, left[4][c, i], begin, end, not exact)
        elif code == TOTAL:
            totals = made[2][i]
            mixing.total(slots[a], half[0], rows, columns, c, begin, end, totals, first)
            lost += mixing.finish_total(totals, first, rows, columns, plane, equal, begin, end, not exact)
            if with_t:
                mixing.total(rates[a], half[0], rows, columns, c, begin, end, made[3][i], first)
        elif code == HAND_ON:
            copy_block(made[0][b], i * p, there, slots[a], 0, here, p, width)
            if with_t:
                copy_block(made[1][b], i * p, there, rates[a], 0, here, p, width)
    return lost


@cache.kept(**OPTIONS)
def run_chain(tables, room, work, p, which, rows, columns, left, right, same, given, made, exact):
    """Takes pairs of left and right samples through all steps; gives of how many float32 loses too much.

    Args:
        tables: steps (code, slot, slot or number, number, plane; of POINTWISE first and end of its operations, and
            whether they read the data; of MIX the slot that is written first), operations, and their numbers.
        room: slots of D and T; products of the data; D and T half mixed.
        work: of `run_strip`.
        p: positions of a sample.
        which: right samples of each left one.
        rows, columns: left and right samples, first and end.
        left, right: see `Known.as_left` and `Known.as_right`.
        same: which pairs are of equal samples; true for as many as a strip has where each is its OWN.
        given: D and T from outside, (sources, rows, columns).
        made: D and T for it, the same; D and T of totals, (n, m).
        exact: whether the arithmetic is float64.
    """
    lost, at_once = 0, right[0].shape[2] // p
    for i in range(rows[0], rows[1]):
        first = columns[0] if which == ALL else max(columns[0], i)
        last = i + 1 if which == OWN else columns[1]
        for strip in range(first // at_once, (last + at_once - 1) // at_once):
            begin, end = max(first - strip * at_once, 0), min(last - strip * at_once, at_once)
            lost += run_steps(tables, room, work, p, which, i, strip, begin, end, left, right, same, given, made, exact)
    return lost
