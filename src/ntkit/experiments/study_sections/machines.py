"""The trained network beside the kernel machines it corresponds to."""

from __future__ import annotations

from math import hypot

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.study_sections.series import (
    Arrays,
    Findings,
    at_chance,
    chance_is,
    chance_label,
    metric_name,
    noise,
    score,
)
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis
from ntkit.report.labels import label_top
from ntkit.report.style import BLACK, BLUE, FAINT, GREEN, HALF, PURPLE, SKY, draw, frame, ink, title
from ntkit.report.wording import Real, count, number, percent

_MARKS = {  # key: colour, marker
    "nngp": (SKY, "v"),
    "exact": (PURPLE, "s"),
    "initial": (BLUE, "o"),
    "final": (GREEN, "^"),
    "network": (BLACK, "D"),
}
_WORST_R2 = -1.0  # worse lies outside, with an arrow


def machines_section(findings: Findings, arrays: Arrays) -> Section:
    """A dot for the test score of each machine, and the line of chance."""
    machines, metric = findings["machines"], findings["metric"]
    told = "; ".join(f"{machine['name']} {score(machine['test'], metric)}" for machine in machines)
    height = 1.35 + 0.46 * len(machines)
    return Section(
        "machines",
        "Does the network beat its kernels?",
        sentence(findings),
        (
            draw(
                "machines",
                f"Test {metric_name(metric)} of each machine: {told}. Guessing: {chance_label(findings)}.",
                (HALF[0], height),
                lambda canvas: _paint(canvas, findings),
            ),
        ),
        "Kernel machines: ridge regression on the same targets, fitted on the training samples; the ridge is the one "
        "with the best closed-form leave-one-out score on the training samples, the test samples were not used.",
        _table(findings),
    )


def _split(findings: Findings) -> tuple[dict, list[dict]]:
    network = next(machine for machine in findings["machines"] if machine["key"] == "network")
    return network, [machine for machine in findings["machines"] if machine["key"] != "network"]


def sentence(findings: Findings) -> str:
    """What the figures say, in one sentence."""
    metric, (network, kernels) = findings["metric"], _split(findings)
    own = f"{score(network['test'], metric)} test {metric_name(metric)}"
    if all(at_chance(machine["test"], findings) for machine in findings["machines"]):
        return (
            f"Nothing was learned: the trained network ({own}) and all {len(kernels)} kernel machines are no better "
            f"than guessing, where {chance_is(findings)}."
        )
    best = max(kernels, key=lambda machine: machine["test"])
    beaten = sum(network["test"] > machine["test"] for machine in kernels)
    stands = {
        len(kernels): f"beats all {len(kernels)} kernel machines",
        0: f"beats none of the {len(kernels)} kernel machines",
    }.get(beaten, f"beats {beaten} of {len(kernels)} kernel machines")
    lead = abs(network["test"] - best["test"])
    if lead == 0:
        place = f"equal to the best of them, {best['name']}"
    else:
        side = "ahead of" if network["test"] > best["test"] else "behind"
        place = f"{_points(lead, metric)} {side} the best of them, {best['name']} ({score(best['test'], metric)})"
    text = f"With {own}, the trained network {stands} and is {place}"
    if metric == "accuracy" and lead < 2 * hypot(_error(network, findings), _error(best, findings)):
        text += f", a difference within the noise of {count(findings['data']['n_test'])} test samples"
    return f"{text}; {chance_is(findings)}."


def _error(machine: dict, findings: Findings) -> float:
    return noise(machine["test"], findings["data"]["n_test"])


def _points(difference: Real, metric: str) -> str:
    if metric == "accuracy":
        return f"{number(100 * difference, 2)} percentage points"
    return f"{number(difference)}"


def _paint(canvas: Canvas, findings: Findings) -> None:
    machines, metric, chance = findings["machines"], findings["metric"], findings["chance"]
    ax = frame(canvas, left=1.75, right=0.75, top=0.82)
    lowest = min([chance, *(machine["test"] for machine in machines)])
    low = 0.0 if metric == "accuracy" else max(lowest, _WORST_R2) - (0.05 if lowest < 0 else 0.0)
    linear_axis(ax, "x", low, 1.0, percent=metric == "accuracy")
    ax.grid(visible=False)
    ax.set_ylim(-0.6, len(machines) - 0.4)
    ax.axvline(chance, color=FAINT, linewidth=1.4, linestyle=(0, (4, 3)))
    label_top(ax, [chance], [chance_label(findings)], [FAINT], size=9.5)
    heights = range(len(machines) - 1, -1, -1)
    for height, machine in zip(heights, machines, strict=True):
        _paint_machine(ax, height, machine, chance, low, score(machine["test"], metric))
    ax.set_yticks(heights, [str(machine["name"]) for machine in machines])
    ax.get_yticklabels()[-1].set_fontweight("bold")
    ax.tick_params(axis="y", length=0, pad=9)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"test {metric_name(metric)}")
    title(
        canvas,
        "Network and kernel machines",
        f"test {metric_name(metric)}, {count(findings['data']['n_test'])} samples",
    )


def _paint_machine(ax: Axes, height: int, machine: dict, chance: Real, low: Real, text: str) -> None:
    """A dot, a stem from chance, and the score in figures; an arrow where the score lies outside."""
    colour, marker = _MARKS[machine["key"]]
    outside = machine["test"] < low
    shown = low if outside else machine["test"]
    if not outside:
        ax.plot([chance, shown], [height, height], color=colour, linewidth=1.6, alpha=0.5, zorder=1)
    ax.plot([shown], [height], "<" if outside else marker, color=colour, markersize=9, clip_on=False, zorder=3)
    left = shown < chance and (shown - low) / (1 - low) > 0.25
    place = {"xytext": (-9, 0), "ha": "right"} if left else {"xytext": (9, 0), "ha": "left"}
    if not outside and not left and chance - shown > 0.03 * (1 - low):
        place = {"xytext": (9, 9), "ha": "left"}  # above its own stem
    ax.annotate(
        text, (shown, height), textcoords="offset points", va="center", fontweight="bold", color=ink(colour), **place
    )


def _table(findings: Findings) -> Table:
    metric = findings["metric"]
    rows = tuple(
        (
            str(machine["name"]),
            score(machine["test"], metric),
            score(machine["loo"], metric),
            number(machine["ridge"], 2),
        )
        for machine in findings["machines"]
    )
    if metric == "accuracy":
        error = max(_error(machine, findings) for machine in findings["machines"])
        rows += (("standard error at most", f"±{percent(error, 2)}", "–", "–"),)
    return Table(("machine", f"test {metric_name(metric)}", "leave-one-out", "ridge"), rows)
