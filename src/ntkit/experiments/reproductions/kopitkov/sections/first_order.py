"""How well the kernel predicts each step's change of the outputs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import FIRST_ORDER, descents
from ntkit.experiments.reproductions.kopitkov.sections.series import RIGHT, deepest
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis, step_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLUE, FAINT, HALF, VERMILION, Line, frame, title
from ntkit.report.wording import count, percent

_QUANTITY = "‖df − df_approx‖/‖df‖ of one step"
_KERNELS = (
    ("first_order", Line("this step's\nkernel", VERMILION, "-", "o")),
    ("first_order_by_start", Line("kernel of\nthe start", BLUE, (0, (3.5, 2)), "s")),
)


def first_order_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """The error of each watched step by depth, and beside the prediction by the kernel of the start."""
    runs = descents(findings)
    worst = max(runs, key=lambda run: run["first_order_worst"])
    medians = [run["first_order_median"] for run in runs]
    rows = tuple(
        (
            run["title"], percent(run["first_order_median"]), percent(run["first_order_worst"]),
            count(run["first_order_worst_step"]), percent(run["first_order_by_start_median"]),
        )
        for run in runs
    )  # fmt: skip
    header = ("network", "median", "largest", "at step", "median, kernel of the start")
    return Section(
        "first-order",
        "Does the kernel predict each step?",
        f"The first-order prediction misses {percent(min(medians))} to {percent(max(medians))} of a step's change "
        f"(medians by depth), at most {percent(worst['first_order_worst'])} ({worst['title']}, step "
        f"{count(worst['first_order_worst_step'])}). The kernel of the start misses "
        f"{percent(runs[-1]['first_order_by_start_median'])} with {runs[-1]['title']}.",
        (
            draw(
                "first-order",
                f"Relative error of the first-order prediction over the steps with {runs[-1]['title']}, beside the "
                "prediction by the kernel of the start.", HALF, lambda canvas: _paint_steps(canvas, findings, arrays),
            ),
            draw(
                "first-order-depth",
                "The same by depth, quartiles over the watched steps; medians: "
                + "; ".join(f"{run['title']} {percent(run['first_order_median'])}" for run in runs) + ".",
                HALF, lambda canvas: _paint_depths(canvas, findings, arrays),
            ),
        ),
        "Error: ‖df − df_approx‖/‖df‖ with df the real change of the outputs in one step of the full rate and "
        f"df_approx = −(δ/N) G (f − y), in float64. Dashed: {percent(FIRST_ORDER)}, where 90% of the squared change is "
        "explained. At the edge of stability the steps swing along the top direction, in which the loss is not "
        "quadratic. Right: medians and quartiles over the watched steps.",
        Table(header, rows),
    )  # fmt: skip


def _paint_steps(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    key = deepest(findings)
    errors = {name: arrays[f"{key}_{name}"] for name, _ in _KERNELS}
    ax = frame(canvas, left=0.66, right=RIGHT)
    step_axis(ax, float(arrays[f"{key}_step"][-1]))
    linear_axis(ax, "y", 0.0, 1.1 * max(float(error.max()) for error in errors.values()), percent=True)
    for name, line in _KERNELS:
        ax.plot(arrays[f"{key}_step"], errors[name], **line.style)
    label_right(ax, [EndLabel(float(errors[name][-1]), line.name, line.colour) for name, line in _KERNELS])
    level(ax, FIRST_ORDER, FAINT)
    ax.set_xlabel("step")
    title(canvas, f"First-order error, {findings['settings']['layers'][-1]} layers", _QUANTITY)


def _paint_depths(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    layers = findings["settings"]["layers"]
    ax = frame(canvas, left=0.66, right=RIGHT)
    quartiles = {
        name: np.stack([np.quantile(arrays[f"gd-{depth}_{name}"], (0.25, 0.5, 0.75)) for depth in layers])
        for name, _ in _KERNELS
    }
    everything = np.concatenate(list(quartiles.values()))
    log_axis(ax, "y", 0.7 * max(float(everything.min()), 1e-12), 1.5 * float(everything.max()))
    ax.set_xlim(layers[0] - 0.4, layers[-1] + 0.4)
    for name, line in _KERNELS:
        low, middle, high = quartiles[name].T
        bars = np.stack([middle - low, high - middle])
        ax.errorbar(layers, middle, bars, marker=line.marker, capsize=4, elinewidth=1.6, **line.style)
    label_right(ax, [EndLabel(float(quartiles[name][-1, 1]), line.name, line.colour) for name, line in _KERNELS])
    level(ax, FIRST_ORDER, FAINT)
    ax.set_xticks(layers)
    ax.set_xlabel("layers")
    title(canvas, "First-order error by depth", _QUANTITY)
