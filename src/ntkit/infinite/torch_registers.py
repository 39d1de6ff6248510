"""What the torch interpreter holds: moments of the samples of a side, the two sides of a block of pairs, D and T."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ntkit.infinite import dual as duals
from ntkit.infinite import torch_positions as positions
from ntkit.infinite.placement import Grid

Precision = Literal["float32", "float64"]


class LostInSingle(Exception):
    """The angle of a pair, or its covariance, is lost in what float32 knows of distances."""


@dataclass(frozen=True)
class Within:
    """What an instruction that mixes positions, K' = W K W'ᵀ, takes from each sample alone.

    Args:
        spread: r = ½ W D Wᵀ at equal positions.
        totals: A = W 1.
        means: m = W q.
        norms: √(Σ W²), by which roundings of what is summed come through.
        sizes: √(Σ W² q²).
        weights: W, where each sample has its own.
        itself: then the squared distances between the results.
    """

    spread: Float[Tensor, "n q"]
    totals: Float[Tensor, "n q"]
    means: Float[Tensor, "n q"]
    norms: Float[Tensor, "n q"]
    sizes: Float[Tensor, "n q"]
    weights: Float[Tensor, "n q p"] | None = None
    itself: Float[Tensor, "n q q"] | None = None

    @property
    def second(self) -> Float[Tensor, "n q"]:
        """Second moments of the results, A m − r."""
        return (self.totals * self.means - self.spread).clamp(min=0)

    @cached_property
    def roots(self) -> Float[Tensor, "n q"]:
        """Their roots."""
        return self.second.sqrt()

    @cached_property
    def mean_second(self) -> Float[Tensor, "n"]:
        """Their mean over positions."""
        return self.second.mean(1)

    def __getitem__(self, rows: slice) -> Within:
        return Within(**{name: value[rows] for name, value in _known(self).items()})

    @staticmethod
    def together(parts: Sequence[Within]) -> Within:
        """Of all samples."""
        return Within(**{name: torch.cat([getattr(part, name) for part in parts]) for name in _known(parts[0])})


def _known(held: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {field.name: value for field in fields(held) if (value := getattr(held, field.name)) is not None}


@dataclass(frozen=True)
class Moments:
    """What is known of a register for the samples of one side.

    Args:
        second: second moments.
        mean: means, where sums may read them: of activations and of what is pooled from them.
        tables: what a dual needs of each sample and position, (n·p).
        within: of pools and of what else mixes positions, what comes from each sample's pairs with itself.
        data: of the data and sums of them over positions, their values.
        tokens: of embeddings, the numbers of the tokens.
        norm: of normalisation layers, what they divide by.
        scale_tables: like `tables`, of x σ'(x), where a trained scale of x stands before σ and there is no formula.
    """

    second: Float[Tensor, "n p"]
    mean: Float[Tensor, "n p"] | None = None
    tables: duals.Samples | None = None
    within: Within | None = None
    data: Float[Tensor, "n p c"] | None = None
    norm: Float[Tensor, "n p"] | None = None
    tokens: Float[Tensor, "n p"] | None = None
    scale_tables: duals.Samples | None = None

    def __getitem__(self, rows: slice) -> Moments:
        p = self.second.shape[1]
        entries = slice(rows.start * p, rows.stop * p)
        by_entry = ("tables", "scale_tables")
        return Moments(**{name: value[entries if name in by_entry else rows] for name, value in _known(self).items()})

    @staticmethod
    def together(parts: Sequence[Moments]) -> Moments:
        """Of all samples, where no tables are kept."""
        all_of: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in _known(parts[0])}
        joined: dict[str, Any] = {
            name: Within.together(values) if name == "within" else torch.cat(values) for name, values in all_of.items()
        }
        return Moments(**joined)


@dataclass(frozen=True)
class Side:
    """One side of the pairs.

    Args:
        x: the data.
        identity: equal numbers for equal samples.
        registers: moments of every register, as far as they are known.
        mask: which tokens are there; None where the model takes no mask.
        packed: what compiled loops keep of the samples.
    """

    x: Float[Tensor, "n *sample"]
    identity: Int[Tensor, "n"]
    registers: tuple[Moments, ...] = ()
    mask: Bool[Tensor, "n p"] | None = None
    packed: dict[Any, Any] = field(default_factory=dict)

    def __getitem__(self, rows: slice) -> Side:
        mask = None if self.mask is None else self.mask[rows]
        return Side(self.x[rows], self.identity[rows], tuple(r[rows] for r in self.registers), mask)

    @staticmethod
    def together(parts: Sequence[Side]) -> Side:
        """All samples of parts that know the same registers."""
        mask = [part.mask for part in parts if part.mask is not None]
        registers = zip(*(part.registers for part in parts), strict=True)
        x, identity = torch.cat([part.x for part in parts]), torch.cat([part.identity for part in parts])
        return Side(x, identity, tuple(map(Moments.together, registers)), torch.cat(mask) if mask else None)

    def with_register(self, moments: Moments) -> Side:
        """The side with one more register."""
        return replace(self, registers=(*self.registers, moments))


@dataclass(frozen=True)
class Pairing:
    """The pairs of a block: every sample of one side with every one of another, or each sample with itself.

    Args:
        left: first samples.
        right: second samples; None for each sample with itself.
        compiled: in what precision compiled loops may do steps, on the CPU and without gradients in anything; None for
            torch, in the precision of the data.
    """

    left: Side
    right: Side | None
    compiled: Precision | None = None

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

    def within(self, register: int, what: str) -> tuple[Tensor, Tensor]:
        """What both sides hold of a register that mixes positions, by its name in `Within`."""
        one, two = self.held(register, "within")
        return self.across(getattr(one, what), getattr(two, what))

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
        return self.each(positions.equal_positions if diagonal else positions.full_pairs)

    def each(self, change: Callable[[Tensor], Tensor]) -> Register:
        """D and T both changed."""
        return Register(change(self.distance), None if self.ntk is None else change(self.ntk))

    def __getitem__(self, rows: slice) -> Register:
        return self.each(lambda pairs: pairs[rows])

    def of_block(self, rows: slice, columns: slice) -> Register:
        """That of some pairs."""
        return self.each(lambda pairs: pairs[rows, :, columns])

    @staticmethod
    def together(parts: Sequence[Register]) -> Register:
        """Of all samples."""
        ntk = [part.ntk for part in parts if part.ntk is not None]
        return Register(torch.cat([part.distance for part in parts]), torch.cat(ntk) if ntk else None)


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
