"""The network as it grows while a record is read: nodes, and what layers have said about the data.

A value is an elementwise expression over an earlier node, made into a node of its own only when something else than
an elementwise function reads it. So `x * torch.sigmoid(x)` is one activation, and h + h is 2h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ntkit.architecture.closed_forms import activation_of
from ntkit.architecture.data_axes import DataAxes
from ntkit.architecture.expressions import VARIABLE, Expression, split_argument, split_factor
from ntkit.architecture.layout import BATCH, CHANNEL, Layout, LayoutError
from ntkit.architecture.network import Network, Node, Structure
from ntkit.architecture.recorded import REMEDY, Call, Value
from ntkit.architecture.specs import Flatten, Input, LinearCombination, Spec, Squeeze
from ntkit.architecture.windows import changes_nothing, size_after
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.nn.scale import is_finite_scale


class OtherAxes(InvalidInput):
    """A layer wants another number of axes than arrive."""


class Reader:
    """Builds the network of one model.

    Args:
        model: what is read.
        prefix: what paths in it begin with that the user does not know.
        rank: axes of the data where a linear layer is the first to read them, which acts on the last of any number.
    """

    def __init__(self, model: nn.Module, prefix: str = "", rank: int = 2):
        self.model = model
        self.prefix = prefix
        self.rank, self.assumed_rank = rank, False
        self.nodes: list[Node] = []
        self.index: dict[tuple[Spec, tuple[int, ...]], int] = {}
        self.used: dict[int, str] = {}  # id of a parameter that a layer with a meaning uses -> the layer
        self.data = DataAxes()
        self.channels: dict[int, int] = {}  # of the data and of flattened data, once a layer has said it

    # ---- the network -------------------------------------------------------------------------------------------

    def network(self, results: list[Value], structure: Structure) -> Network:
        """What was read, and which values the model returns."""
        outputs = tuple(self._output(value) for value in results)
        return Network(tuple(self._stated(i) for i in range(len(self.nodes))), outputs, structure)

    def _stated(self, index: int) -> Node:
        """A node with what layers have said about the data since it was made."""
        node, channels = self.nodes[index], self.channels.get(index)
        if isinstance(node.spec, Input):
            return replace(node, spec=Input(*self.data.grid(), channels=channels))
        if isinstance(node.spec, Flatten) and channels is not None:
            return replace(node, spec=Flatten(channels))
        return node

    def _output(self, value: Value) -> int:
        layout = self.layout(value)
        if layout.axes[0] != (BATCH,):
            raise UnsupportedLayer(f"the model returns a tensor whose axes hold {layout}; return the batch axis first")
        return self.settle(value)

    def shown(self, path: str) -> str:
        """A path as the user knows it."""
        return path.removeprefix(self.prefix).removeprefix(".") if self.prefix else path

    def add(self, spec: Spec, inputs: tuple[int, ...], path: str) -> int:
        """Index of the node, made once for what has no parameters."""
        key = (spec, inputs)
        if spec.is_unique or key not in self.index:
            self.nodes.append(Node(spec, inputs, path))
            self.index[key] = len(self.nodes) - 1
        return self.index[key]

    def settle(self, value: Value) -> int:
        """The node that holds `value`."""
        path = value.path
        if value.expression == VARIABLE:
            return value.base
        factor, rest = split_factor(value.expression)
        node = value.base
        if isinstance(rest, Expression):
            inner, function = split_argument(rest)
            node = self._scaled(node, inner, path)
            node = self.add(activation_of(function), (node,), path)
        return self._scaled(node, factor, path)

    def _scaled(self, node: int, factor: float, path: str) -> int:
        if not is_finite_scale(factor):  # two finite factors can have a product that is not
            raise InvalidInput(f"'{path}' multiplies a tensor by {factor!r} in all; use factors of a finite square")
        return node if factor == 1.0 else self.add(LinearCombination((factor,)), (node,), path)

    # ---- layouts -----------------------------------------------------------------------------------------------

    def layout(self, value: Value) -> Layout:
        """The layout of a value, with what has been said about the data since it was read."""
        layout = self.data.resolved(value.layout)
        return layout if layout.channels is not None else replace(layout, channels=self.channels.get(value.base))

    def require_channels(self, value: Value, wanted: int, who: str) -> None:
        """`value` has so many channels; of the data they are not known before a layer has said it."""
        arriving = self.layout(value).channels
        if arriving not in (None, wanted):
            raise InvalidInput(f"{who}, but {arriving} arrive; make the sizes agree")
        if value.layout.channels is None:
            self.channels[value.base] = wanted

    def require_flat(self, layout: Layout, wanted: int, who: str) -> None:
        """Everything after the batch axis has so many entries, as far as they are known."""
        known = layout.size([label for axis in layout.axes[1:] for label in axis])
        if wanted % known.number if known.labels else wanted != known.number:
            arriving = f"a multiple of {known.number}" if known.labels else str(known.number)
            raise InvalidInput(f"{who}, but {arriving} arrive; make the sizes agree")

    def say_last_axis(self, value: Value) -> None:
        """A layer reads the last axis of a tensor as its channels; of the data that number of axes may be assumed."""
        layout = value.layout
        if layout.open and not self.data.roles:
            self.assumed_rank = True
        rank = max(self.rank, len(layout.axes)) if layout.open else len(layout.axes)
        self.data.say(layout, rank, rank - 1)

    def image(self, call: Call, n_axes: int) -> tuple[Value, Layout]:
        """The operand of a layer of torch over (batch, channels, n_axes axes of positions)."""
        self.data.say(call.x.layout, n_axes + 2, 1)
        layout = self.layout(call.x)
        if len(layout.axes) != n_axes + 2 or layout.axes[:2] != ((BATCH,), (CHANNEL,)):
            raise OtherAxes(
                f"{call.who} takes (batch, channels, {n_axes} axes of positions), but axes that hold {layout} arrive; "
                "permute or flatten them so that they fit"
            )
        return call.x, layout

    def windows(self, call: Call, layout: Layout, windows: Sequence[Any], keep: Any) -> tuple[tuple[Any, ...], Layout]:
        """(one window for each axis of the grid, the layout afterwards) of a layer with a window an axis of positions.

        Args:
            call: the layer.
            layout: of its operand.
            windows: for the axes of the tensor after the channels.
            keep: the window that changes nothing.
        """
        shown = layout.grid_axes(range(2, len(layout.axes)))
        axes, sizes = [keep] * len(layout.sizes), list(layout.sizes)
        for window, number in zip(windows, shown.values(), strict=True):
            if number is not None:
                axes[number] = window
                try:
                    sizes[number] = size_after(window, sizes[number])
                except InvalidInput as error:
                    raise InvalidInput(f"{call.who}: {error}") from error
            elif not changes_nothing(window):
                raise LayoutError("has a window along an axis of one entry that was added to vectors")
        return tuple(axes), layout.regridded(shown, tuple(sizes))

    def on_one_grid(self, values: list[Value], call: Call) -> list[Value]:
        """Values with equal positions, so that they can be added or put side by side.

        Raises:
            UnsupportedLayer: their axes or grids differ, as in a sum that broadcasts over positions.
        """
        layouts, who = [self.layout(value) for value in values], call.who
        first = layouts[0]
        for layout in layouts[1:]:
            if layout.axes != first.axes:
                raise UnsupportedLayer(
                    f"{who} combines tensors whose axes hold {first} and {layout}; give them the same axes: one that "
                    "broadcasts over positions, or shows them in another order, has no rule"
                )
        if len({layout.sizes for layout in layouts}) > 1 and all(layout.is_vector for layout in layouts):
            return [self._as_vector(value, call.path) for value in values]
        if len({len(layout.sizes) for layout in layouts}) > 1:
            raise UnsupportedLayer(
                f"{who} combines tensors that come from different numbers of axes of positions; {REMEDY}"
            )
        for sizes in zip(*(layout.sizes for layout in layouts), strict=True):
            if len({size for size in sizes if size is not None}) > 1:
                raise InvalidInput(f"{who} combines tensors of {sizes} positions along an axis; make them agree")
        return values

    def _as_vector(self, value: Value, path: str) -> Value:
        layout = self.layout(value)
        if not layout.sizes:
            return value
        return Value(self.add(Squeeze(), (self.settle(value),), path), replace(layout, sizes=()))
