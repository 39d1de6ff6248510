"""The vectors' part of a placed program: from inputs, or totals over positions, to the outputs of every pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ntkit.infinite import program as ops
from ntkit.infinite.compiled import pairs_machine as m
from ntkit.infinite.compiled.duals import STRIP
from ntkit.infinite.compiled.products import float32_products_are_exact, row_products
from ntkit.infinite.compiled.runner import aligned_zeros
from ntkit.infinite.compiled.schedule import Planes
from ntkit.infinite.compiled.stage import affine_numbers, scale_and_shift_numbers
from ntkit.infinite.compiled.states import Layout, States
from ntkit.infinite.compiled.threads import run_jobs
from ntkit.infinite.inputs import require_finite
from ntkit.infinite.placement import Placement

_FEW_FEATURES = 128
_ROWS = 128  # of a job, whose columns fill a strip


@dataclass
class Block:
    """Pairs of left samples with right samples.

    Args:
        left: states of the left samples.
        right: states of the right samples.
        roots: register -> (D, T), each (n, m), of the totals that vectors begin with.
        symmetric: whether both sides are the same samples, so that half of the pairs are enough.
        nngp: where the outputs go, (n, m) each; empty where not wanted. `ntk` the same.
        mirrors: (nngp, ntk) of the same block below the diagonal of a symmetric matrix, (m, n) each; empty for none.
    """

    left: States
    right: States
    roots: Mapping[int, tuple[np.ndarray, np.ndarray]]
    symmetric: bool
    nngp: list[np.ndarray]
    ntk: list[np.ndarray]
    mirrors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])


class Pairs:
    """Runs the vectors' part.

    Args:
        placement: program and sizes.
        dtype: of the arithmetic; delicate pairs are computed in float64 in any case.
        with_ntk: whether the tangent kernel is wanted.
        address_of: (register of a dual, with derivative, dtype) -> address of its compiled loop.
    """

    def __init__(
        self, placement: Placement, dtype: np.dtype, with_ntk: bool, address_of: Callable[[int, bool, str], int]
    ):
        self.placement, self.dtype, self.with_ntk, self.address_of = placement, np.dtype(dtype), with_ntk, address_of
        self.planes = Planes()
        self.ops: list[list[int]] = []
        self.numbers: list[list[float]] = []
        self.slots: dict[int, int] = {}
        self.roots: list[int] = []
        self.data: int | None = None
        self.accumulator: int | None = None
        self.brought: int | None = None  # register whose roots lie beside the accumulator
        self._made: dict[np.dtype, tuple[np.ndarray, np.ndarray]] = {}
        self._compile()

    # ---- the program -------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        program, positions = self.placement.program, self.placement.positions
        self.has_t = program.registers_with_tangents(self.with_ntk)
        vectors = [i for i in range(len(program.instructions)) if positions(i) == 1 and self._is_needed(i)]
        for i in vectors:
            op = program.instructions[i]
            if any(positions(source) > 1 for source in op.sources):
                self._emit(m.ROOT, len(self.roots))
                self.roots.append(i)
            else:
                self._compute(i, op)
            if self._is_read_later(i, vectors):
                self._emit(m.STORE, self.slots.setdefault(i, len(self.slots)))
            self.accumulator = i
            for place, output in enumerate(program.outputs):
                if output == i:
                    self._emit(m.OUTPUT, place, self._plane("second moment", i), t_in=self.has_t[i])

    def _is_read_later(self, i: int, vectors: list[int]) -> bool:
        """Whether something else reads a register than the very next one, from the accumulator."""
        readers = [j for j in vectors if i in self.placement.program.instructions[j].sources]
        return bool(readers) and readers != vectors[vectors.index(i) + 1 :][:1]

    def _is_needed(self, i: int) -> bool:
        return self.placement.offsets[i] is not None

    def _emit(self, code: int, a: int = 0, b: int = 0, t_in: bool = False, t_out: bool = False,
              numbers: tuple[float, ...] = ()) -> None:  # fmt: skip
        self.ops.append([code, a, b, int(t_in), int(t_out)])
        self.numbers.append([*numbers, *[0.0] * (4 - len(numbers))])

    def _plane(self, kind: str, register: int) -> int:
        return self.planes.place(kind, register, 1)

    def _compute(self, i: int, op: ops.Instruction) -> None:
        t_out = self.has_t[i]
        terms = sorted(op.sources, key=lambda source: source != self.accumulator)  # what is there already first
        if terms and terms[0] != self.accumulator:
            self._emit(m.LOAD, self.slots[terms[0]])
        match op:
            case ops.Read():
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

    @property
    def layout(self) -> Layout:
        """What is wanted of each sample."""
        return Layout(self.planes, np.dtype(np.float64))

    # ---- running it --------------------------------------------------------------------------------------------

    def run(self, block: Block) -> None:
        """Writes the outputs of a block."""
        left, right = np.ascontiguousarray(block.left.packed["pairs"].T), block.right.packed["pairs"]
        n, columns = len(left), right.shape[1]
        roots = np.zeros((len(self.roots), 2, n, columns) if self.roots else (0, 2, 0, 0))
        for k, register in enumerate(self.roots):
            roots[k] = block.roots[register]
        x, y = self._data(block)
        diagonal = 0 if block.symmetric else -1
        # outputs are computed into one array a job, and copied to where they belong, whatever its strides and dtype
        jobs = [
            (i, min(i + _ROWS, n), j, min(j + STRIP, columns))
            for i in range(0, n, _ROWS)
            for j in range(i if block.symmetric else 0, columns, STRIP)
        ]
        wanted = [(kind, len(results)) for kind, results in enumerate((block.nngp, block.ntk)) if results]

        def worker() -> Callable[[tuple[int, int, int, int]], None]:
            dtypes = {result.dtype for result in (*block.nngp, *block.ntk)}
            dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float64)
            buffers = [np.zeros((0, 1, 1), dtype), np.zeros((0, 1, 1), dtype)]
            for kind, outputs in wanted:
                buffers[kind] = np.zeros((outputs, _ROWS, STRIP), dtype)
            work = {np.dtype(kind): self._workspace(np.dtype(kind)) for kind in (self.dtype, np.float64)}

            def compute(job: tuple[int, int, int, int], dtype: np.dtype, products: np.ndarray | None) -> int:
                return m.run_block(
                    work[dtype], *self._tables(dtype), job[:2], job[2:], diagonal, left, right, products, x, y, roots,
                    *buffers, dtype == np.float64,
                )  # fmt: skip

            def run(job: tuple[int, int, int, int]) -> None:
                products = None
                if x is not None and y is not None:
                    products = row_products(x[slice(*job[:2])], y[slice(*job[2:])])
                if compute(job, self.dtype, products) and self.dtype == np.float32:
                    compute(job, np.dtype(np.float64), products)  # pairs whose angle is lost in float32
                for kind, _ in wanted:
                    require_finite(buffers[kind][:, : job[1] - job[0], : job[3] - job[2]], self.dtype)
                    for buffer, result in zip(buffers[kind], (block.nngp, block.ntk)[kind], strict=True):
                        _deliver(buffer, result, job, block.symmetric)
                    for buffer, mirror in zip(buffers[kind], block.mirrors[kind], strict=False):
                        _deliver(buffer, mirror.T, job, symmetric=False)

            return run

        run_jobs(jobs, worker, with_torch=x is not None)

    def _workspace(self, dtype: np.dtype) -> np.ndarray:
        return aligned_zeros(STRIP * (4 + 2 * len(self.slots)), dtype)

    def _tables(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """The operations, with the addresses of duals in a precision, and their numbers."""
        if dtype not in self._made:
            codes = np.array(self.ops, dtype=np.int64)
            for row in codes:
                if row[0] == m.DUAL:
                    row[1] = self.address_of(int(row[1]), bool(row[3]), dtype.name)
            self._made[dtype] = codes, np.array(self.numbers, dtype=dtype)
        return self._made[dtype]

    def _data(self, block: Block) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The data of both sides, where vectors begin with the data."""
        if self.data is None:
            return None, None
        x, y = (block.left.data[self.data], block.right.data[self.data])
        if x.shape[1] <= _FEW_FEATURES or not float32_products_are_exact():  # few: then float64 costs little
            x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
        return x, y


def _deliver(buffer: np.ndarray, result: np.ndarray, job: tuple[int, int, int, int], symmetric: bool) -> None:
    """Copies a job's part into the matrix; of a symmetric one both halves."""
    i, i_end, j, j_end = job
    part = buffer[: i_end - i, : j_end - j]
    if not symmetric:
        result[i:i_end, j:j_end] = part
        return
    edge = min(i_end, j_end) - j  # columns of the job that are rows too: a square on the diagonal where j == i
    if j == i:
        square = np.triu(part[:, :edge])
        result[i:i_end, j : j + edge] = square + np.triu(square, 1).T
        result[i:i_end, j + edge : j_end] = part[:, edge:]
        result[j + edge : j_end, i:i_end] = part[:, edge:].T
    else:
        result[i:i_end, j:j_end] = part
        result[j:j_end, i:i_end] = part.T
