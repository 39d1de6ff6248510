"""Lazy or rich: how far kernel and weights move, and whether the kernel turns towards the labels.

Lazy training leaves the kernel where it was, rich training learns features: Chizat et al., "On lazy training in
differentiable programming", NeurIPS 2019.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.study_sections.series import Arrays, Findings
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, step_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLACK, BLUE, FAINT, THIRD, draw, frame, title
from ntkit.report.wording import Real, count, number, percent

LAZY_BELOW, RICH_ABOVE = 0.05, 0.3  # kernel distance; an aid to reading, no law
AT_CHANCE = 0.3  # relative to the mean over shuffled labels; single shuffles of a few hundred differ by this
_LAYER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LAYER_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1)), (0, (6, 1.5, 1.5, 1.5)), (0, (2, 2)), (0, (8, 2)))


def regime(distance: Real) -> str:
    """The word for a kernel distance at the end of training.

    Example:
        >>> from ntkit.experiments.study_sections.regime import regime
        >>> regime(0.01), regime(0.1), regime(0.6)
        ('lazy', 'in between', 'rich')
    """
    if distance < LAZY_BELOW:
        return "lazy"
    return "rich" if distance > RICH_ABOVE else "in between"


def regime_section(findings: Findings, arrays: Arrays) -> Section:
    """Kernel distance, alignment and moved weights along training."""
    lazy = findings["lazy"]
    return Section(
        "regime",
        "Is training lazy or rich?",
        sentence(findings),
        (
            draw(
                "distance",
                f"Distance of the kernel from its start during training, {percent(lazy['distance_end'])} at the end.",
                THIRD,
                lambda canvas: _paint_distance(canvas, arrays),
            ),
            draw(
                "alignment",
                f"Alignment of the kernel with the labels: {number(lazy['alignment_start'])} at the start, "
                f"{number(lazy['alignment_end'])} at the end, chance {number(lazy['alignment_chance'])}.",
                THIRD,
                lambda canvas: _paint_alignment(canvas, lazy, arrays),
            ),
            draw(
                "weights",
                f"Relative movement of the weights, {percent(lazy['weights_moved_end'])} at the end, and by layer.",
                THIRD,
                lambda canvas: _paint_weights(canvas, arrays),
            ),
        ),
        "Kernel distance: 1 − ⟨Θ, Θ₀⟩ / (‖Θ‖ ‖Θ₀‖). Alignment: tr(YᵀΘY) / (‖Θ‖ ‖YYᵀ‖); chance: the same with the "
        "labels shuffled. Weights moved: ‖θ − θ₀‖ / ‖θ₀‖.",
        _table(lazy, arrays),
    )


def sentence(findings: Findings) -> str:
    """What the figures say, in one sentence."""
    lazy = findings["lazy"]
    distance, start, end = lazy["distance_end"], lazy["alignment_start"], lazy["alignment_end"]
    kind = {"lazy": "Training is lazy", "rich": "Training is rich"}.get(regime(distance), "Between lazy and rich")
    return (
        f"{kind}: the kernel ends {percent(distance)} away from where it began, the weights moved by "
        f"{percent(lazy['weights_moved_end'])}, and alignment with the labels {_course(start, end, lazy)}."
    )


def _course(start: Real, end: Real, lazy: Findings) -> str:
    chance = lazy["alignment_chance"]
    near = max(abs(start - chance), abs(end - chance)) <= AT_CHANCE * abs(chance)
    if near:
        return f"stays at chance ({number(end)} against {number(chance)})"
    versus = f"where chance is {number(chance)}"
    if abs(end - start) < 0.02 * abs(start):
        return f"stays at {number(end)}, {versus}"
    return f"{'rises' if end > start else 'falls'} from {number(start)} to {number(end)}, {versus}"


def _ceiling(values: np.ndarray, least: float) -> float:
    return max(1.12 * float(np.nanmax(values)), least)


def _paint_distance(canvas: Canvas, arrays: Arrays) -> None:
    steps, distance = arrays["checkpoints"], arrays["kernel_distance"]
    ax = frame(canvas, left=0.66, right=0.78, bottom=0.56, top=0.66)
    step_axis(ax, float(steps[-1]))
    linear_axis(ax, "y", 0.0, min(_ceiling(distance, 1e-4), 1.0), percent=True)
    ax.plot(steps, distance, color=BLACK, marker="o", markersize=4.5, clip_on=False)
    label_right(ax, [EndLabel(float(distance[-1]), percent(float(distance[-1])), BLACK)])
    ax.set_xlabel("step")
    title(canvas, "Kernel distance", "from the initial kernel (0% = unmoved)")


def _paint_alignment(canvas: Canvas, lazy: Findings, arrays: Arrays) -> None:
    steps, alignment, chance = arrays["checkpoints"], arrays["alignment"], arrays["alignment_chance"]
    ax = frame(canvas, left=0.66, right=0.78, bottom=0.56, top=0.66)
    step_axis(ax, float(steps[-1]))
    exact = lazy["alignment_exact"]
    top = np.concatenate([alignment, chance, [] if exact is None else [exact]])
    linear_axis(ax, "y", min(0.0, float(np.nanmin(top))), min(_ceiling(top, 1e-3), 1.0))
    ax.plot(steps, chance, color=FAINT, linestyle=(0, (4, 3)), linewidth=1.5)
    ax.plot(steps, alignment, color=BLUE, marker="o", markersize=4.5, clip_on=False)
    labels = [
        EndLabel(float(alignment[-1]), number(float(alignment[-1])), BLUE),
        EndLabel(float(chance[-1]), "chance", FAINT),
    ]
    if exact is not None:
        level(ax, exact, "#CC79A7")
        labels.append(EndLabel(exact, "exact", "#CC79A7"))
    label_right(ax, labels)
    ax.set_xlabel("step")
    title(canvas, "Alignment", "of the kernel with the labels")


def _paint_weights(canvas: Canvas, arrays: Arrays) -> None:
    steps, moved, layers = arrays["checkpoints"], arrays["weights_moved"], arrays["weights_moved_by_layer"]
    names = [str(name) for name in arrays["layer_names"]]
    ax = frame(canvas, left=0.66, right=0.95, bottom=0.56, top=0.66)
    step_axis(ax, float(steps[-1]))
    linear_axis(ax, "y", 0.0, _ceiling(np.concatenate([moved, layers.ravel()]), 1e-6), percent=True)
    labels = [EndLabel(float(moved[-1]), "all", BLACK)]
    shown = range(len(names)) if len(names) <= len(_LAYER_COLOURS) else (0, len(names) - 1)
    for index, name in enumerate(_short_names(names)):
        colour = _LAYER_COLOURS[index % 6]
        ax.plot(steps, layers[:, index], color=colour, linestyle=_LAYER_DASHES[index % 6], linewidth=1.5)
        if index in shown:
            labels.append(EndLabel(float(layers[-1, index]), name, colour))
    ax.plot(steps, moved, color=BLACK, linewidth=2.4)
    label_right(ax, labels, size=9.5)
    ax.set_xlabel("step")
    title(canvas, "Weights moved", "relative to their initial size, by layer")


def _short_names(names: list[str], most: int = 11) -> list[str]:
    """Paths without what they share: blocks.0.weight, blocks.2.weight → layer 0, layer 2."""
    paths = [name.split(".") for name in names]
    while len({path[0] for path in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [path[1:] for path in paths]
    while len({path[-1] for path in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [path[:-1] for path in paths]
    short = [".".join(path) for path in paths]
    short = [f"layer {name}" if name.isdigit() else name for name in short]
    return [name if len(name) <= most else f"…{name[1 - most :]}" for name in short]


def _table(lazy: Findings, arrays: Arrays) -> Table:
    rows = [
        ("kernel distance", "0%", percent(lazy["distance_end"]), "–"),
        ("alignment", number(lazy["alignment_start"]), number(lazy["alignment_end"]), number(lazy["alignment_chance"])),
        ("alignment, exact kernel", number(lazy["alignment_exact"]), "–", number(lazy["alignment_chance"])),
        ("weights moved, all", "0%", percent(lazy["weights_moved_end"]), "–"),
    ]
    for name, moved in zip(arrays["layer_names"], arrays["weights_moved_by_layer"][-1], strict=True):
        rows.append((f"weights moved, {name}", "0%", percent(float(moved)), "–"))
    rows.append(("called lazy below, rich above", percent(LAZY_BELOW), percent(RICH_ABOVE), "–"))
    return Table(("quantity", "before", f"after {count(int(arrays['checkpoints'][-1]))} steps", "chance"), tuple(rows))
