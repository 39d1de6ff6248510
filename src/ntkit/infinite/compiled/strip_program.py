"""Instructions that look at one pair at a time, as operations of `pairs_machine`: all of them in one pass.

The machine has one accumulator. A register that the next operation reads stays in it, one that is read later waits in
a slot of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ntkit.infinite import program as ops
from ntkit.infinite.compiled import pairs_machine as m
from ntkit.infinite.compiled.duals import STRIP, AddressOf
from ntkit.infinite.compiled.runner import aligned_zeros
from ntkit.infinite.compiled.schedule import Planes
from ntkit.infinite.compiled.stage import affine_numbers, scale_and_shift_numbers
from ntkit.infinite.flow import registers_with_tangents, sources_of_pairs


class StripProgram:
    """Operations, their numbers, and what they read of each side of the pairs.

    Args:
        program: what the registers are.
        registers: those to compute, in order.
        given: those of them whose D and T come from outside.
        results: registers to write, in the order of their places.
        code: what is written of them, `pairs_machine.OUTPUT` or `pairs_machine.KEEP`.
        with_ntk: whether the tangent kernel is wanted.
        address_of: where the loops of duals are compiled.
        planes: of quantities, which several programs may share; None for new ones.
    """

    def __init__(
        self,
        program: ops.Program,
        registers: Sequence[int],
        given: Collection[int],
        results: Sequence[int],
        code: int,
        with_ntk: bool,
        address_of: AddressOf,
        planes: Planes | None = None,
    ):
        self.program, self.registers, self.results = program, registers, results
        self.code, self.address_of = code, address_of
        self.has_t = registers_with_tangents(program, with_ntk)
        self.planes = Planes() if planes is None else planes
        self.ops: list[list[int]] = []
        self.numbers: list[list[float]] = []
        self.slots: dict[int, int] = {}
        self.roots: list[int] = []  # given registers, in the order of their places
        self.data: int | None = None
        self.accumulator: int | None = None
        self.brought: int | None = None  # register whose roots lie beside the accumulator
        self._made: dict[np.dtype, tuple[np.ndarray, np.ndarray]] = {}
        for i in registers:
            self._write(i, i in given)

    def workspace(self, dtype: np.dtype) -> np.ndarray:
        """Room for the accumulator and the slots."""
        return aligned_zeros(STRIP * (4 + 2 * len(self.slots)), dtype)

    def move(self, places: Mapping[int, Mapping[int, int]]) -> None:
        """Changes where operations of given codes read or write: {code: {place: new place}}."""
        for row in self.ops:
            if row[0] in places:
                row[1] = places[row[0]][row[1]]

    def tables(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """The operations, with the addresses of duals in a precision, and their numbers."""
        if dtype not in self._made:
            codes = np.array(self.ops, dtype=np.int64)
            for row in codes:
                if row[0] == m.DUAL:
                    row[1] = self.address_of(int(row[1]), bool(row[3]), dtype.name)
            self._made[dtype] = codes, np.array(self.numbers, dtype=dtype)
        return self._made[dtype]

    # ---- writing it --------------------------------------------------------------------------------------------

    def _write(self, i: int, given: bool) -> None:
        if given:
            self._emit(m.ROOT, len(self.roots), t_in=self.has_t[i])
            self.roots.append(i)
        else:
            self._compute(i, self.program.instructions[i])
        if self._is_read_later(i):
            self._emit(m.STORE, self.slots.setdefault(i, len(self.slots)))
        self.accumulator = i
        for place, result in enumerate(self.results):
            if result == i:
                plane = self._plane("second moment", i) if self.code == m.OUTPUT else 0
                self._emit(self.code, place, plane, t_in=self.has_t[i])

    def _is_read_later(self, i: int) -> bool:
        """Whether something else reads a register than the very next one, from the accumulator."""
        readers = [j for j in self.registers if i in sources_of_pairs(self.program, j)]
        return bool(readers) and readers != list(self.registers[self.registers.index(i) + 1 :][:1])

    def _emit(self, code: int, a: int = 0, b: int = 0, t_in: bool = False, t_out: bool = False,
              numbers: tuple[float, ...] = ()) -> None:  # fmt: skip
        self.ops.append([code, a, b, int(t_in), int(t_out)])
        self.numbers.append([*numbers, *[0.0] * (4 - len(numbers))])

    def _plane(self, kind: str, register: int) -> int:
        return self.planes.place(kind, register, 1)

    def _compute(self, i: int, op: ops.Instruction) -> None:
        t_out = self.has_t[i]
        sources = sources_of_pairs(self.program, i)
        terms = sorted(sources, key=lambda source: source != self.accumulator)  # what is there already first
        if terms and terms[0] != self.accumulator:
            self._emit(m.LOAD, self.slots[terms[0]])
        match op:
            case ops.Read() | ops.Mix():  # the data, and averages of them
                self.data = i
                self._emit(m.DATA, self._plane("second moment", i), self._plane("root", i))
                self.brought = i
            case ops.Affine():
                self._affine(i, op)
            case ops.Dual():
                self._bring_roots(op.source)
                if op.scale is not None and t_out and not self.has_t[op.source]:
                    self._scale(op.source, 1.0)  # T begins at 0
                self._emit(m.DUAL, i, t_in=t_out)  # by number; its address differs by precision
            case ops.Normalize():
                self._emit(m.MEANS, self._plane("norm", i), self._plane("share of norm", i), numbers=(-1.0,))
                self._emit(m.TIMES, self._plane("inverse norm", i), t_in=t_out)
            case ops.ScaleAndShift():
                if t_out:
                    self._bring_roots(op.source)
                numbers = scale_and_shift_numbers(op)
                self._emit(m.AFFINE, t_in=self.has_t[op.source], t_out=t_out, numbers=numbers)
            case ops.Trace():
                self._scale(i, 1.0)
            case ops.Window():
                self._scale(i, float(np.prod([axis.counts(1)[0, 0] for axis in op.axes])) / op.taps)
            case ops.Pool():
                self._scale(i, (op.factor * float(np.prod([axis.matrix(1)[0, 0] for axis in op.axes]))) ** 2)
            case ops.Combine():
                weights = dict(zip(op.terms, op.weights, strict=True))
                self._emit(m.SCALE, t_in=self.has_t[terms[0]], numbers=(weights[terms[0]],))
                for term in terms[1:]:
                    self._emit(m.ADD, self.slots[term], t_in=self.has_t[term], numbers=(weights[term],))
                for one, two, c in op.mean_products:
                    self._emit(m.MEANS, self._plane("mean", one), self._plane("mean", two), numbers=(2 * c,))
            case _:
                raise TypeError(f"the compiled engine does not know the instruction {op}")

    def _affine(self, i: int, op: ops.Affine) -> None:
        numbers, of_result = affine_numbers(op)
        if self.has_t[i]:
            self._bring_roots(i if of_result else op.source)
        self._emit(m.AFFINE, t_in=self.has_t[op.source], t_out=self.has_t[i], numbers=numbers)

    def _bring_roots(self, register: int) -> None:
        if self.brought != register:
            self._emit(m.ROOTS, self._plane("root", register))
            self.brought = register

    def _scale(self, i: int, factor: float) -> None:
        self._emit(m.SCALE, t_in=self.has_t[i], numbers=(factor,))
