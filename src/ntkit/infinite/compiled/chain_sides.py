"""What chains read of the samples of one side: quantities and data by position, weights of sums over positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ntkit.infinite import program as ops
from ntkit.infinite.compiled.mixing import QUANTITIES
from ntkit.infinite.compiled.schedule import Planes
from ntkit.infinite.placement import Placement
from ntkit.infinite.torch_positions import weights_of_total
from ntkit.infinite.torch_registers import Side

WEIGHT = "weight"  # the plane of weights of a sum over all positions
_ENTRIES = 32 * 1024  # pairs of positions in a slot: D, T and a half of each stay in a second-level cache


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of all positions of one side's samples, one sample after another.

    Args:
        positions: of a sample.
        quantities: (planes, n·p).
        data: values, (n·p, channels); no channels where the run does not read the data.
        weights: W of each sum over positions that the run holds, (sums, n, p, p).
        itself: distances between its results, of each sample, (sums, n, p, p).
    """

    positions: int
    quantities: np.ndarray
    data: np.ndarray
    weights: np.ndarray
    itself: np.ndarray
    _made: dict[np.dtype, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.data) // self.positions

    @property
    def at_once(self) -> int:
        """Samples in a strip."""
        return max(1, min(self.samples, _ENTRIES // self.positions**2))

    def as_left(self, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """Quantities by row, (n·p, planes), the data, W in float64 and in a precision, and `itself`."""
        double, kind = (self._turned(kind).swapaxes(2, 3) for kind in (np.dtype(np.float64), dtype))
        return self._by_row, self.data, double, kind, self.itself

    def as_right(self, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """Quantities in strips, (strips, planes, columns), the data, the same in strips, and W'ᵀ of both kinds."""
        double = np.dtype(np.float64)
        return self.in_strips, self.data, self._data_in_strips, self._turned(double), self._turned(dtype)

    @cached_property
    def _by_row(self) -> np.ndarray:
        return np.ascontiguousarray(self.quantities.T)

    @cached_property
    def in_strips(self) -> np.ndarray:
        """The quantities of strips of samples."""
        return self._strips(self.quantities)

    @cached_property
    def _data_in_strips(self) -> np.ndarray:
        return self._strips(self.data.T)

    def _strips(self, values: np.ndarray) -> np.ndarray:
        width = self.at_once * self.positions
        found = np.zeros((-(-values.shape[1] // width), len(values), width))
        for k, strip in enumerate(found):
            part = values[:, k * width : (k + 1) * width]
            strip[:, : part.shape[1]] = part
        return found

    def _turned(self, dtype: np.dtype) -> np.ndarray:
        """Wᵀ in a precision."""
        if dtype not in self._made:
            self._made[dtype] = np.ascontiguousarray(self.weights.swapaxes(2, 3), dtype)
        return self._made[dtype]


def known_of(
    side: Side, placement: Placement, source: int, planes: Planes, data: int | None, mixes: list[int]
) -> Known:
    """What a chain reads of a side.

    Args:
        side: the samples.
        placement: program and sizes.
        source: a register with the chain's positions.
        planes: the quantities.
        data: the register of the data that it reads; None where it reads none.
        mixes: registers of sums over positions that it holds.
    """
    n, p = len(side.x), placement.positions(source)
    rows = [_quantity(side, placement, *key).expand(n, p) for key in planes.rows]
    quantities = torch.stack(rows).numpy().reshape(len(rows), -1) if rows else np.empty((0, n * p))
    values = None if data is None else side.registers[data].data
    found = [side.registers[i].within for i in mixes]
    weights, itself = (
        _stacked([getattr(within, name) for within in found], (n, p, p)) for name in ("weights", "itself")
    )
    data_by_row = np.empty((n * p, 0)) if values is None else values.flatten(0, 1).numpy()
    return Known(p, quantities, np.ascontiguousarray(data_by_row), weights, itself)


def _stacked(tensors: list[Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """One array of all; a view where there is one."""
    if len(tensors) == 1:
        return tensors[0].contiguous().numpy()[None]
    return torch.stack(tensors).numpy() if tensors else np.empty((0, *shape))


def _quantity(side: Side, placement: Placement, kind: str, register: int) -> Tensor:
    """One plane, (n, p)."""
    known, op = side.registers[register], placement.program.instructions[register]
    if kind in QUANTITIES:
        assert known.within is not None
        return known.within.mean_second[:, None] if kind == QUANTITIES[-1] else getattr(known.within, kind)
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
        case "share of norm":
            (source,) = op.sources
            found = None if known.norm is None else side.registers[source].second / known.norm
        case _:
            assert kind == WEIGHT, kind
            found = _weights_of_one(op, placement, side, register)
    assert found is not None, f"nothing is known of the {kind} of register {register}"
    return found


def _weights_of_one(op: ops.Instruction, placement: Placement, side: Side, register: int) -> Tensor | None:
    """Weights of a sum over all positions, (n, p) or (1, p)."""
    if isinstance(op, ops.Pool):
        weights = weights_of_total(op.axes, placement.grids[op.source])
        return None if weights is None else weights[None]
    within = side.registers[register].within
    return None if within is None or within.weights is None else within.weights[:, 0]
