"""A worker's side of the conversation: one JSON object a line on stdin, one answer a line on stdout.

    {"do": "prepare", "row": {…}}                  ->  {"versions": {…}}
    {"do": "run", "inputs": NPZ, "result": NPY,
     "memory": false}                              ->  {"seconds": 0.123, "added peak bytes": null}
    {"do": "peak"}                                 ->  {"gflops": 123.4}

An exception ends the worker: the harness reads the last line of its stderr as the reason, and starts a new one for
the next row. Imports numpy and the standard library alone, for it runs in every contestant's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from peers.arrays import read_inputs
from peers.memory import PeakMemory, stay_within_free_memory
from peers.rows import Row, from_json


class Task(Protocol):
    """One prepared row in one library. Only `compute` is timed."""

    def stage(self, arrays: dict[str, np.ndarray]) -> Any:
        """The arrays as the library's own inputs (tensors, a model with these weights)."""
        ...

    def compute(self, inputs: Any) -> Any:
        """The kernel as the library's own array, finished when this returns."""
        ...

    def to_numpy(self, result: Any) -> np.ndarray:
        """The kernel in the common convention: (n, n) sum over outputs, or (n, n, O, O)."""
        ...


def versions(*distributions: str) -> dict[str, str]:
    """{distribution: installed version}."""
    return {name: version(name) for name in distributions}


def serve(
    prepare: Callable[[Row], Task], distributions: tuple[str, ...], peak: Callable[[], float] | None = None
) -> None:
    """Answer requests until stdin ends.

    Args:
        prepare: a row to the library's task.
        distributions: whose versions go into the report.
        peak: measures matrix multiplication in GFLOP/s, where the worker can.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints to stdout must not get between the answers
    stay_within_free_memory()
    task: Task | None = None
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "prepare":
                task = prepare(from_json(request["row"]))
                answer = {"versions": versions(*distributions, "numpy")}
            case "run":
                assert task is not None, "run was asked for before prepare"
                answer = _run(task, Path(request["inputs"]), Path(request["result"]), request["memory"])
            case "peak":
                assert peak is not None, "this worker measures no peak"
                answer = {"gflops": peak()}
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        print(json.dumps(answer), file=answers, flush=True)


def _run(task: Task, inputs: Path, result: Path, memory: bool) -> dict[str, Any]:
    """Time one turn; where memory is measured, freed pages are given back first, so the time is not to be used."""
    staged = task.stage(read_inputs(inputs))
    with PeakMemory() if memory else nullcontext() as peak:
        start = time.perf_counter()
        kernel = task.compute(staged)
        seconds = time.perf_counter() - start
    np.save(result, task.to_numpy(kernel))
    return {"seconds": seconds, "added peak bytes": None if peak is None else peak.added}
