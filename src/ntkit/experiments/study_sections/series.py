"""What every section shares: how each kernel looks, and scores and ratios in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ntkit.report.style import BLUE, GREEN, PURPLE, Line
from ntkit.report.wording import Real, number, percent

Findings = dict[str, Any]
Arrays = dict[str, np.ndarray]

NETWORK = Line("network", "#98a2ad", "-", "D", 6.5)  # wide and pale: predictions are drawn on top of it
INITIAL = Line("initial", BLUE, (0, (3.5, 2)), "o")
EXACT = Line("exact", PURPLE, (0, (1, 1)), "s", 2.6)
FINAL = Line("final", GREEN, "-", "^")

KEY = "Initial: the empirical kernel before training. Final: after it. Exact: the infinitely wide network's kernel."


def present(arrays: Arrays, prefix: str, lines: tuple[tuple[str, Line], ...]) -> list[tuple[Line, np.ndarray]]:
    """The lines whose array `prefix + key` was computed; an exact kernel does not exist for every network."""
    return [(line, arrays[prefix + key]) for key, line in lines if prefix + key in arrays]


def score(value: Real | None, metric: str) -> str:
    """An accuracy as a percentage, an R² as a number."""
    return percent(value) if metric == "accuracy" else number(value)


def metric_name(metric: str) -> str:
    """The metric inside a sentence."""
    return "accuracy" if metric == "accuracy" else "R²"


def chance_is(findings: Findings) -> str:
    """The score of guessing, inside a sentence: R² is 0 for whoever always says the mean."""
    if findings["metric"] == "accuracy":
        return f"chance is {percent(findings['chance'])}"
    return f"a mean predictor scores {number(findings['chance'])}"


def chance_label(findings: Findings) -> str:
    """The same, beside a line."""
    name = "chance" if findings["metric"] == "accuracy" else "mean predictor"
    return f"{name} {score(findings['chance'], findings['metric'])}"


def compared(value: Real, reference: Real) -> str:
    """How a value stands to a reference, for people: '1.2% above', '3.1 times', 'equal to'.

    Example:
        >>> from ntkit.experiments.study_sections.series import compared
        >>> compared(1.012, 1.0), compared(0.5, 1.0), compared(3.1, 1.0), compared(1.0, 1.0)
        ('1.2% above', '50% below', '3.1 times', 'equal to')
    """
    ratio = value / reference
    if not math.isfinite(ratio) or ratio >= 2:
        return f"{number(ratio)} times"
    if abs(ratio - 1) < 5e-4:
        return "equal to"
    return f"{percent(abs(ratio - 1), 2)} {'above' if ratio > 1 else 'below'}"


def noise(share: Real, n: int) -> float:
    """The standard error of a share measured on n samples, √(p(1 − p)/n)."""
    return math.sqrt(max(share * (1 - share), 0.0) / n)


def at_chance(value: Real, findings: Findings) -> bool:
    """Whether a test score is no better than guessing: within three standard errors, or R² below 0.02."""
    chance = findings["chance"]
    if findings["metric"] != "accuracy":
        return value <= chance + 0.02
    return value <= chance + 3 * noise(chance, findings["data"]["n_test"])
