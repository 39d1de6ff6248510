"""Compare ntkit with its peers: `python benchmarks/run_peers.py [--rows 'exact-*'] [--quick] [--threads 2]`.

Every contestant computes the same kernels from the same fresh arrays, in turns; results are compared before any ratio
is given. Writes results/<date>-peers.json and .md; what is measured and how to read it: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import secrets
from dataclasses import replace
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from peers.environments import NEURAL_TANGENTS, NNGEOMETRY, OWN_PYTHON
from peers.harness import ContestantFailed, Measurement, measure, turns
from peers.limits import Machine
from peers.machine import describe
from peers.process import WorkerProcess, limit_cores
from peers.report import Report, headings, results_folder, table_cells, write_results
from peers.rows import ROWS, Row

IMAGES = ("cnn", "resnet18")
WORKERS = {  # name -> (module, interpreter, rows it computes, by what they need); the first is the reference
    "ntkit": ("peers.worker_ntkit", OWN_PYTHON, ("exact", "empirical", *IMAGES, "gpt2")),
    "neural-tangents": ("peers.worker_neural_tangents", NEURAL_TANGENTS.python, ("exact", "empirical", *IMAGES)),
    "nngeometry": ("peers.worker_nngeometry", NNGEOMETRY.python, ("empirical", *IMAGES)),
    "torch.func": ("peers.worker_torch_func", OWN_PYTHON, ("empirical", *IMAGES, "gpt2")),
}


def main() -> None:
    arguments = parse()
    rows = [row.quick() if arguments.quick else row for row in select(arguments.rows)]
    if arguments.repetitions is not None:
        rows = [replace(row, repetitions=arguments.repetitions) for row in rows]
    limit_cores(arguments.threads)
    console = Console()
    report = Report(describe(arguments.threads) | {"seed": arguments.seed})
    warn_if_busy(report.machine["load average before"], console)
    with TemporaryDirectory(prefix="ntkit-peers-") as temporary:
        folder = Path(temporary)
        workers = {
            name: WorkerProcess(name, module, python, threads=arguments.threads, folder=folder)
            for name, (module, python, _) in WORKERS.items()
        }
        try:
            for row in rows:
                measurement = run_row(row, workers, report, folder, arguments.seed, console)
                report.measurements.append(measurement)
                console.print(as_table(measurement, report.limits))
        finally:
            for worker in workers.values():
                worker.close()
    stem = f"{date.today().isoformat()}-peers"
    for path in write_results(report, results_folder(arguments.out, arguments.quick), stem):
        console.print(f"written: {path}", soft_wrap=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ntkit with its peers on fresh arrays, in turns.")
    parser.add_argument(
        "--rows", nargs="+", default=["*"], help=f"names or patterns of {', '.join(r.name for r in ROWS)}"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--repetitions", type=int, help="timed turns of each contestant; default: the row's own")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="cores for every contestant")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31), help="of the first round; default: a new one"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results; default benchmarks/results, quick: .bench/quick"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= (os.cpu_count() or 1):
        parser.error(f"--threads must be between 1 and the {os.cpu_count()} cores there are, got {arguments.threads}")
    if arguments.repetitions is not None and arguments.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {arguments.repetitions}")
    return arguments


def warn_if_busy(load: float, console: Console) -> None:
    """Say so where other programs are running: times taken then are worth little."""
    if load > 0.3:
        console.print(f"load average is {load}: other programs are running, so do not keep these times", style="yellow")


def select(patterns: list[str]) -> list[Row]:
    """The rows that match any of the patterns; a pattern without a row is an error."""
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in ROWS):
            raise SystemExit(f"no row matches {pattern!r}; there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if any(fnmatch(row.name, pattern) for pattern in patterns)]


def run_row(
    row: Row, workers: dict[str, WorkerProcess], report: Report, folder: Path, seed: int, console: Console
) -> Measurement:
    """Measure one row, note versions, and measure the matrix-product peak beside it."""
    contestants = [worker for name, worker in workers.items() if row.needs in WORKERS[name][2]]
    columns = (
        TextColumn(row.name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("preparing", total=turns(row, len(contestants)))

        def show(name: str, repetition: int) -> None:
            stage = "warm-up" if repetition < row.warmups else f"turn {repetition - row.warmups + 1}"
            progress.update(bar, description=f"{name}, {stage}", advance=1)

        measurement = measure(row, contestants, folder=folder, seed=seed, on_turn=show)
    report.versions |= {worker.name: worker.versions for worker in contestants if worker.versions}
    if contestants[0].name not in measurement.failures:
        report.peak = max(report.peak or 0.0, measured_peak(contestants[0], console)) or None
    return measurement


def measured_peak(worker: WorkerProcess, console: Console) -> float:
    """GFLOP/s of the reference worker's matrix product; 0 where it failed, which a later row can repair."""
    try:
        return worker.peak()
    except ContestantFailed as failure:
        console.print(f"peak not measured: {failure}", style="yellow", markup=False)
        return 0.0


def as_table(measurement: Measurement, limits: Machine) -> Table:
    """A row's outcome for the terminal."""
    table = Table(title=f"{measurement.row.name}: {measurement.row.heading}", title_justify="left")
    for heading in headings(measurement.row):
        table.add_column(heading)
    for name in (*measurement.seconds, *measurement.failures):
        table.add_row(name, *table_cells(measurement, name, limits))
    return table


if __name__ == "__main__":
    main()
