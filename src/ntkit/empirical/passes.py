"""Which parameters share a pass through the network, and of how many samples and outputs at once.

All derivatives of a side are held at best, so that no sample passes twice. Where they do not fit, some parameters after
the others, each with passes of its own, cost less than blocks of samples, whose columns are computed again for every
block of rows; and few outputs at a time leave room for more. The plan with the fewest passes is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ntkit.empirical.contraction import Outputs
from ntkit.empirical.costs import (
    Contraction,
    LayerSizes,
    Work,
    halvings,
    largest_tile,
    layer_numbers,
    pair_numbers,
    too_little,
)
from ntkit.empirical.groups import Group

_SLAB = 1 << 24  # numbers of per-sample gradients that exist at once where they are multiplied as they are made
_BATCH_COST = 6  # samples that could pass in the time that a batch takes beside its own: a few of it run alone, too


@dataclass(frozen=True)
class Task:
    """What is to be computed.

    Args:
        outputs: which pairs of outputs.
        rows: samples of the kernel's rows.
        columns: samples of its columns; None where they are the rows'.
        diagonal: whether only k(x_n, x_n) are wanted: a block's pairs are multiplied all at once.
    """

    outputs: Outputs
    rows: int
    columns: int | None = None
    diagonal: bool = False

    @property
    def side(self) -> int:
        """Samples of the larger side."""
        return max(self.rows, self.columns or 0)

    @property
    def samples(self) -> int:
        """Samples whose derivatives are needed."""
        return self.rows + (self.columns or 0)

    @property
    def pairs(self) -> int:
        """Pairs of samples whose derivatives are multiplied."""
        return self.rows if self.diagonal else self.rows * (self.columns or self.rows)


@dataclass(frozen=True)
class Sizes:
    """What every plan is reckoned with.

    Args:
        layers: contraction and sizes of every group of parameters.
        n_outputs: outputs of the network.
        saved_bytes: what autograd keeps of one sample's forward pass.
        batched: whether the backward passes of all outputs run at once.
        itemsize: bytes of a number.
        budget: bytes that may be used.
    """

    layers: Mapping[Group, tuple[Contraction, LayerSizes]]
    n_outputs: int
    saved_bytes: int
    batched: bool
    itemsize: int
    budget: int

    def held(self, groups: Sequence[Group], chunk: int) -> int:
        """Bytes of one sample's derivatives of `chunk` outputs."""
        return self.itemsize * sum(layer_numbers(*self.layers[group], chunk) for group in groups)

    def factors(self, groups: Sequence[Group], chunk: int) -> int:
        """The same where they are held in factors."""
        return self.itemsize * sum(layer_numbers("gram", self.layers[group][1], chunk) for group in groups)

    def passing(self, groups: Sequence[Group], chunk: int) -> int:
        """Bytes of one sample while it passes: all gradients of outputs, and the factors of one group in work."""
        sizes = [self.layers[group][1] for group in groups]
        gradients = sum(size.t * chunk * size.q for size in sizes)
        work = max((2 * layer_numbers("gram", size, chunk) for size in sizes), default=0)
        return self.itemsize * (gradients + work) + (1 + (chunk if self.batched else 1)) * self.saved_bytes

    def multiplying(self, groups: Sequence[Group], chunk: int, outputs: Outputs) -> int:
        """Bytes to multiply one pair of samples."""
        layers = [self.layers[group] for group in groups]
        return self.itemsize * max((pair_numbers(*layer, chunk, outputs) for layer in layers), default=1)


@dataclass(frozen=True)
class Passes:
    """Parameters that pass together, how their work is cut, and what that costs."""

    groups: Sequence[Group]
    work: Work
    cost: float  # samples that pass, once forwards and once for each output backwards


