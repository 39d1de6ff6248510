"""The image, what the deepest network made of it, and the error over training."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import descents
from ntkit.experiments.reproductions.kopitkov.image import brightness_at
from ntkit.experiments.reproductions.kopitkov.sections.series import (
    deepest,
    depth_lines,
    maps,
    on_grid,
    over_steps,
)
from ntkit.report import Section, Table
from ntkit.report.axes import log_axis
from ntkit.report.style import HALF, title
from ntkit.report.wording import count, number, percent


def picture_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """The image beside the network's, and squared errors."""
    runs = descents(findings)
    deep, n = runs[-1], count(findings["settings"]["n"])
    errors = "; ".join(f"{run['title']} {number(run['error_late'])}" for run in runs)
    rows = tuple(
        (run["title"], number(run["error_start"]), number(run["error_late"]), number(run["error_linearised"]))
        for run in runs
    )
    return Section(
        "picture",
        "What do the networks learn?",
        f"From {n} samples of the image the network of {deep['layers']} layers explains "
        f"{percent(1 - 2 * deep['error_late'])} of their variance late in training, the one of {runs[0]['layers']} "
        f"layers {percent(1 - 2 * runs[0]['error_late'])}.",
        (
            draw(
                "image", f"The image, and the output of {deep['layers']} layers over the plane after training.", HALF,
                lambda canvas: _paint_image(canvas, findings, arrays),
            ),
            draw(
                "error", f"Error over the steps, logarithmic axes; late: {errors}.", HALF,
                lambda canvas: _paint_error(canvas, findings, arrays),
            ),
        ),
        "The error is (1/N) Σ ½(f − y)² over the samples, whose targets have variance 1. The map of the network is in "
        "the image's grey values, cut at black and white. Linearised: gradient descent with the kernel of the start.",
        Table(("network", "error at the start", "error late", "linearised, late"), rows),
    )  # fmt: skip


def _paint_image(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    brightness = brightness_at(arrays["image"], arrays["points"])
    learned = arrays[f"{deepest(findings)}_picture"][0] * brightness.std() + brightness.mean()
    image = on_grid(arrays["image"], len(learned))
    layers = findings["settings"]["layers"][-1]
    maps(canvas, [image, np.clip(learned, 0, 1)], ["image", f"network of {layers} layers"], 2, cmap="gray", top=0.9)
    title(canvas, "The image and its likeness", f"brightness; {count(findings['settings']['steps'])} steps")


def _paint_error(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    def scale(ax: Axes, curves: list[np.ndarray]) -> None:
        log_axis(ax, "y", 0.8 * min(float(c.min()) for c in curves), 1.3 * max(float(c.max()) for c in curves))

    over_steps(canvas, arrays, depth_lines(findings), lambda key: arrays[f"{key}_error"], scale)
    title(canvas, "Error over training", "(1/N) Σ ½(f − y)²")
