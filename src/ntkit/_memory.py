"""How much memory there is, and a refusal, before allocating, of what would not fit."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from functools import cache
from numbers import Real
from typing import Any

import torch

from ntkit.errors import InvalidInput, MemoryLimitExceeded

_CGROUP_FILES = (  # (limit, usage) of control groups v2 and v1: what a container may use
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Bytes of memory free for this process now, container limits included."""
    free = [_machine_available()]
    for limit_file, usage_file in _CGROUP_FILES:
        limit, usage = _read_int(limit_file), _read_int(usage_file)
        if limit is not None and usage is not None:
            free.append(max(limit - usage, 0))
    return min(free)


def free_bytes(device: torch.device) -> int:
    """Bytes of memory free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def _machine_available() -> int:
    # MemAvailable, among the first lines, counts caches that the kernel would give back, SC_AVPHYS_PAGES does not
    for line in (_read("/proc/meminfo", 256) or "").splitlines()[:-1]:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # macOS and others report no free pages here: half of the physical memory is a cautious stand-in
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _read_int(path: str) -> int | None:
    text = (_read(path, 64) or "").strip()
    return int(text) if text.isdigit() else None


def _read(path: str, size: int) -> str | None:
    """The beginning of a file; without the layers of `open`, which take longer than all else here."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(file, size).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(file)


def human_bytes(n: int | float) -> str:
    """`n` bytes for a reader: 1.50 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1024
    return f"{n:.2f} TiB"


def require_bytes(needed: int, what: str, remedy: str, limit: int | None = None, *, is_limit: bool = True) -> None:
    """Raise `MemoryLimitExceeded` where `needed` bytes exceed `limit` (by default what is free now).

    Args:
        needed: bytes.
        what: what they are for.
        remedy: what to do.
        limit: bytes that there are.
        is_limit: whether that is a limit that somebody has set, not what is free.
    """
    allowed = available_bytes() if limit is None else limit
    if needed > allowed:
        kind = "is the memory limit" if is_limit and limit is not None else "is free"
        raise MemoryLimitExceeded(f"{what} needs {human_bytes(needed)}, but {human_bytes(allowed)} {kind}; {remedy}")


def read_limit(memory_limit: Any) -> int | None:
    """A caller's limit, None or a positive number of bytes such as 4e9.

    Raises:
        InvalidInput: it is something else.
    """
    if memory_limit is None:
        return None
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, Real) or not 1 <= float(memory_limit) < math.inf:
        raise InvalidInput(f"memory_limit must be a positive number of bytes, such as 4e9, got {memory_limit!r}")
    return int(float(memory_limit))


def give_back() -> None:
    """Return to the system what was freed: malloc keeps what lies between pieces in use, and a limit counts it."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; other C libraries have none."""
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # a system whose programs do not contain their C library
        return None


def room_beside(needed: int, what: str, remedy: str, memory_limit: int | None, device: torch.device) -> int:
    """Bytes for intermediates beside a result of `needed` bytes: what the limit leaves, else half of what is free.

    Raises:
        MemoryLimitExceeded: the result itself is too large.
    """
    allowed = free_bytes(device) if memory_limit is None else memory_limit
    require_bytes(needed, what, remedy, allowed, is_limit=memory_limit is not None)
    return (allowed - needed) // (2 if memory_limit is None else 1)
