"""What a benchmark was run on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path

from peers.environments import ROOT


def describe(threads: int) -> dict[str, str | int | float]:
    """Processor, cores, threads, system, load and ntkit's revision, for the report."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "precision": "float32",
        "load average before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "ntkit revision": revision(),
    }


def cpu_model() -> str:
    """The processor's name, with the widest vector unit, which decides the speed here."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or "unknown"
    fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in fields.items()}
    flags = facts.get("flags", "").split()
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    model = facts.get("model name", "unknown")
    return f"{model}, {vectors}" if vectors else model


def revision() -> str:
    """The commit of this checkout, "-dirty" where files were changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return "unknown"
