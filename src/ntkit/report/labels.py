"""Labels that stand at the end of their curve in place of a legend, pushed apart until none covers another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory
from scipy.optimize import isotonic_regression

from ntkit.report.style import RULE, ink
from ntkit.report.wording import Real

_LINE_HEIGHT = 1.25  # of the font size
_LETTER_WIDTH = 0.62  # likewise, of a wide sans serif
_SIZE = 10.0  # points


@dataclass(frozen=True)
class EndLabel:
    """A text of a colour, wanted at `at` on the vertical axis."""

    at: Real
    text: str
    colour: str


def spread(
    wanted: Float[np.ndarray, "k"], sizes: Float[np.ndarray, "k"], low: Real, high: Real
) -> Float[np.ndarray, "k"]:
    """Centres nearest to the wanted ones (least squares) in [low, high], in the same order, none covering another.

    Neighbours need p_{i+1} − p_i ≥ (s_i + s_{i+1})/2; less the sum of these gaps, p never falls: an isotonic
    regression. Where all do not fit, the gaps shrink until they do.

    Args:
        wanted: (k,) centres, in any order.
        sizes: (k,) extents.
        low: the lowest centre.
        high: the highest centre.

    Returns:
        (k,) centres, in the order of `wanted`.

    Example:
        >>> import numpy as np
        >>> from ntkit.report.labels import spread
        >>> spread(np.array([0.5, 0.5, 0.9]), np.full(3, 0.2), 0.0, 1.0).round(3).tolist()
        [0.4, 0.6, 0.9]

    Reference:
        Best & Chakravarti, "Active set algorithms for isotonic regression", Mathematical Programming 1990.
    """
    if len(wanted) == 0:
        return wanted.astype(float)
    order = np.argsort(wanted, kind="stable")
    ordered = sizes[order]
    steps = np.concatenate([[0.0], np.cumsum((ordered[1:] + ordered[:-1]) / 2)])
    if steps[-1] > high - low:
        steps *= (high - low) / steps[-1]
    shifted = np.clip(isotonic_regression(wanted[order] - steps).x, low, high - steps[-1])
    places = np.empty(len(wanted))
    places[order] = shifted + steps
    return places


def label_right(ax: Axes, labels: list[EndLabel], *, size: float = _SIZE) -> None:
    """Write labels in the right margin, each beside its value, with a short leader where it had to move."""
    if not labels:
        return
    points = ax.transData.transform([(ax.get_xlim()[1], label.at) for label in labels])
    wanted = np.clip(ax.transAxes.inverted().transform(points)[:, 1], 0.0, 1.0)
    canvas = ax.get_figure(root=True)
    assert canvas is not None  # every axes of ours was made by a figure
    height = 72 * canvas.get_size_inches()[1] * ax.get_position().height  # in points
    lines = np.array([1 + label.text.count("\n") for label in labels])
    places = spread(wanted, lines * _LINE_HEIGHT * size / height, 0.0, 1.0)
    offset = 72 * canvas.get_size_inches()[0] * ax.get_position().width
    for label, at, place in zip(labels, wanted, places, strict=True):
        x = [1 + 2 / offset, 1 + 8 / offset]
        ax.plot(x, [at, place], transform=ax.transAxes, clip_on=False, color=label.colour, linewidth=0.9)
        ax.annotate(
            label.text,
            (1, place),
            xycoords="axes fraction",
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=ink(label.colour),
        )


def label_top(ax: Axes, at: list[float], texts: list[str], colours: list[str], *, size: float = _SIZE) -> None:
    """Write labels in a row above the axes, each over its place on the horizontal axis."""
    if not texts:
        return
    points = ax.transData.transform([(x, ax.get_ylim()[1]) for x in at])
    canvas = ax.get_figure(root=True)
    assert canvas is not None
    width = 72 * canvas.get_size_inches()[0] * ax.get_position().width
    wanted = np.clip(ax.transAxes.inverted().transform(points)[:, 0], 0.0, 1.0)
    sizes = np.array([(_LETTER_WIDTH * len(text) + 0.8) * size / width for text in texts])
    places = spread(wanted, sizes, 0.0, 1.0)
    for text, place, colour in zip(texts, places, colours, strict=True):
        ax.annotate(
            text,
            (float(place), 1),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=size,
            color=ink(colour),
        )


def level(ax: Axes, y: Real, colour: str = RULE) -> None:
    """A dashed line across the axes at height `y`."""
    across = blended_transform_factory(ax.transAxes, ax.transData)
    ax.plot([0, 1], [y, y], transform=across, color=colour, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1.5)
