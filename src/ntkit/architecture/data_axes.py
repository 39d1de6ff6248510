"""What the axes of the data hold: not known until a layer says it, and then for all that reads the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ntkit.architecture.layout import BATCH, CHANNEL, DataAxis, Label, Layout, LayoutError


@dataclass
class DataAxes:
    """What layers have said so far.

    Args:
        roles: each axis after the batch axis -> CHANNEL, or its number among the axes of positions; empty while not
            known.
    """

    roles: dict[DataAxis, Label] = field(default_factory=dict)

    def resolved(self, layout: Layout) -> Layout:
        """The layout in terms of channels and positions, as far as they are known."""
        if not self.roles or not _is_raw(layout):
            return layout
        layout = replace(layout.shown_to(len(self.roles) + 1), open=False)
        axes = tuple(tuple(self._role(label) for label in axis) for axis in layout.axes)
        return replace(layout, axes=axes, sizes=(None,) * sum(role != CHANNEL for role in self.roles.values()))

    def say(self, layout: Layout, rank: int, channel_dim: int) -> None:
        """A layer reads a tensor of the data as one of `rank` axes with channels on `channel_dim`."""
        if self.roles or not _is_raw(layout):
            return
        layout = replace(layout.shown_to(rank), open=False)
        channel = layout.axes[channel_dim] if channel_dim < len(layout.axes) else ()
        others = [label for axis in layout.axes for label in axis if label != BATCH and (label,) != channel]
        if len(channel) != 1 or channel == (BATCH,):
            raise LayoutError(f"reads data whose axes hold {layout}; give each axis one meaning")
        self.roles[_raw(channel[0])] = CHANNEL
        self.roles.update({_raw(label): number for number, label in enumerate(others)})

    def say_tokens(self, layout: Layout) -> None:
        """A layer reads the data as numbers of tokens, one a position."""
        if self.roles or not _is_raw(layout):
            return
        layout = replace(layout.shown_to(2), open=False)
        labels = [label for axis in layout.axes for label in axis if label != BATCH]
        self.roles.update({_raw(label): number for number, label in enumerate(labels)})

    def grid(self) -> tuple[int | None, tuple[int, ...]]:
        """(axis of the channels, axes of the positions in the order of the grid); (None, ()) for vectors.

        Of tokens, which have no channels, (None, axes of the positions).
        """
        place = {role: axis.number for axis, role in self.roles.items()}
        channel = place.pop(CHANNEL, None)
        positions = tuple(place[number] for number in range(len(place)))
        return (channel if positions else None), positions

    def is_in_order(self, layout: Layout) -> bool:
        """Whether a tensor shows the axes of the data in the order in which they came."""
        numbers = {role: axis.number for axis, role in self.roles.items()}
        labels = (label for axis in layout.axes for label in axis if label != BATCH)
        shown = [label.number if isinstance(label, DataAxis) else numbers[label] for label in labels]
        return shown == sorted(shown)

    def _role(self, label: Label) -> Label:
        if not isinstance(label, DataAxis):
            return label
        if label not in self.roles:
            raise LayoutError(
                f"reads axis {label.number} of the data, but another layer takes data of {len(self.roles) + 1} axes"
            )
        return self.roles[label]


def _is_raw(layout: Layout) -> bool:
    return layout.open or any(isinstance(label, DataAxis) for axis in layout.axes for label in axis)


def _raw(label: Label) -> DataAxis:
    if not isinstance(label, DataAxis):
        raise LayoutError("reads data whose axes have been moved in a way that has no rule")
    return label
