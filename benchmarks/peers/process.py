"""A contestant in a process of its own: started in its own environment, alive from row to row."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from threading import Timer
from types import MappingProxyType
from typing import Any

import numpy as np

from peers.harness import ContestantFailed, Turn
from peers.rows import Row

BENCHMARKS = Path(__file__).resolve().parents[1]


class WorkerProcess:
    """A contestant whose work is done by `python -m peers.worker_…` in an environment of its own.

    Args:
        name: how it is called in the report.
        module: the worker's module.
        python: interpreter of the environment where its library is installed.
        threads: cores it may use.
        folder: for results and the worker's log.
        timeout: seconds after which an answer is no longer waited for.
        variables: environment variables of its own.
    """

    def __init__(
        self,
        name: str,
        module: str,
        python: Path,
        *,
        threads: int,
        folder: Path,
        timeout: float = 900,
        variables: Mapping[str, str] = MappingProxyType({}),
    ):
        self.name, self.module, self.python = name, module, python
        self.threads, self.folder, self.timeout = threads, folder, timeout
        self.variables = dict(variables)
        self.versions: dict[str, str] = {}
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None

    def prepare(self, row: Row) -> None:
        """Build the row's task in the worker; starts a worker where none is alive."""
        if self._process is None:
            self._start()
        self.versions = self._ask({"do": "prepare", "row": row.to_json()})["versions"]

    def run(self, inputs: Path, memory: bool = False) -> Turn:
        """Seconds of the computation and its result; the most memory that it added where that is asked for."""
        result = self.folder / f"{self.name}.npy"
        told = self._ask({"do": "run", "inputs": str(inputs), "result": str(result), "memory": memory})
        return Turn(told["seconds"], np.load(result, allow_pickle=False), told["added peak bytes"])

    def peak(self) -> float:
        """Speed of a large float32 matrix product in this worker, GFLOP/s."""
        return self._ask({"do": "peak"})["gflops"]

    def close(self) -> int:
        """End the worker, by closing its input, else by force; its exit status, negative for a signal."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode

    def _start(self) -> None:
        if not self.python.exists():
            raise ContestantFailed("its environment is missing; make it with `python benchmarks/setup_peers.py`")
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [str(self.python), "-m", self.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=worker_variables(self.threads) | self.variables,
            )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one line and wait for the answer; a worker that does not answer has failed."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ContestantFailed("is not running")
        alarm = Timer(self.timeout, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:  # it died between two requests
            line = ""
        finally:
            in_time = alarm.is_alive()
            alarm.cancel()
        if not line:
            code = self.close()
            raise ContestantFailed(self._reason(code) if in_time else f"gave no answer within {self.timeout:g} s")
        return json.loads(line)

    def _reason(self, code: int) -> str:
        """Why a worker died: the signal, else the last line it wrote, its exception's name and message."""
        if code < 0:
            return f"was ended by signal {-code}" + (", as when memory runs out" if code == -9 else "")
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "ended without a message"


def limit_cores(threads: int) -> None:
    """Keep this process and all that it starts on `threads` cores, where the system can (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def worker_variables(threads: int) -> dict[str, str]:
    """Environment variables that hold every library to `threads` threads and to the CPU."""
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(pools, str(threads)),
        "PYTHONPATH": str(BENCHMARKS),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        # XLA sizes its pool by the cores that a process may use: `limit_cores` has to have been called
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
