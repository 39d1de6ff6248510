"""From samples with positions to the totals that vectors begin with: states, near pairs in float64, and all pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ntkit.infinite.compiled.diagonal import DiagonalRunner, fits
from ntkit.infinite.compiled.duals import AddressOf
from ntkit.infinite.compiled.pooling import finish_stage, spread_pools
from ntkit.infinite.compiled.runner import AfterStage, Group, Runner
from ntkit.infinite.compiled.schedule import Schedule
from ntkit.infinite.compiled.stage import Stage
from ntkit.infinite.compiled.states import Layout, States
from ntkit.infinite.distance import ROUNDING
from ntkit.infinite.placement import Offsets, Placement, only_offset_zero


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
        self.diagonal = DiagonalRunner(self.main) if fits(self.main) and not pools else None
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

    @property
    def runners(self) -> list[Runner]:
        """That for all pairs and, where there is one, that for near ones."""
        return [self.main] if self.near is None else [self.main, self.near]

    @property
    def layouts(self) -> dict[str, Layout]:
        """What is wanted of each sample: "main" for all pairs, "near" for those of near positions."""
        names = ("main", "near")
        return {
            name: Layout(runner.schedule.planes, runner.dtype, in_blocks=self.diagonal is not None)
            for name, runner in zip(names, self.runners, strict=False)
        }

    def matrices(self, left: States, right: States, symmetric: bool) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """register -> (D, T), each (n, m), of every vector that reads a register with positions.

        Of symmetric ones what is on and above the diagonal.
        """
        if self.diagonal is not None:
            sums = self.diagonal.matrices(left.packed["main"], right.packed["main"], symmetric)
            return self._by_register(sums[:, :, : len(left), : len(right)])
        shape = len(left), len(right)
        i, j = np.triu_indices(shape[0]) if symmetric else np.indices(shape).reshape(2, -1)
        found = {}
        for register, (d, t) in self._totals_of(left, right, (i, j)).items():
            full = np.zeros((2, *shape))
            full[0, i, j], full[1, i, j] = d, t
            found[register] = full[0], full[1]
        return found

    def equal(self, states: States) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The same of every sample with itself, (n,) each."""
        if self.diagonal is not None:
            return self._by_register(self.diagonal.equal(states.packed["main"])[:, :, : len(states)])
        same = np.arange(len(states))
        return self._totals_of(states, states, (same, same))

    def _by_register(self, sums: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {register: (sums[k, 0], sums[k, 1]) for k, register in enumerate(self.main.schedule.totals)}

    def _totals_of(
        self, left: States, right: States, pairs: tuple[np.ndarray, np.ndarray]
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The same for pairs of samples by their indices, (pairs,) each."""
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
        found = self._by_register(sums)
        if self.near is not None:
            exact_sums = np.concatenate(exact_totals)[:, :, 0] if exact_totals else None
            for k, register in enumerate(self.near.schedule.totals):
                d, t = found[register]
                if exact_sums is not None:
                    d = exact_sums[:, k].ravel()[: len(pairs[0])]
                row = self.near.schedule.planes.rows["spread", register]
                spread = left.packed["near"][row, pairs[0]] + right.packed["near"][row, pairs[1]]
                found[register] = np.where(d - spread > ROUNDING * spread, d - spread, 0.0), t
        return found

    def _exact(self, group: Group, left: States, right: States) -> tuple[Schedule, Group]:
        """Near pairs of positions of a group's tiles, in float64."""
        assert self.near is not None
        schedule = self.near.schedule
        sides = left.packed["near"], right.packed["near"]
        exact = self.near.new_group(group.left, group.right)
        self.near.run_group(exact, *sides, lambda stage: finish_stage(stage, schedule, exact, *sides, None))
        return schedule, exact
