"""The largest eigenvalue against 2N/δ, and what it does when the rate is halved."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import descents
from ntkit.experiments.reproductions.kopitkov.sections.series import deepest, depth_lines, over_steps
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLUE, FAINT, HALF, VERMILION, frame, title
from ntkit.report.wording import count, number


def edge_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """λ_max over 2N/δ by depth, and λ_max of the two runs of the deepest network."""
    runs, halved = descents(findings), findings["runs"]["halved"]
    edges = [run["edge_later_half"] for run in runs]
    kept = runs[-1]
    rise, same = (run["largest_late"] / run["largest_second_quarter"] for run in (halved, kept))
    rows = tuple(
        (
            run["title"] if run is not halved else f"{halved['title']}, {halved['layers']} layers",
            number(run["edge_start"]), number(run["edge_later_half"]), number(run["largest_second_quarter"]),
            number(run["largest_late"]),
        )
        for run in (*runs, halved)
    )  # fmt: skip
    header = ("network", "λ_max δ/2N at the start", "median, later half", "λ_max, second quarter", "λ_max, late")
    return Section(
        "edge",
        "Does λ_max stay at the edge of stability?",
        f"λ_max starts at {number(min(run['edge_start'] for run in runs))} to "
        f"{number(max(run['edge_start'] for run in runs))} times 2N/δ, and its median over the later half of training "
        f"is {number(min(edges))} to {number(max(edges))} times 2N/δ, by depth. Late in the run whose rate was halved "
        f"it is {number(rise)} times what it was before; without halving, {number(same)} times.",
        (
            draw(
                "edge",
                "Largest eigenvalue over 2N/δ, over the steps; median of the later half: "
                + "; ".join(f"{run['title']} {number(run['edge_later_half'])}" for run in runs) + ".",
                HALF, lambda canvas: _paint_edge(canvas, findings, arrays),
            ),
            draw(
                "halved",
                f"Largest eigenvalue over the steps with {kept['title']}; the rate is halved at step "
                f"{count(halved['halved_at'])}, after which it is {number(rise)} times as large.",
                HALF, lambda canvas: _paint_halved(canvas, findings, arrays),
            ),
        ),
        "With a constant kernel descent is stable below 2N/δ, the dashed lines. Right: a linear axis of steps; the "
        "line doubles where δ is halved.",
        Table(header, rows),
    )  # fmt: skip


def _paint_edge(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    n = findings["settings"]["n"]

    def scale(ax: Axes, curves: list[np.ndarray]) -> None:
        linear_axis(ax, "y", 0.0, 1.08 * max(1.0, *(float(curve.max()) for curve in curves)))

    def edge(key: str) -> np.ndarray:
        return arrays[f"{key}_eigenvalues"][:, 0] * arrays[f"{key}_rate"] / (2 * n)

    ax = over_steps(canvas, arrays, depth_lines(findings), edge, scale)
    level(ax, 1.0, FAINT)
    title(canvas, "Largest eigenvalue and stability", "λ_max over 2N/δ")


def _paint_halved(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    n, halved = findings["settings"]["n"], findings["runs"]["halved"]
    steps, at = arrays["halved_step"], halved["halved_at"]
    largest = {key: arrays[f"{key}_eigenvalues"][:, 0] for key in ("halved", deepest(findings))}
    first, second = (2 * n / rate for rate in (halved["rate"], halved["rate"] / 2))
    ax = frame(canvas, left=0.74, right=0.95)
    linear_axis(ax, "x", 0, float(steps[-1]))
    linear_axis(ax, "y", 0, 1.08 * max(second, *(float(curve.max()) for curve in largest.values())))
    bound = {"color": FAINT, "linewidth": 1.3, "linestyle": (0, (4, 3)), "zorder": 1.5}
    ax.plot([0, at, at, steps[-1]], [first, first, second, second], **bound)
    ax.plot([at, steps[-1]], [first, first], **bound)
    ax.plot(steps, largest[deepest(findings)], color=BLUE, linestyle=(0, (3.5, 2)), linewidth=1.7)
    ax.plot(steps, largest["halved"], color=VERMILION)
    label_right(ax, [
        EndLabel(float(largest["halved"][-1]), "δ halved", VERMILION),
        EndLabel(float(largest[deepest(findings)][-1]), "δ kept", BLUE),
        EndLabel(second, "2N/δ,\nhalved", FAINT),
        EndLabel(first, "2N/δ", FAINT),
    ])  # fmt: skip
    ax.set_xlabel("step")
    title(canvas, f"{halved['layers']} layers, rate halved midway", "largest eigenvalue λ_max")
