"""Random architectures, all of them: `python benchmarks/architectures.py [--quick] [--seed N]`.

Draws the 200 networks of tests/random_architectures, computes each by every engine that can, and holds the results
against textbook covariances, float32 against float64, and 20 of them against wide random networks. Writes
results/<date>-random-architectures.json and .md; fails where a bound does not hold. `--seed N` shows one network.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ntkit.experiments.study_config import environment
from peers.machine import revision
from peers.report import results_folder, write_pair

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from random_architectures import features_of, recipe_of
from random_architectures.checks import deviations, in_single, monte_carlo
from random_architectures.seeds import ALL, WIDE, coverage
from random_architectures.steps import depth_of

BOUNDS = {"deviation": 1e-9, "float32 error": 5e-6, "float32 shortfall": 1.0, "standard errors": 4.0}
WIDTH, DRAWS, ALLOWANCE = 256, 64, 0.01


def exact_row(seed: int) -> dict[str, Any]:
    """One network by all exact means."""
    recipe = recipe_of(seed)
    single = in_single(recipe)
    return {
        "seed": seed,
        "depth": depth_of(recipe.steps),
        "shape": recipe.shape,
        "features": sorted(features_of(recipe)),
        "deviation": deviations(recipe),
        "float32 error": single.error,
        "float32 shortfall": single.shortfall,
    }


def wide_row(seed: int, draws: int) -> dict[str, Any]:
    """One network by wide random ones."""
    found = monte_carlo(recipe_of(seed), WIDTH, draws, ALLOWANCE)
    return {"seed": seed, "standard errors": found.standard_errors, "deviation": found.deviation}


def worst_of(exact: list[dict[str, Any]], wide: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is measured -> the largest value, where, and whether it is within its bound."""
    values = {
        "deviation": [(max(row["deviation"].values()), row["seed"]) for row in exact],
        **{name: [(row[name], row["seed"]) for row in exact] for name in ("float32 error", "float32 shortfall")},
        "standard errors": [(row["standard errors"], row["seed"]) for row in wide],
    }
    worst = {name: max(pairs) for name, pairs in values.items()}
    return {
        name: {"worst": value, "seed": seed, "bound": BOUNDS[name], "holds": value <= BOUNDS[name]}
        for name, (value, seed) in worst.items()
    }


MEANINGS = {
    "deviation": "largest error against the textbook, in units of the kernel's largest entry",
    "float32 error": "largest error of float32, in units of √(K_ii K_jj)",
    "float32 shortfall": "(λ_min(K64) − λ_min(K32)) / 4 ‖round32(K64) − K64‖₂",
    "standard errors": f"of the mean over wide networks, beyond {ALLOWANCE:.0%} of the largest entry",
}


def page(result: dict[str, Any]) -> str:
    """Tables for people."""
    versions = ", ".join(f"{name} {version}" for name, version in result["environment"].items())
    compiled = sum("numba" in row["deviation"] for row in result["exact"])
    lines = [
        f"# Random architectures, {result['date']}", "",
        f"{len(result['exact'])} networks, each by torch's engine and {compiled} by the compiled one too; "
        f"{len(result['wide'])} of them by {result['draws']} networks of width {WIDTH}. {versions}.", "",
        "| measured | worst | seed | bound | |", "|---|---|---|---|---|",
        *(
            f"| {MEANINGS[name]} | {row['worst']:.2g} | {row['seed']} | {row['bound']:g} "
            f"| {'holds' if row['holds'] else 'DOES NOT HOLD'} |"
            for name, row in result["worst"].items()
        ), "",
        "| feature | networks |", "|---|---|",
        *(f"| {name} | {count} |" for name, count in result["features"].items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draws, compares, writes."""
    parser = argparse.ArgumentParser(description="Random architectures against the textbook and wide networks.")
    parser.add_argument("--quick", action="store_true", help="five and two of them, to see that it runs")
    parser.add_argument("--seed", type=int, help="show the network of one seed, and what is measured of it")
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    arguments, console = parser.parse_args(), Console()
    if arguments.seed is not None:
        console.print(str(recipe_of(arguments.seed)), exact_row(arguments.seed), markup=False)
        return
    seeds, wide, draws = (range(5), WIDE[:2], 8) if arguments.quick else (ALL, WIDE, DRAWS)
    exact = [exact_row(seed) for seed in track(seeds, "exact", console=console)]
    drawn = [wide_row(seed, draws) for seed in track(wide, "wide", console=console)]
    result = {
        "date": date.today().isoformat(),
        "revision": revision(),
        "environment": environment(),
        "width": WIDTH,
        "draws": draws,
        "worst": worst_of(exact, drawn),
        "features": dict(sorted(coverage(seeds).items())),
        "exact": exact,
        "wide": drawn,
    }
    stem = f"{result['date']}-random-architectures"
    for path in write_pair(results_folder(arguments.out, arguments.quick), stem, result, page(result)):
        console.print(f"wrote {path}")
    console.print(page(result), markup=False)
    if not all(row["holds"] for row in result["worst"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
