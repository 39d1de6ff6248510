"""What the axes of a recorded tensor hold: samples, channels, positions, or several of these merged.

A layer's output lives on a grid of positions, whose axes are numbered 0, 1, …. Permutations, flattening and squeezing
only change how a tensor shows that grid, so they change the layout and compute nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

BATCH, CHANNEL = "n", "c"


@dataclass(frozen=True, order=True)
class DataAxis:
    """An axis of the data before a layer has said what it holds."""

    number: int


Label = str | int | DataAxis  # BATCH, CHANNEL, the number of an axis of the grid, or an axis of the data
Axis = tuple[Label, ...]  # what one axis of a tensor holds, slowest first; () for an axis of one entry


class LayoutError(ValueError):
    """A move of axes that has no meaning here; the reader adds the path."""


@dataclass(frozen=True)
class Size:
    """The size of an axis as forward reads it: `number` times the sizes of what is not known yet."""

    labels: Axis = ()
    number: int = 1

    def __mul__(self, other: Size) -> Size:
        return Size(self.labels + other.labels, self.number * other.number)

    @property
    def is_batch(self) -> bool:
        """Whether it is the number of samples."""
        return self == Size((BATCH,))


@dataclass(frozen=True)
class Layout:
    """The axes of a tensor.

    Args:
        axes: what each one holds; axes of the grid that have one position are left out.
        sizes: positions along each axis of the grid, None where it depends on the data.
        channels: how many, None where not known yet.
        open: whether more axes of the data may follow, as nothing has said their number yet.
    """

    axes: tuple[Axis, ...]
    sizes: tuple[int | None, ...] = ()
    channels: int | None = None
    open: bool = False

    def __str__(self) -> str:
        shown = [" x ".join(map(_shown, axis)) or "1" for axis in self.axes]
        return f"({', '.join(shown)}{', ...' if self.open else ''})"

    @property
    def is_vector(self) -> bool:
        """Whether the grid has one position."""
        return all(size == 1 for size in self.sizes)

    def dim(self, number: int) -> int:
        """An axis counted from either end as one from the front."""
        rank = len(self.axes)
        if not isinstance(number, int) or isinstance(number, bool):
            raise LayoutError(f"names the axis {number!r}, and a fixed whole number is wanted")
        if not -rank <= number < rank or (self.open and number < 0):
            told = "of data whose number of axes nothing has told yet" if self.open else f"of {rank}"
            raise LayoutError(f"names axis {number} {told}")
        return number % rank

    def shown_to(self, rank: int) -> Layout:
        """The layout with at least `rank` axes, where it is open."""
        if not self.open:
            return self
        more = tuple((DataAxis(i),) for i in range(len(self.axes), rank))
        return replace(self, axes=self.axes + more)

    def size(self, labels: Sequence[Label]) -> Size:
        """The product of the sizes of labels."""
        total = Size()
        for label in labels:
            known = self.channels if label == CHANNEL else self.sizes[label] if isinstance(label, int) else None
            total = total * (Size((label,)) if known is None else Size((), known))
        return total

    def extent(self, axis: Axis) -> int | None:
        """Entries of an axis, None where not known."""
        size = self.size(axis)
        return None if size.labels else size.number

    def positions_of(self, dim: int) -> tuple[int, ...]:
        """The axes of the grid that an axis holds, where it holds nothing else."""
        labels = self.axes[dim]
        numbers = tuple(label for label in labels if isinstance(label, int))
        if len(numbers) < len(labels):
            what = "samples" if BATCH in labels else "channels" if CHANNEL in labels else "data"
            raise LayoutError(f"acts along axis {dim} of {self}, which holds {what} and not positions alone")
        return numbers

    # ---- moves -------------------------------------------------------------------------------------------------

    def permuted(self, order: Sequence[int]) -> Layout:
        """Axes in a new order."""
        if self.open:
            return replace(self.shown_to(len(order)), open=False).permuted(order)
        dims = [self.dim(number) for number in order]
        if sorted(dims) != list(range(len(self.axes))):
            raise LayoutError(f"orders axes as {tuple(order)}, which does not name each of {self} once")
        return replace(self, axes=tuple(self.axes[d] for d in dims))

    def swapped(self, one: int, two: int) -> Layout:
        """Two axes exchanged."""
        shown = self.shown_to(max(one, two) + 1)
        one, two = shown.dim(one), shown.dim(two)
        axes = list(shown.axes)
        axes[one], axes[two] = axes[two], axes[one]
        return replace(shown, axes=tuple(axes))

    def flattened(self, start: int, end: int) -> Layout:
        """Axes start … end merged into one."""
        first, last = self.dim(start), self.dim(end)
        merged = tuple(label for axis in self.axes[first : last + 1] for label in axis)
        if BATCH in merged and len(merged) > 1:
            raise LayoutError("mixes samples with other axes; flatten from axis 1 on, after the batch axis")
        return replace(self, axes=(*self.axes[:first], merged, *self.axes[last + 1 :]))

    def squeezed(self, dims: Sequence[int]) -> Layout:
        """Without axes of one entry."""
        gone = {self.dim(d) for d in dims}
        for d in gone:
            if self.extent(self.axes[d]) != 1:
                raise LayoutError(f"drops axis {d} of {self}, which need not have one entry")
        return replace(self, axes=tuple(axis for d, axis in enumerate(self.axes) if d not in gone))

    def unsqueezed(self, at: int) -> Layout:
        """With an axis of one entry in front of axis `at`."""
        rank = len(self.axes) + 1
        if self.open or not -rank <= at < rank:
            raise LayoutError(f"adds an axis at {at} to {self}")
        at %= rank
        return replace(self, axes=(*self.axes[:at], (), *self.axes[at:]))

    def regridded(self, shown: dict[int, int | None], sizes: tuple[int | None, ...]) -> Layout:
        """After a layer changed the sizes of the grid.

        Args:
            shown: which axis of the grid an axis of the tensor shows from now on, where that changes.
            sizes: of the grid.
        """
        axes = list(self.axes)
        for dim, number in shown.items():
            axes[dim] = () if number is None else (number,)
        kept = (tuple(label for label in axis if not (isinstance(label, int) and sizes[label] == 1)) for axis in axes)
        return replace(self, axes=tuple(kept), sizes=sizes)

    def grid_axes(self, dims: Sequence[int]) -> dict[int, int | None]:
        """Which axis of the grid each axis of the tensor shows, for layers with a window along each of them.

        An axis of one entry stands for an axis of the grid with one position, None where the grid has none left.
        """
        held = {label for axis in self.axes for label in axis}
        free = [k for k, size in enumerate(self.sizes) if size == 1 and k not in held]
        found: dict[int, int | None] = {}
        for d in dims:
            numbers = self.positions_of(d)
            if len(numbers) > 1:
                raise LayoutError(f"acts along axis {d} of {self}, which holds several axes of positions merged")
            found[d] = numbers[0] if numbers else (free.pop(0) if free else None)
        return found


def _shown(label: Label) -> str:
    match label:
        case DataAxis():
            return f"axis {label.number} of the data"
        case int():
            return f"positions {label}"
        case _:
            return {BATCH: "batch", CHANNEL: "channels"}[label]


DATA = Layout(((BATCH,),), open=True)
VECTOR_AXES: tuple[Axis, ...] = ((BATCH,), (CHANNEL,))
