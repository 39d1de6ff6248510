"""One stage of a schedule: its registers in order, as passes of operations over slices.

The machine has one accumulator. A register that the next operation reads stays in it; one that others read is stored
as a slice; a convolution reads a stored slice whole, so it begins a new pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ntkit.architecture.windows import OUTSIDE
from ntkit.infinite import program as ops
from ntkit.infinite.compiled import machine as m
from ntkit.infinite.compiled.frames import (
    Frame,
    Triple,
    band_axis,
    is_irregular,
    needs_equal_positions_only,
    root_offsets,
    triple,
)
from ntkit.infinite.compiled.tables import Tables

if TYPE_CHECKING:
    from ntkit.infinite.compiled.schedule import Schedule


def affine_numbers(op: ops.Affine) -> tuple[tuple[float, float, float, float], bool]:
    """The numbers (x, y, z, w) of D ← x D and T ← x T + y (r1² + r2² − w D) + z, and whether roots are the result's.

    s = (q + q' − D)/2 comes from the moments before or, where nothing cancels, as (s' − b)/w from those after: they are
    what the next activation reads.
    """
    w, b, weight_rate, bias_rate = op.numbers
    if w > 0 and (b == 0 or weight_rate <= w):
        rate = weight_rate / w
        return (w, rate / 2, bias_rate - rate * b, w), True
    return (w, weight_rate / 2, bias_rate, 1.0), False


def scale_and_shift_numbers(op: ops.ScaleAndShift) -> tuple[float, float, float, float]:
    """The same of a trained scale and shift of 1 and 0, with the roots that lie there before."""
    return 1.0, op.scale_rate / 2, op.shift_rate, 1.0


@dataclass(frozen=True)
class Stage:
    """One stage, ready to run but for the addresses of its duals.

    Args:
        number: of the stage.
        tables: for the machine.
        slices: offsets of the root, one a row.
        duals: (operation, register) of every dual.
        writes: registers whose tensors it fills.
        sums: totals that it adds to.
        axis: of the bands, see `frames.band_axis`.
        rows: room for the accumulator and slices, in rows.
    """

    number: int
    tables: Tables
    slices: np.ndarray
    duals: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]
    sums: tuple[int, ...]
    axis: int
    rows: int


class StageBuilder:
    """Writes the tables of one stage."""

    def __init__(self, schedule: Schedule, number: int):
        self.schedule, self.number = schedule, number
        self.placement, self.instructions = schedule.placement, schedule.instructions
        self.order = [i for i, frame in schedule.frames.items() if frame.stage == number]
        self.largest = max(self.placement.positions(i) for i in self._all_registers())
        self.tables = Tables(self.largest)
        self.duals: list[tuple[int, int]] = []
        self.writes: list[int] = []
        self.sums: list[int] = []
        self.buffers: dict[int, tuple[int, int]] = {}  # register -> rows of its stored D and T
        self.free: list[tuple[int, int]] = []
        self.retired: list[tuple[int, int]] = []  # free from the next pass on
        self.rows = m.WORK
        self.accumulator: int | None = None
        self.roots: int | None = None
        self.level = -1
        self.slices = self._slices()
        self.stored_in_pass: set[int] = set()
        self.rims: dict[int, int] = {}  # register -> convolution whose rim stands behind its slice in this pass
        self.done: set[int] = set()

    def build(self) -> Stage:
        """The stage."""
        for i in self.order:
            if self.schedule.is_pool(i):
                if self._effects(i):
                    self._bring(i, i)
                    self._after(i)
            else:
                self._compute(i)
                self._after(i)
        self._end_pass()
        axis = next((band_axis(self.placement.grids[w]) for w in self.writes), 0)
        slices = self._ordered(self.slices)
        return Stage(
            self.number, self.tables, slices, tuple(self.duals), tuple(self.writes), tuple(self.sums), axis, self.rows
        )

    def _all_registers(self) -> set[int]:
        loaded = {s for i in self.order if not self.schedule.is_pool(i) for s in self.instructions[i].sources}
        return set(self.order) | loaded

    def _slices(self) -> np.ndarray:
        found: set[Triple] = set()
        for i in self.order:
            need = self.schedule.needs[i]
            assert need is not None
            found |= root_offsets(self.placement, self.schedule.frames[i], i, need)
        return np.array(sorted(found), dtype=np.int64).reshape(-1, 3)

    def _ordered(self, slices: np.ndarray) -> np.ndarray:
        """In the order in which they are run."""
        pooled = next((w for w in self.writes if self.schedule.is_pool(w)), None)
        if pooled is None:  # the largest first, so that none is left over when the others are done
            return slices[np.argsort(np.abs(slices).sum(1), kind="stable")]
        # together what adds to the same places of the tensor, which then stay in cache
        source = self.instructions[pooled].sources[0]
        sizes = (triple(self.placement.grids[i]) for i in (source, pooled))
        step = [max(1, n // m) * f for n, m, f in zip(*sizes, self.schedule.frames[source].factor, strict=True)]
        return slices[np.lexsort([*slices.T[::-1], *(slices // step).T[::-1]])]

    # ---- passes ------------------------------------------------------------------------------------------------

    def _begin_pass(self, level: int) -> None:
        self._end_pass()
        self.level = level
        self.tables.passes.append([len(self.tables.ops), len(self.tables.ops), level])

    def _end_pass(self) -> None:
        if self.tables.passes:
            self.tables.passes[-1][1] = len(self.tables.ops)
        self.accumulator, self.roots = None, None
        self.rims = {}
        self.stored_in_pass = set()
        self.free += self.retired
        self.retired = []

    def _require_pass(self, level: int) -> None:
        if not self.tables.passes or self.level != level:
            self._begin_pass(level)

    def _level(self, frame: Frame, register: int) -> int:
        return self.tables.level(self.placement.grids[register], frame)

    # ---- registers ---------------------------------------------------------------------------------------------

    def _frame_here(self, source: int, reader: int) -> Frame:
        """The frame of a register as this stage sees it, be it its own or one read from a tensor."""
        own = self.schedule.frames[source]
        if own.stage == self.number:
            return own
        frame, op = self.schedule.frames[reader], self.instructions[reader]
        factor = frame.factor
        if isinstance(op, ops.Window):
            stride = triple(tuple(axis.stride for axis in op.axes))
            factor = tuple(f // s for f, s in zip(frame.factor, stride, strict=True))
        return Frame(self.number, factor, frame.modular)  # pyright: ignore[reportArgumentType]

    def _bring(self, register: int, reader: int) -> None:
        """Puts a register into the accumulator."""
        if self.accumulator == register:
            return
        self._require_pass(self._level(self._frame_here(register, reader), register))
        t = self.schedule.has_t[register]
        if register in self.buffers:
            d_rows, t_rows = self.buffers[register]
            self.tables.operation(m.LOAD, d_rows, t_rows, t_in=t)
        else:
            self.tables.operation(m.TENSOR, self.schedule.tensors[register], t_in=t)
        self.accumulator = register

    def _bring_roots(self, register: int) -> None:
        if self.roots != register:
            self.tables.operation(m.ROOTS, self._plane("root", register))
            self.roots = register

    def _plane(self, kind: str, register: int) -> int:
        return self.schedule.planes.place(kind, register, self.placement.positions(register))

    def _stored(self, register: int, reader: int) -> tuple[int, int]:
        """Rows of a register as a whole slice."""
        if register not in self.buffers:  # it lies in a tensor
            self._bring(register, reader)
            self._store(register)
        if register in self.stored_in_pass:
            self._end_pass()
            self.level = -1
        return self.buffers[register]

    def _store(self, register: int) -> None:
        if not self.free:
            room = 1 + 3 * self.largest  # a row of zeros, the slice, its rim on both sides (of T: zeros)
            self.free.append((self.rows, self.rows + room))
            self.rows += 2 * room
        self.buffers[register] = self.free.pop()
        d_rows, t_rows = self.buffers[register]
        self.tables.operation(m.STORE, d_rows, t_rows, t_out=self.schedule.has_t[register])
        self.stored_in_pass.add(register)

    def _compute(self, i: int) -> None:
        op, schedule = self.instructions[i], self.schedule
        level = self._level(schedule.frames[i], i)
        match op:
            case ops.Read():
                self._require_pass(level)
                channels = self.placement.channels(op)
                plane = schedule.planes.place("data", i, channels * self.placement.positions(i))
                self.tables.operation(m.READ, plane, channels, numbers=(1 / channels,))
            case ops.Window():
                self._window(op, i, level)
            case ops.Affine():
                self._affine(op, i)
            case ops.Dual():
                self._bring(op.source, i)
                self._bring_roots(op.source)
                if op.scale is not None and schedule.has_t[i] and not schedule.has_t[op.source]:
                    self.tables.operation(m.SCALE, t_out=True, numbers=(1.0,))  # T begins at 0
                self.duals.append((len(self.tables.ops), i))
                self.tables.operation(m.DUAL, t_in=schedule.has_t[i])
            case ops.Combine():
                self._combine(op, i)
            case ops.Normalize():
                self._bring(op.source, i)
                self.tables.operation(m.MEANS, self._plane("norm", i), self._plane("share of norm", i), numbers=(-1.0,))
                self.tables.operation(m.TIMES, self._plane("inverse norm", i), t_in=schedule.has_t[i])
            case ops.ScaleAndShift():
                self._bring(op.source, i)
                t_in, t_out = schedule.has_t[op.source], schedule.has_t[i]
                if t_out:
                    self._bring_roots(op.source)
                self.tables.operation(m.AFFINE, t_in=t_in, t_out=t_out, numbers=scale_and_shift_numbers(op))
            case _:
                raise TypeError(f"the compiled engine does not know the instruction {op}")
        self.accumulator = i

    def _window(self, op: ops.Window, i: int, level: int) -> None:
        grids = self.placement.grids
        if is_irregular(op, grids[op.source], grids[i]) and not needs_equal_positions_only(self.placement):
            self._window_of_tensor(op, i, level)
            return
        d_rows, t_rows = self._stored(op.source, i)
        frame = self._frame_here(op.source, i)
        conv = self.tables.convolution(op, self._level(frame, op.source), level, grids[op.source], grids[i])
        if self.rims.get(op.source, conv) != conv:  # a slice has room for one rim at a time
            self._end_pass()
            self.level = -1
        self._require_pass(level)
        self.rims[op.source] = conv
        scale = 1 / op.taps
        outside = any((axis.taps(n) == OUTSIDE).any() for axis, n in zip(op.axes, grids[op.source], strict=True))
        if outside and self.slices.any():  # at offset 0 it is both positions or none
            self.tables.operation(m.RIM, d_rows, self._plane("second moment", op.source), c=conv)
        self.tables.operation(m.GATHER, d_rows, t_rows, t_in=self.schedule.has_t[i], c=conv, numbers=(scale,))
        self.roots = None

    def _window_of_tensor(self, op: ops.Window, i: int, level: int) -> None:
        """A window that does not go slice by slice: from the source's tensor, pair by pair."""
        self._require_pass(level)
        self.tables.operation(
            m.GATHER_PAIRS, self.schedule.tensors[op.source], op.taps, t_in=self.schedule.has_t[i],
            c=self.tables.flat_taps(op, self.placement.grids[op.source]), count=self.placement.positions(op.source),
            plane=self._plane("second moment", op.source), numbers=(1 / op.taps,),
        )  # fmt: skip
        self.roots = None

    def _affine(self, op: ops.Affine, i: int) -> None:
        self._bring(op.source, i)
        t_in, t_out = self.schedule.has_t[op.source], self.schedule.has_t[i]
        numbers, of_result = affine_numbers(op)
        if t_out:
            self._bring_roots(i if of_result else op.source)
        self.tables.operation(m.AFFINE, t_in=t_in, t_out=t_out, numbers=numbers)

    def _combine(self, op: ops.Combine, i: int) -> None:
        has_t, t_out = self.schedule.has_t, self.schedule.has_t[i]
        terms = list(zip(op.terms, op.weights, strict=True))
        terms.sort(key=lambda term: term[0] != self.accumulator)  # what is in the accumulator first
        (first, weight), *others = terms
        for term, _ in others:
            if term not in self.buffers:  # it lies in a tensor, so bring it to a slice first
                if self.accumulator == first and first not in self.buffers and first not in self.schedule.tensors:
                    self._store(first)
                self._bring(term, i)
                self._store(term)
        self._bring(first, i)
        self.tables.operation(m.SCALE, t_in=has_t[first], t_out=t_out, numbers=(weight,))
        for term, weight in others:
            d_rows, t_rows = self.buffers[term]
            self.tables.operation(m.ADD, d_rows, t_rows, t_in=has_t[term], numbers=(weight,))
        for one, two, c in op.mean_products:
            self.tables.operation(m.MEANS, self._plane("mean", one), self._plane("mean", two), numbers=(2 * c,))

    # ---- what happens to a register once it is there -------------------------------------------------------------

    def _effects(self, i: int) -> list[int]:
        """Pools and totals that read a register of this stage."""
        readers = self.schedule.readers(i)
        return [
            j for j in readers if self.schedule.is_total(j) or (j in self.schedule.frames and self.schedule.is_pool(j))
        ]

    def _after(self, i: int) -> None:
        self.done.add(i)
        for reader in self._effects(i):
            if self.schedule.is_total(reader):
                self._sum(i, reader)
            else:
                self._push(i, reader)
        if i in self.schedule.tensors and not self.schedule.is_pool(i):
            self._push(i, i)
        if self._is_read_later(i):
            self._store(i)
        self._retire()

    def _is_read_later(self, i: int) -> bool:
        """Whether something else reads a register than the very next computation, in the accumulator."""
        readers = [j for j in self.order if i in self.instructions[j].sources and not self.schedule.is_pool(j)]
        if not readers or i in self.buffers:
            return False
        following = [j for j in self.order if j not in self.done and not self.schedule.is_pool(j)]
        return len(readers) > 1 or isinstance(self.instructions[readers[0]], ops.Window) or readers[0] != following[0]

    def _retire(self) -> None:
        for register in list(self.buffers):
            readers = [
                j for j in self.order if register in self.instructions[j].sources and not self.schedule.is_pool(j)
            ]
            if all(j in self.done for j in readers):
                self.retired.append(self.buffers.pop(register))

    def _sum(self, i: int, total: int) -> None:
        first, only_equal = self.schedule.place_weights(total)
        place = self.schedule.totals.index(total)
        self.sums.append(total)
        self.tables.operation(m.SUM, place, first, t_in=self.schedule.has_t[total], c=int(only_equal))

    def _push(self, i: int, target: int) -> None:
        op = self.instructions[target] if target != i else None
        if isinstance(op, ops.Pool):
            self.schedule.place_pool_planes(target, op)
        pool = self.tables.pool(
            op if isinstance(op, ops.Pool) else None, self.placement.grids[i], self.placement.grids[target]
        )
        self.writes.append(target)
        self.tables.operation(m.PUSH, self.schedule.tensors[target], t_in=self.schedule.has_t[target], c=pool)
