"""What a recorded tensor holds, and what is known of one recorded operation."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ntkit.architecture.expressions import VARIABLE, Operand
from ntkit.architecture.layout import Layout
from ntkit.errors import UnsupportedLayer

REMEDY = (
    "use a layer that ntkit supports (linear and convolution layers, elementwise activations, average pooling, "
    "normalisation over channels, ntkit.nn.SelfAttention, padding, interpolation, flatten, moves of axes, "
    "concatenation of channels, dropout, sums and products of branches), or take the kernels of finite networks, "
    "whatever their layers: ntkit.infinite.monte_carlo_kernel for the mean over random draws, ntkit.empirical_ntk for "
    "one network"
)
REQUIRED = object()  # the default of an argument that must be given


@dataclass(frozen=True)
class Value:
    """What a recorded tensor holds: `expression` of the values of node `base`.

    Args:
        base: index of a node.
        layout: how the tensor shows its samples, channels and positions.
        expression: elementwise function of it.
        path: where the last operation of the expression stands in the model.
    """

    base: int
    layout: Layout
    expression: Operand = VARIABLE
    path: str = ""


@dataclass(frozen=True)
class MaskInput:
    """The model's second input: which tokens are there."""

    def __repr__(self) -> str:
        return "the mask"


@dataclass(frozen=True)
class View:
    """A result that shows the memory of the operand; where not `for_certain`, it may be a copy."""

    value: Value
    for_certain: bool = True


@dataclass(frozen=True)
class InPlace:
    """A result that overwrites the operand."""

    value: Value


@dataclass(frozen=True)
class Call:
    """One recorded call of a module, a function or a method.

    Args:
        node: torch.fx's record.
        path: where it stands in the model.
        args: its arguments, recorded tensors replaced by what they hold.
        kwargs: its keyword arguments, likewise.
        module: the module, where it is one.
    """

    node: fx.Node
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None = None

    @property
    def who(self) -> str:
        """The operation as errors name it."""
        return f"'{self.path}'" if self.module is None else f"{type(self.module).__name__} at '{self.path}'"

    @property
    def name(self) -> Any:
        """The function, or the name of the method; one that ends in _ is the one without it, acting in place."""
        target: Any = self.node.target
        if isinstance(target, str):
            return target[:-1] if self.is_in_place else target
        return _IN_PLACE.get(target, target)

    @property
    def is_in_place(self) -> bool:
        """Whether it overwrites its operand by its name."""
        target: Any = self.node.target
        if isinstance(target, str):
            return target.endswith("_") and not target.endswith("__")
        return target in _AUGMENTED or target in _IN_PLACE

    @property
    def x(self) -> Value:
        """The one tensor that the operation reads."""
        rest = (*self.args[1:], *(value for name, value in self.kwargs.items() if name != "input"))
        x = self.args[0] if self.args else self.kwargs.get("input")
        if not isinstance(x, Value) or any(isinstance(other, Value) for other in rest):
            raise UnsupportedLayer(f"{self.who} is called with other things than one tensor; {REMEDY}")
        return x

    @property
    def source(self) -> fx.Node:
        """The record of the operand."""
        return self.node.all_input_nodes[0]

    def bind(self, **defaults: Any) -> tuple[Any, ...]:
        """The arguments after the operand, by the names and defaults of `defaults`, in their order."""
        kwargs = {_SYNONYMS.get(name, name): value for name, value in self.kwargs.items() if name != "input"}
        rest = self.args[1:] if self.args else ()
        given = dict(zip(defaults, rest, strict=False)) | kwargs
        values = tuple((defaults | given)[name] for name in defaults)
        if len(rest) > len(defaults) or not set(kwargs) <= set(defaults) or REQUIRED in values:
            raise self.unknown_arguments()
        return values

    def unknown_arguments(self) -> UnsupportedLayer:
        """The error for arguments that no rule covers."""
        return UnsupportedLayer(
            f"{self.who} is called with arguments that have no rule: {self.node.format_node()}; {REMEDY}"
        )


_SYNONYMS = {"axis": "dim", "keepdims": "keepdim"}  # torch takes numpy's names too
# torch.relu_ -> torch.relu and its like, as torch names them
_IN_PLACE: dict[Any, Any] = {
    getattr(home, name): getattr(home, name[:-1])
    for home in (torch, F)
    for name in dir(home)
    if name.endswith("_") and not name.startswith("_") and hasattr(home, name[:-1])
}
_AUGMENTED = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)
