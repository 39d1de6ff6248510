"""Loops over the rows of a strip whose running values stay in registers, for networks that need equal positions only.

Like lanes.py in the compiler's own language (LLVM). What is known of samples comes as numbers of `SIDE` neighbouring
samples, from which the lanes of one side of a tile are made.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ntkit.infinite.compiled.lanes import LANES, SIDE, Rows, operation, total

_INTEGER = ir.IntType(64)
_FUSED = {"flags": ["contract"]}
_OF_LEFT, _OF_RIGHT = [lane // SIDE for lane in range(LANES)], [lane % SIDE for lane in range(LANES)]


class _Strip(Rows):
    """Rows and sides of one array while code is generated."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any):
        super().__init__(context, builder)
        self.array_type, self.array = array_type, array
        self.vector = ir.VectorType(context.get_value_type(array_type.dtype), LANES)
        self.zero = ir.Constant(self.vector, [0.0] * LANES)

    def row(self, number: Any) -> Any:
        """What lies in a row."""
        return self.load(self.array_type, self.pointer(self.array_type, self.array, number))

    def put(self, value: Any, number: Any) -> None:
        """Writes a row."""
        self.store(value, self.pointer(self.array_type, self.array, number))

    def variable(self, value: Any) -> Any:
        """A vector that changes."""
        held = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(value, held)
        return held

    def side(self, array_type: Any, array: Any, place: Any, of_lane: list[int]) -> Any:
        """Lane k of the result is number of_lane[k] of the `SIDE` numbers that lie at a place."""
        builder = self.builder
        data = cgutils.create_struct_proxy(array_type)(self.context, builder, value=array).data
        kind = ir.VectorType(self.vector.element, SIDE)
        pointer = builder.bitcast(builder.gep(data, [place], source_etype=self.vector.element), kind.as_pointer())
        few = builder.load(pointer, align=4, typ=kind)
        return builder.shuffle_vector(few, few, ir.Constant(ir.VectorType(ir.IntType(32), LANES), of_lane))


def _unpacked(builder: Any, values: Any, n: int) -> list[Any]:
    return [builder.extract_value(values, k) for k in range(n)]


@operation
def place_sides(typing_context: Any, work: Any, rows: Any, left: Any, right: Any, places: Any, n: Any) -> Any:
    """Rows rows[0] + k of work = the left side's numbers at places[0] + k · SIDE, k < n; rows[1] the right side's."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        strip = _Strip(context, builder, work, args[0])
        to, places = _unpacked(builder, args[1], 2), _unpacked(builder, args[4], 2)
        with cgutils.for_range(builder, args[5]) as loop:
            step = builder.mul(loop.index, _INTEGER(SIDE))
            for array_type, array, row, place, lanes in zip(
                (left, right), args[2:4], to, places, (_OF_LEFT, _OF_RIGHT), strict=True
            ):
                value = strip.side(array_type, array, builder.add(place, step), lanes)
                strip.put(value, builder.add(row, loop.index))
        return context.get_dummy_value()

    two = types.UniTuple(types.int64, 2)
    return types.void(work, two, left, right, two, types.int64), generate


@operation
def mean_square_difference(
    typing_context: Any, work: Any, row: Any, left: Any, right: Any, places: Any, channels: Any, step: Any, scale: Any
) -> Any:
    """work[row] = scale · Σ over channels of (left − right)², a channel's numbers `step` behind the one before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        strip = _Strip(context, builder, work, args[0])
        one, two = _unpacked(builder, args[4], 2)
        sum_held = strip.variable(strip.zero)
        with cgutils.for_range(builder, args[5]) as loop:
            shift = builder.mul(loop.index, args[6])
            x = strip.side(left, args[2], builder.add(one, shift), _OF_LEFT)
            y = strip.side(right, args[3], builder.add(two, shift), _OF_RIGHT)
            gap = builder.fsub(x, y)
            square = builder.fmul(gap, gap, **_FUSED)
            builder.store(builder.fadd(builder.load(sum_held, typ=strip.vector), square, **_FUSED), sum_held)
        strip.put(builder.fmul(builder.load(sum_held, typ=strip.vector), strip.broadcast(args[7])), args[1])
        return context.get_dummy_value()

    two = types.UniTuple(types.int64, 2)
    return types.void(work, types.int64, left, right, two, types.int64, types.int64, work.dtype), generate


