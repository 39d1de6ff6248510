"""Time and memory of a convolutional kernel against samples and image size: `python benchmarks/scaling.py [--quick]`.

The kernel is the exact NTK of five 3×3 convolutions with ReLU and global average pooling, float32. With N samples there
are N(N+1)/2 pairs, and between two images of side s there are s⁴ pairs of pixels: time over both should stay level,
and so should memory apart from the N×N result. Every point is a process of its own, so that no point finds another's
memory; memory is what the process holds at most during the call beyond what it held before (Linux; elsewhere it is
left out). Writes results/<date>-scaling.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import Progress

from peers.limits import nanoseconds_per_entry
from peers.machine import describe
from peers.memory import PeakMemory
from peers.networks import CNTK_GAP
from peers.process import limit_cores, worker_variables
from peers.report import results_folder, write_pair
from peers.rows import ExactRow

SAMPLES, SIDE = (2, 4, 8, 16, 32), 16  # against samples, at this side
SIDES, N = (8, 16, 24, 32), 8  # against the side, with so many samples
REPETITIONS = 5


def main() -> None:
    arguments = parse()
    if arguments.point:
        n, side = arguments.point
        print(json.dumps(measure_point(n, side, arguments.repetitions)))
        return
    samples, sides = ((2, 4), (4, 6)) if arguments.quick else (SAMPLES, SIDES)
    side, n = (4, 3) if arguments.quick else (SIDE, N)
    limit_cores(arguments.threads)
    machine, console = describe(arguments.threads), Console()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(samples) + len(sides))

        def run(point: tuple[int, int]) -> dict[str, Any]:
            progress.update(bar, description=f"N = {point[0]}, side {point[1]}")
            told = run_point(*point, arguments)
            progress.advance(bar)
            return told

        result = {
            "machine": machine,
            "network": CNTK_GAP.strip(),
            "against samples": [run((m, side)) for m in samples],
            "against side": [run((n, s)) for s in sides],
        }
    page = to_markdown(result)
    print(page)
    out = results_folder(arguments.out, arguments.quick)
    write_pair(out, f"{date.today().isoformat()}-scaling", result, page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of a CNTK against samples and image size.")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="cores to use")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="timed calls at each point")
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results, quick: .bench")
    parser.add_argument("--point", type=int, nargs=2, metavar=("N", "SIDE"), help="measure one point in this process")
    return parser.parse_args()


def row_of(n: int, side: int) -> ExactRow:
    """The kernel of one point."""
    return ExactRow(name=f"{n}-{side}", title="CNTK", n=n, network=CNTK_GAP, shape=(3, side, side))


def run_point(n: int, side: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one point in a new process, and set its time in relation to its entries."""
    command = [sys.executable, __file__, "--point", str(n), str(side), "--repetitions", str(arguments.repetitions)]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_variables(arguments.threads), check=False)
    if done.returncode:
        raise SystemExit(f"N = {n}, side {side} failed:\n{done.stderr}")
    told = json.loads(done.stdout)
    seconds = median(told["seconds"])
    return {
        "n": n,
        "side": side,
        "median seconds": seconds,
        "nanoseconds per entry, hidden layer and core": nanoseconds_per_entry(
            row_of(n, side), seconds, arguments.threads
        ),
        "result bytes": n * n * 4,
        **told,
    }


def measure_point(n: int, side: int, repetitions: int) -> dict[str, Any]:
    """Seconds of warm calls and the most memory that one call adds, in this process."""
    import torch

    import ntkit
    from peers.torch_networks import network

    row = row_of(n, side)
    kernel = ntkit.InfiniteKernel(network(row.network, row.shape))
    generator = torch.Generator().manual_seed(0)
    kernel.ntk(torch.randn(2, 3, 4, 4, generator=generator))  # compiles; too small to leave buffers for the point
    x = torch.randn(n, *row.shape, generator=generator)
    with PeakMemory() as peak:
        kernel.ntk(x)
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        kernel.ntk(x)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "added peak bytes": peak.added}


def to_markdown(result: dict[str, Any]) -> str:
    """The same as a page to read."""
    lines = ["# Cost against samples and image size", ""]
    lines += [f"- {name}: {value}" for name, value in result["machine"].items()]
    lines += ["", "Exact NTK, 5 conv layers 3×3, ReLU, global average pooling, 3 channels; median of warm calls.", ""]
    for title, key in (("Against samples", "against samples"), ("Against image size", "against side")):
        lines += [f"## {title}", "", "| N | side | s | ns an entry·layer·core | added peak, MB | result, MB |"]
        lines += ["|---|---|---|---|---|---|", *map(_line, result[key]), ""]
    return "\n".join(lines)


def _line(point: dict[str, Any]) -> str:
    peak = point["added peak bytes"]
    return (
        f"| {point['n']} | {point['side']} | {point['median seconds']:.4g} "
        f"| {point['nanoseconds per entry, hidden layer and core']:.3g} "
        f"| {'–' if peak is None else f'{peak / 1e6:.1f}'} | {point['result bytes'] / 1e6:.4f} |"
    )


if __name__ == "__main__":
    main()
