"""The compiled engine's face: exact kernels of CPU tensors in float32 or float64, on all cores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite.compiled.duals import loops_of
from ntkit.infinite.compiled.pairs import Block, Pairs
from ntkit.infinite.compiled.precision import safe_in_single
from ntkit.infinite.compiled.spatial import Spatial
from ntkit.infinite.compiled.states import StateBuilder, States
from ntkit.infinite.compiled.threads import equal_parts
from ntkit.infinite.dual import ClosedForm
from ntkit.infinite.inputs import require_finite
from ntkit.infinite.placement import Placement

_STATE_BYTES = 256 * 2**20  # of the samples of one side
_VECTORS_AT_ONCE, _IMAGES_AT_ONCE = 4096, 1024  # rows and columns of a block

Totals = dict[int, tuple[np.ndarray, np.ndarray]]  # register -> (D, T)
OnTile = Callable[[slice, slice], None]


@dataclass(frozen=True)
class Results:
    """A matrix for each output, (n, m); no matrices where a kernel is not wanted."""

    nngp: list[np.ndarray]
    ntk: list[np.ndarray]

    def part(self, rows: slice, columns: slice) -> Results:
        """The same, of some rows and columns."""
        return Results([r[rows, columns] for r in self.nngp], [r[rows, columns] for r in self.ntk])


class CompiledInterpreter:
    """Runs one placed program.

    Args:
        placement: program and sizes.
        dtype: of the arithmetic, where all activations and pools allow it; sums over positions, the states of samples,
            and heads without an activation that read such sums are float64 in any case.
        with_ntk: whether the tangent kernel is wanted.
        tolerance: relative accuracy of duals found by quadrature; such duals have no compiled form.
    """

    def __init__(self, placement: Placement, dtype: np.dtype, with_ntk: bool, tolerance: float):
        self.placement = placement
        self.duals: dict[int, ClosedForm] = {}
        for i, op in enumerate(placement.program.instructions):
            if isinstance(op, ops.Dual):
                dual = duals.dual(op.activation, tolerance)
                if not isinstance(dual, ClosedForm):
                    raise TypeError(f"{op.activation.name} has no compiled form")
                self.duals[i] = dual
        if not safe_in_single(placement, self.duals.values()):
            dtype = np.dtype(np.float64)
        self.dtype = dtype
        address_of = loops_of(placement.program, self.duals)
        self.spatial: Spatial | None = None
        if any(placement.positions(i) > 1 for i in range(len(placement.program.instructions))):
            self.spatial = Spatial(placement, dtype, with_ntk, address_of)
        # (q + q' − D)/2 of a float64 sum costs next to nothing, and rounded sums would double a kernel's errors
        is_read_out = self.spatial is not None and all(placement.positions(i) > 1 for i in self.duals)
        self.pairs = Pairs(placement, np.dtype(np.float64) if is_read_out else dtype, with_ntk, address_of)
        layouts = {"pairs": self.pairs.layout, **(self.spatial.layouts if self.spatial is not None else {})}
        near = None if self.spatial is None else self.spatial.near
        self.states = StateBuilder(placement, self.duals, near, layouts).build

    def matrix(self, x1: np.ndarray, x2: np.ndarray | None, results: Results, on_tile: OnTile | None) -> None:
        """Fills `results`.

        Args:
            x1: samples (n, *sample).
            x2: samples (m, *sample); None for x1 with itself, and then half of the pairs are computed.
            results: to fill.
            on_tile: called with rows and columns of every part that is complete.
        """
        size = self._samples_at_once(x1)
        symmetric = x2 is None
        one, two = self._parts(x1, size), [] if x2 is None else self._parts(x2, size)
        for rows, left_of in one:
            left = left_of()
            for columns, right_of in one if symmetric else two:
                if symmetric and columns.start < rows.start:
                    continue
                same = symmetric and columns.start == rows.start
                below = results.part(columns, rows) if symmetric and not same else Results([], [])
                self._block(left, left if same else right_of(), same, results.part(rows, columns), below)
                if on_tile is not None:
                    on_tile(rows, columns)
                    if symmetric and not same:
                        on_tile(columns, rows)

    def _parts(self, x: np.ndarray, size: int) -> list[tuple[slice, Callable[[], States]]]:
        """Parts of the samples, each with the function that gives its states: kept where they fit, else made anew."""
        found: list[tuple[slice, Callable[[], States]]] = []
        for part in equal_parts(len(x), -(-len(x) // size)):
            make = functools.partial(self.states, x[part])
            fits = self._state_bytes(x) * len(x) <= _STATE_BYTES
            found.append((part, functools.lru_cache(maxsize=1)(make) if fits else make))
        return found

    def _state_bytes(self, x: np.ndarray) -> int:
        """Bytes that are kept of a sample."""
        width = self.pairs.layout.planes.width + x[0].size
        if self.spatial is not None:
            width += sum(2 * runner.schedule.planes.width for runner in self.spatial.runners)
        return 8 * width

    def _samples_at_once(self, x: np.ndarray) -> int:
        most = _VECTORS_AT_ONCE if self.spatial is None else _IMAGES_AT_ONCE
        return max(16, min(most, _STATE_BYTES // self._state_bytes(x)))

    def _block(self, left: States, right: States, same: bool, results: Results, below: Results) -> None:
        roots = {} if self.spatial is None else self._finite(self.spatial.matrices(left, right, same))
        self.pairs.run(Block(left, right, roots, same, results.nngp, results.ntk, (below.nngp, below.ntk)))

    def _finite(self, totals: Totals) -> Totals:
        """The same; sums in float64 do not show what has overflowed in float32."""
        for total in totals.values():
            for values in total:
                require_finite(values, self.dtype)
        return totals

    def diagonal(self, x: np.ndarray) -> Results:
        """Both kernels of every sample with itself, (outputs, n)."""
        outputs = range(len(self.placement.program.outputs))
        results = Results(*([np.empty(len(x)) for _ in outputs] for _ in range(2)))
        size = min(64, self._samples_at_once(x))
        for rows in equal_parts(len(x), -(-len(x) // size)):
            states = self.states(x[rows])
            n = len(states)
            roots = {}
            if self.spatial is not None:
                totals = self._finite(self.spatial.equal(states))
                roots = {register: (np.diag(d), np.diag(t)) for register, (d, t) in totals.items()}
            square = Results(*([np.empty((n, n)) for _ in outputs] for _ in range(2)))
            self.pairs.run(Block(states, states, roots, True, square.nngp, square.ntk))
            for k in outputs:
                results.nngp[k][rows], results.ntk[k][rows] = square.nngp[k].diagonal(), square.ntk[k].diagonal()
        return results


@functools.lru_cache(maxsize=32)
def interpreter_of(placement: Placement, dtype: str, with_ntk: bool, tolerance: float) -> CompiledInterpreter:
    """The interpreter of a placed program, made once: it holds tables only, so calls may share it."""
    return CompiledInterpreter(placement, np.dtype(dtype), with_ntk, tolerance)
