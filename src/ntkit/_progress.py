"""Progress bars with the time left, or silence: what long jobs report to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


class Advance(Protocol):
    """Moves a bar by a step; `total` is a new estimate of how many steps there are, where that is not known before."""

    def __call__(self, total: int | None = None) -> None: ...


class Reporter:
    """Shows one bar a stage on standard error, or nothing.

    Args:
        show: whether to show anything.
    """

    def __init__(self, show: bool):
        self.show = show
        self._progress: Progress | None = None

    @contextmanager
    def running(self) -> Iterator[Reporter]:
        """Bars are shown within."""
        columns = (
            TextColumn("{task.description:44s}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), disable=not self.show) as progress:
            self._progress = progress
            try:
                yield self
            finally:
                self._progress = None

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Advance]:
        """One bar; gives the function that advances it by a step. It ends full, also when fewer steps were needed."""
        progress = self._progress
        if progress is None:
            yield lambda total=None: None
            return
        task = progress.add_task(what, total=total)

        def advance(total: int | None = None) -> None:
            progress.update(task, advance=1, total=total)

        yield advance
        done = int(progress.tasks[task].completed)
        progress.update(task, completed=max(done, 1), total=max(done, 1))

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, one step of a bar each."""
        with self.stage(what, total) as advance:
            for item in items:
                yield item
                advance()
