"""The deepest network by mini-batches, by Adam and by the unsupervised loss."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import growth
from ntkit.experiments.reproductions.kopitkov.sections.series import maps, on_grid, other_lines, over_steps
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis
from ntkit.report.style import HALF, title
from ntkit.report.wording import number, percent


def others_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """Energy curves of the four runs, and the density that was learned."""
    k, layers = findings["settings"]["top_target"], findings["settings"]["layers"][-1]
    keys = [key for key, _ in other_lines(findings)]
    runs = [findings["runs"][key] for key in keys]
    names = ["gradient descent", *(run["title"] for run in runs[1:])]
    grown = ", ".join(
        f"{percent(run['energy_start'])} → {percent(run['energy_late'])} ({name})"
        for run, name in zip(runs, names, strict=True)
    )
    rows = tuple(
        (
            name, number(run["rate"]), percent(run["energy_start"]), percent(run["energy_late"]),
            percent(growth(run)), percent(run["shuffled_growth"]), percent(run["output_least"], 4),
            number(run["error_late"]),
        )
        for run, name in zip(runs, names, strict=True)
    )  # fmt: skip
    header = ("run", "rate", "energy at the start", "energy late", "growth", "shuffled, most", "least output",
              "error late")  # fmt: skip
    return Section(
        "others",
        "Is it the same with other optimisers and losses?",
        f"Energy of the target in the top {k} directions with {layers} layers, start → late: {grown}.",
        (
            draw(
                "others", f"Energy of the target in the top {k} over the steps: {grown}.", HALF,
                lambda canvas: _paint_energy(canvas, findings, arrays),
            ),
            draw(
                "density", "The density, as bright as the image, and the one that the network learned from samples.",
                HALF, lambda canvas: _paint_density(canvas, arrays),
            ),
        ),
        f"Density: the network learns log p from samples of p by PSO-LDE without labels; its target is log p at the "
        f"same points, and its error (1/N) Σ ½(f − log p)². Mini-batches have "
        f"{findings['settings']['others']['batch']} samples. The output's share is that in the top "
        f"{findings['settings']['top_output']}.",
        Table(header, rows),
    )  # fmt: skip


def _paint_energy(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    k = findings["settings"]["top_target"]

    def scale(ax: Axes, curves: list[np.ndarray]) -> None:
        linear_axis(ax, "y", 0.0, min(1.03, 1.15 * max(float(curve.max()) for curve in curves)), percent=True)

    over_steps(
        canvas, arrays, other_lines(findings), lambda key: arrays[f"{key}_energy_target"][:, k - 1], scale, right=1.12
    )
    title(canvas, "Target in the top directions", f"energy in the top {k} eigenvectors")


def _paint_density(canvas: Canvas, arrays: Arrays) -> None:
    learned = np.exp(arrays["pso_picture"][0])
    density = on_grid(arrays["density"], len(learned))
    top = float(density.max())
    maps(
        canvas, [density / top, np.clip(learned / top, 0, 1)], ["p", "exp f, learned"], 2, cmap="gray", top=0.9,
    )  # fmt: skip
    title(canvas, "A density from samples", "the brighter the denser")
