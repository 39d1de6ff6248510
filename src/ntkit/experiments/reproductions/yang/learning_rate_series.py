"""What the sections of the page share: colours and marks of data sets, depths and widths, means over draws."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ntkit.experiments.reproductions.experiment import Findings
from ntkit.report.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

BAND = 0.05  # of predicted over found, within which a prediction is good
SET_COLOURS = {"cube": PURPLE, "mnist": BLUE, "cifar10": VERMILION, "digits": GREEN}
DEPTH_COLOURS = (BLUE, GREEN, ORANGE, VERMILION, PURPLE, SKY)
WIDTH_MARKERS = ("o", "s", "^", "D", "v", "P")


def colour_of(name: str) -> str:
    """Of a data set."""
    return SET_COLOURS.get(name, GREEN)


def depths_of(findings: Findings) -> dict[int, str]:
    """The depths of ReLU networks and their colours."""
    depths = sorted({row["depth"] for row in findings["rates"] if row["activation"] == "relu"})
    return dict(zip(depths, DEPTH_COLOURS * 2, strict=False))


def markers_of(findings: Findings) -> dict[int, str]:
    """The widths and their marks."""
    widths = sorted({row["width"] for row in findings["rates"]})
    return dict(zip(widths, WIDTH_MARKERS * 2, strict=False))


def main_rows(findings: Findings, name: str) -> list[Findings]:
    """Networks of one data set on its main target."""
    of_set = [row for row in findings["rates"] if row["set"] == name]
    return [row for row in of_set if row["labels"] == of_set[0]["labels"]]


def ratios(rows: Iterable[Findings], prediction: str, found: str = "found") -> np.ndarray:
    """Predicted over found, of the rows that have both."""
    return np.array([row[prediction] / row[found] for row in rows if row[found] is not None])


def real_sets(findings: Findings) -> list[str]:
    """Names of the data sets that are not the cube."""
    return [one["name"] for one in findings["data"]]
