"""How much memory there is, and a refusal, before allocating, of what would not fit."""

from __future__ import annotations

import os

from ntkit.errors import MemoryLimitExceeded

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
