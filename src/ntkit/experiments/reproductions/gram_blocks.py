"""Gram matrices block by block into files, so that an interrupted run goes on where it stopped.

A block is one call of the kernel on some rows and some columns; of a symmetric matrix only those on and above the
diagonal are computed. Each matrix is a memory-mapped .npy file; a block counts once its line is in the ledger
`blocks.done`, which is written after the numbers.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ntkit._memory import human_bytes
from ntkit._progress import Reporter
from ntkit.errors import MemoryLimitExceeded

LEDGER = "blocks.done"
Corner = tuple[int, int]
# (rows, columns or None for the rows themselves) -> one matrix for each name, from one pass
Pairs = Callable[[np.ndarray, np.ndarray | None], Sequence[np.ndarray]]


@dataclass(frozen=True, eq=False)
class BlockedGram:
    """Matrices on disk, and what they cost.

    Args:
        matrices: name → (n, m) memory-mapped matrix.
        pairs: sample pairs computed, all matrices at once.
        seconds: spent in the kernel, over all runs that shared the work.
    """

    matrices: dict[str, np.memmap]
    pairs: int
    seconds: float


@dataclass(frozen=True, eq=False)
class GramTask:
    """Which matrices are wanted.

    Args:
        what: for people, such as "CNTK-GAP, training images".
        names: of the matrices that one call of the kernel gives.
        x1: samples of the rows.
        x2: samples of the columns; None for x1 itself, a symmetric matrix.
        block: rows, and columns, of a block.
    """

    what: str
    names: tuple[str, ...]
    x1: Float[np.ndarray, "n ..."]
    x2: Float[np.ndarray, "m ..."] | None
    block: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return len(self.x1), len(self.x1 if self.x2 is None else self.x2)

    @property
    def pairs(self) -> int:
        """Sample pairs to compute; of a symmetric matrix about half."""
        n, m = self.shape
        return n * (n + 1) // 2 if self.x2 is None else n * m

    @property
    def file_bytes(self) -> int:
        """Bytes of all matrices on disk."""
        return math.prod(self.shape) * self.x1.itemsize * len(self.names)

    def corners(self) -> list[Corner]:
        """The upper left corners of the blocks to compute."""
        n, m = self.shape
        rows, columns = range(0, n, self.block), range(0, m, self.block)
        return [(i, j) for i in rows for j in columns if self.x2 is not None or j >= i]


def compute_gram(
    kernel: Pairs, task: GramTask, folder: Path, reporter: Reporter, say: Callable[[str], None] = lambda line: None
) -> BlockedGram:
    """The matrices of a task; blocks that `folder` holds from an earlier run are not computed again.

    Args:
        kernel: gives the matrices of a block, in the dtype of the samples.
        task: what is wanted.
        folder: belongs to this task alone, and to the same samples and kernel whenever it is used again.
        reporter: shows the blocks.
        say: told once what the rest will cost, when a first block has been timed.

    Raises:
        MemoryLimitExceeded: the disk has no room for the matrices.
    """
    files = _open_files(task, folder)
    done = _read_ledger(folder)
    left = [corner for corner in task.corners() if corner not in done]
    kept = f" ({len(done)} blocks kept)" if done else ""
    if left:
        kernel(task.x1[:2], None)  # compiles what is to be compiled, which is no block's cost
    with reporter.stage(task.what + kept, len(left)) as advance:
        for count, corner in enumerate(left):
            done[corner] = _compute_block(kernel, task, corner, files)
            _append(folder, corner, done[corner])
            advance()
            if count == 0:
                say(_cost(task, corner, done[corner], left))
    return BlockedGram(files, task.pairs, sum(done.values()))


def _compute_block(kernel: Pairs, task: GramTask, corner: Corner, files: dict[str, np.memmap]) -> float:
    """Fills one block of every matrix; gives the seconds that the kernel took."""
    rows, columns = (slice(start, start + task.block) for start in corner)
    other = task.x1 if task.x2 is None else task.x2
    diagonal = task.x2 is None and rows == columns
    began = time.perf_counter()
    blocks = kernel(task.x1[rows], None if diagonal else other[columns])
    seconds = time.perf_counter() - began
    for matrix, block in zip(files.values(), blocks, strict=True):
        matrix[rows, columns] = block
        if task.x2 is None and not diagonal:
            matrix[columns, rows] = block.T
        matrix.flush()
    return seconds


def _open_files(task: GramTask, folder: Path) -> dict[str, np.memmap]:
    """The memory-mapped matrices; where one is missing, all begin anew."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.npy" for name in task.names}
    if not all(path.exists() for path in paths.values()):
        (folder / LEDGER).unlink(missing_ok=True)
        _require_disk(task, folder)
        for path in paths.values():
            part = path.with_suffix(".part")
            np.lib.format.open_memmap(part, "w+", dtype=task.x1.dtype, shape=task.shape).flush()
            os.replace(part, path)
    return {name: np.lib.format.open_memmap(path, "r+") for name, path in paths.items()}


def _require_disk(task: GramTask, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if task.file_bytes > free:
        n, m = task.shape
        raise MemoryLimitExceeded(
            f"{task.what}: {len(task.names)} matrices of {n:,} x {m:,} need {human_bytes(task.file_bytes)} on disk, "
            f"but {human_bytes(free)} is free in {folder.parent}; give another place with --out"
        )


def _read_ledger(folder: Path) -> dict[Corner, float]:
    """corner → seconds of the blocks that are complete; a line cut short by an interruption does not count."""
    path = folder / LEDGER
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    rows = (line.split() for line in whole.splitlines())
    return {(int(i), int(j)): float(seconds) for i, j, seconds in rows}


def _append(folder: Path, corner: Corner, seconds: float) -> None:
    with (folder / LEDGER).open("a") as ledger:
        ledger.write(f"{corner[0]} {corner[1]} {seconds:.6g}\n")


def _cost(task: GramTask, corner: Corner, seconds: float, left: list[Corner]) -> str:
    """What the blocks that are left will take, judged by the first."""

    def pairs(at: Corner) -> int:
        height, width = (min(task.block, size - start) for size, start in zip(task.shape, at, strict=True))
        return height * (height + 1) // 2 if task.x2 is None and at[0] == at[1] else height * width

    rest = sum(pairs(at) for at in left[1:])
    each = seconds / pairs(corner)
    return (
        f"{task.what}: {rest:,} pairs left, about {duration(rest * each)} at {1e3 * each:.3g} ms a pair; "
        f"{human_bytes(task.file_bytes)} on disk"
    )


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> [duration(s) for s in (0.4, 75.0, 7000.0, 400_000.0)]
        ['<1 s', '75 s', '1.9 h', '4.6 days']
    """
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "<1 s"
    for unit, size, most in (("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.2g} days" if seconds < 86400 * 99 else f"{seconds / 86400:,.0f} days"
