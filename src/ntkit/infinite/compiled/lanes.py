"""Rows of lanes: the same number of `LANES` sample pairs side by side, added and multiplied by single instructions.

Everything the machine works on lies in one array as rows of `LANES` numbers. The compiler cannot see that two rows of
one array do not overlap, so these few operations say it in its own language (LLVM vectors); they become the widest
instructions that the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

operation: Any = intrinsic  # called with one argument less than it is defined with, which checkers do not know
LANES = 16  # one AVX-512 register of float32
SIDE = 4  # a tile of SIDE left by SIDE right samples fills the lanes


class Rows:
    """Loads and stores of rows while code is generated.

    Args:
        context: numba's, of the target.
        builder: of the function's instructions.
    """

    def __init__(self, context: Any, builder: Any):
        self.context, self.builder = context, builder

    def pointer(self, array_type: Any, array: Any, row: Any) -> Any:
        """Where a row begins, as a pointer to a vector."""
        data = cgutils.create_struct_proxy(array_type)(self.context, self.builder, value=array).data
        number = self.context.get_value_type(array_type.dtype)
        place = self.builder.gep(data, [self.builder.mul(row, ir.IntType(64)(LANES))], source_etype=number)
        return self.builder.bitcast(place, ir.VectorType(number, LANES).as_pointer())

    def load(self, array_type: Any, pointer: Any) -> Any:
        """What lies at a pointer."""
        number = self.context.get_value_type(array_type.dtype)
        return self.builder.load(pointer, align=4, typ=ir.VectorType(number, LANES))

    def store(self, value: Any, pointer: Any) -> None:
        """Writes there."""
        self.builder.store(value, pointer, align=4)

    def broadcast(self, number: Any) -> Any:
        """The same number in all lanes."""
        kind = ir.VectorType(number.type, LANES)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _row_operation(compute: Callable[[Rows, Any, list[Any], Any], Any], sources: int) -> Any:
    """(array to, row, array from, `sources` rows, number) -> None: to[row] = compute(to[row], from[rows], number)."""

    def typer(typing_context: Any, to: Any, row: Any, source: Any, rows: Any, number: Any) -> Any:
        held = types.UniTuple(types.int64, sources) if sources else types.Tuple(())
        signature = types.void(to, types.int64, source, held, number)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            machine = Rows(context, builder)
            target = machine.pointer(to, args[0], args[1])
            places = [builder.extract_value(args[3], k) for k in range(sources)]
            values = [machine.load(source, machine.pointer(source, args[2], place)) for place in places]
            if values and source.dtype != to.dtype:
                wide = ir.VectorType(context.get_value_type(to.dtype), LANES)
                convert = builder.fpext if to.dtype == types.float64 else builder.fptrunc
                values = [convert(value, wide) for value in values]
            scalar = context.cast(builder, args[4], number, to.dtype)
            result = compute(machine, lambda: machine.load(to, target), values, lambda: machine.broadcast(scalar))
            machine.store(result, target)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(typer)


def total(machine: Rows, values: list[Any]) -> Any:
    """A sum in pairs, so that additions do not wait for each other."""
    while len(values) > 1:
        paired = [machine.builder.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = paired + ([values[-1]] if len(values) % 2 else [])
    return values[0]


def _copied(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    return values[0]


def _scaled_sum(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    return machine.builder.fmul(total(machine, values), number())


def _added(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    share = machine.builder.fmul(total(machine, values), number(), flags=["contract"])
    return machine.builder.fadd(old(), share, flags=["contract"])


def _square_added(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    gap = machine.builder.fsub(*values)
    square = machine.builder.fmul(gap, gap, flags=["contract"])
    return machine.builder.fadd(old(), square, flags=["contract"])


def _multiplied(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    return machine.builder.fmul(old(), machine.builder.fmul(*values))


def _filled(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    return number()


def _product_added(machine: Rows, old: Any, values: list[Any], number: Any) -> Any:
    b = machine.builder
    product = b.fmul(b.fsub(values[0], values[1]), b.fsub(values[2], values[3]))
    return b.fadd(old(), b.fmul(product, number(), flags=["contract"]), flags=["contract"])


fill_row = _row_operation(_filled, 0)
copy_row = _row_operation(_copied, 1)
add_row = _row_operation(_added, 1)
add_3_rows = _row_operation(_added, 3)
scale_row = _row_operation(_scaled_sum, 1)
add_square_of_difference = _row_operation(_square_added, 2)
multiply_row = _row_operation(_multiplied, 2)
add_product_of_differences = _row_operation(_product_added, 4)


@operation
def at(typing_context: Any, integers: Any, place: Any) -> Any:
    """integers[place] without the question whether `place` is negative, which costs as much as the load."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load_integer(context, builder, integers, args[0], args[1])

    return types.int64(integers, types.int64), generate


