"""How much memory a call takes, and a limit to it. The standard library alone; Linux, elsewhere nothing is measured."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc/self")
SHARE_OF_FREE = 0.9  # what one process may hold at most


class PeakMemory:
    """The most memory that the process holds inside a `with` block beyond what it held before.

    Memory that was freed and kept for later is given back first, so that it does not count as held before.
    `added` is in bytes; None where the system does not tell.
    """

    added: int | None = None

    def __enter__(self) -> Self:
        gc.collect()
        _give_back()
        try:
            (PROC / "clear_refs").write_text("5")  # sets the high-water mark to what is held now (proc(5))
            self.before: int | None = resident_bytes("VmHWM")
        except OSError:
            self.before = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.before is not None:
            self.added = resident_bytes("VmHWM") - self.before


def resident_bytes(field: str) -> int:
    """A memory field of /proc/self/status, which the kernel gives in KiB."""
    return _kibibytes(PROC / "status", field) * 1024


def stay_within_free_memory() -> None:
    """Have this process refused what exceeds `SHARE_OF_FREE` of the memory free now.

    Its library then says what it asked for; else the system would end it without a word, or another program.
    """
    try:
        import resource

        free = _kibibytes(PROC.parent / "meminfo", "MemAvailable") * 1024
    except (ImportError, OSError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(SHARE_OF_FREE * free)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


def _give_back() -> None:
    """Have the C library return free pages to the system; only glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _kibibytes(path: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{field}:"))
