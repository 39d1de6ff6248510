"""Where each contestant's library is installed. The peers' environments are made here, in the ignored folder .bench.

neural-tangents is archived and does not import with current JAX: it needs Python 3.11 and the versions pinned below.
nngeometry gets an environment that sees this one's torch, so that both use the very same build.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class SetupFailed(Exception):
    """An environment could not be made; the message says which step and why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one peer in it.

    Args:
        name: folder below .bench.
        requirements: what pip installs.
        imports: module that must import afterwards.
        python_version: the interpreter it needs, "3.11"; None means any.
        shares_torch: whether it sees the packages of the environment that this script runs in, after its own.
    """

    name: str
    requirements: tuple[str, ...]
    imports: str
    python_version: str | None = None
    shares_torch: bool = False

    @property
    def folder(self) -> Path:
        return ROOT / ".bench" / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> str:
        """What the environment was made from; a file with this text says that it is complete."""
        shared = sysconfig.get_path("purelib") if self.shares_torch else ""
        return "\n".join((*self.requirements, shared)) + "\n"

    @property
    def ready(self) -> bool:
        stamp = self.folder / "complete.txt"
        return stamp.exists() and stamp.read_text() == self.stamp


OWN_PYTHON = Path(sys.executable)  # of the environment that this runs in, where ntkit and torch are
NEURAL_TANGENTS = Environment(
    "neural-tangents",
    ("jax==0.4.24", "jaxlib==0.4.24", "numpy<2", "scipy<1.13", "neural-tangents==0.6.5"),
    "neural_tangents",
    python_version="3.11",
)
NNGEOMETRY = Environment("nngeometry", ("nngeometry==0.4",), "nngeometry", shares_torch=True)
PEERS = (NEURAL_TANGENTS, NNGEOMETRY)


def make(environment: Environment) -> None:
    """Make a peer's environment from nothing, and import the peer in it.

    Raises:
        SetupFailed: no fitting interpreter, or pip or the import failed.
    """
    shutil.rmtree(environment.folder, ignore_errors=True)
    _step([_interpreter(environment), "-m", "venv", str(environment.folder)])
    python = str(environment.python)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if environment.shares_torch:
        where = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        # a .pth file appends a folder to sys.path: the peer finds this environment's torch after its own packages
        (Path(where.strip()) / "torch-of-ntkit.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip.append("--no-deps")
    _step([*pip, *environment.requirements])
    _step([python, "-W", "ignore", "-c", f"import {environment.imports}"])
    (environment.folder / "complete.txt").write_text(environment.stamp)


def _interpreter(environment: Environment) -> str:
    """A Python that an environment can be made from; the present one wherever it fits."""
    present = getattr(sys, "_base_executable", sys.executable)
    wanted = environment.python_version
    if wanted is None or wanted == f"{sys.version_info.major}.{sys.version_info.minor}":
        return present
    found = shutil.which(f"python{wanted}")
    if found is None:
        raise SetupFailed(f"{environment.name} needs Python {wanted}, and no python{wanted} is on the PATH")
    return found


def _step(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SetupFailed(f"`{' '.join(command)}` failed: {lines[-1] if lines else f'exit {done.returncode}'}")