def _load_integer(context: Any, builder: Any, array_type: Any, array: Any, place: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    number = context.get_value_type(array_type.dtype)
    value = builder.load(builder.gep(data, [place], source_etype=number), typ=number)
    return value if number.width == 64 else builder.sext(value, ir.IntType(64))


@operation
def mean_of_9_taps(
    typing_context: Any, work: Any, rows: Any, integers: Any, place: Any, sources: Any, scale: Any
) -> Any:
    """For each row and source: work[row] = scale · Σ work[source + k] over nine numbers k from integers[place] on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine = Rows(context, builder)
        taps = [
            _load_integer(context, builder, integers, args[2], builder.add(args[3], ir.IntType(64)(k)))
            for k in range(9)
        ]
        factor, means = machine.broadcast(args[5]), []
        for n in range(len(sources)):
            source = builder.extract_value(args[4], n)
            places = [machine.pointer(work, args[0], builder.add(source, tap)) for tap in taps]
            means.append(builder.fmul(total(machine, [machine.load(work, place) for place in places]), factor))
        for n, mean in enumerate(means):
            machine.store(mean, machine.pointer(work, args[0], builder.extract_value(args[1], n)))
        return context.get_dummy_value()

    return types.void(work, rows, integers, types.int64, sources, work.dtype), generate


@operation
def affine_row(typing_context: Any, array: Any, rows: Any, numbers: Any, with_old: Any) -> Any:
    """D ← x D and T ← x T + y (r1² + r2² − w D) + z; rows are of (r1, r2, D, T), numbers (x, y, z, w).

    Without the old T (`with_old` false) what stands in its row is not looked at.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine = Rows(context, builder)
        places = [machine.pointer(array, args[0], builder.extract_value(args[1], k)) for k in range(4)]
        r1, r2, d, t = (machine.load(array, place) for place in places)
        x, y, z, w = (machine.broadcast(builder.extract_value(args[2], k)) for k in range(4))
        t = builder.select(args[3], t, ir.Constant(t.type, [0.0] * LANES))
        fused = {"flags": ["contract"]}
        squares = builder.fadd(builder.fmul(r1, r1, **fused), builder.fmul(r2, r2, **fused), **fused)
        twice_s = builder.fsub(squares, builder.fmul(w, d, **fused), **fused)
        own = builder.fadd(builder.fmul(y, twice_s, **fused), z, **fused)
        machine.store(builder.fadd(builder.fmul(x, t, **fused), own, **fused), places[3])
        machine.store(builder.fmul(x, d), places[2])
        return context.get_dummy_value()

    four = types.UniTuple(array.dtype, 4)
    return types.void(array, types.UniTuple(types.int64, 4), four, types.boolean), generate


@operation
def call_at(typing_context: Any, address: Any, array: Any, n: Any) -> Any:
    """Calls the function (pointer to numbers, count) -> None that lies at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, value=args[1]).data
        kind = ir.FunctionType(ir.VoidType(), [data.type, ir.IntType(64)])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [data, args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, array, types.int64), generate
