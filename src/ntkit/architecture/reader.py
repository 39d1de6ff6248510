"""Reads torch.fx's record of a forward pass, node by node, into a `Network`.

A value is an elementwise expression over an earlier node, made into a node of its own only when something else than
an elementwise function reads it. So `x * torch.sigmoid(x)` is one activation, and h + h is 2h.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

import ntkit.nn
from ntkit.architecture.expressions import VARIABLE, Expression, Operand, split_argument, split_factor
from ntkit.architecture.lowering import BINARY, CALLS, activation_of, elementwise_op
from ntkit.architecture.network import Network, Node
from ntkit.architecture.specs import Flatten, Input, Linear, LinearCombination, Spec
from ntkit.errors import InvalidInput, UnsupportedLayer

_REMEDY = (
    "use a layer that ntkit supports (linear layers, elementwise activations, flatten, dropout in eval mode, sums), or "
    "ntkit.empirical_ntk, which takes any model"
)


@dataclass(frozen=True)
class Value:
    """What a recorded tensor holds: `expression` of the values of node `base`.

    Args:
        base: index of a node.
        expression: elementwise function of it.
        features: entries a sample, None where unknown (the input).
        flat: whether it has the shape (n, features).
        path: where the last operation of the expression stands in the model.
    """

    base: int
    expression: Operand = VARIABLE
    features: int | None = None
    flat: bool = False
    path: str = ""


@dataclass
class _Storage:
    """Memory that several recorded tensors may view; an in-place operation changes them all."""

    members: list[fx.Node] = field(default_factory=list)


class _BatchSize:
    """Stands for x.size(0) in the record."""


class Reader:
    """Builds the network of one model from its torch.fx record."""

    def __init__(self, model: nn.Module, prefix: str = ""):
        self.model = model
        self.prefix = prefix
        self.nodes: list[Node] = []
        self.index: dict[tuple[Spec, tuple[int, ...]], int] = {}
        self.values: dict[fx.Node, Any] = {}
        self.storage: dict[fx.Node, _Storage] = {}
        self.used: dict[int, str] = {}  # id of a parameter that a layer with a meaning uses -> the layer
        self.data_features: int | None = None  # of the data, once a layer has said it
        self.output: int | None = None

    # ---- the network -------------------------------------------------------------------------------------------

    def network(self) -> Network:
        """What was read."""
        if self.output is None:
            raise InvalidInput("the model's forward returns nothing; it must return a tensor")
        return Network(tuple(self.nodes), self.output)

    def shown(self, path: str) -> str:
        """A path as the user knows it."""
        return path.removeprefix(self.prefix).removeprefix(".") if self.prefix else path

    def add(self, spec: Spec, inputs: tuple[int, ...], path: str) -> int:
        """Index of the node, made once for what has no parameters."""
        key = (spec, inputs)
        if isinstance(spec, Linear) or key not in self.index:
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
        return node if factor == 1.0 else self.add(LinearCombination((factor,)), (node,), path)

    # ---- torch.fx nodes ----------------------------------------------------------------------------------------

    def read(self, node: fx.Node) -> None:
        """Read one recorded operation."""
        path = self._path(node)
        match node.op:
            case "placeholder":
                if not self.nodes:
                    self._bind(node, Value(self.add(Input(), (), "")))
            case "output":
                self._read_output(node.args[0], path)
            case "get_attr":
                raise UnsupportedLayer(
                    f"forward uses '{self.shown(str(node.target))}' directly, outside of a layer, and ntkit has no "
                    f"rule for that; {_REMEDY}"
                )
            case "call_module":
                self._read_module(node, self.model.get_submodule(str(node.target)), path)
            case _:
                self._read_call(node, path)

    def _path(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return self.shown(str(node.target))
        stack = node.meta.get("nn_module_stack") or {}
        inner = next(reversed(stack), "") if stack else ""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return ".".join(filter(None, (self.shown(inner), str(name))))

    def _bind(self, node: fx.Node, value: Any, storage: _Storage | None = None) -> None:
        self.values[node] = value
        self.storage[node] = storage or _Storage()
        self.storage[node].members.append(node)

    def _write_in_place(self, target: fx.Node, node: fx.Node, value: Value) -> None:
        """`node` overwrote the memory of `target`: everything that views it sees the new value."""
        storage = self.storage[target]
        old = self.values[target]
        for member in storage.members:
            seen = self.values[member]
            if not isinstance(seen, Value) or seen.base != old.base or seen.expression != old.expression:
                raise UnsupportedLayer(
                    f"the in-place operation '{node.name}' overwrites a tensor that another shape views; use the "
                    "operation that is not in place"
                )
            self.values[member] = replace(value, features=seen.features, flat=seen.flat)
        self._bind(node, value, storage)

    def _read_output(self, returned: Any, path: str) -> None:
        if not isinstance(returned, fx.Node) or not isinstance(self.values.get(returned), Value):
            raise UnsupportedLayer(
                f"the model returns {type(returned).__name__} {returned!r}, and one tensor is wanted; wrap the model "
                "in a module that returns the one to study"
            )
        self.output = self.settle(self.values[returned])

    # ---- modules -----------------------------------------------------------------------------------------------

    def _read_module(self, node: fx.Node, module: nn.Module, path: str) -> None:
        x = self._operand(node, path)
        if isinstance(module, nn.Linear):
            self._bind(node, self._linear(x, module, path))
        elif isinstance(module, nn.Flatten):
            self._flatten(node, x, module.start_dim, module.end_dim, path)
        elif isinstance(module, nn.Identity):
            self._bind(node, x, self.storage[node.all_input_nodes[0]])
        elif isinstance(module, nn.Dropout):
            self._dropout(node, module.p, module.training, path)
        elif (op := elementwise_op(module)) is not None:
            if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
                raise UnsupportedLayer(f"{type(module).__name__} at '{path}' has parameters, and no rule for them")
            self._apply(node, x, op.from_module(module), bool(getattr(module, "inplace", False)), path)
        else:
            raise UnsupportedLayer(f"{type(module).__name__} at '{path}' has no rule for its exact kernel; {_REMEDY}")

    def _operand(self, node: fx.Node, path: str) -> Value:
        """The one tensor that a module or a function of one tensor reads."""
        if len(node.all_input_nodes) != 1 or not isinstance(self.values[node.all_input_nodes[0]], Value):
            raise UnsupportedLayer(f"'{path}' is called with other things than one tensor; {_REMEDY}")
        return self.values[node.all_input_nodes[0]]

    def _linear(self, x: Value, layer: nn.Linear, path: str) -> Value:
        if type(layer) not in (nn.Linear, ntkit.nn.Linear):
            raise UnsupportedLayer(
                f"{type(layer).__name__} at '{path}' is a subclass of Linear that ntkit does not know, and its forward "
                f"may differ; {_REMEDY}"
            )
        if id(layer.weight) in self.used:
            raise UnsupportedLayer(
                f"the weight of Linear at '{path}' is used twice (first at '{self.used[id(layer.weight)]}'), "
                "and kernels of shared parameters have no rule; give each use a layer of its own"
            )
        self._require_features(x, layer.in_features, f"Linear at '{path}' takes")
        known = isinstance(layer, ntkit.nn.Linear)
        bias = layer.bias
        self.used.update({id(p): path for p in (layer.weight, bias) if p is not None})
        spec = Linear(
            layer.in_features,
            layer.out_features,
            bias=bias is not None,
            trains_weight=layer.weight.requires_grad,
            trains_bias=bias is not None and bias.requires_grad,
            w_std=layer.w_std if known else None,
            b_std=layer.b_std if known else None,
            parameterization="ntk" if known else None,
        )
        index = self.add(spec, (self.settle(x),), path)
        return Value(index, features=layer.out_features, flat=True)

    def _require_features(self, x: Value, features: int, who: str) -> None:
        """`x` has so many features; of the data they are not known before a layer has said it."""
        arriving = self.data_features if x.features is None else x.features
        if arriving not in (None, features):
            raise InvalidInput(f"{who} {features} features, but {arriving} arrive; make the sizes agree")
        if x.features is None:
            self.data_features = features

    def _dropout(self, node: fx.Node, rate: float, training: bool, path: str) -> None:
        if training and rate > 0:
            raise UnsupportedLayer(f"Dropout at '{path}' is in training mode, which has no rule; call model.eval()")
        source = node.all_input_nodes[0]
        self._bind(node, self.values[source], self.storage[source])

    def _flatten(self, node: fx.Node, x: Value, start: Any, end: Any, path: str, features: int | None = None) -> None:
        source = node.all_input_nodes[0]
        if start != 1 or end not in (-1, None):
            raise UnsupportedLayer(
                f"'{path}' reshapes in a way that mixes samples or keeps axes; flatten everything after the batch axis"
            )
        if x.features is not None and features not in (None, x.features):
            raise InvalidInput(f"'{path}' reshapes to {features} features, but {x.features} arrive; make them agree")
        if x.flat:
            value = x
        else:
            base = self.add(Flatten(features), (x.base,), path)
            value = Value(base, x.expression, features, flat=True)
        self._bind(node, value, self.storage[source])

    # ---- functions and methods ---------------------------------------------------------------------------------

    def _read_call(self, node: fx.Node, path: str) -> None:
        target: Any = node.target
        in_place = isinstance(target, str) and target.endswith("_") and not target.endswith("__")
        name = target[:-1] if in_place else target
        in_place = in_place or target in _IN_PLACE
        shape_reader = _SHAPE_CALLS.get(name)
        if shape_reader is not None:
            shape_reader(self, node, path)
        elif name in BINARY and len(node.args) == 2:
            self._read_binary(node, BINARY[name], path, in_place)
        elif name in CALLS:
            constants = CALLS[name].bind_constants(tuple(node.args[1:]), dict(node.kwargs))
            if constants is None or any(isinstance(c, fx.Node) for c in constants):
                raise UnsupportedLayer(
                    f"'{path}' is called with arguments that have no rule: {node.format_node()}; {_REMEDY}"
                )
            in_place = in_place or bool(node.kwargs.get("inplace", False))
            self._apply(
                node,
                self._operand(node, path),
                Expression(CALLS[name].op, (VARIABLE, *constants)),
                in_place,
                path,
            )
        else:
            raise UnsupportedLayer(f"'{path}' has no rule for its exact kernel; {_REMEDY}")

    def _apply(self, node: fx.Node, x: Value, function: Expression, in_place: bool, path: str) -> None:
        value = replace(x, expression=_substitute(function, x.expression), path=path)
        if in_place:
            self._write_in_place(node.all_input_nodes[0], node, value)
        else:
            self._bind(node, value)

    def _read_binary(self, node: fx.Node, op: str, path: str, in_place: bool) -> None:
        left, right = (self.values[a] if isinstance(a, fx.Node) else a for a in node.args[:2])
        alpha = node.kwargs.get("alpha", 1)
        if set(node.kwargs) - {"alpha"} or not isinstance(alpha, (int, float)):
            raise UnsupportedLayer(
                f"'{path}' is called with arguments that have no rule: {node.format_node()}; {_REMEDY}"
            )
        value = self._combine(op, left, right, float(alpha), path)
        if in_place and isinstance(node.args[0], fx.Node):
            self._write_in_place(node.args[0], node, value)
        else:
            self._bind(node, value)

    def _combine(self, op: str, left: Any, right: Any, alpha: float, path: str) -> Value:
        for side in (left, right):
            if not isinstance(side, (Value, int, float)) or isinstance(side, bool):
                raise UnsupportedLayer(f"'{path}' combines a tensor with {side!r}, which has no rule; {_REMEDY}")
            if not isinstance(side, Value) and not math.isfinite(side):
                raise InvalidInput(f"'{path}' combines a tensor with {side!r}; use a finite number")
        if isinstance(left, Value) and isinstance(right, Value):
            if left.base == right.base and left.flat == right.flat:
                scaled = right.expression if alpha == 1.0 else Expression("mul", (right.expression, alpha))
                return replace(left, expression=Expression(op, (left.expression, scaled)), path=path)
            if op not in ("add", "sub"):
                raise UnsupportedLayer(
                    f"'{path}' combines two different tensors by '{op}', which has no rule yet; {_REMEDY}"
                )
            return self._sum(left, right, alpha if op == "add" else -alpha, path)
        if op in (
            "maximum",
            "minimum",
        ):  # torch.max(x, 0) is a reduction over axis 0 and no comparison with 0
            raise UnsupportedLayer(f"'{path}' reduces over an axis, which has no rule; {_REMEDY}")
        value = left if isinstance(left, Value) else right
        operands = [v.expression if isinstance(v, Value) else float(v) for v in (left, right)]
        if alpha != 1.0:
            operands[1] = Expression("mul", (operands[1], alpha)) if isinstance(right, Value) else alpha * float(right)
        return replace(value, expression=Expression(op, tuple(operands)), path=path)

    def _sum(self, left: Value, right: Value, coefficient: float, path: str) -> Value:
        features = left.features or right.features
        if features is not None:
            for side in (left, right):
                self._require_features(side, features, f"'{path}' adds tensors of one shape, of")
        inputs = (self.settle(left), self.settle(right))
        index = self.add(LinearCombination((1.0, coefficient)), inputs, path)
        return Value(index, features=features, flat=left.flat or right.flat)

    # ---- shapes ------------------------------------------------------------------------------------------------

    def _read_flatten_call(self, node: fx.Node, path: str) -> None:
        args, kwargs = node.args, node.kwargs
        start = args[1] if len(args) > 1 else kwargs.get("start_dim", 0)
        end = args[2] if len(args) > 2 else kwargs.get("end_dim", -1)
        self._flatten(node, self._operand(node, path), start, end, path)

    def _read_reshape(self, node: fx.Node, path: str) -> None:
        sizes = node.args[1:] if len(node.args) != 2 else node.args[1]
        sizes = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)
        shape = [self.values.get(s, s) if isinstance(s, fx.Node) else s for s in sizes]
        source = node.all_input_nodes[0]
        x = self.values[source]
        keeps_batch = len(shape) == 2 and (isinstance(shape[0], _BatchSize) or shape[0] == -1)
        if not isinstance(x, Value) or not keeps_batch or not isinstance(shape[1], int):
            raise UnsupportedLayer(f"'{path}' reshapes to {shape}; only a reshape to (batch, features) has a rule here")
        if shape[1] == -1 and shape[0] == -1:
            raise InvalidInput(f"'{path}' reshapes to (-1, -1); give one of the sizes")
        features = None if shape[1] == -1 else shape[1]
        if x.flat and x.features is not None and features not in (None, x.features):
            raise InvalidInput(f"'{path}' reshapes to {features} features, but {x.features} arrive; make them agree")
        if x.flat:
            self._bind(node, x, self.storage[source])
        else:
            base = self.add(Flatten(features), (x.base,), path)
            self._bind(node, Value(base, x.expression, features, flat=True), self.storage[source])

    def _read_size(self, node: fx.Node, path: str) -> None:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if node.target is getattr and axis != "shape":
            raise UnsupportedLayer(f"forward reads the attribute '{axis}' of a tensor, which has no rule; {_REMEDY}")
        self.values[node] = _BatchSize() if axis == 0 else "shape"

    def _read_getitem(self, node: fx.Node, path: str) -> None:
        source, index = node.args
        if not isinstance(source, fx.Node) or self.values.get(source) != "shape" or index != 0:
            raise UnsupportedLayer(f"'{path}' takes a part of a tensor or a size, which has no rule; {_REMEDY}")
        self.values[node] = _BatchSize()

    def _read_dropout_call(self, node: fx.Node, path: str) -> None:
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
        assert isinstance(rate, (int, float))
        self._dropout(node, float(rate), bool(training), path)


def _substitute(function: Expression, inner: Operand) -> Expression:
    """`function` of `inner` in place of the variable."""
    args = tuple(inner if arg == VARIABLE else arg for arg in function.args)
    return Expression(function.op, args)


_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)

_SHAPE_CALLS: dict[Any, Callable[[Reader, fx.Node, str], None]] = {
    torch.flatten: Reader._read_flatten_call,
    "flatten": Reader._read_flatten_call,
    torch.reshape: Reader._read_reshape,
    "reshape": Reader._read_reshape,
    "view": Reader._read_reshape,
    "size": Reader._read_size,
    getattr: Reader._read_size,
    operator.getitem: Reader._read_getitem,
    F.dropout: Reader._read_dropout_call,
    torch.dropout: Reader._read_dropout_call,
}
