"""The books of a value: blocks of channels, and in each a linear combination of terms.

Two terms are the same random variable where register and support agree: then their coefficients add up (h + h is 2h).
A support names the channels of affine layers that a term is a function of, as (register, shift): channel c of the block
reads channel c + shift of the layer. Channels of a layer are independent, so terms with disjoint supports are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from ntkit.infinite.program import Scale

Kind = Literal["affine", "activation", "input", "flattened", "masked", "mixed"]
Support = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Term:
    """One summand: the value in a register.

    Args:
        register: where it is.
        kind: an affine layer's output, an activation's output, the data, an image flattened into one axis, or "masked":
            not Gaussian, of mean 0, as an affine layer's output of which parts are dropped; or "mixed": not Gaussian,
            of a mean that is not known, as a normalised sum of activations. Pooling keeps it.
        support: (register of an affine layer, shift of channels); empty for the data.
        what: its name in errors.
        scale: a trained scale, one a channel, whose part of the tangent kernel the register does not hold yet: its path
            and kind; after an activation it is another than after a layer.
        scaled: path of a trained scale whose part the register holds as it is right for all but activations.
    """

    register: int
    kind: Kind
    support: Support
    what: str = field(compare=False)
    scale: tuple[str, Scale] | None = None
    scaled: str | None = None

    def from_channel(self, start: int) -> Term:
        """The term without its first channels."""
        return replace(self, support=frozenset((layer, shift + start) for layer, shift in self.support))


@dataclass(frozen=True)
class Block:
    """Channels that are alike: Σ coefficient · term, each term once.

    Args:
        channels: how many; None for data before a layer has told it.
        terms: (term, coefficient).
        path: where the sum was made, for errors.
    """

    channels: int | None
    terms: tuple[tuple[Term, float], ...]
    path: str = field(default="", compare=False)

    @property
    def support(self) -> Support:
        """Channels of affine layers that it is a function of."""
        return frozenset().union(*(term.support for term, _ in self.terms))

    @property
    def not_gaussian(self) -> Term | None:
        """A summand that is no affine layer's output."""
        return next((term for term, _ in self.terms if term.kind != "affine"), None)

    @property
    def kind_of_result(self) -> Kind:
        """The kind of a function of it that keeps means of 0, and changes others by a known factor."""
        culprit = self.not_gaussian
        if culprit is None or culprit.kind != "activation":
            return "affine" if culprit is None else culprit.kind
        return "activation" if len(self.terms) == 1 and self.terms[0][1] == 1.0 else "mixed"

    def part(self, start: int, stop: int) -> Block:
        """Some of its channels."""
        terms = tuple((term.from_channel(start), c) for term, c in self.terms)
        return replace(self, channels=stop - start, terms=terms)


@dataclass(frozen=True)
class Value:
    """Blocks of channels, one after another."""

    blocks: tuple[Block, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of all blocks."""
        return tuple(term for block in self.blocks for term, _ in block.terms)

    @property
    def support(self) -> Support:
        """Channels of affine layers that it is a function of."""
        return frozenset().union(*(block.support for block in self.blocks))

    @property
    def holds_data(self) -> bool:
        """Whether a summand is the data, whose channels are few and differ."""
        return any(term.kind == "input" for term in self.terms)

    def mapped(self, function: Callable[[Term], Term]) -> Value:
        """Every term replaced."""
        return Value(tuple(replace(b, terms=tuple((function(term), c) for term, c in b.terms)) for b in self.blocks))

    def bounds(self) -> tuple[int, ...]:
        """Channels at which a block ends; empty where the sizes are not told."""
        ends, total = [], 0
        for block in self.blocks:
            if block.channels is None:
                return ()
            total += block.channels
            ends.append(total)
        return tuple(ends)

    def split(self, bounds: tuple[int, ...]) -> Value:
        """The same value in smaller blocks, which end at `bounds`."""
        if self.bounds() == bounds:
            return self
        if len(self.blocks) == 1 and self.blocks[0].channels is None:
            return Value((replace(self.blocks[0], channels=bounds[-1]),)).split(bounds)
        found: list[Block] = []
        begin = 0
        for block, end in zip(self.blocks, self.bounds(), strict=True):
            edges = [begin, *(b for b in bounds if begin < b < end), end]
            found += [block.part(a - begin, b - begin) for a, b in pairwise(edges)]
            begin = end
        return Value(tuple(found))


def single(term: Term, channels: int | None) -> Value:
    """One term alone."""
    return Value((Block(channels, ((term, 1.0),)),))


def add(values: list[Value], coefficients: tuple[float, ...], path: str = "") -> Value:
    """Σ cᵢ xᵢ, channel by channel; equal terms are added up."""
    bounds = tuple(sorted({end for value in values for end in value.bounds()}))
    parts = [value.split(bounds) if bounds else value for value in values]
    blocks: list[Block] = []
    for together in zip(*(part.blocks for part in parts), strict=True):
        total: dict[Term, float] = {}
        for block, coefficient in zip(together, coefficients, strict=True):
            for term, inner in block.terms:
                total[term] = total.get(term, 0.0) + coefficient * inner
        left = ((term, c) for term, c in total.items() if c != 0.0)
        # x + y and y + x are the same program
        ordered = tuple(sorted(left, key=lambda pair: _order(pair[0])))
        blocks.append(Block(together[0].channels, ordered, path if len(ordered) > 1 else ""))
    return Value(tuple(blocks))


def _order(term: Term) -> tuple[int, list[tuple[int, int]]]:
    return term.register, sorted(term.support)


def covariance_of(
    value: Value,
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[int, int, float], ...]]:
    """(registers, weights, products of means) of the mean covariance over all channels, as Combine takes them.

    A block of a share w of the channels gives w (Σ cᵢ² Kᵢ + Σ_{i<j} 2 cᵢ cⱼ mᵢ mⱼ').
    """
    bounds = value.bounds()
    weights: dict[int, float] = {}
    means: dict[tuple[int, int], float] = {}
    for block in value.blocks:
        share = 1.0 if len(value.blocks) == 1 else (block.channels or 0) / bounds[-1]
        for term, c in block.terms:
            weights[term.register] = weights.get(term.register, 0.0) + share * c * c
        with_mean = [(term.register, c) for term, c in block.terms if term.kind == "activation"]
        for i, (first, a) in enumerate(with_mean):
            for second, b in with_mean[i + 1 :]:
                key = (min(first, second), max(first, second))
                means[key] = means.get(key, 0.0) + share * a * b
    ordered = sorted(weights.items())
    return (
        tuple(register for register, _ in ordered),
        tuple(weight for _, weight in ordered),
        tuple((i, j, c) for (i, j), c in sorted(means.items()) if c != 0.0),
    )
