"""The output's energy in the top directions over training, and where output, target and residual lie late."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import OUTPUT_SHARE, descents
from ntkit.experiments.reproductions.kopitkov.sections.series import deepest, depth_lines, over_steps
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLUE, FAINT, GREEN, HALF, VERMILION, frame, title
from ntkit.report.wording import count, percent

_CURVES = (("output", VERMILION, "-"), ("target", BLUE, (0, (3.5, 2))), ("residual", GREEN, (0, (1, 1))))


def output_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """The output over the steps by depth, and cumulative energies at the end."""
    runs, k = descents(findings), findings["settings"]["top_output"]
    least = min(runs, key=lambda run: run["output_least"])
    rows = tuple(
        (
            run["title"], percent(run["output_least"], 4), count(run["output_least_step"]),
            percent(run["output_late"], 4), percent(run["output_in_start_late"]), percent(run["residual_least"]),
        )
        for run in runs
    )  # fmt: skip
    header = ("network", "least share of the output", "at step", "late", "late, in the start's directions",
              "least share of the residual")  # fmt: skip
    return Section(
        "output",
        "Does the output stay in the top directions?",
        f"At no watched step does the output have less than {percent(least['output_least'], 4)} of its energy in the "
        f"top {k} eigenvectors of that step's kernel ({least['title']}, step {count(least['output_least_step'])}). In "
        f"those of the start it has {percent(runs[-1]['output_in_start_late'])} late, with {runs[-1]['title']}: the "
        "directions move with it.",
        (
            draw(
                "output",
                f"Energy of the output in the top {k} over the steps; least: "
                + "; ".join(f"{run['title']} {percent(run['output_least'], 4)}" for run in runs) + ".",
                HALF, lambda canvas: _paint_output(canvas, findings, arrays),
            ),
            draw(
                "energies",
                f"Energy of output, target and residual in the top k, against k, at the last step with "
                f"{runs[-1]['title']}.",
                HALF, lambda canvas: _paint_energies(canvas, findings, arrays),
            ),
        ),
        f"Left: dashed line at {percent(OUTPUT_SHARE)}; grey, the output of {runs[-1]['title']} in the top {k} of the "
        "kernel at the start. Every watched step counts, the first too. Right: the residual is what is left of the "
        "target.",
        Table(header, rows),
    )  # fmt: skip


def _paint_output(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    key, k = deepest(findings), findings["settings"]["top_output"]
    in_start = arrays[f"{key}_energy_output_in_start"]

    def scale(ax: Axes, curves: list[np.ndarray]) -> None:
        low = min(float(in_start.min()), *(float(curve.min()) for curve in curves))
        linear_axis(ax, "y", max(0.0, low - 0.05 * (1 - low)), 1 + 0.03 * (1 - low), percent=True)

    ax = over_steps(
        canvas, arrays, depth_lines(findings), lambda key: arrays[f"{key}_energy_output"][:, -1], scale,
        [EndLabel(float(in_start[-1]), "in those of\nthe start", FAINT)],
    )  # fmt: skip
    ax.plot(arrays[f"{key}_step"], in_start, color=FAINT, linewidth=1.4)
    level(ax, OUTPUT_SHARE, FAINT)
    title(canvas, "Output in the top directions", f"energy in the top {k} eigenvectors")


def _paint_energies(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    key = deepest(findings)
    ax = frame(canvas, left=0.66, right=0.95)
    log_axis(ax, "x", 1, findings["settings"]["top_output"])
    linear_axis(ax, "y", 0.0, 1.03, percent=True)
    labels = []
    for name, colour, dash in _CURVES:
        energy = arrays[f"{key}_energy_{name}"][-1]
        ax.plot(np.arange(1, len(energy) + 1), energy, color=colour, linestyle=dash)
        labels.append(EndLabel(float(energy[-1]), name, colour))
    label_right(ax, labels)
    ax.set_xlabel("k, directions from the top")
    title(canvas, "Where they lie at the end", f"energy in the top k, {findings['settings']['layers'][-1]} layers")
