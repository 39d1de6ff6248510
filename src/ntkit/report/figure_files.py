"""A figure as files for slides and papers: PNG and SVG on white, beside the one that goes into the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure as Canvas

from ntkit.report.page import Figure
from ntkit.report.style import draw, styled

_DOTS_PER_INCH = 200
_NAMELESS = {  # no date and no version in a file, so that the same figure gives the same bytes
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}


def draw_files(
    folder: Path, name: str, label: str, size: tuple[float, float], paint: Callable[[Canvas], None]
) -> Figure:
    """The figure for a page, as `draw` gives it; NAME.png and NAME.svg are written too.

    Args:
        folder: where the files go; it exists.
        name: one word, different for each figure of a page.
        label: what a reader who cannot see the figure is told.
        size: width and height in inches.
        paint: draws on the empty canvas.

    Example:
        >>> import tempfile, pathlib
        >>> from ntkit.report.figure_files import draw_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = draw_files(pathlib.Path(folder), "empty", "nothing", (2.0, 1.0), lambda canvas: None)
        ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
        ['empty.png', 'empty.svg']
    """
    with styled():
        canvas = Canvas(figsize=size)
        paint(canvas)
        for form, metadata in _NAMELESS.items():
            path = folder / f"{name}.{form}"
            canvas.savefig(path, format=form, dpi=_DOTS_PER_INCH, facecolor="white", metadata=metadata)
    return draw(name, label, size, paint)
