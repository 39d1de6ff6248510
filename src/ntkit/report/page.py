"""What a page is, as data, and the one file it becomes: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ntkit.errors import InvalidInput
from ntkit.report.requirements import require_report_libraries


@dataclass(frozen=True)
class Figure:
    """A drawing as an inline SVG element, and the sentence read aloud in its place."""

    svg: str
    label: str


@dataclass(frozen=True)
class Tile:
    """One telling number: what it is, its value, and what to compare it with."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; every row is as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A question, the figures that answer it, and one sentence of what they say; the rest folds away."""

    name: str
    question: str
    sentence: str
    figures: tuple[Figure, ...]
    caption: str
    details: Table


@dataclass(frozen=True)
class Facts:
    """A titled list of names and values."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Link:
    """A file that lies beside the page."""

    href: str
    text: str


@dataclass(frozen=True)
class Page:
    """All that is on the page, from top to bottom.

    `notices` are what a reader must know before believing a figure; `conventions` and `facts` say how it was made.
    """

    kicker: str
    title: str
    summary: str
    notices: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    conventions: tuple[str, ...]
    facts: tuple[Facts, ...]
    links: tuple[Link, ...]


def render_page(page: Page) -> str:
    """The page as one HTML document; all text is escaped, figures go in as they are.

    Args:
        page: what to show.

    Returns:
        HTML with its styles and figures inside; the same page gives the same bytes.

    Raises:
        MissingDependency: jinja2 or matplotlib is not installed.

    Example:
        >>> from ntkit.report import Page, render_page
        >>> page = Page("study", "a < b", "", (), (), (), (), (), ())
        >>> "<h1>a &lt; b</h1>" in render_page(page)
        True
    """
    require_report_libraries()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = resources.files("ntkit.report") / "templates"
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    style = (folder / "page.css").read_text(encoding="utf-8")
    return template.render(page=page, style=style) + "\n"


def write_page(page: Page, path: Path) -> None:
    """Render `page` into the file `path`, whole or not at all.

    Args:
        page: what to show.
        path: the HTML file; its folder exists.

    Raises:
        InvalidInput: the file cannot be written.
        MissingDependency: jinja2 or matplotlib is not installed.

    Example:
        >>> import tempfile, pathlib
        >>> from ntkit.report import Page, write_page
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page(Page("study", "a", "", (), (), (), (), (), ()), pathlib.Path(folder) / "index.html")
        ...     [file.name for file in pathlib.Path(folder).iterdir()]
        ['index.html']
    """
    html = render_page(page)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(html, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    except OSError as error:
        raise InvalidInput(
            f"cannot write the page {path} ({error.strerror}); give a file in an existing folder that can be written"
        ) from error
    finally:
        if path.parent.is_dir():
            unfinished.unlink(missing_ok=True)
