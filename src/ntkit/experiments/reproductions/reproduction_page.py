"""The page of a reproduction: the experiment's own story, then its claims, and how it was made."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ntkit.experiments.reproductions.claims import Claim, claims_table, verdict
from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings
from ntkit.experiments.reproductions.gram_blocks import duration
from ntkit.report import Facts, Link, Page, Section, Tile, write_page


def write_reproduction_page(
    experiment: Experiment, results: dict[str, Any], claims: tuple[Claim, ...], arrays: Arrays, folder: Path
) -> None:
    """index.html and the figures' files, into `folder`.

    Args:
        experiment: whose story it is.
        results: as written to results.json.
        claims: the claims in them.
        arrays: as written to arrays.npz.
        folder: exists.
    """
    from ntkit.report.figure_files import draw_files  # needs matplotlib

    findings: Findings = results["findings"]
    story = experiment.show(findings, arrays, functools.partial(draw_files, folder))
    held = sum(claim.holds for claim in claims)
    page = Page(
        kicker=f"Reproduction, scale {results['scale']}: {experiment.reference}",
        title=story.title,
        summary=f"{story.summary} The run that finished took {duration(results['seconds'])}.",
        notices=story.notices,
        tiles=(Tile("Claims that hold", f"{held} of {len(claims)}", "each with its tolerance, below"), *story.tiles),
        sections=(*story.sections, _claims_section(claims)),
        conventions=story.conventions,
        facts=(
            Facts("Configuration", _rows(results["configuration"])),
            Facts("Environment", _rows(results["environment"])),
            *story.facts,
        ),
        links=(
            Link("results.json", "results.json: configuration, environment, seeds, claims, numbers"),
            Link("arrays.npz", "arrays.npz: every curve"),
            *(Link(path.name, path.name) for path in sorted(folder.glob("*.png"))),
        ),
    )
    write_page(page, folder / "index.html")


def _claims_section(claims: tuple[Claim, ...]) -> Section:
    return Section(
        "claims",
        "Which claims hold?",
        verdict(claims),
        (),
        "A claim holds when the measured number lies within the tolerance of the expected one, or on the stated side "
        "of it. What was measured is reported whether or not it agrees. A control is what must fail the claim.",
        claims_table(claims),
    )


def _rows(settings: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", " "), _written(value)) for name, value in settings.items())


def _written(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_written(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value)) or "–"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
