"""Which axes of a tensor a reshape merges, and into which one splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ntkit.architecture.layout import BATCH, Axis, Layout, Size


def group_axes(layout: Layout, shape: tuple[Any, ...]) -> tuple[Axis, ...] | None:
    """The axes after a reshape that merges neighbouring ones; None where it splits them or is not certain to do so.

    Args:
        layout: before.
        shape: the sizes that forward gives: numbers, sizes it has read, at most one −1.
    """
    if sum(isinstance(size, int) and size == -1 for size in shape) > 1:
        return None
    found = [axes for axes in _partitions(layout.axes, len(shape)) if _fits(layout, axes, shape)]
    return found[0] if len(found) == 1 else None


def split_axis(layout: Layout, axis: Axis, sizes: tuple[Any, ...]) -> tuple[Axis, ...] | None:
    """What the axes hold into which one is split; None where that cuts through what it holds, or is not certain.

    Args:
        layout: before.
        axis: what the one holds.
        sizes: of the axes that it becomes: numbers, at most one −1.
    """
    if not sizes:
        return () if not axis else None
    for count in range(len(axis), -1, -1):
        first, rest = axis[:count], split_axis(layout, axis[count:], sizes[1:])
        if rest is not None and (sizes[0] == -1 or layout.extent(first) == sizes[0]):
            return first, *rest
    return None


def _partitions(axes: tuple[Axis, ...], groups: int) -> Iterator[tuple[Axis, ...]]:
    """All ways to merge neighbouring axes into so many groups."""
    if groups == 1:
        yield (tuple(label for axis in axes for label in axis),)
        return
    for first in range(1, len(axes) - groups + 2):
        merged = tuple(label for axis in axes[:first] for label in axis)
        for rest in _partitions(axes[first:], groups - 1):
            yield (merged, *rest)


def _fits(layout: Layout, axes: tuple[Axis, ...], shape: tuple[Any, ...]) -> bool:
    if axes[0] != (BATCH,):
        return False
    for axis, size in zip(axes, shape, strict=True):
        wanted = size if isinstance(size, Size) else Size((), size) if isinstance(size, int) else None
        if wanted is None or (wanted.number != -1 and not _equal(layout.size(axis), wanted)):
            return False
    return True


def _equal(one: Size, two: Size) -> bool:
    return one.number == two.number and sorted(map(str, one.labels)) == sorted(map(str, two.labels))
