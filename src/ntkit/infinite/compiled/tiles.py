"""Products of small matrices within compiled loops: no lock, no library's threads, nothing allocated.

Tiles of the result stay in registers while the sum runs; where rows or columns do not divide into tiles, the last ones
overlap with those before and write the same numbers again.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ntkit.infinite.compiled import cache
from ntkit.infinite.compiled.lanes import operation
from ntkit.infinite.compiled.machine import INNER

_ROWS = 4
# numbers beside each other: as many as leave the accumulators of a tile in registers, of 64 bytes or of 32
_BYTES = 256 if llvm.get_host_cpu_features().get("avx512f") else 64
_NARROW = 8


def _tile_operation(rows: int, narrow: bool) -> Any:
    """(c, place, a, place, b, place, depth): a tile of c, at its (row, column), = a's rows · b's columns."""

    def typer(typing_context: Any, c: Any, to: Any, a: Any, left: Any, b: Any, right: Any, depth: Any) -> Any:
        place = types.UniTuple(types.int64, 2)
        return types.void(c, place, a, place, b, place, types.int64), generate

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c, _, a, _, b, _, _ = signature.args
        number = context.get_value_type(c.dtype)
        width = _NARROW if narrow else _BYTES * 8 // c.dtype.bitwidth
        vector = ir.VectorType(number, width)

        def further(pointer: Any, distance: Any, times: Any = 1) -> Any:
            times = ir.IntType(64)(times) if isinstance(times, int) else times
            return builder.gep(pointer, [builder.mul(distance, times)], source_etype=number)

        def begin(array_type: Any, array: Any, place: Any) -> tuple[Any, Any, Any]:
            """Pointer to a place of an array, and how far apart its rows and its columns are."""
            held = cgutils.create_struct_proxy(array_type)(context, builder, value=array)
            size = ir.IntType(64)(array_type.dtype.bitwidth // 8)
            down, along = (builder.sdiv(builder.extract_value(held.strides, k), size) for k in range(2))
            row, column = (builder.extract_value(place, k) for k in range(2))
            return further(further(held.data, down, row), along, column), down, along

        to, c_down, _ = begin(c, args[0], args[1])
        left, a_down, a_along = begin(a, args[2], args[3])
        right, b_down, _ = begin(b, args[4], args[5])
        lefts = [further(left, a_down, r) for r in range(rows)]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * width)) for _ in range(rows)]
        none, zeros = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        with cgutils.for_range(builder, args[6]) as loop:
            row = builder.bitcast(further(right, b_down, loop.index), vector.as_pointer())
            values = builder.load(row, align=4, typ=vector)
            for r in range(rows):
                one = builder.load(further(lefts[r], a_along, loop.index), typ=number)
                all_alike = builder.shuffle_vector(builder.insert_element(none, one, ir.IntType(32)(0)), none, zeros)
                product = builder.fmul(all_alike, values, flags=["contract"])
                total = builder.fadd(builder.load(sums[r], typ=vector), product, flags=["contract"])
                builder.store(total, sums[r])
        for r in range(rows):
            target = builder.bitcast(further(to, c_down, r), vector.as_pointer())
            builder.store(builder.load(sums[r], typ=vector), target, align=4)
        return context.get_dummy_value()

    return operation(typer)


_tile, _row = _tile_operation(_ROWS, narrow=False), _tile_operation(1, narrow=False)
_narrow_tile, _narrow_row = _tile_operation(_ROWS, narrow=True), _tile_operation(1, narrow=True)


@cache.kept(**INNER)
def multiply(c, to, a, left, b, right, rows, columns, depth):
    """c[to …] = a[left …] b[right …], (rows, columns) from (rows, depth) and (depth, columns).

    to, left, right: (row, column) at which each begins in its array. All arrays hold numbers of one kind, and c and b
    row by row.
    """
    width = _BYTES // c.itemsize
    if columns >= _NARROW:
        i = 0
        while i < rows:
            i = i if rows - i >= _ROWS or rows < _ROWS else rows - _ROWS
            j = 0
            while j < columns:
                there, whole = (left[0] + i, left[1]), columns - j >= width
                if not whole and columns - j < _NARROW:
                    j = columns - _NARROW
                target, source = (to[0] + i, to[1] + j), (right[0], right[1] + j)
                if rows >= _ROWS:
                    if whole:
                        _tile(c, target, a, there, b, source, depth)
                    else:
                        _narrow_tile(c, target, a, there, b, source, depth)
                elif whole:
                    _row(c, target, a, there, b, source, depth)
                else:
                    _narrow_row(c, target, a, there, b, source, depth)
                j += width if whole else _NARROW
            i += _ROWS if rows >= _ROWS else 1
        return
    for i in range(rows):
        for j in range(columns):
            total = c.dtype.type(0)
            for k in range(depth):
                total += a[left[0] + i, left[1] + k] * b[right[0] + k, right[1] + j]
            c[to[0] + i, to[1] + j] = total
