"""Executes a program with torch: any device, exact gradients with respect to the inputs.

First every instruction runs once over the samples of each side (second moments, coefficients of series), then over
blocks of pairs that stay in cache. Without x2 only the blocks on and above the diagonal are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.errors import InvalidInput, NtkitError
from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite.distance import squared_distances

_BLOCK_ENTRIES = 128 * 1024  # a few arrays of this many float64 stay in a core's L2 cache


@dataclass(frozen=True)
class Side:
    """One side of the pairs: the data, second moments of each register, and the samples' tables of activations."""

    x: Float[Tensor, "n d"]
    moments: tuple[Tensor, ...]
    samples: tuple[duals.Samples | None, ...]

    def __getitem__(self, rows: slice) -> Side:
        samples = tuple(None if s is None else s[rows] for s in self.samples)
        return Side(self.x[rows], tuple(q[rows] for q in self.moments), samples)


@dataclass(frozen=True)
class Register:
    """What a register holds for a block of pairs: D, and T where the tangent kernel is wanted."""

    distance: Tensor
    ntk: Tensor | None


class TorchInterpreter:
    """Runs one program.

    Args:
        program: what to compute.
        tolerance: relative accuracy of duals found by quadrature.
    """

    def __init__(self, program: ops.Program, tolerance: float):
        self.program = program
        self.last_uses = program.last_uses()
        self.duals = {
            i: duals.dual(op.activation, tolerance)
            for i, op in enumerate(program.instructions)
            if isinstance(op, ops.Dual)
        }

    # ---- samples -----------------------------------------------------------------------------------------------

    def side(self, x: Float[Tensor, "n d"]) -> Side:
        """Second moments of every register for one side."""
        moments: list[Tensor] = []
        samples: list[duals.Samples | None] = []
        for i, op in enumerate(self.program.instructions):
            tables = self._tables(i, op, moments)
            moments.append(tables.variance if tables is not None else second_moment(op, x, moments, samples))
            samples.append(tables)
        return Side(x, tuple(moments), tuple(samples))

    def _tables(self, i: int, op: ops.Instruction, moments: list[Tensor]) -> duals.Samples | None:
        if not isinstance(op, ops.Dual):
            return None
        try:
            tables = self.duals[i].samples(moments[op.source])
        except NtkitError as error:
            raise type(error)(f"at '{op.path}': {error}") from None
        if not bool(torch.isfinite(tables.variance).all()):
            raise InvalidInput(
                f"the second moment after {op.activation.name} at '{op.path}' overflows {tables.variance.dtype}; "
                "use smaller weights or inputs"
            )
        return tables

    # ---- pairs -------------------------------------------------------------------------------------------------

    def pairs(self, left: Side, right: Side, want_ntk: bool, *, in_line: bool = False) -> tuple[Tensor, Tensor | None]:
        """(nngp, ntk) of all pairs (n, m), or of each sample with itself (n,) when `in_line`."""
        registers: dict[int, Register] = {}
        for i, op in enumerate(self.program.instructions):
            registers[i] = pair_step(op, self, i, registers, left, right, want_ntk, in_line)
            for j in [j for j in registers if self.last_uses[j] <= i and j != i]:
                del registers[j]
        out = self.program.output
        result = registers[out]
        return _covariance(left, right, out, result.distance), result.ntk

    def matrix(
        self, x1: Tensor, x2: Tensor | None, want_nngp: bool, want_ntk: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """(nngp, ntk), each (n, m) or None where not wanted."""
        n = len(x1)
        both = self.side(x1 if x2 is None else torch.cat([x1, x2]))  # one call: sides of pairs share their tables
        left, right = both[:n], both if x2 is None else both[n:]
        if x1.requires_grad or (x2 is not None and x2.requires_grad):
            nngp, ntk = self.pairs(left, right, want_ntk)
            return (nngp if want_nngp else None), ntk
        m = len(right.x)
        results = [torch.empty(n, m, dtype=x1.dtype, device=x1.device) if w else None for w in (want_nngp, want_ntk)]
        size = max(1, int(_BLOCK_ENTRIES**0.5)) if x2 is None else None
        for rows, columns in _blocks(n, m, size):
            if x2 is None and columns.start < rows.start:
                continue
            block = self.pairs(left[rows], right[columns], want_ntk)
            for result, part in zip(results, block, strict=True):
                if result is not None and part is not None:
                    if x2 is None and rows == columns:  # a matrix product need not be symmetric to the last digit
                        part = part.triu() + part.triu(1).T
                    result[rows, columns] = part
                    if x2 is None and columns.start > rows.start:
                        result[columns, rows] = part.T
        return results[0], results[1]

    def diagonal(self, x: Tensor, want_nngp: bool, want_ntk: bool) -> tuple[Tensor | None, Tensor | None]:
        """(nngp, ntk) of each sample with itself, (n,)."""
        side = self.side(x)
        nngp, ntk = self.pairs(side, side, want_ntk, in_line=True)
        return (nngp if want_nngp else None), ntk


def _blocks(n: int, m: int, square: int | None) -> list[tuple[slice, slice]]:
    """Blocks of pairs: squares where symmetry is used, else whole rows."""
    height = square or max(1, _BLOCK_ENTRIES // max(m, 1))
    width = square or m
    rows = [slice(i, min(i + height, n)) for i in range(0, n, height)]
    columns = [slice(j, min(j + width, m)) for j in range(0, m, max(width, 1))]
    return [(r, c) for r in rows for c in columns]


def _covariance(left: Side, right: Side, register: int, distance: Tensor) -> Tensor:
    q1, q2 = left.moments[register], right.moments[register]
    return ((q1 + q2 if distance.ndim == 1 else q1[:, None] + q2[None, :]) - distance) / 2


# ---- one step of each instruction over samples, and over pairs --------------------------------------------------


@singledispatch
def second_moment(op: ops.Instruction, x: Tensor, moments: list[Tensor], samples: list[duals.Samples | None]) -> Tensor:
    """E[value²] of each sample after an instruction."""
    raise TypeError(f"the torch interpreter does not know the instruction {op}")


@second_moment.register
def _(op: ops.Read, x: Tensor, moments: list[Tensor], samples: list[duals.Samples | None]) -> Tensor:
    return (x**2).mean(dim=1)


@second_moment.register
def _(op: ops.Affine, x: Tensor, moments: list[Tensor], samples: list[duals.Samples | None]) -> Tensor:
    return op.weight_variance * moments[op.source] + op.bias_variance


@second_moment.register
def _(op: ops.Combine, x: Tensor, moments: list[Tensor], samples: list[duals.Samples | None]) -> Tensor:
    total = sum(c**2 * moments[t] for c, t in zip(op.coefficients, op.terms, strict=True))
    for (c1, m1), (c2, m2) in _mean_pairs(op, samples):
        total = total + 2 * c1 * c2 * m1 * m2
    assert isinstance(total, Tensor)
    return total


@singledispatch
def pair_step(
    op: ops.Instruction,
    interpreter: TorchInterpreter,
    i: int,
    registers: dict[int, Register],
    left: Side,
    right: Side,
    want_ntk: bool,
    in_line: bool,
) -> Register:
    """D and T of a block of pairs after instruction number i."""
    raise TypeError(f"the torch interpreter does not know the instruction {op}")


@pair_step.register
def _(op: ops.Read, interpreter, i, registers, left, right, want_ntk, in_line) -> Register:
    same = torch.zeros_like(left.moments[i])
    distance = same if in_line else squared_distances(left.x, right.x) / left.x.shape[1]
    return Register(distance, torch.zeros_like(distance) if want_ntk else None)


@pair_step.register
def _(op: ops.Affine, interpreter, i, registers, left, right, want_ntk, in_line) -> Register:
    before = registers[op.source]
    ntk = None
    if before.ntk is not None:
        ntk = op.weight_variance * before.ntk + op.bias_rate
        if op.weight_rate:
            ntk = ntk + op.weight_rate * _covariance(left, right, op.source, before.distance)
    return Register(op.weight_variance * before.distance, ntk)


@pair_step.register
def _(op: ops.Dual, interpreter, i, registers, left, right, want_ntk, in_line) -> Register:
    before = registers[op.source]
    one, two = left.samples[i], right.samples[i]
    assert one is not None
    assert two is not None
    distance, derivative = interpreter.duals[i].pairs(one, two, before.distance, before.ntk is not None)
    ntk = None if before.ntk is None or derivative is None else before.ntk * derivative
    return Register(distance, ntk)


@pair_step.register
def _(op: ops.Combine, interpreter, i, registers, left, right, want_ntk, in_line) -> Register:
    parts = [(c**2, registers[t]) for c, t in zip(op.coefficients, op.terms, strict=True)]
    distance = torch.zeros_like(parts[0][1].distance)
    ntk = torch.zeros_like(distance) if want_ntk else None
    for weight, part in parts:
        distance = distance + weight * part.distance
        if ntk is not None and part.ntk is not None:
            ntk = ntk + weight * part.ntk
    both = zip(_mean_pairs(op, left.samples), _mean_pairs(op, right.samples), strict=True)
    for ((c1, left1), (c2, left2)), ((_, right1), (_, right2)) in both:
        if not in_line:
            distance = distance + 2 * c1 * c2 * (left1[:, None] - right1[None, :]) * (left2[:, None] - right2[None, :])
    return Register(distance, ntk)


def _mean_pairs(
    op: ops.Combine, samples: list[duals.Samples | None] | tuple[duals.Samples | None, ...]
) -> list[tuple[tuple[float, Tensor], tuple[float, Tensor]]]:
    """(coefficient, means) of every two terms that may have a mean."""
    coefficient = dict(zip(op.terms, op.coefficients, strict=True))
    means = [(coefficient[r], s.mean) for r in op.with_mean if (s := samples[r]) is not None]
    return [(first, second) for k, first in enumerate(means) for second in means[k + 1 :]]
