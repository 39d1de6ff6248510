"""Would the tests notice a wrong formula? `python benchmarks/break_duals.py [--only erf.*]`.

Every formula of every dual activation, and every result of quadrature, is multiplied by 1 + 1e-6 in a process of its
own, which runs the tests of duals until one fails. Formulas that are 0 by symmetry or convention get 1e-6 added. First
the tests are run as they are, and must pass. Writes results/<date>-broken-duals.json and .md; a formula whose change no
test notices ends the script with an error.

The processes import this file as a plugin of pytest, which breaks the formula that the environment variable names.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from fnmatch import fnmatch
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import Progress

from peers.environments import ROOT
from peers.machine import revision
from peers.report import results_folder, write_pair

RELATIVE = 1e-6
NAMED = "NTKIT_BREAK"
FORMULAS = ("variance", "mean", "distance", "derivative", "scale_derivative")
ZERO = ("erf.mean", "sign.mean", "sign.derivative", "sign.scale_derivative")
QUADRATURE = {"series": ("variance", "mean", "distance", "derivative"), "plane": ("distance", "derivative")}
TESTS = ("test_duals.py", "test_duals_quadrature.py", "test_quadrature_bound.py", "test_normalization.py")


# ---- in a process: a plugin of pytest --------------------------------------------------------------------------------


def pytest_collection_finish() -> None:
    """Break the formula once everything is imported, so that the tests' own checks of types are in place."""
    if name := os.environ.get(NAMED):
        family, formula = name.split(".")
        (break_quadrature if family in QUADRATURE else break_formula)(family, formula)


def changed(value: Any, zero: bool = False) -> Any:
    """The value, off by a relative 1e-6."""
    return value + RELATIVE if zero else value * (1 + RELATIVE)


def break_formula(family: str, formula: str) -> None:
    """Replace a function of a module of `ntkit.infinite.dual`, which looks its functions up when it is used."""
    module = import_module(f"ntkit.infinite.dual.{family}")
    right = getattr(module, formula)
    setattr(module, formula, wraps(right)(lambda *given: changed(right(*given), f"{family}.{formula}" in ZERO)))


def break_quadrature(family: str, formula: str) -> None:
    """Replace what a series or the integration over the plane results in."""
    series = import_module("ntkit.infinite.dual.series")
    if family == "plane":
        series.plane_moments = of_pair(series.plane_moments, formula)
    elif formula in ("distance", "derivative"):
        series.Series.pairs = of_pair(series.Series.pairs, formula)
    else:
        right = series.Series.samples

        def samples(self: Any, q: Any) -> Any:
            found = right(self, q)
            return replace(found, **{formula: changed(getattr(found, formula))})

        series.Series.samples = samples


def of_pair(right: Callable[..., Any], formula: str) -> Callable[..., Any]:
    """A function of (distance, derivative) with one of them changed."""

    @wraps(right)
    def broken(*given: Any) -> Any:
        distance, derivative = right(*given)
        if formula == "distance":
            return changed(distance), derivative
        return distance, None if derivative is None else changed(derivative)

    return broken


# ---- the script ------------------------------------------------------------------------------------------------------


def main() -> None:
    arguments = parse()
    names = [name for name in all_formulas() if fnmatch(name, arguments.only)]
    rows, console = [], Console()
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        bar = progress.add_task("as it is", total=len(names) + 1)
        if (failed := first_failure(None, folder)) is not None:
            raise SystemExit(f"the tests must pass before a formula is broken, but {failed} fails")
        for name in names:
            progress.update(bar, description=name, advance=1)
            rows.append({"formula": name, "change": change_of(name), "failed": first_failure(name, folder)})
    result = {"date": date.today().isoformat(), "ntkit revision": revision(), "tests": TESTS, "formulas": rows}
    page = to_markdown(result)
    print(page)
    if arguments.only == "*" or arguments.out:
        write_pair(results_folder(arguments.out, False), f"{date.today().isoformat()}-broken-duals", result, page)
    if survived := [row["formula"] for row in rows if row["failed"] is None]:
        raise SystemExit(f"no test notices a change of {', '.join(survived)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break every formula of the dual activations; a test must fail.")
    parser.add_argument("--only", default="*", help="pattern of formulas such as 'erf.*'; the result is only printed")
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    return parser.parse_args()


def all_formulas() -> list[str]:
    """family.formula of every module of duals, found by what the modules define, and of quadrature."""
    folder = import_module("ntkit.infinite.dual")
    found = []
    for entry in pkgutil.iter_modules(folder.__path__):
        module = import_module(f"{folder.__name__}.{entry.name}")
        found += [f"{entry.name}.{formula}" for formula in FORMULAS if is_defined(module, formula)]
    return found + [f"{family}.{formula}" for family, formulas in QUADRATURE.items() for formula in formulas]


def is_defined(module: ModuleType, formula: str) -> bool:
    return getattr(getattr(module, formula, None), "__module__", None) == module.__name__


def change_of(name: str) -> str:
    return f"+ {RELATIVE:g}" if name in ZERO else f"· (1 + {RELATIVE:g})"


def first_failure(name: str | None, folder: str) -> str | None:
    """The first test that fails with a formula broken; None where all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "break_duals"]
    variables = {**os.environ, NAMED: name or "", "NUMBA_CACHE_DIR": folder}  # nobody else reads their compiled code
    paths = [str(ROOT / part) for part in ("benchmarks", "src", "tests")]
    variables["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    likely = "quadrature" if name is not None and name.split(".")[0] in QUADRATURE else ""
    tests = [str(ROOT / "tests" / test) for test in sorted(TESTS, key=lambda test: likely not in test)]
    done = subprocess.run([*command, *tests], capture_output=True, text=True, env=variables, cwd=ROOT, check=False)
    if done.returncode == 0:
        return None
    failures = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode != 1 or not failures:
        raise SystemExit(f"the tests could not be run with {name} broken:\n{done.stdout}\n{done.stderr}")
    return failures[0].removeprefix("FAILED ")


def to_markdown(result: dict[str, Any]) -> str:
    """The same as a page to read."""
    noticed = sum(row["failed"] is not None for row in result["formulas"])
    lines = ["# Broken formulas of dual activations", ""]
    lines += [f"- {name}: {result[name]}" for name in ("date", "ntkit revision")]
    lines += [f"- tests: {', '.join(result['tests'])}", ""]
    lines += [f"{noticed} of {len(result['formulas'])} changes make a test fail.", ""]
    lines += ["| formula | change | first test that fails |", "|---|---|---|"]
    lines += [f"| {row['formula']} | {row['change']} | {row['failed'] or '**none**'} |" for row in result["formulas"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
