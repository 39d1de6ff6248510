"""What this machine can do at most, and how near to it the exact rows come.

    python benchmarks/machine_limit.py                            # measured rates, and all rows whose loops are known
    python benchmarks/machine_limit.py --rows 'exact-cntk-*'

Rates are measured by small compiled loops (`peers/speeds.py`). For each row, ntkit is compiled anew in a process of its
own and the instructions of the inner loops that an entry passes through are counted from the assembly
(`peers/passes.py`, `peers/instructions.py`): at those rates they take the least time of an entry. The share is that
over the time in the newest results/<date>-peers.json. Writes results/<date>-machine.json and .md.
"""

from __future__ import annotations

import argparse
import os
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from peers.environments import ROOT
from peers.harness import ContestantFailed
from peers.limits import entry_limit
from peers.machine import describe
from peers.passes import PassNotFound, compiled_functions, loop_of, passes_of, products_of
from peers.process import limit_cores
from peers.report import write_pair
from peers.rows import ROWS, Row
from peers.speeds import Speeds, measure_speeds
from readme_table import newest_results

RESULTS = ROOT / "benchmarks" / "results"
RATES = {
    "vector": "vector arithmetic of any kind",
    "multiply": "multiplications and fused multiply-adds",
    "divide": "divisions",
    "sqrt": "square roots",
    "load": "loads from the first cache",
    "store": "stores to the first cache",
}


def main() -> None:
    arguments = parse()
    limit_cores(arguments.threads)
    machine, console = describe(arguments.threads), Console()
    with console.status("measuring the machine"):
        speeds = measure_speeds(arguments.threads)
    measured = nanoseconds_of(newest_results(RESULTS))
    rows: dict[str, Any] = {}
    for row in ROWS:
        if passes_of(row) and any(fnmatch(row.name, pattern) for pattern in arguments.rows):
            with console.status(f"{row.name}: compiling"):
                try:
                    rows[row.name] = row_limit(row, speeds, measured.get(row.name))
                except (ContestantFailed, PassNotFound) as failure:
                    console.print(f"{row.name}: {failure}", style="yellow", markup=False)
    result = {"machine": machine, "speeds": speeds.to_json(), "rows": rows}
    page = to_markdown(result)
    print(page)
    write_pair(arguments.out, f"{date.today().isoformat()}-machine", result, page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the machine's limit and hold ntkit's loops against it.")
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or patterns of exact rows")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="cores that run together")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    return parser.parse_args()


def nanoseconds_of(results: dict[str, Any]) -> dict[str, float]:
    """{row: ntkit's nanoseconds per entry, hidden layer and core} of a comparison."""
    key = "nanoseconds per entry, hidden layer and core"
    own = {row["row"]["name"]: row["contestants"][row["reference"]] for row in results["rows"]}
    return {name: told[key] for name, told in own.items() if key in told}


def row_limit(row: Row, speeds: Speeds, measured: float | None) -> dict[str, Any]:
    """Instructions and least time of an entry of a row, and the share of it that was reached."""
    with TemporaryDirectory(prefix="ntkit-assembly-") as folder:
        functions = compiled_functions(row.quick(), Path(folder))
    steps = [(step, loop_of(step, functions)) for step in passes_of(row)]
    loops = [(loop, step.times / loop.entries(step.outputs)) for step, loop in steps]
    loops += products_of(row, speeds.width)
    unit, seconds = entry_limit(loops, speeds)
    return {
        "vector instructions an entry": sum(loop.vector_work * iterations for loop, iterations in loops),
        "bound by": unit,
        "limit, ns an entry and core": seconds * 1e9,
        "measured, ns an entry and core": measured,
        "share of the limit": None if measured is None else seconds * 1e9 / measured,
        "passes": {
            step.function: {
                "times": step.times,
                "entries an iteration": loop.entries(step.outputs),
                "vector bytes": loop.width,
                "an iteration": {**loop.counts, "reads": loop.reads, "writes": loop.writes},
            }
            for step, loop in steps
        },
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The same as a page to read."""
    speeds = result["speeds"]
    lines = ["# The machine's limit", "", *(f"- {name}: {value}" for name, value in result["machine"].items())]
    lines += [f"- widest vectors: {speeds['width'] * 8} bits", ""]
    lines += ["| float32, all cores busy | 10⁹ instructions per second and core |", "|---|---|"]
    lines += [f"| {label} | {speeds[name] / 1e9:.2f} |" for name, label in RATES.items()]
    lines += ["", f"Memory: {speeds['bandwidth'] / 1e9:.1f} GB/s, all cores together.", ""]
    lines += ["| row | vector instructions an entry | bound by | limit, ns | measured, ns | share |"]
    lines += ["|---|---|---|---|---|---|", *(_line(name, row) for name, row in result["rows"].items())]
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[str, Any]) -> str:
    measured, share = row["measured, ns an entry and core"], row["share of the limit"]
    return (
        f"| {name} | {row['vector instructions an entry']:.2f} | {row['bound by']} "
        f"| {row['limit, ns an entry and core']:.3f} | {'–' if measured is None else f'{measured:.3f}'} "
        f"| {'–' if share is None else f'{share:.0%}'} |"
    )


if __name__ == "__main__":
    main()
