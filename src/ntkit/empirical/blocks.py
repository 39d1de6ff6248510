"""A route's part of the kernel, block by block: derivatives of some samples, their pairs in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from ntkit._memory import give_back
from ntkit.empirical.contraction import (
    Factored,
    Features,
    Later,
    Outputs,
    Pending,
    Tied,
    contract,
    gathered,
    mirrored,
)
from ntkit.empirical.costs import Work
from ntkit.empirical.inputs import batch_size, take
from ntkit.empirical.routes import Route


class _Unit(NamedTuple):
    """Samples and outputs whose derivatives are held at once."""

    samples: range
    outs: range


class _Side:
    """The derivatives of one side of the kernel: those of the unit that was asked for last."""

    def __init__(self, route: Route, x: Any, batch: int):
        self.route, self._x, self._batch = route, x, batch
        self._unit: _Unit | None = None
        self._held: Features = []

    def of(self, unit: _Unit) -> Features:
        """A unit's; whoever asks must not keep them, as they give way to the next ones."""
        if unit is not self._unit:
            self._held = []
            self._unit, self._held = unit, _features(self.route, self._x, unit, self._batch)
        return self._held


Result: TypeAlias = Mapping[str, Tensor]  # part of the kernel -> its numbers


def add_gram(result: Result, route: Route, work: Work, o: int, x1: Any, x2: Any, outputs: Outputs) -> None:
    """Add a route's share of each part of the kernel to `result`, (n, m, ...) each in the layout of `outputs`.

    With x2 = None only blocks on and above the diagonal are computed, and mirrored: an exactly symmetric
    result.

    Args:
        result: what is added to.
        route: gives derivatives.
        work: how to cut.
        o: number of outputs.
        x1: samples of the rows.
        x2: samples of the columns; None means x1.
        outputs: which pairs of outputs.
    """
    symmetric = x2 is None
    first = _units(batch_size(x1), o, work)
    second = first if symmetric else _units(batch_size(x2), o, work)
    rows, columns = _Side(route, x1, work.batch), _Side(route, x1 if symmetric else x2, work.batch)
    for i, u in enumerate(first):
        for v in second[i:] if symmetric else second:
            if outputs == "full" or u.outs == v.outs:
                _add_pair(result, rows, columns, u, v, work, outputs, symmetric)


def add_diagonal(result: Result, route: Route, work: Work, o: int, x: Any, outputs: Outputs) -> None:
    """Add a route's share of each part of every k(x_n, x_n) to `result`, (n, ...) each in the layout of `outputs`."""
    rows, columns = _Side(route, x, work.batch), _Side(route, x, work.batch)
    for samples in _ranges(batch_size(x), work.block):
        units = [_Unit(samples, outs) for outs in _ranges(o, work.chunk)]
        for u in units:
            for v in units if outputs == "full" else [u]:
                _add_own(result, rows, columns, u, v, outputs)


def _add_own(result: Result, rows: _Side, columns: _Side, u: _Unit, v: _Unit, outputs: Outputs) -> None:
    """The share of two units of the same samples, each sample with itself."""
    one = [feature.apart() for feature in rows.of(u)]
    two = one if v is u else [feature.apart() for feature in columns.of(v)]
    for part, (own_rows, own_columns) in _by_part(rows.route, one, two).items():
        found = contract(own_rows, own_columns, outputs).squeeze(1).squeeze(1)
        if outputs == "full" and v is u:
            found = (found + found.mT) / 2
        result[part][(_slice(u.samples), *_outs(u.outs, v.outs, outputs))] += found


def _add_pair(
    result: Result, rows: _Side, columns: _Side, u: _Unit, v: _Unit, work: Work, outputs: Outputs, symmetric: bool
) -> None:
    """The share of two units; their derivatives have no names but here."""
    one = rows.of(u)
    two = one if symmetric and v is u else columns.of(v)
    for part, own_rows, own_columns in _in_turn(rows.route, one, two):
        for outs, left, right in _multiplied(own_rows, own_columns, outputs, work.slab):
            _add_tiles(result[part], left, right, u, v, outs, work.tile, outputs, symmetric)


