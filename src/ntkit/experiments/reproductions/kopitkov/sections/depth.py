"""Energy and error late in training against depth, beside the start and the linearised network."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import by_chance, descents
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import BLUE, FAINT, HALF, VERMILION, frame, title
from ntkit.report.wording import number, percent


def depth_section(findings: Findings, draw: Draw) -> Section:
    """Two figures against depth."""
    runs, k = descents(findings), findings["settings"]["top_target"]
    shallow, deep = runs[0], runs[-1]
    more = deep["energy_late"] - shallow["energy_late"]
    rows = tuple(
        (
            str(run["layers"]), percent(run["energy_start"]), percent(run["energy_late"]), number(run["error_late"]),
            number(run["error_linearised"]), number(run["error_linearised"] / run["error_late"]),
        )
        for run in runs
    )  # fmt: skip
    header = ("layers", "energy at the start", "energy late", "error late", "linearised", "linearised over trained")
    return Section(
        "depth",
        "Do deeper networks align more and learn better?",
        f"Late in training the top {k} directions of {deep['layers']} layers hold {percent(abs(more))} "
        f"{'more' if more > 0 else 'less'} of the target than those of {shallow['layers']} layers (chance explains up "
        f"to {percent(by_chance(findings))}), and the error is {number(deep['error_late'] / shallow['error_late'])} "
        "times as large. With the kernels of the start it would be "
        f"{number(deep['error_linearised'] / shallow['error_linearised'])} times as large.",
        (
            draw(
                "depth-energy",
                f"Energy of the target in the top {k} against depth; start: "
                + ", ".join(percent(run["energy_start"]) for run in runs) + "; late: "
                + ", ".join(percent(run["energy_late"]) for run in runs) + ".",
                HALF, lambda canvas: _paint_energy(canvas, findings),
            ),
            draw(
                "depth-error",
                "Error late against depth; trained: " + ", ".join(number(run["error_late"]) for run in runs)
                + "; linearised: " + ", ".join(number(run["error_linearised"]) for run in runs) + ".",
                HALF, lambda canvas: _paint_error(canvas, findings),
            ),
        ),
        "Late: mean over the last quarter of training. Linearised: gradient descent at the same rate for as many steps "
        "with the kernel of the start, in closed form.",
        Table(header, rows),
    )  # fmt: skip


def _paint_energy(canvas: Canvas, findings: Findings) -> None:
    runs = descents(findings)
    ax = frame(canvas, left=0.66, right=0.95)
    layers = [run["layers"] for run in runs]
    start, late = ([run[f"energy_{when}"] for run in runs] for when in ("start", "late"))
    linear_axis(ax, "y", 0.0, min(1.03, 1.2 * max(late + start)), percent=True)
    ax.plot(layers, late, color=VERMILION, marker="o")
    ax.plot(layers, start, color=BLUE, marker="s", linestyle=(0, (3.5, 2)))
    ax.set_xlim(layers[0] - 0.3, layers[-1] + 0.3)
    label_right(ax, [EndLabel(late[-1], "late", VERMILION), EndLabel(start[-1], "start", BLUE)])
    ax.set_xticks(layers)
    ax.set_xlabel("layers")
    title(canvas, "Alignment by depth", f"target's energy in the top {findings['settings']['top_target']}")


def _paint_error(canvas: Canvas, findings: Findings) -> None:
    runs = descents(findings)
    ax = frame(canvas, left=0.66, right=0.95)
    layers = [run["layers"] for run in runs]
    trained, linear = ([run[name] for run in runs] for name in ("error_late", "error_linearised"))
    log_axis(ax, "y", 0.7 * min(trained + linear), 1.5 * max(trained + linear))
    ax.plot(layers, trained, color=VERMILION, marker="o")
    ax.plot(layers, linear, color=FAINT, marker="s", linestyle=(0, (3.5, 2)))
    ax.set_xlim(layers[0] - 0.3, layers[-1] + 0.3)
    label_right(ax, [EndLabel(trained[-1], "trained", VERMILION), EndLabel(linear[-1], "linearised", FAINT)])
    ax.set_xticks(layers)
    ax.set_xlabel("layers")
    title(canvas, "Error by depth", "(1/N) Σ ½(f − y)², late")
