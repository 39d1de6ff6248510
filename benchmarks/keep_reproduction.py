"""Keep the numbers of a reproduction: `python benchmarks/keep_reproduction.py FOLDER`.

FOLDER is what `ntkit reproduce` wrote. Writes results/<date>-<experiment>.json (its results.json) and .md: claims with
their controls, and the sentences and tables of its page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ntkit.experiments.reproductions import EXPERIMENTS, Claim, Control
from ntkit.experiments.reproductions.claims import claims_table, verdict
from ntkit.report import Figure, Table
from peers.report import results_folder, write_pair


def page(found: dict[str, Any], arrays: dict[str, np.ndarray], when: str) -> str:
    """Claims and tables for people."""
    story = EXPERIMENTS[found["experiment"]].show(found["findings"], arrays, _undrawn)
    claims = tuple(map(_claim, found["claims"]))
    lines = [
        f"# {story.title}, {when}", "",
        f"`ntkit reproduce {found['experiment']} --scale {found['scale']}`; {found['reference']}. {story.summary} "
        f"The run took {found['seconds']:,.0f} s.", "",
        *(f"- {name}: {value}" for name, value in found["environment"].items()),
        *(f"- seed: {seed}" for seed in found["seeds"]), "",
        *(f"**{notice}**\n" for notice in story.notices),
        f"## Claims\n\n{verdict(claims)}", "", *_table(claims_table(claims)), "",
    ]  # fmt: skip
    for section in story.sections:
        lines += [f"## {section.question}", "", section.sentence, "", *_table(section.details), ""]
    return "\n".join(lines)


def _undrawn(name: str, label: str, size: tuple[float, float], paint: Any) -> Figure:
    """In place of a figure."""
    return Figure("", label)


def _claim(entry: dict[str, Any]) -> Claim:
    """As it was before it was written."""
    names = ("claim", "source", "expected", "measured", "tolerance", "relation", "unit")
    control = entry.get("control")
    own = None if control is None else Control(control["name"], control["measured"])
    return Claim(**{name: entry[name] for name in names}, control=own)


def _table(table: Table) -> Iterable[str]:
    yield "| " + " | ".join(table.header) + " |"
    yield "|" + "---|" * len(table.header)
    for row in table.rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def main() -> None:
    """Reads the folder's results and writes them where results are kept."""
    parser = argparse.ArgumentParser(description="Keep the numbers of a reproduction.")
    parser.add_argument("folder", type=Path, help="what the reproduction wrote")
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    arguments = parser.parse_args()
    found = json.loads((arguments.folder / "results.json").read_text())
    with np.load(arguments.folder / "arrays.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    when = date.today().isoformat()
    written = write_pair(
        results_folder(arguments.out, quick=False), f"{when}-{found['experiment']}", found, page(found, arrays, when)
    )
    for path in written:
        print(f"written: {path}")


if __name__ == "__main__":
    main()
