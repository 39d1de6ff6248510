"""The two libraries a page needs; neither is imported before a page is written."""

from __future__ import annotations

from importlib import import_module

from ntkit.errors import MissingDependency

_LIBRARIES = ("matplotlib", "jinja2")


def require_report_libraries() -> None:
    """Import what pages and figures need.

    Raises:
        MissingDependency: matplotlib or jinja2 is not installed; the message names the extra.

    Example:
        >>> from ntkit.report import require_report_libraries
        >>> require_report_libraries()
    """
    for library in _LIBRARIES:
        try:
            import_module(library)
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"the page is drawn and written with {' and '.join(_LIBRARIES)}, but {library} cannot be imported "
                f'(no module {error.name!r}); run: pip install "ntkit[report]"'
            ) from error
