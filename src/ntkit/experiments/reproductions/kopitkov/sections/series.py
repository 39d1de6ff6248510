"""What the sections share: the runs and how each is drawn, curves over the steps, maps of the plane."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Findings
from ntkit.experiments.reproductions.kopitkov.image import brightness_at, grid_points
from ntkit.report.axes import step_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION, Line, frame

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION)
_DASHES = ((0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3.5, 2)), (0, (7, 2)), "-")
_OTHERS = {
    "sgd": Line("mini-batches", BLUE, (0, (3.5, 2))),
    "adam": Line("Adam", GREEN, (0, (1, 1))),
    "pso": Line("density", PURPLE, (0, (5, 1.5, 1, 1.5))),
}
RIGHT = 0.95  # inches for the labels beside curves


def deepest(findings: Findings) -> str:
    """Key of the deepest network by gradient descent."""
    return f"gd-{findings['settings']['layers'][-1]}"


def depth_lines(findings: Findings) -> list[tuple[str, Line]]:
    """(key, how it is drawn) of gradient descent at each depth; the deepest is always the same."""
    layers = findings["settings"]["layers"]
    return [
        (f"gd-{depth}", Line(f"{depth} layers", colour, dash, width=2.6 if depth == layers[-1] else 1.7))
        for depth, colour, dash in zip(layers, _COLOURS[-len(layers) :], _DASHES[-len(layers) :], strict=True)
    ]


def other_lines(findings: Findings) -> list[tuple[str, Line]]:
    """Gradient descent of the deepest network, and the other optimisers and losses."""
    layers = findings["settings"]["layers"][-1]
    return [(f"gd-{layers}", Line("gradient\ndescent", VERMILION, "-", width=2.6)), *_OTHERS.items()]


def over_steps(
    canvas: Canvas,
    arrays: Arrays,
    lines: list[tuple[str, Line]],
    quantity: Callable[[str], np.ndarray],
    scale: Callable[[Axes, list[np.ndarray]], None],
    more: list[EndLabel] | None = None,
    right: float = RIGHT,
) -> Axes:
    """A curve a run over the steps, each with its name beside it.

    Args:
        canvas: empty.
        arrays: with the steps of each run.
        lines: runs and how they are drawn.
        quantity: key of a run -> its curve.
        scale: sets the vertical axis for the curves.
        more: further labels.
        right: inches for the labels.
    """
    ax = frame(canvas, left=0.66, right=right)
    curves = [quantity(key) for key, _ in lines]
    step_axis(ax, float(arrays[f"{lines[0][0]}_step"][-1]))
    scale(ax, curves)
    for (key, line), curve in zip(lines, curves, strict=True):
        ax.plot(arrays[f"{key}_step"], curve, **line.style)
    ends = [EndLabel(float(curve[-1]), line.name, line.colour) for (_, line), curve in zip(lines, curves, strict=True)]
    label_right(ax, [*ends, *(more or [])])
    ax.set_xlabel("step")
    return ax


def on_grid(image: np.ndarray, side: int) -> np.ndarray:
    """The function that an image stands for, as (side, side) values."""
    return brightness_at(image, grid_points(side)).reshape(side, side)


def maps(
    canvas: Canvas, images: list[np.ndarray], names: list[str], columns: int, *, cmap: str, top: float = 0.62
) -> None:
    """Square maps of the unit square in rows, each with its name above; the first coordinate runs to the right.

    Args:
        canvas: empty.
        images: (g, g) each; for a diverging `cmap` they are drawn from −a to a, otherwise from their own least value.
        names: of the maps.
        columns: maps in a row.
        cmap: of matplotlib: "gray", or a diverging one.
        top: inches above the maps.
    """
    width, height = canvas.get_size_inches()
    rows = -(-len(images) // columns)
    gap, name = 0.12, 0.24
    side = min((width - gap * (columns + 1)) / columns, (height - top - 0.08) / rows - name)
    margin = (width - columns * side - (columns - 1) * gap) / 2
    for i, (image, text) in enumerate(zip(images, names, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = margin + column * (side + gap), height - top - (row + 1) * (side + name)
        ax = canvas.add_axes((left / width, bottom / height, side / width, side / height))
        grey = cmap == "gray"
        bound = float(np.quantile(np.abs(image), 0.995)) or 1.0
        low, high = (0.0, 1.0) if grey else (-bound, bound)
        ax.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="none")
        ax.set_axis_off()
        canvas.text(
            (left + side / 2) / width, (bottom + side + 0.1) / height, text, ha="center", va="center", fontsize=10,
            color=INK,
        )  # fmt: skip
