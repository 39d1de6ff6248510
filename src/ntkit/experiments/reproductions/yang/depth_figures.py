"""The figures of yang-depth: curves over degrees, and heat maps of eight degrees with one scale of colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage

from ntkit.experiments.reproductions.experiment import Arrays, Findings
from ntkit.experiments.reproductions.yang.depth_claims import DEPTHS, KERNELS, LARGEST, NAMES, optima
from ntkit.report.axes import log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import BLUE, INK, RULE, VERMILION, frame, title
from ntkit.report.wording import Real, number, percent, tick

COLOURS = {"ntk": BLUE, "nngp": VERMILION}
_MARKERS = {"ntk": "o", "nngp": "s"}
_COLOURS_OF_SHARES = "viridis"  # perceptually uniform, and read alike by colour-blind people
_COLUMNS = 2
_WIDTH, _ROW, _AROUND = 4.6, 1.4, 2.0  # inches: of a figure of panels, of each of its rows, and of what is around them
_FINE = 300  # pixels along an axis that is not linear
_TICKS = (0, 1, 3, 10, 30, 100)  # depths
_BIAS_TICKS = (0, 0.1, 0.5, 1, 2, 4)  # σ_b², on an axis of σ_b, as most happens at small ones


def paint_depths(canvas: Canvas, findings: Findings) -> None:
    """Optimal depth against degree, found and published."""
    ax = frame(canvas, left=0.62, right=1.2)
    ends = []
    for kernel in KERNELS:
        rows = optima(findings, "relu", kernel)
        _with_published(ax, rows, [row["depth"] for row in rows], DEPTHS[kernel], kernel)
        ends.append(EndLabel(rows[-1]["depth"], NAMES[kernel].replace(" ", "\n"), COLOURS[kernel]))
    top = max(end.at for end in ends)
    ax.set_ylim(-0.4, top + 0.9)
    ax.set_yticks(range(0, int(top) + 1, 2))
    _degree_axis(ax, findings)
    label_right(ax, ends)
    title(canvas, "Best depth, ReLU", "hidden layers; rings: published")


def paint_largest(canvas: Canvas, findings: Findings) -> None:
    """Largest share against degree, found and published."""
    ax = frame(canvas, left=0.74, right=1.2)
    ends, everything = [], []
    for kernel in KERNELS:
        rows = optima(findings, "relu", kernel)
        shares = [row["share"] for row in rows]
        _with_published(ax, rows, shares, LARGEST[kernel], kernel)
        everything += shares
        ends.append(EndLabel(shares[-1], NAMES[kernel].replace(" ", "\n"), COLOURS[kernel]))
    log_axis(ax, "y", min(everything) / 1.6, 1.6)
    _degree_axis(ax, findings)
    label_right(ax, ends)
    title(canvas, "Largest share, ReLU", "of the kernel's trace; rings: published")


def _with_published(ax: Axes, rows: list[Findings], values: Sequence[Real], there: Sequence[Real], kernel: str):
    degrees = [row["degree"] for row in rows]
    ax.plot(degrees, values, color=COLOURS[kernel], marker=_MARKERS[kernel], markersize=5)
    ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.1, "linestyle": "none"}
    ax.plot(degrees, there[: len(degrees)], color=COLOURS[kernel], **ring)


def _degree_axis(ax: Axes, findings: Findings) -> None:
    ax.set_xlim(0.6, findings["degrees"] + 0.4)
    ax.set_xticks(range(1, findings["degrees"] + 1))
    ax.set_xlabel("degree")


def panels_size(findings: Findings) -> tuple[float, float]:
    """Width and height in inches of a figure with a panel a degree."""
    return _WIDTH, _AROUND + _ROW * -(-findings["degrees"] // _COLUMNS)


def paint_relu(canvas: Canvas, findings: Findings, arrays: Arrays, kernel: str) -> None:
    """Shares over depth and σ_b², one panel a degree."""
    shares, b_square = arrays[f"relu_{kernel}"], arrays["b_square"]
    places = np.linspace(0, np.log2(1 + findings["max_depth"]), _FINE)
    at = np.rint(2**places - 1).astype(int)

    def paint(ax: Axes, row: Findings) -> AxesImage:
        values = shares[at, :, row["degree"]] / row["share"]
        image = _image(ax, values, (0.0, places[-1]), b_square, vmax=1.0)
        ticks = [depth for depth in _TICKS if depth <= findings["max_depth"]]
        ax.set_xticks(np.log2(1 + np.array(ticks)), [str(depth) for depth in ticks])
        _mark(ax, np.log2(1 + row["depth"]), row["b_square"])
        return image

    rows = optima(findings, "relu", kernel)
    _panels(canvas, rows, paint, [f"degree {r['degree']}: {percent(r['share'])}, depth {r['depth']}" for r in rows],
            ("hidden layers", "σ_b²"), "share, of the largest of the degree", (0.0, 0.5, 1.0), percent)  # fmt: skip
    title(canvas, f"ReLU, {NAMES[kernel]}", "share of each degree over depth and σ_b²; ○ its largest")


def paint_erf_largest(canvas: Canvas, findings: Findings, arrays: Arrays, kernel: str) -> None:
    """The largest share that any depth gives, over σ_w² and σ_b², one panel a degree."""
    shares = arrays[f"erf_{kernel}_largest"]

    def values(row: Findings) -> Float[np.ndarray, "w b"]:
        return shares[..., row["degree"]] / row["share"]

    rows = optima(findings, "erf", kernel)
    paint = _over_scales(findings, values, vmax=1.0)
    _panels(canvas, rows, paint, [f"degree {row['degree']}: {percent(row['share'])}" for row in rows],
            ("σ_w²", "σ_b²"), "share, of the largest of the degree", (0.0, 0.5, 1.0), percent)  # fmt: skip
    title(canvas, f"erf, {NAMES[kernel]}: shares", "of each degree at its best depth; ○ the largest")


def paint_erf_depth(canvas: Canvas, findings: Findings, arrays: Arrays, kernel: str) -> None:
    """The depth with the largest share, over σ_w² and σ_b², one panel a degree."""
    depths, shares = arrays[f"erf_{kernel}_depth"], arrays[f"erf_{kernel}_largest"]

    def values(row: Findings) -> Float[np.ndarray, "w b"]:
        own = np.log2(1 + depths[..., row["degree"]])
        return np.where(shares[..., row["degree"]] > 0, own, np.nan)  # where there is no share no depth is best

    top = float(np.log2(1 + findings["max_depth"]))
    ticks = np.log2(1 + np.array([depth for depth in _TICKS if depth <= findings["max_depth"]]))
    rows = optima(findings, "erf", kernel)
    paint = _over_scales(findings, values, vmax=top)
    _panels(canvas, rows, paint, [f"degree {row['degree']}: depth {row['depth']}" for row in rows],
            ("σ_w²", "σ_b²"), "best depth, hidden layers", ticks, lambda x: number(2**x - 1))  # fmt: skip
    title(canvas, f"erf, {NAMES[kernel]}: best depth", "for each degree; ○ where its share is largest")


def _over_scales(findings: Findings, values: Callable[[Findings], np.ndarray], *, vmax: float):
    w_square, b_square = (np.array(findings["erf"][scale]) for scale in ("w_square", "b_square"))
    at = _nearest(w_square, np.linspace(w_square[0], w_square[-1], _FINE))

    def paint(ax: Axes, row: Findings) -> AxesImage:
        image = _image(ax, values(row)[at], (w_square[0], w_square[-1]), b_square, vmax=vmax)
        _mark(ax, row["w_square"], row["b_square"])
        return image

    return paint


def _nearest(known: Float[np.ndarray, "n"], wanted: Float[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    return np.abs(known - wanted[:, None]).argmin(axis=1)


def _image(
    ax: Axes, values: Float[np.ndarray, "x b"], ends: tuple[float, float], b_square: Float[np.ndarray, "b"],
    *,
    vmax: float,
) -> AxesImage:  # fmt: skip
    """Pixels as they are, over σ_b upwards and an axis with the given ends."""
    top = float(b_square[-1] ** 0.5)
    at = _nearest(b_square, np.linspace(0, top, _FINE) ** 2)
    image = ax.imshow(
        values[:, at].T, cmap=colormaps[_COLOURS_OF_SHARES].with_extremes(bad=RULE), origin="lower", aspect="auto",
        interpolation="none", extent=(*ends, 0.0, top), vmin=0.0, vmax=vmax,
    )  # fmt: skip
    ax.set_yticks(
        [b**0.5 for b in _BIAS_TICKS if b <= b_square[-1]], [tick(b) for b in _BIAS_TICKS if b <= b_square[-1]]
    )
    return image


def _mark(ax: Axes, x: float, b_square: float) -> None:
    style = {"marker": "o", "markersize": 7, "markerfacecolor": "white", "markeredgecolor": INK, "clip_on": False}
    ax.plot([x], [b_square**0.5], zorder=4, markeredgewidth=1.2, **style)


def _panels(
    canvas: Canvas,
    rows: list[Findings],
    paint: Callable[[Axes, Findings], AxesImage],
    names: list[str],
    labels: tuple[str, str],
    quantity: str,
    ticks: Sequence[float] | np.ndarray,
    write: Callable[[Any], str],
) -> None:
    """Panels in two columns, with axes labelled at the edge, and the scale of colours under them."""
    width, height = canvas.get_size_inches()
    used, image = -(-len(rows) // _COLUMNS), None
    left, right, top, bottom, across, down = 0.7, 0.3, 0.84, 1.16, 0.32, 0.36  # inches
    each = (width - left - right - across) / _COLUMNS, (height - top - bottom - (used - 1) * down) / used
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        i, j = divmod(place, _COLUMNS)
        x, y = left + j * (each[0] + across), height - top - (i + 1) * each[1] - i * down
        ax = canvas.add_axes((x / width, y / height, each[0] / width, each[1] / height))
        image = paint(ax, row)
        ax.set_title(name, fontsize=9, pad=4, loc="left")
        ax.tick_params(length=3, pad=2, labelsize=9, labelbottom=i == used - 1, labelleft=j == 0)
        ax.set_xlabel(labels[0] if i == used - 1 else "", labelpad=1, fontsize=9.5)
        ax.set_ylabel(labels[1] if j == 0 else "", labelpad=3, fontsize=9.5)
    assert image is not None  # there is a degree
    bar = canvas.add_axes((left / width, 0.5 / height, (width - left - right) / width, 0.12 / height))
    scale = canvas.colorbar(image, cax=bar, orientation="horizontal")
    scale.set_ticks(list(ticks), labels=[write(at) for at in ticks])
    scale.set_label(quantity, fontsize=9.5, labelpad=2)
    bar.tick_params(length=3, pad=2, labelsize=9)
