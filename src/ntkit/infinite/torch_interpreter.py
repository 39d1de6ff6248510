"""Executes a program with torch: any device, exact gradients with respect to the inputs and to the program's scales.

First every instruction runs once over the samples of each side (second moments, coefficients of series; pools need each
sample's distances to itself), then over blocks of pairs that stay in cache. Without x2 only the blocks on and above the
diagonal are computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ntkit._memory import require_bytes
from ntkit.errors import InvalidInput, NtkitError
from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite import torch_sequences  # noqa: F401  (its steps register themselves)
from ntkit.infinite.blocks import Block, blocks_of, store
from ntkit.infinite.compiled.threads import available, equal_parts, run_jobs, torch_as_set
from ntkit.infinite.flow import needed_alone, needed_for_pairs
from ntkit.infinite.placement import Placement
from ntkit.infinite.torch_mixing import MIXING, within
from ntkit.infinite.torch_registers import LostInSingle, Moments, Pairing, Place, Precision, Register, Side, Within
from ntkit.infinite.torch_steps import moments, pair_step

_BLOCK_ENTRIES = 256 * 1024  # more would leave the cache, and fewer make threads wait for Python
_ITSELF_ENTRIES = 4 * 1024 * 1024  # of samples with themselves, whose arrays are kept from pool to pool
_WORTH_A_THREAD = (
    256 * 1024
)  # pairs of positions of samples with themselves: fewer take less time than it takes to start
_ARRAYS = 12  # of one register's size, alive at the same time
_ARRAYS_KEPT = 4  # by the graph, of each register, where gradients are wanted

Result = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class _Step:
    """Instructions from one to another, inclusive, and what executes them.

    Args:
        first: the first of them.
        last: the last.
        made: registers that they make for others.
        run: (pairs, registers) -> those registers.
        is_whole: whether it does any number of pairs at once, in blocks of its own.
    """

    first: int
    last: int
    made: tuple[int, ...]
    run: Callable[[Pairing, Mapping[int, Register]], dict[int, Register]]
    is_whole: bool = False


class TorchInterpreter:
    """Runs one program on samples of one shape.

    Args:
        program: what to compute.
        tolerance: relative accuracy of duals found by quadrature.
        placement: the program on the grid of these samples.
    """

    def __init__(self, program: ops.Program, tolerance: float, placement: Placement):
        self.program = program
        self.last_uses = program.last_uses()
        self.duals = {
            i: duals.dual(op.activation, tolerance)
            for i, op in enumerate(program.instructions)
            if isinstance(op, ops.Dual)
        }
        self.places = [self._place(i, op, placement) for i, op in enumerate(program.instructions)]
        self.entries = [
            placement.positions(i) ** (1 if placement.is_diagonal(i) else 2) for i in range(len(program.instructions))
        ]
        self.alone, self.needed = needed_alone(program), needed_for_pairs(program)
        self.placement = placement
        self._steps: dict[tuple[bool, bool, bool], list[_Step]] = {}

    def _place(self, i: int, op: ops.Instruction, placement: Placement) -> Place:
        grid, dual = placement.grids[op.sources[0] if op.sources else i], self.duals.get(i)
        scale_dual = None
        if isinstance(op, ops.Dual) and op.scale is not None and isinstance(dual, duals.Series):
            scale_dual = dual.of_scale()
        return Place(i, grid, placement.is_diagonal(i), dual, scale_dual)

    @functools.cached_property
    def safe_in_single(self) -> bool:
        """Whether float32 loops are worth their while, and lose no more than rounding does.

        Attention gains. Its weights must be those of a mean: others grow with the tokens, and their sums cancel.
        """
        mixes = [op for op in self.program.instructions if isinstance(op, ops.Mix)]
        closed = all(isinstance(dual, duals.ClosedForm) and dual.safe_in_single for dual in self.duals.values())
        return bool(mixes) and all(op.is_average for op in mixes) and closed

    # ---- samples -----------------------------------------------------------------------------------------------

    def side(self, x: Float[Tensor, "n *sample"], mask: Bool[Tensor, "n p"] | None = None) -> Side:
        """Second moments of every register for one side."""
        whole = Side(x, self._identity(x, mask), mask=mask)
        if not self._is_separable(x):
            with torch_as_set():
                return self._with_moments(whole)
        known: dict[int, Side] = {}
        parts = equal_parts(len(x), min(available(), 1 + len(x) * max(self.entries) // _WORTH_A_THREAD))

        def compute(k: int) -> None:
            known[k] = self._with_moments(whole[parts[k]])

        run_jobs(range(len(parts)), lambda: compute, with_torch=True)
        return Side.together([known[k] for k in range(len(parts))])

    def _is_separable(self, x: Tensor) -> bool:
        """Whether samples may be looked at in parts, side by side: tables of series are made of all samples at once."""
        closed = all(isinstance(dual, duals.ClosedForm) for dual in self.duals.values())
        return bool(self.alone) and closed and self._precision(x) is not None

    def _with_moments(self, side: Side) -> Side:
        groups = self._groups(side.x)
        kept: dict[int, Register] = {}  # pairs of all samples with themselves, where they are few enough
        for i, op in enumerate(self.program.instructions):
            found = None
            if isinstance(op, MIXING):
                parts = [self._within(i, op, side[rows], kept if len(groups) == 1 else {}) for rows in groups]
                found = Within.together(parts)
            side = side.with_register(self._moments(op, side, self.places[i], found))
        return side

    def _identity(self, x: Tensor, mask: Tensor | None) -> Int[Tensor, "n"]:
        """Equal numbers for equal samples: pools set their distance to exactly 0, dropout masks them alike."""
        if not self.alone and not any(isinstance(op, ops.Mask) for op in self.program.instructions):
            return torch.arange(len(x), device=x.device)
        values = x.detach().flatten(1)
        if mask is not None:
            values = torch.cat([values, mask.to(values)], dim=1)
        return torch.unique(values, dim=0, return_inverse=True)[1]

    def _groups(self, x: Tensor) -> list[slice]:
        """Samples whose pairs with themselves are computed together; all of them where gradients are wanted."""
        at_once = len(x) if self._with_slopes(x) else max(1, _ITSELF_ENTRIES // max(self.entries))
        return [slice(i, min(i + at_once, len(x))) for i in range(0, len(x), at_once)]

    def _within(self, i: int, op: ops.Instruction, side: Side, registers: dict[int, Register]) -> Within:
        """What instruction i takes from each sample's pairs with itself."""
        done, precision = max(registers, default=-1), self._precision(side.x)
        steps = [step for step in self.steps(precision is not None, False, alone=True) if done < step.last < i]
        pairing = Pairing(side, None, precision)
        self._run(pairing, steps, registers)
        return within(op, pairing, self.places[i], registers)

    @staticmethod
    def _moments(op: ops.Instruction, side: Side, place: Place, found: Within | None) -> Moments:
        if not isinstance(op, ops.Dual):
            return moments(op, side, place, found)
        try:
            result = moments(op, side, place, found)
        except NtkitError as error:
            raise type(error)(f"at '{op.path}': {error}") from None
        if not bool(torch.isfinite(result.second).all()):
            raise InvalidInput(
                f"the second moment after {op.activation.name} at '{op.path}' overflows {result.second.dtype}; "
                "use smaller weights or inputs"
            )
        return result

    # ---- pairs -------------------------------------------------------------------------------------------------

    def steps(self, compiled: bool, want_ntk: bool, alone: bool) -> list[_Step]:
        """What is done with pairs: instruction by instruction, or many of them in one compiled pass.

        Args:
            compiled: whether there are compiled passes.
            want_ntk: whether the tangent kernel is carried.
            alone: of each sample with itself, as far as sums over positions ask for it; else of pairs, to the outputs.
        """
        key = compiled, want_ntk, alone
        if key not in self._steps:
            needed = self.alone if alone else self.needed
            found = {i: self._step(i, want_ntk) for i in needed}
            if compiled and any(self.entries[i] > 1 for i in needed):
                from ntkit.infinite.compiled.chains import chains_of  # numba is loaded where it is used

                for chain in chains_of(self.placement, needed, self.duals, want_ntk, with_sums=not alone):
                    found = {i: step for i, step in found.items() if not chain.first <= i <= chain.last}
                    found[chain.first] = _Step(chain.first, chain.last, tuple(chain.made), chain.run, chain.is_whole)
            self._steps[key] = [found[i] for i in sorted(found)]
        return self._steps[key]

    def _step(self, i: int, want_ntk: bool) -> _Step:
        op, place = self.program.instructions[i], self.places[i]
        return _Step(i, i, (i,), lambda pairing, registers: {i: pair_step(op, pairing, place, registers, want_ntk)})

    def _run(self, pairing: Pairing, steps: Iterable[_Step], registers: dict[int, Register]) -> None:
        """Executes steps on a block of pairs; registers that nothing reads any more are dropped."""
        for step in steps:
            made = step.run(pairing, registers)
            registers.update(made)
            for j in [j for j in registers if self.last_uses[j] <= step.last and j not in made]:
                del registers[j]

    def pairs(self, pairing: Pairing, want_ntk: bool) -> list[tuple[Float[Tensor, "n m"], Tensor | None]]:
        """(nngp, ntk) of a block of pairs (n, m), or of each sample with itself (n, 1), for each output."""
        registers: dict[int, Register] = {}
        self._run(pairing, self.steps(pairing.compiled is not None, want_ntk, alone=False), registers)
        return self._results(pairing, registers)

    def _results(self, pairing: Pairing, registers: Mapping[int, Register]) -> list[tuple[Tensor, Tensor | None]]:
        results = []
        for output in self.program.outputs:
            found = registers[output]
            nngp = pairing.covariance(output, found.distance)
            results.append((nngp.squeeze(1), None if found.ntk is None else found.ntk.squeeze(1)))
        return results

    def matrix(
        self,
        x1: Float[Tensor, "n *sample"],
        x2: Float[Tensor, "m *sample"] | None,
        want_nngp: bool,
        want_ntk: bool,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
        single: bool = False,
    ) -> list[Result]:
        """(nngp, ntk) of each output, each (n, m) or None where not wanted.

        Args:
            x1: samples as the model takes them.
            x2: other samples; None for x1 with itself.
            masks: which tokens of both are there, where the model takes a mask.
            want_nngp: whether to give the nngp.
            want_ntk: whether to compute the tangent kernel.
            single: whether compiled loops may compute in float32, where that loses no more than float32 does.

        Raises:
            MemoryLimitExceeded: a block of one pair does not fit, or with gradients all pairs.
        """
        n, m = len(x1), len(x1 if x2 is None else x2)
        with_slopes = self._with_slopes(x1, x2)
        self._require_memory(n * m if with_slopes else 1, with_slopes, x1.element_size())
        mask = masks[0]
        if x2 is not None and mask is not None and masks[1] is not None:
            mask = torch.cat([mask, masks[1]])
        both = self.side(x1 if x2 is None else torch.cat([x1, x2]), mask)  # one call: sides of pairs share their tables
        left = both if x2 is None else both[slice(0, n)]
        right = left if x2 is None else both[slice(n, n + m)]
        if with_slopes:
            with torch_as_set():
                whole = self.pairs(Pairing(left, right), want_ntk)
            return [(nngp if want_nngp else None, ntk) for nngp, ntk in whole]
        results = [_empty(n, m, x1, want_nngp, want_ntk) for _ in self.program.outputs]

        self._fill(results, left, right, want_ntk, single)
        return results

    def _fill(self, results: list[Result], left: Side, right: Side, want_ntk: bool, single: bool) -> None:
        """Computes all pairs: what runs from the data to vectors at once, all else in blocks that stay in cache."""
        n, m, symmetric, precision = len(left.x), len(right.x), right is left, self._precision(left.x)
        first = "float32" if precision and single and self.safe_in_single else precision
        steps = self.steps(precision is not None, want_ntk, alone=False)
        whole = self._whole_steps(steps)
        known: dict[int, Register] = {}
        for step in steps[:whole]:
            require_bytes(16 * n * m * len(known), "vectors' kernels of all pairs", "use fewer samples at once")
            known.update(step.run(Pairing(left, right, first), {}))
        rows_of = functools.cache(lambda start, stop: left[slice(start, stop)])
        columns_of = rows_of if symmetric else functools.cache(lambda start, stop: right[slice(start, stop)])

        def compute(block: Block) -> None:
            rows, columns = block
            sides = rows_of(rows.start, rows.stop), columns_of(columns.start, columns.stop)
            registers = {i: register.of_block(rows, columns) for i, register in known.items()}
            try:
                pairing = Pairing(*sides, first)
                self._run(pairing, steps[whole:], registers)
            except LostInSingle:
                pairing, registers = Pairing(*sides, precision), {}
                self._run(pairing, steps, registers)
            for result, part in zip(results, self._results(pairing, registers), strict=True):
                store(result, part, block, symmetric)

        blocks = blocks_of(n, m, self._pairs_at_once(n * m, steps[whole:]), symmetric)
        if left.x.device.type == "cpu":  # blocks side by side, each in a thread's own cache
            run_jobs(blocks, lambda: compute, with_torch=True)
        else:
            for block in blocks:
                compute(block)

    def _whole_steps(self, steps: list[_Step]) -> int:
        """How many steps can be done for all pairs at once, where only vectors follow."""
        count = next((k for k, step in enumerate(steps) if not step.is_whole), len(steps))
        return 0 if any(self.entries[i] > 1 for step in steps[count:] for i in step.made) else count

    def _pairs_at_once(self, pairs: int, steps: list[_Step]) -> int:
        """Pairs in a block: as many as keep in cache what goes from step to step, and enough blocks for all threads."""
        kept = max((self.entries[i] for step in steps for i in step.made), default=1)
        if kept == 1:
            return _BLOCK_ENTRIES
        fewest, most = (max(1, _BLOCK_ENTRIES // entries) for entries in (max(self.entries), kept))
        return min(most, max(fewest, pairs // (8 * available())))

    def diagonal(
        self, x: Float[Tensor, "n *sample"], want_nngp: bool, want_ntk: bool, mask: Tensor | None = None
    ) -> list[Result]:
        """(nngp, ntk) of each sample with itself, each (n,) or None, for each output."""
        with_slopes = self._with_slopes(x)
        self._require_memory(len(x) if with_slopes else 1, with_slopes, x.element_size())
        side = self.side(x, mask)
        precision = self._precision(x)
        parts = [self.pairs(Pairing(side[rows], None, precision), want_ntk) for rows in self._groups(x)]
        results: list[Result] = []
        for k in range(len(self.program.outputs)):
            nngp = torch.cat([part[k][0][:, 0] for part in parts]) if want_nngp else None
            ntk = torch.cat([t[:, 0] for part in parts if (t := part[k][1]) is not None]) if want_ntk else None
            results.append((nngp, ntk))
        return results

    def _precision(self, x: Tensor) -> Precision | None:
        """That of compiled loops, where they may run."""
        may = x.device.type == "cpu" and x.dtype == torch.float64 and not self._with_slopes(x)
        return "float64" if may else None

    def _with_slopes(self, *samples: Tensor | None) -> bool:
        """Whether a graph is kept for gradients in samples or scales."""
        wanted = self.program.requires_grad or any(x is not None and x.requires_grad for x in samples)
        return wanted and torch.is_grad_enabled()

    def _require_memory(self, pairs: int, with_slopes: bool, item: int) -> None:
        if with_slopes:
            require_bytes(
                item * pairs * _ARRAYS_KEPT * sum(self.entries),
                f"a kernel of {pairs} pairs of samples with gradients",
                "use fewer samples at once, or smaller images",
            )
        require_bytes(
            item * _ARRAYS * max(self.entries),
            f"the covariance of one pair of samples between every two positions ({max(self.entries)} numbers)",
            "use smaller images, larger strides in front, or Flatten in place of pooling",
        )


def torch_interpreter_of(placement: Placement, tolerance: float) -> TorchInterpreter:
    """The interpreter of a placed program; made once, unless its scales want gradients, whose graphs it would keep."""
    make = TorchInterpreter if placement.program.requires_grad else _kept
    return make(placement.program, tolerance, placement)


@functools.lru_cache(maxsize=32)
def _kept(program: ops.Program, tolerance: float, placement: Placement) -> TorchInterpreter:
    return TorchInterpreter(program, tolerance, placement)


def _empty(n: int, m: int, like: Tensor, want_nngp: bool, want_ntk: bool) -> Result:
    nngp, ntk = (torch.empty(n, m, dtype=like.dtype, device=like.device) if w else None for w in (want_nngp, want_ntk))
    return nngp, ntk
