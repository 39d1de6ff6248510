"""What Kopitkov & Indelman 2020 report of the tangent kernel in training, as numbers.

Their poster and slides show curves without tables, so the numbers to compare with are set here:

- energies of a target in the top k of N directions differ for more than chance by CHANCE_ERRORS·√2 times the standard
  deviation of a random direction's energy, a Beta(k/2, (N − k)/2);
- the output lies in the top directions with more than OUTPUT_SHARE of its energy, at every watched step;
- deeper is better if the error is at most HALF that of the shallowest network;
- a first-order prediction holds if it explains 90% of a step's squared change of the outputs: a relative error of √0.1;
- λ_max hovers at 2N/δ if it is within a QUARTER of it, and has risen if it is more than that above what it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ntkit.experiments.reproductions.claims import Claim, Control
from ntkit.experiments.reproductions.kopitkov.summary import chance

Findings = dict[str, Any]

POSTER = "Kopitkov & Indelman 2020, poster"
CHANCE_ERRORS, OUTPUT_SHARE, HALF, FIRST_ORDER, QUARTER = 3, 0.95, 0.5, math.sqrt(0.1), 0.25
ALIGNS_FROM = 4  # layers from which on the target's energy is said to grow
SMALLEST = 500  # samples below which only the machinery is tried


def comparable(findings: Findings) -> bool:
    """Whether there are samples enough for the image to be one."""
    return findings["settings"]["n"] >= SMALLEST


def by_chance(findings: Findings) -> float:
    """Difference of two energies in the top directions that chance may explain."""
    settings = findings["settings"]
    return CHANCE_ERRORS * math.sqrt(2) * chance(settings["top_target"], settings["n"])


def descents(findings: Findings) -> list[Findings]:
    """The runs of gradient descent at one rate, by depth."""
    return [findings["runs"][f"gd-{layers}"] for layers in findings["settings"]["layers"]]


def growth(run: Findings) -> float:
    """Of the target's energy in the top directions, from the start to late in training."""
    return run["energy_late"] - run["energy_start"]


def make_claims(findings: Findings) -> tuple[Claim, ...]:
    """All that can be claimed at this size."""
    claims = [*_aligns(findings), *_output(findings), _first_order(findings)]
    if comparable(findings):
        claims += [*_deeper(findings), *_edge(findings), *_others(findings)]
    return tuple(claims)


def _grows(run: Findings, words: str, findings: Findings, source: str) -> Claim:
    k, n = findings["settings"]["top_target"], findings["settings"]["shuffles"]
    return Claim(
        f"{words}: growth of the target's energy in the top {k}", source,
        by_chance(findings), growth(run), 0.0, "above",
        control=Control(f"target shuffled, most of {n}", run["shuffled_growth"]),
    )  # fmt: skip


def _aligns(findings: Findings) -> Iterator[Claim]:
    for run in descents(findings):
        if run["layers"] >= ALIGNS_FROM:
            yield _grows(run, run["title"], findings, f"{POSTER}: the top spectrum aligns towards the target")


def _deeper(findings: Findings) -> Iterator[Claim]:
    shallow, *_, deep = descents(findings)
    pair = f"{deep['layers']} against {shallow['layers']} layers"
    source = f"{POSTER}: depth increases alignment, alignment improves performance"
    yield Claim(
        f"{pair}: difference of the target's energy in the top {findings['settings']['top_target']}, late",
        source, by_chance(findings), deep["energy_late"] - shallow["energy_late"], 0.0, "above",
        control=Control("untrained", deep["energy_start"] - shallow["energy_start"]),
    )  # fmt: skip
    yield Claim(
        f"{pair}: ratio of the errors, late", source, HALF, deep["error_late"] / shallow["error_late"], 0.0,
        "at most",
        control=Control("kernels of the start", deep["error_linearised"] / shallow["error_linearised"]),
    )  # fmt: skip


def _output(findings: Findings) -> Iterator[Claim]:
    k = findings["settings"]["top_output"]
    for run in descents(findings):
        yield Claim(
            f"{run['title']}: output's energy in the top {k}, least of all steps",
            f"{POSTER}: f_t is spanned by the top eigenvectors for all t", OUTPUT_SHARE, run["output_least"], 0.0,
            "above", control=Control("the residual", run["residual_least"]),
        )  # fmt: skip


def _first_order(findings: Findings) -> Claim:
    worst = max(descents(findings), key=lambda run: run["first_order_median"])
    return Claim(
        f"first-order error of a step, median, at the worst depth ({worst['layers']})",
        f"{POSTER}: first-order dynamics", FIRST_ORDER, worst["first_order_median"], 0.0, "at most",
        control=Control("by the kernel of the start", worst["first_order_by_start_median"]),
    )  # fmt: skip


def _edge(findings: Findings) -> Iterator[Claim]:
    furthest = max(descents(findings), key=lambda run: abs(run["edge_later_half"] - 1))
    yield Claim(
        f"λ_max over 2N/δ, median of the later half, at the depth furthest from 1 ({furthest['layers']})",
        "Kopitkov & Indelman 2020 (quoted, not checked): λ_max hovers at 2N/δ", 1.0, furthest["edge_later_half"],
        QUARTER, control=Control("untrained", furthest["edge_start"]),
    )  # fmt: skip
    halved, kept = findings["runs"]["halved"], descents(findings)[-1]
    yield Claim(
        "λ_max late over λ_max before δ is halved", "the same (quoted, not checked): λ_max rises after "
        "each decay of the rate", 1 + QUARTER, _rise(halved), 0.0, "above",
        control=Control("δ not halved", _rise(kept)),
    )  # fmt: skip


def _rise(run: Findings) -> float:
    return run["largest_late"] / run["largest_second_quarter"]


def _others(findings: Findings) -> Iterator[Claim]:
    source = f"{POSTER}: the same beyond gradient descent and least squares"
    for key in ("sgd", "adam", "pso"):
        run = findings["runs"][key]
        yield _grows(run, f"{run['title']}, {run['layers']} layers", findings, source)
