"""The fair part: contestants take turns on the same fresh arrays, and no ratio is given where results differ.

Knows neither processes nor libraries: a contestant is anything with `name`, `prepare` and `run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np

from peers.arrays import write_inputs
from peers.rows import Row


class ContestantFailed(Exception):
    """A contestant is missing, died, gave a result of another form, or did not answer in time."""


class Turn(NamedTuple):
    """What one turn gave: seconds of the computation alone, its result, and the most memory that it added, if known."""

    seconds: float
    result: np.ndarray
    added_bytes: int | None = None


class Contestant(Protocol):
    """One library that computes rows.

    `prepare(row)` builds what does not depend on the arrays; `run(inputs)` reads an npz file and computes the kernel;
    with `memory` it also measures memory, which costs time. Both raise `ContestantFailed`.
    """

    name: str

    def prepare(self, row: Row) -> None: ...

    def run(self, inputs: Path, memory: bool = False) -> Turn: ...


@dataclass
class Measurement:
    """What one row showed; the first contestant is the one that others are compared with.

    Args:
        row: what was computed.
        reference: name of the first contestant.
        seconds: {name: the time of each timed turn, in order}.
        differences: {name: largest relative difference from the reference's result over all repetitions}.
        failures: {name: why it has no times}.
        added_bytes: {name: the most memory that its last untimed turn added}, of rows that ask for it.
    """

    row: Row
    reference: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    added_bytes: dict[str, int] = field(default_factory=dict)

    def median(self, name: str) -> float | None:
        """Median seconds of a contestant, None where it failed."""
        return median(self.seconds[name]) if self.seconds.get(name) else None

    def agrees(self, name: str) -> bool:
        """Whether its results equal the reference's within the row's tolerance; a NaN never does."""
        return self.differences.get(name, float("inf")) <= self.row.tolerance

    def ratio(self, name: str) -> float | None:
        """Median time over the reference's median time; None where either failed or the results differ."""
        own, reference = self.median(name), self.median(self.reference)
        return own / reference if own and reference and self.agrees(name) else None

    def meets_target(self, name: str) -> bool | None:
        """Whether a contestant's ratio is at least what the row asks; None where there is no ratio or no target."""
        ratio = self.ratio(name)
        return None if ratio is None or self.row.target is None else ratio >= self.row.target

    def ratio_range(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest ratio within one round that both had a turn in: how much the machine's mood matters."""
        if self.ratio(name) is None:
            return None
        pairs = zip(self.seconds[name], self.seconds[self.reference], strict=False)  # a peer may stop earlier
        ratios = [own / reference for own, reference in pairs]
        return min(ratios), max(ratios)


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """max|a − b| / max|b|, which sees every single entry; NaN where a value is not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    scale = np.abs(b).max()
    return float(np.abs(a - b).max() / scale) if scale > 0 else float(np.abs(a).max())


def measure(
    row: Row,
    contestants: Sequence[Contestant],
    *,
    folder: Path,
    seed: int,
    on_turn: Callable[[str, int], None] = lambda name, repetition: None,
    pause: float = 0.5,
) -> Measurement:
    """Let all contestants compute the row in turns A B C, A B C, …, each round on arrays of its own seed.

    The row's first `warmups` rounds are not timed (compilation, first pages, threads); their results are compared all
    the same. Memory is measured in them, for it would cost timed turns time. Where a row gives the peers fewer turns,
    they sit out the earliest warm-ups and the last timed rounds. A contestant that fails leaves the row and is
    reported; the others go on.

    Args:
        row: what to compute.
        contestants: in turn order; the first is the reference.
        folder: where the arrays are written.
        seed: of the first round; round r uses seed + r.
        on_turn: told the contestant and the round before each turn.
        pause: seconds of rest before each turn. Threads of numerical libraries go on waiting, busily, after their work:
            OpenBLAS, which draws the arrays, for 0.1 s, which would double the time of a 10 ms turn.
    """
    seen = Measurement(row, contestants[0].name)
    alive = [c for c in contestants if _prepared(c, row, seen)]
    for repetition in range(row.warmups + row.repetitions):
        inputs = write_inputs(row, seed + repetition, folder / "inputs.npz")
        reference: np.ndarray | None = None
        for contestant in [c for c in alive if takes_part(row, c.name == seen.reference, repetition)]:
            on_turn(contestant.name, repetition)
            time.sleep(pause)
            try:
                turn = contestant.run(inputs, memory=row.measures_memory and repetition < row.warmups)
                require_form(row, turn.result)
            except ContestantFailed as failure:
                alive.remove(contestant)
                _drop(contestant.name, str(failure), seen)
                continue
            if contestant.name == seen.reference:
                reference = turn.result
            elif reference is not None:
                _note_difference(contestant.name, relative_difference(turn.result, reference), seen)
            if turn.added_bytes is not None:
                seen.added_bytes[contestant.name] = turn.added_bytes
            if repetition >= row.warmups:
                seen.seconds.setdefault(contestant.name, []).append(turn.seconds)
        if not alive:
            break
    return seen


def takes_part(row: Row, is_reference: bool, repetition: int) -> bool:
    """Whether a contestant has a turn in this round: the reference always, a peer as often as the row says."""
    timed = repetition - row.warmups
    if is_reference:
        return True
    if timed < 0:
        return row.peer_warmups is None or -timed <= row.peer_warmups
    return row.peer_repetitions is None or timed < row.peer_repetitions


def turns(row: Row, n_contestants: int) -> int:
    """Turns of all contestants together, the untimed ones included."""
    rounds = range(row.warmups + row.repetitions)
    peers = sum(takes_part(row, False, repetition) for repetition in rounds)
    return len(rounds) + (n_contestants - 1) * peers


def require_form(row: Row, result: np.ndarray) -> None:
    """Raise `ContestantFailed` where a result has another shape or precision than the row asks for."""
    if result.shape != row.result_shape or result.dtype != np.float32:
        raise ContestantFailed(
            f"gave {result.dtype} of shape {result.shape}, wanted float32 of shape {row.result_shape}"
        )


def _prepared(contestant: Contestant, row: Row, seen: Measurement) -> bool:
    try:
        contestant.prepare(row)
    except ContestantFailed as failure:
        _drop(contestant.name, str(failure), seen)
        return False
    return True


def _drop(name: str, why: str, seen: Measurement) -> None:
    seen.failures[name] = why
    seen.seconds.pop(name, None)
    seen.added_bytes.pop(name, None)


def _note_difference(name: str, difference: float, seen: Measurement) -> None:
    """Keep the worst; NaN is worse than any number and stays."""
    worst = seen.differences.get(name, 0.0)
    seen.differences[name] = difference if np.isnan(difference) else float(np.maximum(worst, difference))
