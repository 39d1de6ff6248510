"""Runs of instructions over all pairs of positions of sequences and images, each as one compiled pass.

Every position of every sample counts as a vector of its own: strips of pairs go through all instructions that look at
one pair at a time; sums over positions with weights of each sample's own come between, and one over all positions may
be the end. For CPUs, and without gradients. D is kept in float64, T in the arithmetic's precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite.blocks import Block, blocks_of
from ntkit.infinite.compiled import chain_machine as machine
from ntkit.infinite.compiled import pairs_machine as m
from ntkit.infinite.compiled.chain_sides import WEIGHT, Known, known_of
from ntkit.infinite.compiled.duals import loops_of
from ntkit.infinite.compiled.mixing import QUANTITIES
from ntkit.infinite.compiled.runner import aligned_zeros
from ntkit.infinite.compiled.schedule import Planes
from ntkit.infinite.compiled.strip_program import StripProgram
from ntkit.infinite.compiled.threads import available, run_jobs
from ntkit.infinite.flow import holds_data, sources_of_pairs
from ntkit.infinite.placement import Grid, Placement
from ntkit.infinite.torch_positions import weights_of_total
from ntkit.infinite.torch_registers import LostInSingle, Pairing, Register, Side

_DOUBLE = np.dtype(np.float64)
_ENTRIES_OF_JOB = 256 * 1024, 16 * 1024 * 1024  # pairs of positions; some milliseconds, and not so long as to wait
_PAD = 8  # numbers behind each row of a slot: rows a power of two apart would share few places of a cache


@dataclass
class _Slots:
    """Which register's D and T lie where."""

    of: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    count: int = 0

    def take(self, register: int) -> int:
        """A place for a register."""
        if not self.free:
            self.free.append(self.count)
            self.count += 1
        self.of[register] = self.free.pop()
        return self.of[register]

    def give_back(self, register: int) -> None:
        """Its place may be another's."""
        self.free.append(self.of.pop(register))


