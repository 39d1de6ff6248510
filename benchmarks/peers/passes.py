"""The compiled loops that a covariance entry passes through in ntkit, and their assembly.

numba prints the assembly of all that it compiles when it is told to. A worker with an empty cache computes the row at
its small size, and its log then holds every function: nothing of ntkit is imported here, functions are found by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from peers.arrays import write_inputs
from peers.environments import OWN_PYTHON
from peers.instructions import Loop, NoVectorLoop, hottest_loop
from peers.process import WorkerProcess
from peers.rows import Row

HEADER = re.compile(r"^-+ ?ASSEMBLY (?:.*\.)?(\w+) ?-+$")
RULE = re.compile(r"^=+$")


class PassNotFound(ValueError):
    """A function was not compiled, or has no vector loop over numbers of the wanted size."""


@dataclass(frozen=True)
class Pass:
    """One pass over the entries of a layer.

    Args:
        function: the compiled function whose hottest loop it is.
        times: how often an entry of a layer passes through it.
        outputs: numbers that the loop stores for an entry each time.
    """

    function: str
    times: int = 1
    outputs: int = 1


# each writes D and T at once
CONVOLUTIONAL = (Pass("gather", outputs=2), Pass("run_strip", outputs=2), Pass("strip_loop", outputs=2))
PASSES = {"exact-cntk-*": CONVOLUTIONAL, "exact-myrtle*": CONVOLUTIONAL, "exact-resnet-*": CONVOLUTIONAL}


def passes_of(row: Row) -> tuple[Pass, ...]:
    """The passes of a row; none where they are not known."""
    return next((passes for pattern, passes in PASSES.items() if fnmatch(row.name, pattern)), ())


def compiled_functions(row: Row, folder: Path) -> dict[str, list[str]]:
    """{function: assembly of each of its compilations} of all that ntkit compiles to compute a row.

    Raises:
        ContestantFailed: ntkit cannot compute the row.
    """
    variables = {"NUMBA_CACHE_DIR": str(folder / "numba"), "NUMBA_DUMP_ASSEMBLY": "1"}
    worker = WorkerProcess("assembly", "peers.worker_ntkit", OWN_PYTHON, threads=1, folder=folder, variables=variables)
    try:
        worker.prepare(row)
        worker.run(write_inputs(row, 0, folder / "inputs.npz"))
    finally:
        worker.close()
    return split_dump(worker.log.read_text(errors="replace"))


def split_dump(text: str) -> dict[str, list[str]]:
    """{function: assembly of each of its compilations} of what numba printed."""
    found: dict[str, list[str]] = defaultdict(list)
    lines: list[str] | None = None
    name = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name, lines = header[1], []
        elif lines is not None and RULE.match(line):
            found[name].append("\n".join(lines))
            lines = None
        elif lines is not None:
            lines.append(line)
    return dict(found)


def loop_of(step: Pass, functions: dict[str, list[str]], itemsize: int = 4) -> Loop:
    """The hottest loop of a pass in the compilation for numbers of this size.

    Raises:
        PassNotFound: there is none.
    """
    loops: list[Loop] = []
    for text in functions.get(step.function, ()):
        try:
            loops.append(hottest_loop(text))
        except NoVectorLoop:
            continue
    loops = [loop for loop in loops if loop.itemsize == itemsize]
    if not loops:
        raise PassNotFound(
            f"no vector loop over numbers of {itemsize} bytes in {step.function!r}; compiled were "
            f"{', '.join(sorted(functions)) or 'no functions'}; correct PASSES in peers/passes.py"
        )
    return max(loops, key=lambda loop: loop.vector_work / loop.entries(step.outputs))
