"""One self-contained HTML page from questions, sentences, figures and tables; it knows nothing of networks.

`page` holds what a page is and writes it; `wording` writes numbers for people; `style`, `axes` and `labels` make
the figures and are imported by name, because they need matplotlib.
"""

from ntkit.report.page import Facts, Figure, Link, Page, Section, Table, Tile, render_page, write_page
from ntkit.report.requirements import require_report_libraries

__all__ = [
    "Facts",
    "Figure",
    "Link",
    "Page",
    "Section",
    "Table",
    "Tile",
    "render_page",
    "require_report_libraries",
    "write_page",
]
