"""Measurements as results/<date>-peers.json, for programs, and .md, for people."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from peers.environments import ROOT
from peers.harness import Measurement
from peers.limits import Machine, entries, limit_note, nanoseconds_per_entry, required_flops, share_of_limit
from peers.rows import EmpiricalRow, ExactRow, ModelRow, Row

LEGEND = (
    "Median seconds of warm turns on fresh arrays, and how many. Ratio: time over ntkit's, in brackets its range over",
    "single rounds. Asked: the ratio that ntkit set out to reach. Difference: largest |a − b| / max|b| from ntkit's",
    "result over all rounds. GEMM limit: the time of the matrix products that are needed, at peak speed, over the time",
    "taken. An entry·layer: one covariance of one hidden layer, between two samples (each pair once) at one pixel or,",
    "with pooling, one pair of pixels; time is that of all cores. Peak memory: the most that a call holds beyond what",
    "its process held before.",
)


@dataclass
class Report:
    """One run of the comparison.

    Args:
        machine: what it ran on.
        measurements: one a row.
        versions: {contestant: {package: version}}.
        peak: fastest float32 matrix product seen in the run, GFLOP/s; None where it was not measured.
    """

    machine: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    peak: float | None = None

    @property
    def limits(self) -> Machine:
        """What the times are held against."""
        return Machine(self.machine["threads"], self.peak)


def headings(row: Row) -> tuple[str, ...]:
    """Of a row's table."""
    memory = ("peak memory",) if row.measures_memory else ()
    return ("contestant", "median s (turns)", "ratio", "asked", "difference", *memory, "note")


def to_json(report: Report) -> dict[str, Any]:
    """Everything that was measured, and what follows from it."""
    return {
        "machine": {**report.machine, "peak GEMM GFLOP/s": report.peak},
        "versions": report.versions,
        "rows": [_row(m, report.limits) for m in report.measurements],
    }


def _row(m: Measurement, limits: Machine) -> dict[str, Any]:
    contestants = {name: _contestant(m, name, limits) for name in m.seconds}
    failed = {name: {"failure": why} for name, why in m.failures.items()}
    return {"row": m.row.to_json(), "reference": m.reference, "contestants": {**contestants, **failed}}


def _contestant(m: Measurement, name: str, limits: Machine) -> dict[str, Any]:
    median = m.median(name)
    assert median is not None, f"{name} has no times"
    difference = m.differences.get(name)
    return {
        "median seconds": median,
        "seconds": m.seconds[name],
        "ratio to reference": m.ratio(name),
        "ratio range": m.ratio_range(name),
        "meets target": m.meets_target(name),
        "relative difference": difference if difference is not None and isfinite(difference) else None,
        "agrees": name == m.reference or m.agrees(name),
        **({"added peak bytes": m.added_bytes.get(name)} if m.row.measures_memory else {}),
        **_limit(m.row, median, limits),
    }


def _limit(row: Row, median: float, limits: Machine) -> dict[str, Any]:
    """What a median means beside the machine's limit."""
    match row:
        case ExactRow():
            nanoseconds = nanoseconds_per_entry(row, median, limits.threads)
            return {
                "entries of hidden layers": entries(row),
                "nanoseconds per entry, hidden layer and core": nanoseconds,
            }
        case EmpiricalRow() | ModelRow():
            share = None if limits.gemm is None else share_of_limit(row, median, limits.gemm)
            return {"required GFLOP": required_flops(row) / 1e9, "share of matrix-product limit": share}
    return {}


def to_markdown(report: Report) -> str:
    """The same as a page to read."""
    peak = report.peak
    lines = ["# ntkit and its peers", ""]
    lines += [f"- {name}: {value}" for name, value in report.machine.items()]
    lines.append(f"- peak GEMM: {'not measured' if peak is None else f'{peak:.0f} GFLOP/s'}")
    for name, installed in report.versions.items():
        lines.append(f"- {name}: {', '.join(f'{package} {v}' for package, v in installed.items())}")
    lines += ["", *LEGEND, ""]
    for m in report.measurements:
        lines += [f"## {m.row.name}: {m.row.heading}", "", *_table(m, report.limits), ""]
    return "\n".join(lines)


def _table(m: Measurement, limits: Machine) -> list[str]:
    names = headings(m.row)
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    rows = ((name, *table_cells(m, name, limits)) for name in (*m.seconds, *m.failures))
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def table_cells(m: Measurement, name: str, limits: Machine) -> tuple[str, ...]:
    """Median and turns, ratio, what was asked, difference, memory where it is measured, and note, as text."""
    *cells, note = _cells(m, name, limits)
    added = m.added_bytes.get(name)
    memory = ("–" if added is None else human_bytes(added),) if m.row.measures_memory else ()
    return (*cells, *memory, note)


def human_bytes(count: int) -> str:
    """In units of 10⁶ or, from there on, 10⁹ bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _cells(m: Measurement, name: str, limits: Machine) -> tuple[str, str, str, str, str]:
    median = m.median(name)
    if median is None:
        return "–", "–", "–", "–", f"failed: {m.failures.get(name, 'no times')}".replace("|", "/")
    time = f"{median:.4f} ({len(m.seconds[name])})"
    if name == m.reference:
        return time, "1", "–", "–", limit_note(m.row, median, limits)
    difference = m.differences.get(name)
    shown = "–" if difference is None else f"{difference:.1e}"
    asked = "–" if m.row.target is None else f"≥ {m.row.target:g}"
    spread = m.ratio_range(name)
    if spread is None:
        return time, "–", asked, shown, f"**no ratio: {_why_no_ratio(m, name)}**"
    ratio = f"{m.ratio(name):.3g} ({spread[0]:.3g}–{spread[1]:.3g})"
    if m.meets_target(name) is False:
        asked += ", **missed**"
    return time, ratio, asked, shown, limit_note(m.row, median, limits)


def _why_no_ratio(m: Measurement, name: str) -> str:
    if m.median(m.reference) is None:
        return f"{m.reference} failed"
    return f"results differ by more than {m.row.tolerance:.0e}"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def results_folder(named: Path | None, quick: bool) -> Path:
    """Where results go: the folder that was named; else, of quick runs, which measure nothing, not where others lie."""
    return named or (ROOT / ".bench" / "quick" if quick else ROOT / "benchmarks" / "results")


def write_pair(folder: Path, stem: str, result: dict[str, Any], page: str) -> tuple[Path, Path]:
    """Write stem.json, for programs, and stem.md, for people, into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / f"{stem}.json", folder / f"{stem}.md"
    write(data, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write(text, page)
    return data, text


def write_results(report: Report, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write a comparison into a folder, and return the paths."""
    return write_pair(folder, stem, to_json(report), to_markdown(report))
