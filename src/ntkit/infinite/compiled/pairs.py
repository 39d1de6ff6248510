"""The vectors' part of a placed program: from inputs, or totals over positions, to the outputs of every pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ntkit._products import float32_products_are_exact, row_products
from ntkit.infinite.compiled import pairs_machine as m
from ntkit.infinite.compiled.duals import STRIP, AddressOf
from ntkit.infinite.compiled.states import Layout, States
from ntkit.infinite.compiled.strip_program import StripProgram
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

    def __init__(self, placement: Placement, dtype: np.dtype, with_ntk: bool, address_of: AddressOf):
        self.dtype = np.dtype(dtype)
        program, positions = placement.program, placement.positions
        vectors = [
            i
            for i in range(len(program.instructions))
            if positions(i) == 1 and placement.offsets[i] is not None  # what nothing needs has none
        ]
        given = {i for i in vectors if any(positions(source) > 1 for source in program.instructions[i].sources)}
        self.strips = StripProgram(program, vectors, given, program.outputs, m.OUTPUT, with_ntk, address_of)

    @property
    def layout(self) -> Layout:
        """What is wanted of each sample."""
        return Layout(self.strips.planes, np.dtype(np.float64))

    def run(self, block: Block) -> None:
        """Writes the outputs of a block."""
        left, right = np.ascontiguousarray(block.left.packed["pairs"].T), block.right.packed["pairs"]
        n, columns = len(left), right.shape[1]
        given = [block.roots[register] for register in self.strips.roots]
        roots = [np.array([pair[kind] for pair in given]).reshape(len(given), n, columns) for kind in (0, 1)]
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
            work = {np.dtype(kind): self.strips.workspace(np.dtype(kind)) for kind in (self.dtype, np.float64)}

            def compute(job: tuple[int, int, int, int], dtype: np.dtype, products: np.ndarray | None) -> int:
                return m.run_block(
                    work[dtype], *self.strips.tables(dtype), job[:2], job[2:], diagonal, left, right, products, x, y,
                    *roots, *buffers, dtype == np.float64,
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

    def _data(self, block: Block) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The data of both sides, where vectors begin with the data."""
        if self.strips.data is None:
            return None, None
        x, y = (block.left.data[self.strips.data], block.right.data[self.strips.data])
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
