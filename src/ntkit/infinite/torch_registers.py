"""What the torch interpreter holds: moments of the samples of a side, the two sides of a block of pairs, D and T."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ntkit.infinite import dual as duals
from ntkit.infinite import torch_positions as positions
from ntkit.infinite.placement import Grid


@dataclass(frozen=True)
class Moments:
    """What is known of a register for the samples of one side.

    Args:
        second: second moments.
        mean: means, where sums may read them: of activations and of what is pooled from them.
        tables: what a dual needs of each sample and position, (n·p).
        spread: of pools, half the mean squared distance within each window.
        data: of the data, their values.
        norm: of normalisation layers, what they divide by.
        scale_tables: like `tables`, of x σ'(x), where a trained scale of x stands before σ and there is no formula.
    """

    second: Float[Tensor, "n p"]
    mean: Float[Tensor, "n p"] | None = None
    tables: duals.Samples | None = None
    spread: Float[Tensor, "n p"] | None = None
    data: Float[Tensor, "n p c"] | None = None
    norm: Float[Tensor, "n p"] | None = None
    scale_tables: duals.Samples | None = None

    def __getitem__(self, rows: slice) -> Moments:
        optional = (self.mean, self.spread, self.data, self.norm)
        mean, spread, data, norm = (None if t is None else t[rows] for t in optional)
        p = self.second.shape[1]
        entries = slice(rows.start * p, rows.stop * p)
        tables, scale_tables = (None if t is None else t[entries] for t in (self.tables, self.scale_tables))
        return Moments(self.second[rows], mean, tables, spread, data, norm, scale_tables)


@dataclass(frozen=True)
class Side:
    """One side of the pairs.

    Args:
        x: the data.
        identity: equal numbers for equal samples.
        registers: moments of every register, as far as they are known.
    """

    x: Float[Tensor, "n *sample"]
    identity: Int[Tensor, "n"]
    registers: tuple[Moments, ...] = ()

    def __getitem__(self, rows: slice) -> Side:
        return Side(self.x[rows], self.identity[rows], tuple(r[rows] for r in self.registers))


@dataclass(frozen=True)
class Pairing:
    """The pairs of a block: every sample of one side with every one of another, or each sample with itself.

    Args:
        left: first samples.
        right: second samples; None for each sample with itself.
    """

    left: Side
    right: Side | None

    @cached_property
    def same(self) -> Bool[Tensor, "n m"]:
        """Which pairs are of equal samples."""
        if self.right is None:
            return torch.ones_like(self.left.identity, dtype=torch.bool)[:, None]
        return self.left.identity[:, None] == self.right.identity[None, :]

    def second(self, register: int) -> tuple[Tensor, Tensor]:
        """Second moments of both sides, to broadcast over equal positions."""
        return self._sides(*(side.registers[register].second for side in self._both))

    def means(self, register: int) -> tuple[Tensor, Tensor]:
        """Means of both sides."""
        return self._sides(*(mean_of(side, register) for side in self._both))

    def spreads(self, register: int) -> tuple[Tensor, Tensor]:
        """Spreads of both sides."""
        one, two = (side.registers[register].spread for side in self._both)
        assert one is not None
        assert two is not None
        return self._sides(one, two)

    def scale_second(self, register: int) -> tuple[Tensor, Tensor]:
        """Second moments of x σ'(x) of both sides."""
        one, two = (side.registers[register] for side in self._both)
        assert one.scale_tables is not None
        assert two.scale_tables is not None
        return self._sides(one.scale_tables.variance.view_as(one.second), two.scale_tables.variance.view_as(two.second))

    def norms(self, register: int) -> tuple[Tensor, Tensor]:
        """What a normalisation layer divides both sides by."""
        one, two = (side.registers[register].norm for side in self._both)
        assert one is not None
        assert two is not None
        return self._sides(one, two)

    def covariance(self, register: int, distance: Tensor) -> Tensor:
        """s = (q + q' − D)/2."""
        q1, q2 = positions.across(*self.second(register), distance)
        return (q1 + q2 - distance) / 2

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that there are."""
        return (self.left,) if self.right is None else (self.left, self.right)

    @property
    def _both(self) -> tuple[Side, Side]:
        return self.left, self.left if self.right is None else self.right

    def _sides(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        return one[..., None], two[..., None] if self.right is None else two.T[None]


@dataclass(frozen=True)
class Register:
    """What a register holds for a block of pairs: D, and T where the tangent kernel is wanted."""

    distance: Float[Tensor, "n p *rest"]
    ntk: Float[Tensor, "n p *rest"] | None

    def laid_out(self, diagonal: bool) -> Register:
        """The register at equal positions only, or at all pairs of positions."""
        convert = positions.equal_positions if diagonal else positions.full_pairs
        return Register(convert(self.distance), None if self.ntk is None else convert(self.ntk))


@dataclass(frozen=True)
class Place:
    """Where an instruction stands.

    Args:
        register: its number.
        grid: positions of its source.
        diagonal: whether only equal positions of its result are needed.
        dual: of activations.
        scale_dual: of x σ'(x), where a trained scale of x stands before σ and there is no formula.
    """

    register: int
    grid: Grid
    diagonal: bool
    dual: duals.Dual | None
    scale_dual: duals.Dual | None = None


def mean_of(side: Side, register: int) -> Tensor:
    """Means of a register that a sum of independent values reads."""
    mean = side.registers[register].mean
    if mean is None:
        raise TypeError(
            f"the program reads means of register {register}, which are known of activations and pools only"
        )
    return mean
