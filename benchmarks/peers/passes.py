"""The compiled loops that a covariance entry passes through in ntkit, and their assembly.

numba prints the assembly of all that it compiles when it is told to. A worker with an empty cache computes the row at
its small size, and its log then holds every function: nothing of ntkit is imported here, functions are found by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from peers.arrays import write_inputs
from peers.environments import OWN_PYTHON
from peers.instructions import Loop, NoVectorLoop, hotness, vector_loops
from peers.networks import entries_per_pair
from peers.process import WorkerProcess
from peers.rows import ExactRow, Row

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
        itemsize: bytes of the numbers it computes with.
    """

    function: str
    times: int = 1
    outputs: int = 1
    itemsize: int = 4


# each writes D and T at once
CONVOLUTIONAL = (Pass("gather", outputs=2), Pass("run_strip", outputs=2), Pass("strip_loop", outputs=2))
VECTORS = (Pass("run_strip", outputs=2), Pass("strip_loop", outputs=2))
VECTORS_IN_DOUBLE = tuple(replace(step, itemsize=8) for step in VECTORS)
PASSES = {
    "exact-cntk-*": CONVOLUTIONAL,
    "exact-myrtle*": CONVOLUTIONAL,
    "exact-resnet-*": CONVOLUTIONAL,
    "exact-relu-*": VECTORS,
    "exact-erf-*": VECTORS_IN_DOUBLE,
    "exact-gelu-*": VECTORS_IN_DOUBLE,
}


def passes_of(row: Row) -> tuple[Pass, ...]:
    """The passes of a row; none where they are not known."""
    return next((passes for pattern, passes in PASSES.items() if fnmatch(row.name, pattern)), ())


def products_of(row: Row, width: int) -> list[tuple[Loop, float]]:
    """The products of samples that a fully connected row begins with, as its loop and iterations an entry and layer.

    They are a library's, so no loop of ours is there to be counted: d multiply-adds a pair in float32, as many at once
    as a register of `width` bytes holds, with all operands in registers.
    """
    if not isinstance(row, ExactRow) or len(row.shape) > 1:
        return []
    loop = Loop("product", {"fma": 1}, reads=0, writes=0, width=width, stored=0, itemsize=4)
    return [(loop, row.shape[0] / (width / 4) / entries_per_pair(row.network, row.shape))]


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


def loop_of(step: Pass, functions: dict[str, list[str]]) -> Loop:
    """The hottest loop of a pass in the compilation for numbers of its size.

    Raises:
        PassNotFound: there is none.
    """
    loops: list[Loop] = []
    for text in functions.get(step.function, ()):
        try:
            found = [loop for loop in vector_loops(text) if loop.itemsize == step.itemsize and loop.stored]
        except NoVectorLoop:
            continue
        loops += sorted(found, key=hotness)[-1:]
    if not loops:
        raise PassNotFound(
            f"no vector loop over numbers of {step.itemsize} bytes in {step.function!r}; compiled were "
            f"{', '.join(sorted(functions)) or 'no functions'}; correct PASSES in peers/passes.py"
        )
    return max(loops, key=lambda loop: loop.vector_work / loop.entries(step.outputs))