@operation
def add_product_of_differences(
    typing_context: Any, work: Any, row: Any, left: Any, right: Any, places: Any, shifts: Any, scale: Any
) -> Any:
    """work[row] += scale · (left − right) at the first shift from the two places · (left − right) at the second."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        strip, gaps = _Strip(context, builder, work, args[0]), []
        one, two = _unpacked(builder, args[4], 2)
        for shift in _unpacked(builder, args[5], 2):
            x = strip.side(left, args[2], builder.add(one, shift), _OF_LEFT)
            y = strip.side(right, args[3], builder.add(two, shift), _OF_RIGHT)
            gaps.append(builder.fsub(x, y))
        share = builder.fmul(builder.fmul(*gaps), strip.broadcast(args[6]), **_FUSED)
        strip.put(builder.fadd(strip.row(args[1]), share, **_FUSED), args[1])
        return context.get_dummy_value()

    two = types.UniTuple(types.int64, 2)
    return types.void(work, types.int64, left, right, two, two, work.dtype), generate


@operation
def multiply_by_sides(typing_context: Any, work: Any, row: Any, left: Any, right: Any, places: Any) -> Any:
    """work[row] *= the left side's numbers at places[0] times the right side's at places[1]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        strip = _Strip(context, builder, work, args[0])
        one, two = _unpacked(builder, args[4], 2)
        x, y = strip.side(left, args[2], one, _OF_LEFT), strip.side(right, args[3], two, _OF_RIGHT)
        strip.put(builder.fmul(strip.row(args[1]), builder.fmul(x, y)), args[1])
        return context.get_dummy_value()

    two = types.UniTuple(types.int64, 2)
    return types.void(work, types.int64, left, right, two), generate


@operation
def mean_of_neighbours(
    typing_context: Any, work: Any, to: Any, sources: Any, image_rows: Any, zeros: Any, columns: Any, scale: Any
) -> Any:
    """A 3 × 3 window in part of an image's row: `scale` times the sum over each position's nine neighbours.

    Columns are summed first, so that each is read once. For columns (j, j_end, width) writes rows to[k] … from source
    sources[k]. image_rows: where the image's row above, this one, and the one below begin behind a source; negative
    where there is none, and then rows from `zeros` on are read.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        strip, n = _Strip(context, builder, work, args[0]), len(sources)
        targets, bases = _unpacked(builder, args[1], n), _unpacked(builder, args[2], n)
        places = _unpacked(builder, args[3], 3)
        j, j_end, width = _unpacked(builder, args[5], 3)
        factor, one = strip.broadcast(args[6]), _INTEGER(1)

        def chosen(condition: Any, value: Any, other: Any) -> Any:
            return builder.select(condition, value, other)

        rows = [
            [
                chosen(builder.icmp_signed(">=", place, _INTEGER(0)), builder.add(base, place), args[4])
                for place in places
            ]
            for base in bases
        ]

        def column(k: int, number: Any) -> Any:
            return total(strip, [strip.row(builder.add(row, number)) for row in rows[k]])

        inside = builder.icmp_signed(">", j, _INTEGER(0))
        last = builder.sub(j_end, one)
        before = [
            strip.variable(chosen(inside, column(k, chosen(inside, builder.sub(j, one), j)), strip.zero))
            for k in range(n)
        ]
        here = [strip.variable(column(k, j)) for k in range(n)]

        def put(k: int, number: Any, following: Any) -> None:
            two = builder.fadd(builder.load(here[k], typ=strip.vector), following)
            sum_of_three = builder.fadd(builder.load(before[k], typ=strip.vector), two)
            strip.put(builder.fmul(sum_of_three, factor), builder.add(targets[k], number))

        with cgutils.for_range(builder, builder.sub(last, j)) as loop:
            for k in range(n):
                following = column(k, builder.add(builder.add(j, loop.index), one))
                put(k, loop.index, following)
                builder.store(builder.load(here[k], typ=strip.vector), before[k])
                builder.store(following, here[k])
        more = builder.icmp_signed("<", j_end, width)
        for k in range(n):
            put(k, builder.sub(last, j), chosen(more, column(k, chosen(more, j_end, last)), strip.zero))
        return context.get_dummy_value()

    three = types.UniTuple(types.int64, 3)
    return types.void(work, to, sources, three, types.int64, three, work.dtype), generate


@operation
def add_weighted_sum(
    typing_context: Any, sums: Any, row: Any, work: Any, first: Any, weights: Any, place: Any, n: Any
) -> Any:
    """sums[row] += Σ over k < n of weights[place + k] · work[first + k], in the precision of `sums`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, strip = _Strip(context, builder, sums, args[0]), _Strip(context, builder, work, args[2])
        data = cgutils.create_struct_proxy(weights)(context, builder, value=args[4]).data
        held = to.variable(to.row(args[1]))
        with cgutils.for_range(builder, args[6]) as loop:
            value = strip.row(builder.add(args[3], loop.index))
            if work.dtype != sums.dtype:
                value = builder.fpext(value, to.vector)
            pointer = builder.gep(data, [builder.add(args[5], loop.index)], source_etype=to.vector.element)
            weight = to.broadcast(builder.load(pointer, typ=to.vector.element))
            share = builder.fmul(value, weight, **_FUSED)
            builder.store(builder.fadd(builder.load(held, typ=to.vector), share, **_FUSED), held)
        to.put(builder.load(held, typ=to.vector), args[1])
        return context.get_dummy_value()

    return types.void(sums, types.int64, work, types.int64, weights, types.int64, types.int64), generate
