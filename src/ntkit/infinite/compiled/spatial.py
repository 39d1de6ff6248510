"""From samples with positions to the totals that vectors begin with: states, near pairs in float64, and all pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ntkit.infinite.compiled.lanes import LANES, SIDE
from ntkit.infinite.compiled.pooling import finish_stage, spread_pools
from ntkit.infinite.compiled.runner import AfterStage, Group, Runner
from ntkit.infinite.compiled.schedule import Schedule
from ntkit.infinite.compiled.stage import Stage
from ntkit.infinite.compiled.states import Layout, States
from ntkit.infinite.placement import Offsets, Placement, only_offset_zero

AddressOf = Callable[[int, bool, str], int]  # (register of a dual, with derivative, dtype) -> address of its loop


class Spatial:
    """The part of a placed program that has positions.

    Args:
        placement: program and sizes.
        dtype: of the arithmetic for most pairs of positions.
        with_ntk: whether the tangent kernel is wanted.
        address_of: where the loops of duals are compiled.
    """

    def __init__(
        self,
        placement: Placement,
        dtype: np.dtype,
        with_ntk: bool,
        address_of: AddressOf,
    ):
        self.placement = placement
        self.main = self._runner(self._totals(), dtype, with_ntk, address_of)
        pools = spread_pools(placement)
        self.near: Runner | None = None
        if pools:
            targets = {i: only_offset_zero(placement.grids[i]) for i in pools}
            self.near = self._runner(targets, np.dtype(np.float64), False, address_of)
            for total in self.near.schedule.totals:
                self.near.schedule.planes.place("spread", total, 1)
        self.exact_pairs = self.near is not None and np.dtype(dtype) == np.float32

    def _totals(self) -> dict[int, Offsets]:
        """Vectors that read a register with positions, and are needed."""
        found = {}
        for i, op in enumerate(self.placement.program.instructions):
            if self.placement.positions(i) == 1 and any(self.placement.positions(s) > 1 for s in op.sources):
                found[i] = only_offset_zero(self.placement.grids[i])
        return found

    def _runner(self, targets: Mapping[int, Offsets], dtype: np.dtype, with_ntk: bool, address_of: AddressOf) -> Runner:
        schedule = Schedule(self.placement, targets, with_ntk)
        return Runner(schedule, dtype, lambda register, slope: address_of(register, slope, np.dtype(dtype).name))

    def pairs(self, n: int, m: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the samples of all pairs that are to be computed, in an order that suits the machine.

        Where the work of a tile is small, its lanes are `SIDE` left by `SIDE` right samples, of which less must be put
        side by side anew; some pairs then come twice.
        """
        if not self.main.is_diagonal:
            left, right = np.triu_indices(n) if symmetric else np.indices((n, m)).reshape(2, -1)
            return left, right
        sides = -(-n // SIDE), -(-m // SIDE)
        left, right = np.triu_indices(sides[0]) if symmetric else np.indices(sides).reshape(2, -1)
        of_lane = np.arange(LANES)
        rows, columns = SIDE * left[:, None] + of_lane // SIDE, SIDE * right[:, None] + of_lane % SIDE
        return np.minimum(rows, n - 1).ravel(), np.minimum(columns, m - 1).ravel()

    @property
    def runners(self) -> list[Runner]:
        """That for all pairs and, where there is one, that for near ones."""
        return [self.main] if self.near is None else [self.main, self.near]

    @property
    def layouts(self) -> dict[str, Layout]:
        """What is wanted of each sample: "main" for all pairs, "near" for those of near positions."""
        names = ("main", "near")
        return {name: Layout(r.schedule.planes, r.dtype) for name, r in zip(names, self.runners, strict=False)}

    def totals(
        self, left: States, right: States, pairs: tuple[np.ndarray, np.ndarray]
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """register -> (D, T), each (pairs,), of every vector that reads a register with positions."""
        sides = left.packed["main"], right.packed["main"]
        exact_totals: list[np.ndarray] = []

        def around(group: Group) -> AfterStage:
            exact = self._exact(group, left, right) if self.exact_pairs else None
            if exact is not None:
                exact_totals.append(exact[1].totals)

            def after_stage(stage: Stage) -> None:
                finish_stage(stage, self.main.schedule, group, *sides, exact)

            return after_stage

        sums = self.main.run(*sides, pairs, around)
        found = {register: (sums[k, 0], sums[k, 1]) for k, register in enumerate(self.main.schedule.totals)}
        if self.near is not None:
            exact_sums = np.concatenate(exact_totals)[:, :, 0] if exact_totals else None
            for k, register in enumerate(self.near.schedule.totals):
                d, t = found[register]
                if exact_sums is not None:
                    d = exact_sums[:, k].ravel()[: len(pairs[0])]
                row = self.near.schedule.planes.rows["spread", register]
                spread = left.packed["near"][row, pairs[0]] + right.packed["near"][row, pairs[1]]
                found[register] = np.maximum(d - spread, 0.0), t
        return found

    def _exact(self, group: Group, left: States, right: States) -> tuple[Schedule, Group]:
        """Near pairs of positions of a group's tiles, in float64."""
        assert self.near is not None
        schedule = self.near.schedule
        sides = left.packed["near"], right.packed["near"]
        exact = self.near.new_group(group.left, group.right)
        self.near.run_group(exact, *sides, lambda stage: finish_stage(stage, schedule, exact, *sides, None))
        return schedule, exact