class Chain:
    """One run of instructions.

    Args:
        placement: what the registers are.
        registers: those of the run, in order.
        forms: register -> its dual.
        with_ntk: whether the tangent kernel is wanted.
    """

    def __init__(
        self, placement: Placement, registers: list[int], forms: Mapping[int, duals.ClosedForm], with_ntk: bool
    ):
        self.placement, self.program, self.with_ntk = placement, placement.program, with_ntk
        self.registers, self.first, self.last = registers, registers[0], registers[-1]
        self.forms, self.like = forms, _first_source(placement.program, registers[0])
        self.total = self.last if is_total(placement, self.last) else None
        uses = self.program.last_uses()
        self.sources = sorted(self._read_by(registers) - set(registers))
        self.results = [i for i in registers if uses[i] > self.last and i != self.total]
        self.planes, self.slots = Planes(), _Slots()
        self.mixes: list[int] = []
        self.strips: list[StripProgram] = []
        self.steps: list[tuple[int, ...]] = [
            (machine.BRING, self.slots.take(source), k) for k, source in enumerate(self.sources)
        ]
        for part in _parts(placement, registers):
            self._write(part)
        self.steps += [(machine.HAND_ON, self.slots.of[result], k) for k, result in enumerate(self.results)]
        self._tables: dict[np.dtype, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @property
    def made(self) -> list[int]:
        """The registers that the run hands on."""
        return self.results if self.total is None else [*self.results, self.total]

    @property
    def is_whole(self) -> bool:
        """Whether it goes from the data to one number a pair, so that nothing as large as all positions comes out."""
        return not self.sources and not self.results

    @cached_property
    def data(self) -> int | None:
        """The register of the data that the run reads."""
        return next((strips.data for strips in self.strips if strips.data is not None), None)

    # ---- writing it --------------------------------------------------------------------------------------------

    def _read_by(self, registers: list[int]) -> set[int]:
        return {source for i in registers for source in sources_of_pairs(self.program, i)}

    def _write(self, part: list[int]) -> None:
        """One step; registers that nothing reads later leave their places to what it makes."""
        sources = sorted(self._read_by(part) - set(part))
        later = self._read_by([i for i in self.registers if i > part[-1]]) | {*self.results}
        read = [self.slots.of[source] for source in sources]
        for source in sources:
            if source not in later:
                self.slots.give_back(source)
        kept = [i for i in part if i in later]
        if part[0] == self.total:
            planes = [self.planes.place(kind, part[0], 1) for kind in (*QUANTITIES, WEIGHT)]
            self.steps.append((machine.TOTAL, read[0], 0, planes[-1], planes[0]))
        elif is_mix(self.placement, part[0]):
            planes = [self.planes.place(kind, part[0], 1) for kind in QUANTITIES]
            self.steps.append((machine.MIX, self.slots.take(part[0]), read[0], len(self.mixes), planes[0]))
            self.mixes.append(part[0])
        else:
            address_of = loops_of(self.program, self.forms)
            strips = StripProgram(
                self.program, [*sources, *part], sources, kept, m.KEEP, self.with_ntk, address_of, self.planes
            )
            strips.move({m.ROOT: dict(enumerate(read)), m.KEEP: {k: self.slots.take(i) for k, i in enumerate(kept)}})
            first = sum(len(before.ops) for before in self.strips)
            self.steps.append((machine.POINTWISE, first, first + len(strips.ops), strips.data is not None))
            self.strips.append(strips)

    def _tables_in(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps, operations and their numbers."""
        if dtype not in self._tables:
            steps = np.array([(*step, *[0] * (5 - len(step))) for step in self.steps], dtype=np.int64)
            written = [strips.tables(dtype) for strips in self.strips]
            written.append((np.empty((0, 5), np.int64), np.empty((0, 4), dtype)))
            codes, numbers = (np.concatenate(kind) for kind in zip(*written, strict=True))
            self._tables[dtype] = steps, codes, numbers
        return self._tables[dtype]

    # ---- running it --------------------------------------------------------------------------------------------

    def run(self, pairing: Pairing, registers: Mapping[int, Register]) -> dict[int, Register]:
        """What the run hands on, for pairs of samples or for every sample with itself.

        Raises:
            LostInSingle: float32 loses too much of some pair.
        """
        one, two = (self._known(side) for side in pairing.sides)
        n, columns = one.samples, 1 if pairing.right is None else two.samples
        given = [registers[source].laid_out(False) for source in self.sources]
        single = pairing.compiled == "float32"
        dtype = np.dtype(np.float32 if single else np.float64)
        shape = n * one.positions, columns * one.positions
        distances = _stacked([source.distance for source in given], _DOUBLE, shape)
        tangents = _stacked([t for source in given if (t := source.ntk) is not None], dtype, shape)
        made = (*self._empty((len(self.results), *shape), dtype), *self._empty((n, columns), _DOUBLE))
        which, same = machine.ALL, pairing.same.numpy()
        if pairing.right is None:
            which, same = machine.OWN, np.ones((n, two.at_once), bool)
        elif pairing.right is pairing.left and not self.results:  # totals below the diagonal are copied
            which = machine.UPPER

        def worker() -> Callable[[Block], None]:
            rooms = {}

            def compute(block: Block, dtype: np.dtype) -> int:
                if dtype not in rooms:
                    rooms[dtype] = self._room(two, dtype), self._workspace(dtype)
                rows, columns = ((part.start, part.stop) for part in block)
                return machine.run_chain(
                    self._tables_in(dtype), *rooms[dtype], one.positions, which, rows, columns, one.as_left(dtype),
                    two.as_right(dtype), same, (distances, tangents), made, dtype == _DOUBLE,
                )  # fmt: skip

            def run(block: Block) -> None:
                if compute(block, dtype) and single:
                    if not self.is_whole:
                        raise LostInSingle
                    compute(block, _DOUBLE)

            return run

        run_jobs(self._jobs(n, columns, one, which), worker)
        return self._registers(made, one.positions, which)

    def _jobs(self, n: int, m: int, known: Known, which: int) -> list[Block]:
        """Blocks of pairs: large ones, but some for each thread."""
        if which == machine.OWN:
            return [(slice(0, n), slice(0, n))]
        pairs = 1 + n * m // (8 * available())
        fewest, most = (1 + entries // known.positions**2 for entries in _ENTRIES_OF_JOB)
        return blocks_of(n, m, min(most, max(fewest, pairs)), which == machine.UPPER, known.at_once)

    def _registers(self, made: tuple[np.ndarray, ...], p: int, which: int) -> dict[int, Register]:
        both = [[torch.from_numpy(array) for array in kind if array.size] for kind in (made[:2], made[2:])]
        n, m = made[2].shape
        found = {
            result: _register([array[k].view(n, p, m, p) for array in both[0]]) for k, result in enumerate(self.results)
        }
        if self.total is not None:
            op = self.program.instructions[self.total]
            factor = op.factor**2 if isinstance(op, ops.Pool) else 1.0
            totals = [factor * (_mirrored(array) if which == machine.UPPER else array) for array in both[1]]
            diagonal = self.placement.is_diagonal(self.total)
            found[self.total] = _register([array[:, None, :, None] for array in totals]).laid_out(diagonal)
        return found

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Arrays for D and T; the second without numbers where T is not wanted."""
        return np.empty(shape), np.empty(shape if self.with_ntk else (0,) * len(shape), dtype)

    def _known(self, side: Side) -> Known:
        if self not in side.packed:
            side.packed[self] = known_of(side, self.placement, self.like, self.planes, self.data, self.mixes)
        return side.packed[self]

    def _room(self, two: Known, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """Slots of D and of T, products of the data, D and T half mixed."""
        p, columns = two.positions, two.in_strips.shape[2] + _PAD
        slots, double = self.slots.count, np.dtype(np.float64)
        one = (p, columns)
        sizes = (slots, *one), (slots * self.with_ntk, *one), one, one, one
        kinds = double, dtype, double, double, dtype
        return tuple(
            aligned_zeros(math.prod(size), np.dtype(kind)).reshape(size)
            for size, kind in zip(sizes, kinds, strict=True)
        )

    def _workspace(self, dtype: np.dtype) -> np.ndarray:
        return max((strips.workspace(dtype) for strips in self.strips), key=len, default=np.empty(0, dtype))


def _register(arrays: list[Tensor]) -> Register:
    """D, and T where there is one."""
    return Register(arrays[0], arrays[1] if len(arrays) > 1 else None)


def _mirrored(upper: Tensor) -> Tensor:
    """A symmetric matrix of its upper half."""
    return upper.triu() + upper.triu(1).T


def _first_source(program: ops.Program, i: int) -> int:
    """A register with the positions that an instruction reads."""
    return next(iter(sources_of_pairs(program, i)), i)


def _stacked(arrays: list[Tensor], dtype: np.dtype, shape: tuple[int, int]) -> np.ndarray:
    """(arrays, rows, columns); a view where there is one array that lies so."""
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0].numpy(), dtype).reshape(1, *shape)
    return np.array([a.numpy().reshape(shape) for a in arrays], dtype).reshape(len(arrays), *shape)


# ---- finding them ----------------------------------------------------------------------------------------------------


def chains_of(
    placement: Placement, needed: Collection[int], found: Mapping[int, duals.Dual], with_ntk: bool, with_sums: bool
) -> list[Chain]:
    """The longest runs of instructions that compiled passes can do, where all pairs of positions are needed.

    Args:
        placement: program and sizes.
        needed: registers to compute.
        found: register -> its dual.
        with_ntk: whether the tangent kernel is wanted.
        with_sums: whether sums over positions are among them, which takes what they know of each sample alone.
    """
    forms = {i: dual for i, dual in found.items() if isinstance(dual, duals.ClosedForm)}
    runs: list[list[int]] = [[]]
    for i in sorted(needed):
        fits = is_pointwise(placement, i, forms) or (with_sums and (is_mix(placement, i) or is_total(placement, i)))
        before = runs[-1]
        if before and not (fits and _continues(placement, before, i, with_sums)):
            runs.append([])
        if fits:
            runs[-1].append(i)
    return [Chain(placement, run, forms, with_ntk) for run in runs if run]


def _continues(placement: Placement, run: list[int], i: int, with_sums: bool) -> bool:
    """Whether an instruction may be the next one of a run: with the same positions, and one reading of the data."""
    between = placement.program.instructions[run[-1] + 1 : i]
    if is_total(placement, run[-1]) or holds_data(placement.program, i):
        return False
    if not with_sums and any(isinstance(op, (ops.Mix, ops.Pool)) for op in between):
        return False  # which ask for what comes before them
    return all(_grid_before(placement, i) == _grid_before(placement, j) for j in run)


def _grid_before(placement: Placement, i: int) -> Grid:
    return placement.grids[_first_source(placement.program, i)]


def is_pointwise(placement: Placement, i: int, forms: Mapping[int, duals.ClosedForm]) -> bool:
    """Whether an instruction looks at one pair of positions at a time."""
    if placement.positions(i) == 1 or placement.is_diagonal(i):
        return False
    if holds_data(placement.program, i):
        return True
    match placement.program.instructions[i]:
        case ops.Affine() | ops.Normalize() | ops.Combine():
            return True
        case ops.ScaleAndShift(shared=shared):
            return shared
        case ops.Dual(scale=scale):
            if i not in forms or scale == "own":
                return False
            return scale is None or forms[i].scale_derivative is not None
        case _:
            return False


def is_mix(placement: Placement, i: int) -> bool:
    """Whether an instruction makes as many positions of all, by weights of each sample's own."""
    op = placement.program.instructions[i]
    if not isinstance(op, ops.Mix) or holds_data(placement.program, i) or placement.is_diagonal(i):
        return False
    return placement.positions(i) == placement.positions(op.source) > 1


def is_total(placement: Placement, i: int) -> bool:
    """Whether an instruction makes one position of all."""
    op = placement.program.instructions[i]
    if not isinstance(op, (ops.Mix, ops.Pool)) or holds_data(placement.program, i) or placement.positions(i) > 1:
        return False
    if isinstance(op, ops.Pool) and weights_of_total(op.axes, placement.grids[op.source]) is None:
        return False
    return placement.positions(op.source) > 1 and not placement.is_diagonal(op.source)


def _parts(placement: Placement, registers: list[int]) -> Iterator[list[int]]:
    """Sums over positions one by one, and what stands between them together."""
    for is_sum, part in itertools.groupby(registers, lambda i: is_mix(placement, i) or is_total(placement, i)):
        part = list(part)
        yield from ([i] for i in part) if is_sum else [part]
