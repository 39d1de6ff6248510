"""Keep the numbers of `ntkit reproduce arora-cntk`: `python benchmarks/keep_reproduction.py FOLDER`.

FOLDER is what the reproduction wrote. Writes results/<date>-arora-cntk.json (its results.json) and .md, with accuracies
and their standard errors beside the published ones, and what the kernels cost.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from ntkit.experiments.reproductions.arora.claims import PUBLISHED, SMALL
from peers.report import results_folder, write_pair


def page(found: dict[str, Any], when: str) -> str:
    """Tables for people."""
    environment = ", ".join(f"{name} {version}" for name, version in found["environment"].items())
    lines = [
        f"# CIFAR-10 by exact convolutional tangent kernels, {when}", "",
        f"`ntkit reproduce {found['experiment']} --scale {found['scale']}`; {found['reference']}. {environment}.", "",
        "| kernel | depth | training + test images | accuracy, ± standard error | published, 2,000 training images |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    kernels = found["findings"]["kernels"]
    for head, kernel in kernels.items():
        for row in kernel["depths"]:
            error = (row["error_test"] ** 2 + row["error_train"] ** 2) ** 0.5
            there = PUBLISHED[head, SMALL].get(row["depth"])
            lines.append(
                f"| {kernel['title']} | {row['depth']} | {kernel['n_train']:,} + {kernel['n_test']:,} "
                f"| {row['accuracy']:.2%} ± {error:.2%} | {'–' if there is None else f'{there:.2f} %'} |"
            )
    lines += ["", "| matrices, all depths in one pass | pairs computed | time | an entry |", "|---|---|---|---|"]
    for kernel in kernels.values():
        for part in ("train", "test"):
            pairs, seconds = kernel[f"pairs_{part}"], kernel[f"seconds_{part}"]
            lines.append(
                f"| {kernel['title']}, {part} | {pairs:,} | {seconds:,.0f} s | {1e3 * seconds / pairs:.3g} ms |"
            )
    lines += ["", "| the same 500 training images: with pooling less without | points |", "|---|---|"]
    for row in found["findings"]["comparison"]:
        lines.append(f"| depth {row['depth']} | {100 * row['difference']:.1f} ± {100 * row['error']:.1f} |")
    lines += [""] + [
        f"- {'holds' if claim['holds'] else 'DOES NOT HOLD'}: {claim['claim']} (expected {claim['expected']:.4g}, "
        f"{claim['relation']}, measured {claim['measured']:.4g})"
        for claim in found["claims"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the folder's results and writes them where results are kept."""
    parser = argparse.ArgumentParser(description="Keep the numbers of a reproduction.")
    parser.add_argument("folder", type=Path, help="what the reproduction wrote")
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    arguments = parser.parse_args()
    source = arguments.folder / "results.json"
    found, when = json.loads(source.read_text()), date.fromtimestamp(source.stat().st_mtime).isoformat()
    data, text = write_pair(
        results_folder(arguments.out, quick=False), f"{when}-{found['experiment']}", found, page(found, when)
    )
    print(f"written: {data}\nwritten: {text}")


if __name__ == "__main__":
    main()
