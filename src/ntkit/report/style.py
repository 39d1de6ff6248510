"""How every figure looks: colours, line styles, type, and the SVG that comes out, byte for byte repeatable.

Colours are those of Okabe & Ito, "Color Universal Design" (2008), which colour-blind readers tell apart; each
curve also has its own dash, so that a figure survives a black-and-white printer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure as Canvas

from ntkit.report.page import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
INK, FAINT, RULE = "#1b1f24", "#57606a", "#d0d7de"

HALF, THIRD = (4.6, 3.6), (3.6, 3.9)  # inches: two, or three, beside each other; a phone shows one at about 1:1

_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # measures the text; the reader's own, narrower, font shows it
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",  # the card behind may be any light colour
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "svg.fonttype": "none",  # text stays text: to select, to search, to read aloud
    "svg.hashsalt": "ntkit",
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is not a formula
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Line:
    """How one quantity is drawn wherever it appears."""

    name: str
    colour: str
    dash: Any = "-"
    marker: str = "o"
    width: float = 2.0

    @property
    def style(self) -> dict[str, Any]:
        """Keywords for `Axes.plot`."""
        return {"color": self.colour, "linestyle": self.dash, "linewidth": self.width}


def ink(colour: str) -> str:
    """A darker shade of a colour, for text of that colour on white.

    Example:
        >>> from ntkit.report.style import ink
        >>> ink("#ff8000")
        '#b85c00'
    """
    red, green, blue = (0.72 * channel for channel in to_rgb(colour))
    return to_hex((red, green, blue))


@contextmanager
def styled() -> Iterator[None]:
    """Within, matplotlib draws by the settings of this file."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def draw(name: str, label: str, size: tuple[float, float], paint: Callable[[Canvas], None]) -> Figure:
    """A figure of `size` inches that `paint` fills; settings of the reader's matplotlib have no say.

    Args:
        name: one word, different for each figure of a page; its ids begin with it.
        label: what a reader who cannot see the figure is told.
        size: width and height in inches.
        paint: draws on the empty canvas.

    Example:
        >>> from ntkit.report.style import draw
        >>> draw("empty", "nothing", (2.0, 1.0), lambda canvas: None).svg[:25]
        '<svg viewBox="0 0 144 72"'
    """
    with styled():
        canvas = Canvas(figsize=size)
        canvas.patch.set_visible(False)
        paint(canvas)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", metadata=nothing)
    return Figure(_inline(buffer.getvalue(), name, size), label)


def _inline(svg: str, name: str, size: tuple[float, float]) -> str:
    """The bare element: as wide as its place, its ids apart from those of other figures, no styles of its own."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    width, height = (round(72 * inches) for inches in size)
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return f'<svg viewBox="0 0 {width} {height}" {namespaces}>{body}'


def frame(
    canvas: Canvas, *, left: float, right: float, bottom: float = 0.54, top: float = 0.62, sharex: Axes | None = None
) -> Axes:
    """Axes with the given margins in inches, faint horizontal rules and no box."""
    width, height = canvas.get_size_inches()
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    ax = canvas.add_axes(box, sharex=sharex)
    ax.grid(axis="y", color=RULE, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(length=3, pad=3)
    return ax


def title(canvas: Canvas, text: str, quantity: str) -> None:
    """What the figure shows, and under it the quantity of the vertical axis with its unit."""
    width, height = canvas.get_size_inches()
    canvas.text(0.08 / width, 1 - 0.22 / height, text, fontsize=11.5, fontweight="bold", va="center")
    canvas.text(0.08 / width, 1 - 0.44 / height, quantity, fontsize=10, color=FAINT, va="center")
