"""How long the first kernel of a fresh process takes: `python benchmarks/cold_start.py [--quick]`.

With an empty folder of compiled code, where all is compiled, and with a warm one, where it is read. A process does what
a short script would: it imports torch and ntkit, makes an `InfiniteKernel`, and calls it once on a few samples that are
so small that compiling is all that takes time. Seconds are those of the whole process, from its start to its end, and
of its parts. Each repetition has a new folder, first empty, then warm. Writes results/<date>-cold-start.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import Progress

from peers.machine import describe
from peers.networks import CNTK_GAP, FC, MYRTLE_5
from peers.process import limit_cores, worker_variables
from peers.report import results_folder, write_pair

# name: words of peers/networks.py, shape of a sample
NETWORKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "fully connected, ReLU": (FC.format("relu"), (16,)),
    "CNTK, global average pooling": (CNTK_GAP, (3, 8, 8)),
    "Myrtle-5": (MYRTLE_5, (3, 8, 8)),
}
SAMPLES, REPETITIONS = 4, 3
ASKED = {"empty": 15.0, "warm": 2.0}  # seconds from the start of the process until its first kernel is there


def main() -> None:
    arguments = parse()
    names = list(NETWORKS)[:1] if arguments.quick else list(NETWORKS)
    repetitions = 1 if arguments.quick else arguments.repetitions
    limit_cores(arguments.threads)
    machine, console = describe(arguments.threads), Console()
    points: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(names) * repetitions)
        for name in names:
            progress.update(bar, description=name)
            rounds: list[dict[str, dict[str, float]]] = []
            for _ in range(repetitions):
                rounds.append(one_round(name, arguments.threads))
                progress.advance(bar)
            points += [point(name, cache, [told[cache] for told in rounds]) for cache in ASKED]
    result = {"machine": machine, "samples": SAMPLES, "points": points}
    page = to_markdown(result)
    print(page)
    out = results_folder(arguments.out, arguments.quick)
    write_pair(out, f"{date.today().isoformat()}-cold-start", result, page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time of the first kernel of a fresh process.")
    parser.add_argument("--quick", action="store_true", help="one network, once: whether it works, not how fast it is")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="cores to use")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="pairs of an empty and a warm start")
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results, quick: .bench")
    return parser.parse_args()


def one_round(name: str, threads: int) -> dict[str, dict[str, float]]:
    """What a process told that found an empty folder, and what the next one told."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {**worker_variables(threads), "NUMBA_CACHE_DIR": folder}
        told = {cache: run_process(name, variables) for cache in ASKED}
    if not told["empty"]["functions compiled"] or told["warm"]["functions compiled"]:
        raise SystemExit(f"{name}: the empty start has to compile and the warm one must not: {told}")
    return told


def run_process(name: str, variables: dict[str, str]) -> dict[str, float]:
    """Compute a network's kernel in a fresh process."""
    words, shape = NETWORKS[name]
    command = [sys.executable, "-m", "peers.first_kernel", str(SAMPLES), words, *map(str, shape)]
    start = time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    seconds = time.time() - start
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    told = json.loads(done.stdout)
    return {"first kernel seconds": told.pop("kernel time") - start, "process seconds": seconds, **told}


def point(name: str, cache: str, told: list[dict[str, float]]) -> dict[str, Any]:
    """One line of the table: medians over the repetitions, and all of them."""
    medians = {f"median {part}": median(t[part] for t in told) for part in told[0] if part.endswith("seconds")}
    asked = ASKED[cache]
    return {
        "network": name,
        "cache": cache,
        **medians,
        "asked seconds": asked,
        "within": medians["median first kernel seconds"] <= asked,
        "repetitions": told,
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The same as a page to read."""
    lines = ["# The first kernel of a fresh process", ""]
    lines += [f"- {name}: {value}" for name, value in result["machine"].items()]
    lines += [
        "",
        f"Exact NTK of {result['samples']} samples, float32; medians, seconds. Until first kernel: from the start of "
        "the process until the kernel is there; process: until it has ended (torch takes most of a second to end).",
        "",
    ]
    columns = ["network", "compiled code", "until first kernel", "asked", "process", "import torch", "import ntkit"]
    lines += [f"| {' | '.join([*columns, 'kernel', 'compiled functions'])} |", "|" + "---|" * 9]
    lines += [*map(_line, result["points"]), ""]
    return "\n".join(lines)


def _line(told: dict[str, Any]) -> str:
    parts = ("first kernel", "process", "torch", "ntkit", "kernel")
    first, *others = (f"{told[f'median {part} seconds']:.2f}" for part in parts)
    asked = f"≤ {told['asked seconds']:g}" + ("" if told["within"] else ", **missed**")
    compiled = f"{told['repetitions'][0]['functions compiled']:.0f}"
    return f"| {' | '.join([told['network'], told['cache'], first, asked, *others, compiled])} |"


if __name__ == "__main__":
    main()
