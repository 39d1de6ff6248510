"""What the torch interpreter holds: moments of the samples of a side, the two sides of a block of pairs, D and T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

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
        spread: of pools and of what else mixes positions, half the mean squared distance within each window.
        weights: of what mixes positions with weights of each sample's own, these weights.
        itself: of the same, squared distances within each sample.
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
    weights: Float[Tensor, "n p k"] | None = None
    itself: Float[Tensor, "n p p"] | None = None
    scale_tables: duals.Samples | None = None

    def __getitem__(self, rows: slice) -> Moments:
        optional = (self.mean, self.spread, self.data, self.norm, self.weights, self.itself)
        mean, spread, data, norm, weights, itself = (None if t is None else t[rows] for t in optional)
        p = self.second.shape[1]
        entries = slice(rows.start * p, rows.stop * p)
        tables, scale_tables = (None if t is None else t[entries] for t in (self.tables, self.scale_tables))
        return Moments(self.second[rows], mean, tables, spread, data, norm, weights, itself, scale_tables)


@dataclass(frozen=True)
class Side:
    """One side of the pairs.

    Args:
        x: the data.
        identity: equal numbers for equal samples.
        registers: moments of every register, as far as they are known.
        mask: which tokens are there; None where the model takes no mask.
    """

    x: Float[Tensor, "n *sample"]
    identity: Int[Tensor, "n"]
    registers: tuple[Moments, ...] = ()
    mask: Bool[Tensor, "n p"] | None = None

    def __getitem__(self, rows: slice) -> Side:
        mask = None if self.mask is None else self.mask[rows]
        return Side(self.x[rows], self.identity[rows], tuple(r[rows] for r in self.registers), mask)

    def with_register(self, moments: Moments) -> Side:
        """The side with one more register."""
        return replace(self, registers=(*self.registers, moments))


@dataclass(frozen=True)
class Pairing:
    """The pairs of a block: every sample of one side with every one of another, or each sample with itself.

    Args:
        left: first samples.
        right: second samples; None for each sample with itself.
        compiled: whether compiled loops may do steps: on the CPU, in float64, and without gradients in anything.
    """

    left: Side
    right: Side | None
    compiled: bool = False

    @cached_property
    def same(self) -> Bool[Tensor, "n m"]:
        """Which pairs are of equal samples."""
        if self.right is None:
            return torch.ones_like(self.left.identity, dtype=torch.bool)[:, None]
        return self.left.identity[:, None] == self.right.identity[None, :]

    def held(self, register: int, what: str) -> tuple[Any, Any]:
        """What both sides hold of a register, by its name in `Moments`."""
        one, two = (getattr(side.registers[register], what) for side in self.sides)
        assert one is not None
        assert two is not None
        return one, two

    def second(self, register: int) -> tuple[Tensor, Tensor]:
        """Second moments of both sides, to broadcast over equal positions."""
        return self.across(*self.held(register, "second"))

    def means(self, register: int) -> tuple[Tensor, Tensor]:
        """Means of both sides."""
        return self.across(*(mean_of(side, register) for side in self.sides))

    def spreads(self, register: int) -> tuple[Tensor, Tensor]:
        """Spreads of both sides."""
        return self.across(*self.held(register, "spread"))

    def scale_second(self, register: int) -> tuple[Tensor, Tensor]:
        """Second moments of x σ'(x) of both sides."""
        tables, like = self.held(register, "scale_tables"), self.held(register, "second")
        return self.across(*(t.variance.view_as(q) for t, q in zip(tables, like, strict=True)))

    def norms(self, register: int) -> tuple[Tensor, Tensor]:
        """What a normalisation layer divides both sides by."""
        return self.across(*self.held(register, "norm"))

    def kept(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens of both sides are there, as 0 and 1."""
        one, two = (side.mask for side in self.sides)
        assert one is not None
        assert two is not None
        return self.across(one.to(like), two.to(like))

    def covariance(self, register: int, distance: Tensor) -> Tensor:
        """s = (q + q' − D)/2."""
        q1, q2 = positions.across(*self.second(register), distance)
        return (q1 + q2 - distance) / 2

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both, also where they are one."""
        return self.left, self.left if self.right is None else self.right

    def across(self, one: Float[Tensor, "n p"], two: Float[Tensor, "m p"]) -> tuple[Tensor, Tensor]:
        """Values of both sides, to broadcast over equal positions."""
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
class Within:
    """What an instruction that mixes positions takes from each sample's pairs with itself.

    Args:
        spread: ½ Σ W[P, p] W[P, p'] D[p, p'].
        weights: W, where each sample has its own.
        itself: then the squared distances between the results.
    """

    spread: Float[Tensor, "n q"]
    weights: Float[Tensor, "n q p"] | None = None
    itself: Float[Tensor, "n q q"] | None = None

    @staticmethod
    def together(parts: Sequence[Within]) -> Within:
        """Of all samples."""
        weights = [part.weights for part in parts if part.weights is not None]
        itself = [part.itself for part in parts if part.itself is not None]
        together = (torch.cat(each) if each else None for each in (weights, itself))
        return Within(torch.cat([part.spread for part in parts]), *together)


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
