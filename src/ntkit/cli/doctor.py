"""`ntkit doctor`: what this installation runs on, and a short proof that its kernels are right.

`report` gathers plain data and prints nothing; `run` prints it and ends with exit code 1 where a check fails.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import ntkit
from ntkit._memory import available_bytes, human_bytes
from ntkit.cli.kernel_checks import Check, run_checks
from ntkit.data import sets_in
from ntkit.errors import DataError

_CORE = ("torch", "numpy", "scipy", "numba", "jaxtyping", "typer", "rich")
# optional library: the extra that brings it
_OPTIONAL = {"scikit-learn": "data", "mlxtend": "data", "matplotlib": "report", "jinja2": "report"}

# What torch calls its vector instructions, and how many bits they work on at once.
_SIMD_BITS = {
    "AVX512": 512,
    "AVX2": 256,
    "SVE256": 256,
    "VSX": 128,
    "Z VECTOR": 128,
    "NO AVX": 128,
    "DEFAULT": 128,
}


@dataclass(frozen=True)
class Machine:
    """What the process may use. `cores_usable` counts affinity and a container's share; `gpus` are names."""

    cores_logical: int
    cores_usable: float
    threads_intra_op: int
    threads_inter_op: int
    omp_num_threads: str | None
    simd: str
    simd_bits: int | None
    memory_free: int
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """The compiled engine; `kept` is the folder of its compiled code, `problem` says why there is none."""

    threads: int
    kept: Path | None
    problem: str = ""


@dataclass(frozen=True)
class Folders:
    """Where ntkit looks for data; `data_problem` says why NTKIT_DATA cannot be used."""

    data: Path | None
    data_sets: tuple[str, ...]
    data_problem: str


@dataclass(frozen=True)
class DoctorReport:
    """All that `ntkit doctor` knows. A library that is not installed has the version None."""

    versions: Mapping[str, str | None]
    machine: Machine
    engine: Engine
    folders: Folders
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def report() -> DoctorReport:
    """Versions, machine, compiled engine, folders, and the kernels checked against independent formulas.

    Returns:
        Plain data; nothing is printed, and no file is made but those of compiled code.

    Example:
        >>> report().healthy
        True
    """
    versions: dict[str, str | None] = {"python": platform.python_version(), "ntkit": ntkit.__version__}
    versions |= {name: _version(name) for name in (*_CORE, *_OPTIONAL)}
    return DoctorReport(versions, _machine(), _engine(), _folders(), run_checks())


def run() -> None:
    """Print the report; exit code 1 where a check fails."""
    found = report()
    console = Console()
    _print_rows(console, "Versions", {name: _say_version(name, v) for name, v in found.versions.items()})
    _print_rows(console, "Machine", _machine_rows(found.machine))
    _print_rows(console, "Compiled engine", _engine_rows(found.engine))
    _print_rows(console, "Folders", _folder_rows(found.folders))
    _print_rows(console, "Kernels", {check.name: _say_check(check) for check in found.checks})
    if not found.healthy:
        failed = sum(not check.passed for check in found.checks)
        console.print(Text(f"{failed} of {len(found.checks)} checks failed: do not trust the kernels here."))
        raise typer.Exit(1)
    console.print(Text("All checks passed."))


# ---------------------------------------------------------------------------------------------- the machine


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> Machine:
    capability = torch.backends.cpu.get_cpu_capability()
    return Machine(
        cores_logical=os.cpu_count() or 1,
        cores_usable=_usable_cores(),
        threads_intra_op=torch.get_num_threads(),
        threads_inter_op=torch.get_num_interop_threads(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        simd=capability,
        simd_bits=_SIMD_BITS.get(capability.upper()),
        memory_free=available_bytes(),
        gpus=_gpus(),
    )


def _usable_cores() -> float:
    """Cores by affinity, or a container's share of processor time where less (control groups v2, v1)."""
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _read_words("/sys/fs/cgroup/cpu.max") or [
        *_read_words("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        *_read_words("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ]
    if len(quota) == 2 and all(word.isdigit() for word in quota) and int(quota[1]):
        return min(float(affinity), int(quota[0]) / int(quota[1]))
    return float(affinity)


def _read_words(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:  # not this version of control groups, or none
        return []


def _gpus() -> tuple[str, ...]:
    if torch.cuda.is_available():
        return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return ("Apple GPU (mps)",) if torch.backends.mps.is_available() else ()


def _engine() -> Engine:
    try:
        from ntkit.infinite.compiled import cache, threads
    except ImportError as error:  # numba refuses versions of numpy that it does not know
        return Engine(0, None, f"numba cannot be imported: {error}")
    kept = cache.folder()
    if kept is not None:
        return Engine(threads.available(), kept)
    tried = ", ".join(map(str, cache.places()))
    return Engine(
        threads.available(),
        None,
        f"compiled code is not kept and every process compiles again, for none of {tried} is a folder that you alone "
        "can write; set NUMBA_CACHE_DIR to one",
    )


def _folders() -> Folders:
    named = os.environ.get("NTKIT_DATA")
    sets, problem = (), ""
    try:
        sets = sets_in()
    except DataError as error:
        problem = str(error)
    return Folders(Path(named) if named else None, sets, problem)


# ---------------------------------------------------------------------------------------------- the words


def _say_version(name: str, version: str | None) -> str:
    if version is not None:
        return version
    wanted = f'"ntkit[{_OPTIONAL[name]}]"' if name in _OPTIONAL else name
    return f"not installed — pip install {wanted}"


def _machine_rows(machine: Machine) -> dict[str, str]:
    bits = f", {machine.simd_bits} bits" if machine.simd_bits else ""
    return {
        "cores": f"{machine.cores_usable:g} usable of {machine.cores_logical} logical",
        "threads": f"{machine.threads_intra_op} within an operation, {machine.threads_inter_op} between "
        "operations "
        f"(OMP_NUM_THREADS {machine.omp_num_threads or 'not set'})",
        "SIMD": f"{machine.simd}{bits}",
        "memory": f"{human_bytes(float(machine.memory_free))} free",
        "GPU": ", ".join(machine.gpus) or "none",
    }


def _engine_rows(engine: Engine) -> dict[str, str]:
    return {"threads": str(engine.threads), "code": f"kept in {engine.kept}" if engine.kept else engine.problem}


def _folder_rows(folders: Folders) -> dict[str, str]:
    sets = ", ".join(folders.data_sets) or "no complete data set"
    data = folders.data_problem or (f"{folders.data}: {sets}" if folders.data else "NTKIT_DATA is not set")
    return {"data": data}


def _say_check(check: Check) -> str:
    verdict = "pass" if check.passed else "FAIL"
    return f"{verdict}: {check.problem or f'differ by {check.error:.1e}, at most {check.tolerance:.0e}'}"


def _print_rows(console: Console, title: str, rows: Mapping[str, str]) -> None:
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        style = "red" if value.startswith("FAIL") else ""
        table.add_row(Text(name), Text(value, style=style))
    console.print(Text(title, style="bold"))
    console.print(table)
