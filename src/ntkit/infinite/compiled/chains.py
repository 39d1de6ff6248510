"""Runs of instructions between sums over positions, each as one pass over all pairs of positions.

Every position of every sample counts as a vector of its own: a strip of pairs goes through all instructions of a run
while it lies in cache. For CPUs, and without gradients. D comes and goes in float64, T in the arithmetic's precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite.compiled import pairs_machine as m
from ntkit.infinite.compiled.duals import STRIP, loops_of
from ntkit.infinite.compiled.products import row_products
from ntkit.infinite.compiled.strip_program import StripProgram
from ntkit.infinite.flow import holds_data, sources_of_pairs
from ntkit.infinite.placement import Placement
from ntkit.infinite.torch_registers import LostInSingle, Pairing, Register, Side


@dataclass(frozen=True)
class _Known:
    """What is known of all positions of one side's samples, one sample after another.

    Args:
        positions: of a sample.
        quantities: second moments, norms, …: (quantities, rows).
        data: values, (rows, channels); no channels where the run does not read the data.
    """

    positions: int
    quantities: np.ndarray
    data: np.ndarray

    @property
    def rows(self) -> int:
        """Positions of all samples."""
        return len(self.data)

    @cached_property
    def by_row(self) -> np.ndarray:
        """The quantities, (rows, quantities)."""
        return np.ascontiguousarray(self.quantities.T)

    def __getitem__(self, rows: slice) -> _Known:
        return _Known(self.positions, np.ascontiguousarray(self.quantities[:, rows]), self.data[rows])


class Chain:
    """One run of instructions.

    Args:
        program: what the registers are.
        registers: those of the run, in order and without a gap.
        forms: register -> its dual.
        with_ntk: whether the tangent kernel is wanted.
    """

    def __init__(
        self, program: ops.Program, registers: list[int], forms: Mapping[int, duals.ClosedForm], with_ntk: bool
    ):
        self.program, self.with_ntk = program, with_ntk
        self.first, self.last = registers[0], registers[-1]
        self.sources = sorted({s for i in registers for s in sources_of_pairs(program, i)} - set(registers))
        uses = program.last_uses()
        results = [i for i in registers if uses[i] > self.last]
        self.strips = StripProgram(
            program, [*self.sources, *registers], self.sources, results, m.KEEP, with_ntk, loops_of(program, forms)
        )

    def run(self, pairing: Pairing, registers: Mapping[int, Register]) -> dict[int, Register]:
        """What the run hands on, for a block of pairs or for every sample with itself."""
        one, two = (self._known(side) for side in pairing.sides)
        sources = [registers[source].laid_out(False) for source in self.sources]
        dtype = np.dtype(np.float32 if pairing.compiled == "float32" else np.float64)
        if pairing.right is not None:
            return self._block(one, two, sources, dtype)
        p = one.positions
        own = [slice(i * p, (i + 1) * p) for i in range(one.rows // p)]
        parts = [
            self._block(one[rows], one[rows], [source[i : i + 1] for source in sources], dtype)
            for i, rows in enumerate(own)
        ]
        return {i: Register.together([part[i] for part in parts]) for i in self.strips.results}

    def _block(self, one: _Known, two: _Known, sources: list[Register], dtype: np.dtype) -> dict[int, Register]:
        shape = (one.rows, two.rows)
        distances = _stacked([source.distance for source in sources], np.dtype(np.float64), shape)
        tangents = _stacked([source.ntk for source in sources if source.ntk is not None], dtype, shape)
        results = np.empty((len(self.strips.results), *shape))
        slopes = np.empty((len(results) if self.with_ntk else 0, *shape), dtype)
        work, products = self.strips.workspace(dtype), np.empty((1, 1))
        for first in range(0, two.rows, STRIP):
            part = slice(first, min(first + STRIP, two.rows))
            if self.strips.data is not None:
                products = row_products(one.data, two.data[part])
            delicate = m.run_block(
                work, *self.strips.tables(dtype), (0, one.rows), (part.start, part.stop), -1, one.by_row,
                two.quantities, products, one.data, two.data, distances, tangents, results, slopes, dtype == np.float64,
            )  # fmt: skip
            if delicate and dtype == np.float32:
                raise LostInSingle
        p = one.positions
        kept = [torch.from_numpy(array).view(-1, p, two.rows // p, p) for array in (*results, *slopes)]
        rates = kept[len(results) :] or itertools.repeat(None)
        return {i: Register(d, t) for i, d, t in zip(self.strips.results, kept, rates, strict=False)}

    def _known(self, side: Side) -> _Known:
        """What is read of each position of each sample; put together once a side."""
        if self not in side.packed:
            rows = [self._quantity(side, *key) for key in self.strips.planes.rows]
            n, p = side.registers[self.first].second.shape
            quantities = torch.stack(rows).numpy().reshape(len(rows), -1) if rows else np.empty((0, n * p))
            data = None if self.strips.data is None else side.registers[self.strips.data].data
            values = np.empty((n * p, 0)) if data is None else data.flatten(0, 1).numpy()
            side.packed[self] = _Known(p, quantities, np.ascontiguousarray(values))
        return side.packed[self]

    def _quantity(self, side: Side, kind: str, register: int) -> Tensor:
        known = side.registers[register]
        match kind:
            case "second moment":
                return known.second
            case "root":
                return known.second.sqrt()
            case "mean":
                found = known.mean
            case "norm":
                found = known.norm
            case "inverse norm":
                found = None if known.norm is None else 1 / known.norm
            case _:
                assert kind == "share of norm", kind
                (source,) = self.program.instructions[register].sources
                found = None if known.norm is None else side.registers[source].second / known.norm
        assert found is not None, f"nothing is known of the {kind} of register {register}"
        return found


def chains_of(
    placement: Placement, needed: Collection[int], found: Mapping[int, duals.Dual], with_ntk: bool
) -> list[Chain]:
    """The longest runs of instructions that look at one pair of positions at a time, where all pairs are needed."""
    program = placement.program
    forms = {i: dual for i, dual in found.items() if isinstance(dual, duals.ClosedForm)}
    runs: list[list[int]] = []
    for i in range(len(program.instructions)):
        if i in needed and _fits(placement, i, forms):
            follows = runs and runs[-1][-1] == i - 1 and placement.grids[i - 1] == placement.grids[i]
            if follows and not holds_data(program, i):
                runs[-1].append(i)
            else:
                runs.append([i])
    return [Chain(program, run, forms, with_ntk) for run in runs]


def _fits(placement: Placement, i: int, forms: Mapping[int, duals.ClosedForm]) -> bool:
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


def _stacked(arrays: list[Tensor], dtype: np.dtype, shape: tuple[int, int]) -> np.ndarray:
    """(arrays, rows, columns); a view where there is one array that lies so."""
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0].numpy(), dtype).reshape(1, *shape)
    return np.array([a.numpy().reshape(shape) for a in arrays], dtype).reshape(len(arrays), *shape)