def plan_passes(sizes: Sizes, task: Task) -> list[Passes]:
    """The cheapest plan.

    Raises:
        MemoryLimitExceeded: one output of one sample does not fit.
    """
    units = _units(list(sizes.layers))
    at_once = _passes([group for unit in units for group in unit], sizes.n_outputs, sizes, task) if units else None
    if at_once is not None and at_once.work.batch >= task.side:  # nothing passes twice
        return [at_once]
    by_kind = [[unit for unit in units if (sizes.layers[unit[0]][0] == "gram") == gram] for gram in (False, True)]
    plans = [found for parts in ([units], by_kind) if (found := _best_of(parts, sizes, task)) is not None]
    if not plans:
        groups = list(sizes.layers)
        least = sizes.held(groups, 1) * 2 + sizes.passing(groups, 1)
        needed = max(4 * least // 3, 4 * sizes.multiplying(groups, 1, task.outputs))
        raise too_little(needed, sizes.budget)
    return min(plans, key=lambda plan: sum(passes.cost for passes in plan))


def _units(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that hold parts of one parameter stay together."""
    units: list[list[Group]] = []
    for group in groups:
        mine = [unit for unit in units if any(set(group.names) & set(other.names) for other in unit)]
        merged = [other for unit in mine for other in unit]
        units = [unit for unit in units if unit not in mine] + [[*merged, group]]
    return units


def _best_of(parts: Sequence[Sequence[list[Group]]], sizes: Sizes, task: Task) -> list[Passes] | None:
    plan = []
    for units in parts:
        found = [packed for chunk in halvings(sizes.n_outputs) if (packed := _packed(units, chunk, sizes, task))]
        if units and not found:
            return None
        plan += min(found, key=lambda packed: sum(passes.cost for passes in packed), default=[])
    return plan


def _packed(units: Sequence[list[Group]], chunk: int, sizes: Sizes, task: Task) -> list[Passes] | None:
    """All in blocks, or as many at a time as fit whole, whichever costs less."""
    everything = [group for unit in units for group in unit]
    together = _passes(everything, chunk, sizes, task)
    if together is not None and together.work.block >= task.side:
        return [together]
    apart: list[Passes] = []
    for unit in units:
        alone = _passes(unit, chunk, sizes, task)
        if alone is None:
            return None if together is None else [together]
        joined = _passes([*apart[-1].groups, *unit], chunk, sizes, task) if apart else None
        if joined is not None and joined.work.block >= task.side and joined.cost <= apart[-1].cost + alone.cost:
            apart[-1] = joined
        else:
            apart.append(alone)
    return [together] if together is not None and together.cost <= sum(p.cost for p in apart) else apart


def _passes(groups: Sequence[Group], chunk: int, sizes: Sizes, task: Task) -> Passes | None:
    """These parameters in blocks as large as fit; None where not one sample does.

    A quarter of the budget is for products of pairs, half of what is left at most for samples that pass.
    """
    in_factors = _in_factors(groups, chunk, sizes, task)
    if in_factors is not None:
        return in_factors
    multiplying = sizes.multiplying(groups, chunk, task.outputs)
    usable, tile = 3 * sizes.budget // 4, largest_tile(sizes.budget, multiplying)
    held, passing = sizes.held(groups, chunk), sizes.passing(groups, chunk)
    if task.diagonal:
        usable, held = sizes.budget, held + multiplying
    batch = min(task.side, max(1, usable // 2 // max(1, passing)))
    room = usable - batch * passing
    whole = task.samples if task.columns is not None and not task.diagonal else task.side
    in_parts = room // max(1, held if task.diagonal else 2 * held)
    block = task.side if held * whole <= room else in_parts
    if block < 1 or tile < 1:
        return None
    work = Work(block, chunk, tile, min(batch, block)).at_most(task.side, task.outputs)
    return Passes(groups, work, _cost(work, sizes.n_outputs, task))


def _in_factors(groups: Sequence[Group], chunk: int, sizes: Sizes, task: Task) -> Passes | None:
    """All samples, held as the factors that per-sample gradients are made of; None where they do not fit.

    At best they pass at once, and factors that have to be made are made when their group's turn has come.
    """
    tile = largest_tile(sizes.budget, sizes.multiplying(groups, chunk, task.outputs))
    sides = 1 if task.columns is None else 2
    slab = min(_SLAB, sizes.budget // (4 * sides * sizes.itemsize))
    usable = 3 * sizes.budget // 4 - sides * sizes.itemsize * slab
    passing = sizes.passing(groups, chunk)
    if task.diagonal or tile < 1 or slab < 1 or usable < passing:
        return None
    # without positions factors are what the passes leave anyway: then all groups share their way over the tiles
    made = any(sizes.layers[group][1].t > 1 for group in groups)
    later = made and passing * task.samples <= usable
    room = usable if later else usable - sizes.factors(groups, chunk) * task.samples
    batch = task.side if later else min(task.side, room // max(1, passing))
    if batch < 1:
        return None
    work = Work(task.side, chunk, tile, batch, slab, later).at_most(task.side, task.outputs)
    return Passes(groups, work, _cost(work, sizes.n_outputs, task))


def _cost(work: Work, o: int, task: Task) -> float:
    """How many samples pass, each forwards and for every output of the chunk backwards."""
    chunks = -(-o // work.chunk)
    full = task.outputs == "full"

    def blocks(n: int) -> int:
        return -(-n // work.block) * (chunks if full else 1)

    rows = blocks(task.rows)
    if task.diagonal:
        units = rows * (chunks if full else 1)
    elif task.columns is None:
        units = rows * (rows + 1) / 2
    else:
        columns = blocks(task.columns)
        units = rows + columns * (rows if columns > 1 else 1)
    each = min(work.block, task.side) * (1 + _BATCH_COST / work.batch + work.chunk)
    return float(units * each * (1 if full else chunks))
