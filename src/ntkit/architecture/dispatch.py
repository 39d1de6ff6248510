"""Reads torch.fx's record of a forward pass, node by node, and hands each to the function that knows it.

In-place operations change what later ones see: `memory` says which recorded tensors show the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from ntkit.architecture import (
    read_concat,
    read_elementwise,
    read_layers,
    read_norms,
    read_outside,
    read_pools,
    read_resize,
    read_sequences,
    read_shapes,
)
from ntkit.architecture.layout import DATA, LayoutError, Size
from ntkit.architecture.lowering import BINARY, CALLS, MODULES, elementwise_op
from ntkit.architecture.memory import Memory
from ntkit.architecture.network import Network, Structure
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, Call, InPlace, MaskInput, Value, View
from ntkit.architecture.remedies import remedy_for
from ntkit.architecture.specs import Input
from ntkit.errors import InvalidInput, NtkitError, UnsupportedLayer

_READS = Callable[[Reader, Call], Any]  # gives a Value, a View, an InPlace, or what else forward may hold: sizes

_MODULES: dict[type[nn.Module], _READS] = {
    **read_layers.MODULES,
    **read_norms.MODULES,
    **read_pools.MODULES,
    **read_resize.MODULES,
    **read_sequences.MODULES,
    **read_shapes.MODULES,
}
_CALLS: dict[Any, _READS] = {
    **read_layers.CALLS,
    **read_norms.CALLS,
    **read_pools.CALLS,
    **read_resize.CALLS,
    **read_sequences.CALLS,
    **read_shapes.CALLS,
    **read_concat.CALLS,
}


class Dispatcher:
    """Walks over one record.

    Args:
        reader: builds the network.
    """

    def __init__(self, reader: Reader):
        self.reader = reader
        self.values: dict[fx.Node, Any] = {}
        self.memory = Memory()

    def run(self, graph: fx.Graph) -> Network:
        """The network that the record says."""
        for node in graph.nodes:
            self.memory.pass_by(node)
            match node.op:
                case "placeholder":
                    if not self.reader.nodes:
                        self._bind(node, Value(self.reader.add(Input(), (), ""), DATA))
                    else:
                        self._bind(node, _mask(node))
                case "output":
                    return self.reader.network(*self._results(node.args[0]))
                case "get_attr":
                    raise UnsupportedLayer(
                        f"forward uses '{self.reader.shown(str(node.target))}' directly, outside of a layer, and ntkit "
                        "has no rule for that; for vectors of positions take ntkit.nn.PositionalEmbedding; else "
                        f"{REMEDY}; or give its module a rule with ntkit.infinite.register_layer"
                    )
                case _:
                    with _saying_where(node):
                        self._read(node)
        raise InvalidInput("the model's forward returns nothing; it must return a tensor")

    def _read(self, node: fx.Node) -> None:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.values[n])
        module = self.reader.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        call = Call(node, self._path(node), tuple(args), dict(kwargs), module)
        read = _reader_of(call)
        if read is None:
            if any(isinstance(arg, Size) for arg in args):
                raise _size_as_number(call)
            raise UnsupportedLayer(f"{call.who} has no rule for its exact kernel; {remedy_for(call)}")
        if (
            any(isinstance(arg, MaskInput) for arg in (*args, *kwargs.values()))
            and read not in read_sequences.READS_MASK
        ):
            raise UnsupportedLayer(
                f"{call.who} uses the mask, and there are rules for ntkit.nn.SelfAttention, MaskedMean and MaskedFill "
                "alone; use these"
            )
        if module is None and _computes_with_size(call):
            raise _size_as_number(call)
        try:
            result = read(self.reader, call)
        except LayoutError as error:
            raise UnsupportedLayer(f"{call.who} {error}; {REMEDY}") from error
        match result:
            case InPlace():
                self._overwrite(call.source, node, result.value)
            case View():
                self.values[node] = result.value
                self.memory.share(node, call.source, for_certain=result.for_certain)
            case _:
                self._bind(node, result)

    def _path(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return self.reader.shown(str(node.target))
        stack = node.meta.get("nn_module_stack") or {}
        inner = next(reversed(stack), "") if stack else ""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return ".".join(filter(None, (self.reader.shown(inner), str(name))))

    def _bind(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value
        self.memory.own(node)

    def _overwrite(self, target: fx.Node, node: fx.Node, value: Value) -> None:
        """`node` overwrote the memory of `target`: everything that shows it sees the new value."""
        old = self.values[target]
        doubtful = self.memory.doubtful(target)
        for member in self.memory.views(target):
            seen = self.values[member]
            if seen.base == old.base and seen.expression == old.expression:
                self.values[member] = replace(value, layout=seen.layout)
            else:
                doubtful.append(member)
        if any(self.memory.is_read_later(member) for member in doubtful):
            raise UnsupportedLayer(
                f"the in-place operation '{self._path(node)}' overwrites a tensor that another shape views; use the "
                "operation that is not in place"
            )
        self.values[node] = value
        self.memory.share(node, target)

    def _results(self, returned: Any) -> tuple[list[Value], Structure]:
        """What the model returns, and how."""
        structure: Structure = "tensor"
        nodes: list[Any] = [returned]
        if isinstance(returned, (tuple, list)):
            structure, nodes = "tuple" if isinstance(returned, tuple) else "list", list(returned)
        elif isinstance(returned, dict):
            structure, nodes = tuple(returned), list(returned.values())
        values = [self.values.get(node) if isinstance(node, fx.Node) else None for node in nodes]
        found = [value for value in values if isinstance(value, Value)]
        if not found or len(found) < len(nodes):
            raise UnsupportedLayer(
                f"the model returns {type(returned).__name__} {returned!r}, and a tensor, or a tuple, list or dict of "
                "tensors is wanted; wrap the model in a module that returns what is to be studied"
            )
        return found, structure


@contextmanager
def _saying_where(node: fx.Node) -> Iterator[None]:
    """Errors about a function or a method, which has no path of its own, say in which line it is called."""
    try:
        yield
    except NtkitError as error:
        if node.op != "call_module" and node.meta.get("line"):
            error.args = (f"{error} (called in {node.meta['line']})",)
        raise


def _mask(node: fx.Node) -> MaskInput:
    if not node.users:
        raise UnsupportedLayer(
            "the model's forward takes a mask that no layer uses; give it to ntkit.nn.SelfAttention, MaskedMean or "
            "MaskedFill, or remove it"
        )
    return MaskInput()


def _computes_with_size(call: Call) -> bool:
    """Whether a size is used as a number; a product of sizes is one, as a reshape takes it."""
    if call.name in BINARY and BINARY[call.name] == "mul" and not any(isinstance(arg, Value) for arg in call.args):
        return False
    return (call.name in BINARY or call.name in CALLS) and any(isinstance(arg, Size) for arg in call.args)


def _size_as_number(call: Call) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"{call.who} computes with the size of a tensor (x.shape[1] or x.size(1)), which is not known as a number "
        "while forward is recorded; write the number out, as a constant or an attribute of the model"
    )


def is_known(target: Any) -> bool:
    """Whether calls of a module class or a function are read already."""
    if isinstance(target, type):
        own = target.__module__.startswith("ntkit.nn.")
        return own or target in _MODULES or target in read_layers.KNOWN or target in MODULES
    return target in _CALLS or target in BINARY or target in CALLS


def _reader_of(call: Call) -> _READS | None:
    """The function that reads a call, None where there is none."""
    if call.module is not None:
        if type(call.module) in read_outside.LAYERS:
            return read_outside.read_layer
        if elementwise_op(call.module) is not None:
            return read_elementwise.read_module
        if read_layers.is_weighted(call.module):  # subclasses are refused there, with the reason
            return read_layers.read_weighted
        return _MODULES.get(type(call.module))
    if call.name in _CALLS:
        return _CALLS[call.name]
    if call.name in BINARY and len(call.args) == 2:
        return read_elementwise.read_binary
    return read_elementwise.read_function if call.name in CALLS else None
