"""What an experiment is: configurations by scale, a function that measures, a function that shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ntkit._progress import Reporter
from ntkit.experiments.reproductions.claims import Claim
from ntkit.report import Facts, Figure, Section, Tile

Findings = dict[str, Any]
Arrays = dict[str, np.ndarray]
# (name, label, size in inches, paint) -> the figure for the page; it is also written beside the page as PNG and SVG
Draw = Callable[[str, str, tuple[float, float], Callable[[Any], None]], Figure]
SCALES = ("smoke", "laptop", "paper")


@dataclass(frozen=True)
class Workbench:
    """What an experiment works with.

    Args:
        data_dir: folder of the data files; None for NTKIT_DATA.
        work: folder in which finished parts survive an interruption.
        reporter: shows progress.
    """

    data_dir: Path | None
    work: Path
    reporter: Reporter

    def say(self, line: str) -> None:
        """A line on standard error, above the bars; nothing where progress is not shown."""
        if self.reporter.show:
            Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured.

    Args:
        findings: numbers and names, for results.json.
        arrays: for arrays.npz.
        claims: what the publication says, beside it.
    """

    findings: Findings
    arrays: Arrays
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Story:
    """The experiment's own part of its page; claims, configuration and environment are added to it."""

    title: str
    summary: str
    notices: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    conventions: tuple[str, ...]
    facts: tuple[Facts, ...]


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Args:
        name: what it is asked for by.
        summary: one line.
        reference: the publication.
        scales: a frozen dataclass, with a `seed`, for each of smoke, laptop and paper.
        measure: from a configuration to what was measured.
        show: from what was measured to the page; it may import matplotlib.
    """

    name: str
    summary: str
    reference: str
    scales: Mapping[str, Any]
    measure: Callable[[Any, Workbench], Measurement]
    show: Callable[[Findings, Arrays, Draw], Story]
