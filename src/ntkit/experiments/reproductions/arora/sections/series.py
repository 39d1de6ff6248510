"""What the sections share: the kernels in order, their colours, the published columns beside them."""

from __future__ import annotations

import math

from ntkit.experiments.reproductions.arora.claims import PUBLISHED, SMALL, comparable
from ntkit.experiments.reproductions.experiment import Findings
from ntkit.report.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from ntkit.report.wording import several

HEADS = ("flatten", "gap")
DEPTH_COLOURS = (BLUE, GREEN, VERMILION, PURPLE, ORANGE)


def kernels(findings: Findings) -> list[tuple[str, Findings]]:
    """(head, what was found) of each kernel."""
    return [(head, findings["kernels"][head]) for head in HEADS]


def published(findings: Findings, head: str) -> tuple[int, dict[int, float]]:
    """Training images and {depth: accuracy} of the column to set beside a kernel; empty where there is none."""
    if not comparable(findings):
        return 0, {}
    n = findings["kernels"][head]["n_train"]
    n = n if (head, n) in PUBLISHED else SMALL
    depths = {row["depth"] for row in findings["kernels"][head]["depths"]}
    return n, {d: accuracy / 100 for d, accuracy in PUBLISHED[head, n].items() if d in depths}


def error(row: Findings) -> float:
    """Standard error of an accuracy, over test and training images."""
    return math.hypot(row["error_test"], row["error_train"])


def threads(findings: Findings) -> str:
    """How many threads computed."""
    return several(findings["threads"], "thread")
