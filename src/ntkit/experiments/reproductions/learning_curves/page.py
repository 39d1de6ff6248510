"""The page of learning-curves."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings, Story
from ntkit.experiments.reproductions.learning_curves.claims import JUDGED, worst_point
from ntkit.report import Facts, Figure, Section, Table, Tile
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import BLUE, GREEN, HALF, PURPLE, VERMILION, frame, title
from ntkit.report.wording import count, number, percent

_COLOURS, _MARKERS = (BLUE, VERMILION, GREEN, PURPLE), ("o", "s", "^", "D")
_QUESTIONS = {
    "circle": "How many samples does a wave on the circle take?",
    "sphere": "How many samples does a polynomial take?",
}
CONVENTIONS = (
    "Kernel: exact tangent kernel of three hidden ReLU layers, σ_w² = 2, σ_b² = 0.01. Targets have mean square 1, so "
    "an error of 1 is that of predicting zero.",
    "Measured: kernel regression on N random samples of the pool, mean squared error on the samples not drawn, mean "
    "over draws; bars are two standard errors. Lines are predictions, not fits.",
    "Predicted for a pool of M: (M·E − N·E_train)/(M − N), as the theory's mean E includes the training samples. "
    "Without a ridge that is M/(M − N) times E.",
    f"Deviations are judged where errors are at least {JUDGED:g} of the target's power.",
)


def show(findings: Findings, arrays: Arrays, draw: Draw) -> Story:
    """A section for the circle, the sphere, and each set of images."""
    stand_ins = [task for task in findings["tasks"].values() if task["stands_in"]]
    return Story(
        title="How much data does it take?",
        summary="Errors of kernel regression, predicted from the kernel's spectrum alone and measured: "
        + ", ".join(task["title"] for task in findings["tasks"].values())
        + ".",
        notices=tuple(
            f"{task['title']} was not found, and other images stand in: {task['source']}" for task in stand_ins
        ),
        tiles=tuple(_tile(key, task, arrays) for key, task in findings["tasks"].items()),
        sections=tuple(_section(key, task, arrays, draw) for key, task in findings["tasks"].items()),
        conventions=CONVENTIONS,
        facts=(Facts("Data", tuple((task["title"], task["source"]) for task in findings["tasks"].values())),),
    )


def _worst(key: str, task: Findings, arrays: Arrays) -> tuple[str, int, float]:
    """Target, number of samples and deviation of the prediction that is farthest off."""
    t, i, off = worst_point(arrays[f"{key}_predicted"], arrays[f"{key}_error"])
    return task["targets"][t], int(arrays[f"{key}_samples"][i]), off


def _tile(key: str, task: Findings, arrays: Arrays) -> Tile:
    name, n, off = _worst(key, task, arrays)
    which = f"{name}, " if len(task["targets"]) > 1 else ""
    return Tile(f"Worst point, {task['title']}", f"{off:+.3g}%".replace("-", "−"), f"{which}N = {count(n)}")


def _section(key: str, task: Findings, arrays: Arrays, draw: Draw) -> Section:
    figures = [_figure(key, task, arrays, draw, "error")]
    if key == "circle":
        figures.append(_figure(key, task, arrays, draw, "share"))
    return Section(
        key,
        _QUESTIONS.get(key, f"How many images does {task['title']} take?"),
        _sentence(key, task, arrays),
        tuple(figures),
        f"Pool of {count(task['pool'])}, {count(task['draws'])} draws of each size; "
        + (f"ridge {number(task['ridge'])}." if task["ridge"] else "no ridge."),
        _table(key, task, arrays),
    )


def _sentence(key: str, task: Findings, arrays: Arrays) -> str:
    samples, errors = arrays[f"{key}_samples"], arrays[f"{key}_error"]
    name, n, off = _worst(key, task, arrays)
    which = f" ({name})" if len(task["targets"]) > 1 else ""
    text = (
        f"From {count(int(samples[0]))} to {count(int(samples[-1]))} samples the prediction is off by at most "
        f"{percent(abs(off) / 100)}, at N = {count(n)}{which}"
    )
    if len(errors) == 1:
        text += f", while the error falls from {number(errors[0, 0])} to {number(errors[0, -1])}"
    if key == "circle":
        text += (
            ". In one dimension gaps between neighbours vary as much as they are wide, and a few wide ones make most "
            "of the error, which a theory of Gaussian eigenfunctions does not see; how much of a wave is learned it "
            "predicts better"
        )
    return f"{text}."


def _figure(key: str, task: Findings, arrays: Arrays, draw: Draw, what: str) -> Figure:
    names = {"error": "mean squared error", "share": "share of the wave that is learned"}
    label = f"{task['title']}: {names[what]} against the number of training samples, predicted and measured."
    return draw(f"{key}-{what}", label, HALF, lambda canvas: _paint(canvas, key, task, arrays, what))


def _paint(canvas: Canvas, key: str, task: Findings, arrays: Arrays, what: str) -> None:
    samples = arrays[f"{key}_samples"]
    predicted = arrays[f"{key}_predicted" if what == "error" else f"{key}_predicted_share"]
    measured, bars = arrays[f"{key}_{what}"], 2 * arrays[f"{key}_{what}_spread"]
    ax = frame(canvas, left=0.7, right=1.0)
    log_axis(ax, "x", samples[0] / 1.15, samples[-1] * 1.15)
    if what == "error":
        log_axis(ax, "y", max(min(measured.min(), predicted.min()) / 1.5, JUDGED / 10), 1.6 * max(measured.max(), 1.0))
    else:
        linear_axis(ax, "y", 0.0, 1.03, percent=True)
    low, high = ax.get_ylim()
    ends = []
    for t, name in enumerate(task["targets"]):
        colour = _COLOURS[t % len(_COLOURS)]
        ax.plot(samples, predicted[t], color=colour, linewidth=1.8)
        ax.errorbar(
            samples, measured[t], bars[t], color=colour, marker=_MARKERS[t % len(_MARKERS)], linestyle="none",
            capsize=3, markersize=6, markerfacecolor="white", markeredgewidth=1.6, zorder=3,
        )  # fmt: skip
        ends.append(EndLabel(float(np.clip(predicted[t, -1], low, high)), name, colour))
    label_right(ax, ends)
    ax.set_xlabel("training samples N")
    quantity = "mean squared error on unused samples" if what == "error" else "share of the target that is learned"
    title(canvas, f"{task['title'][0].upper()}{task['title'][1:]}", f"{quantity}; lines: predicted")


def _table(key: str, task: Findings, arrays: Arrays) -> Table:
    predicted, control, measured, spread = (
        arrays[f"{key}_{what}"] for what in ("predicted", "control", "error", "error_spread")
    )
    rows = []
    for t, name in enumerate(task["targets"]):
        for i, n in enumerate(arrays[f"{key}_samples"]):
            rows.append((
                name, count(int(n)), number(float(predicted[t, i]), 4), number(float(measured[t, i]), 4),
                number(float(spread[t, i]), 2), number(float(predicted[t, i] / measured[t, i]), 3),
                number(float(control[t, i] / measured[t, i]), 3),
            ))  # fmt: skip
    header = ("target", "N", "predicted", "measured", "s.e.", "predicted / measured", f"{task['control']} / measured")
    return Table(header, tuple(rows))