def _in_turn(route: Route, rows: Features, columns: Features) -> Iterator[tuple[str, Features, Features]]:
    """Derivatives of both sides with the part of the kernel that they belong to; what is to be made, in turn."""
    if not any(isinstance(feature, Later) for feature in rows):
        for part, (own_rows, own_columns) in _by_part(route, rows, columns).items():
            yield part, own_rows, own_columns
        return
    for part, one, two in zip(route.shares, rows, columns, strict=True):
        made = _felt([one.make()])
        yield part, made, made if two is one else _felt([two.make()])


def _by_part(route: Route, rows: Features, columns: Features) -> dict[str, tuple[Features, Features]]:
    """Derivatives of both sides by the part of the kernel that they belong to."""
    shares = route.shares
    if len(set(shares)) == 1:
        return {shares[0]: (rows, columns)}
    found = {}
    for part in dict.fromkeys(shares):
        own = [k for k, share in enumerate(shares) if share == part]
        own_rows = [rows[k] for k in own]
        found[part] = (own_rows, own_rows if columns is rows else [columns[k] for k in own])
    return found


def _multiplied(
    rows: Features, columns: Features, outputs: Outputs, slab: int
) -> Iterator[tuple[slice, Features, Features]]:
    """What is there, then slabs of what is multiplied only now, each with the outputs that it is of."""
    there = [feature for feature in rows if not isinstance(feature, Pending)]
    if there:
        yield slice(None), there, there if columns is rows else [f for f in columns if not isinstance(f, Pending)]
    for one, two in zip(rows, columns, strict=True):
        if isinstance(one, Pending):
            for outs, left, right in one.slabs(two, outputs == "full", slab):
                of_rows = [left]
                yield outs, of_rows, of_rows if right is left else [right]


def _add_tiles(
    result: Tensor,
    rows: Features,
    columns: Features,
    u: _Unit,
    v: _Unit,
    outs: slice,
    tile: int,
    outputs: Outputs,
    symmetric: bool,
) -> None:
    """Tile by tile; `outs` are those of the units' outputs that the derivatives are of."""
    own_outs, others_outs = u.outs[outs], v.outs[outs]
    for r, c in product(_ranges(len(u.samples), tile), _ranges(len(v.samples), tile)):
        if u is v and symmetric and c.start < r.start:
            continue
        own = [f.rows(_slice(r)) for f in rows]
        others = own if rows is columns and r == c else [f.rows(_slice(c)) for f in columns]
        part = contract(own, others, outputs)
        if u is v and symmetric and r == c:
            part = (part + mirrored(part, outputs)) / 2  # equal but for rounding, now equal
        at = (_shifted(r, u.samples), _shifted(c, v.samples))
        result[(*at, *_outs(own_outs, others_outs, outputs))] += part
        if symmetric and not (u is v and r == c):
            result[(at[1], at[0], *_outs(others_outs, own_outs, outputs))] += mirrored(part, outputs)


def _features(route: Route, x: Any, unit: _Unit, batch: int) -> Features:
    """Derivatives of a unit, computed a batch at a time."""
    ranges = _ranges(len(unit.samples), batch)

    def passed() -> Iterator[Features]:
        for part in ranges:
            yield route.features(take(x, _shifted(part, unit.samples)), unit.outs)
            if len(ranges) > 1:
                give_back()

    return _felt(next(passed()) if len(ranges) == 1 else gathered(passed(), [_slice(part) for part in ranges]))


def _felt(features: Features) -> Features:
    """Without positions that no output depends on."""
    return [feature.felt() if isinstance(feature, Factored | Tied) else feature for feature in features]


def _units(n: int, o: int, work: Work) -> list[_Unit]:
    return [_Unit(samples, outs) for samples, outs in product(_ranges(n, work.block), _ranges(o, work.chunk))]


def _ranges(n: int, at_most: int) -> list[range]:
    """0 … n in equal parts of at most `at_most`."""
    parts = -(-n // at_most)
    ends = [n * i // parts for i in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _shifted(part: range, within: range) -> slice:
    return slice(within.start + part.start, within.start + part.stop)


def _outs(first: range, second: range, outputs: Outputs) -> tuple[slice, ...]:
    """Where a pair of output ranges stands in the axes after the samples'."""
    return {"full": (_slice(first), _slice(second)), "diagonal": (_slice(first),)}.get(outputs, ())
