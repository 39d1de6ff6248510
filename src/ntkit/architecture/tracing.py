"""`trace(model)`: an nn.Module into a `Network`, or an error that names the part that has no meaning here.

torch.fx records what `forward` does; this file reads the record. Two things are proved on the way: every parameter
and buffer of the model is accounted for exactly once, and in-place operations change what the later ones see.
"""

from __future__ import annotations

import inspect
import operator
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import Attribute, TraceError
from torch.nn.parameter import is_lazy

import ntkit.nn
from ntkit.architecture.dispatch import Dispatcher
from ntkit.architecture.lowering import elementwise_op
from ntkit.architecture.network import Network
from ntkit.architecture.read_layers import is_weighted
from ntkit.architecture.read_outside import LAYERS
from ntkit.architecture.reader import OtherAxes, Reader
from ntkit.errors import InvalidInput, NtkitError, UnsupportedLayer

# torch's layers that wait for a rule of their own; named, so that the error can say what they are
_LEAF_PREFIXES = ("torch.nn.", "torch.ao.nn.", "ntkit.nn.")


class _Recorded(fx.Proxy):
    """A recorded tensor. Unlike torch.fx's own it records `x += y` as what it is: a change of x, not x = x + y.

    Its number of axes is refused: Python's own functions, as in range(2, x.ndim), want a number where there is none.
    """

    def __getattr__(self, k: str) -> Attribute:
        return _RecordedAttribute(self, k)

    @property
    def ndim(self) -> int:
        """Refused."""
        raise self._number_of_axes()

    def dim(self) -> int:
        """Refused."""
        raise self._number_of_axes()

    ndimension = dim

    def __len__(self) -> int:
        is_attribute = self.node.target is getattr and self.node.args[1:] == ("shape",)
        if is_attribute or (self.node.op == "call_method" and self.node.target == "size"):
            raise self._number_of_axes()
        return super().__len__()

    def _number_of_axes(self) -> UnsupportedLayer:
        return UnsupportedLayer(
            f"{_place(self.tracer)} asks a tensor for its number of axes (x.ndim, x.dim() or "
            "len(x.shape)), which is not known while forward is recorded, and fixed whole numbers are wanted; write "
            "them out, x.mean((2, 3)) in place of x.mean(tuple(range(2, x.ndim))), or use ntkit.empirical_ntk, which "
            "takes any model"
        )


def _place(tracer: Any) -> str:
    """Whose forward is being recorded, as errors name it."""
    path = tracer.scope.module_path.removeprefix("model").removeprefix(".")
    at = f" at '{path}'" if path else ""
    return f"the forward of {tracer.scope.module_type.__name__}{at}"


_NOT_THE_USERS = ("torch", "ntkit", "jaxtyping", "beartype")  # packages whose frames stand above a call


def _line_in_forward() -> str | None:
    """Where the forward that is being recorded is by now, in a file of the user's own."""
    frame = sys._getframe(1)
    while frame is not None and not (frame.f_globals is globals() and frame.f_code.co_name == _record.__name__):
        if frame.f_globals.get("__name__", "").split(".")[0] not in _NOT_THE_USERS:
            return f"line {frame.f_lineno} of {frame.f_code.co_filename}"
        frame = frame.f_back
    return None


class _RecordedAttribute(Attribute, _Recorded):
    """What `x.name` of a recorded tensor is."""


def _augmented(operation: Callable[[Any, Any], Any]) -> Callable[[_Recorded, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv", "imod", "imatmul", "iand", "ior", "ixor"):
    setattr(_Recorded, f"__{_name}__", _augmented(getattr(operator, _name)))


# torch.fx changes nn.Module itself while it records: one record at a time, and none in the middle of a fork
_recording = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_recording.acquire, after_in_parent=_recording.release, after_in_child=_recording.release
    )


class _Tracer(fx.Tracer):
    """Stops at layers with a meaning of their own and at torch's layers; walks into everything else.

    Modules that other threads call meanwhile are theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.failed_in: tuple[str, str] | None = None  # (class, path) of the innermost module that could not be traced

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or (type(m).__name__, self.path_of_module(m))
            raise

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        # the record itself does not show it, and a kernel would count parameters that training never moves
        if kind != "output" and (torch.is_inference_mode_enabled() or not torch.is_grad_enabled()):
            raise UnsupportedLayer(
                f"{_place(self)} runs without gradients (torch.no_grad(), inference_mode() or set_grad_enabled(False)),"
                " and whether parameters train is read from the parameters only; remove that and call "
                "requires_grad_(False) on every layer whose output it cuts off, which says the same"
            )
        node = super().create_node(kind, *args, **kwargs)
        node.meta["line"] = _line_in_forward()
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Recorded(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in LAYERS:
            return True
        if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return False
        return is_weighted(m) or elementwise_op(m) is not None or _is_torch_layer(m)


def _is_torch_layer(module: nn.Module) -> bool:
    home = type(module).__module__ + "."
    return home.startswith(_LEAF_PREFIXES)


class _Whole(nn.Module):
    """Holds the model: a single layer is called and not looked into, and torch.fx leaves no mark on the model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model(x)


class _WholeWithMask(_Whole):
    """The same of a model whose forward takes a mask as well."""

    def forward(self, x: Any, mask: Any = None) -> Any:
        return self.model(x, mask=mask)


def trace(model: nn.Module) -> Network:
    """The network that `model` computes, as data.

    Args:
        model: linear and convolution layers, activations, average pooling, flatten, permutations, concatenation of
            channels, dropout in eval mode and residual sums, written with modules, functions or methods, in any
            nesting; it may return one tensor, or a tuple, list or dict of tensors.

    Returns:
        Its operations in order; equal functions give equal data, however they were written.

    Raises:
        UnsupportedLayer: a layer, function or use has no meaning here, a parameter or buffer is not accounted for or
            used twice; the message names its path.
        InvalidInput: `model` is no module, takes several inputs, or its layer sizes do not fit.

    Example:
        >>> net = trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)))
        >>> net.weighted_paths
        ('0', '2')
    """
    network, require_complete = read_network(model)
    require_complete()
    return network


def read_network(model: nn.Module) -> tuple[Network, Callable[[], None]]:
    """The network, and what raises where a parameter or buffer is left out: for later, as other errors say more.

    Args:
        model: as in `trace`.

    Raises:
        UnsupportedLayer: as in `trace`, but for what is left out.
        InvalidInput: as in `trace`.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    _require_untouched(model)
    root = _WholeWithMask(model) if takes_mask(model) else _Whole(model)
    return _read(root, _record(root))


def _read(root: _Whole, record: fx.Graph) -> tuple[Network, Callable[[], None]]:
    """The network that a record says, and the proof that it is complete.

    A linear layer takes vectors and sequences alike. Where nothing else tells what the data are, they are vectors, or
    else what makes sense of the whole model; if nothing does, the reading that came furthest has the error.
    """
    failed: dict[tuple[int, bool], NtkitError] = {}  # (nodes that were read, whether their axes fit) -> why no more
    for rank in (2, 3, 4):
        dispatcher = Dispatcher(Reader(root, prefix="model", rank=rank))
        try:
            return dispatcher.run(record), partial(_prove_complete, root, dispatcher.reader)
        except NtkitError as error:
            failed.setdefault((len(dispatcher.values), not isinstance(error, OtherAxes)), error)
        if not dispatcher.reader.assumed_rank:
            break
    raise failed[max(failed)]


def takes_mask(model: nn.Module) -> bool:
    """Whether the second input of the model's forward is named `mask`."""
    return list(inspect.signature(model.forward).parameters)[1:2] == ["mask"] and not _is_torch_layer(model)


def _record(root: _Whole) -> fx.Graph:
    """torch.fx's record of one forward, with optional arguments at their defaults."""
    required = [
        p.name
        for p in inspect.signature(root.model.forward).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(required) > 1 and required[1:] != ["mask"]:
        raise InvalidInput(
            f"the model's forward must take one input, or one and a mask, got {', '.join(required)}; wrap it in a "
            "module that takes these"
        )
    tracer = _Tracer()
    try:
        # the caller's own no_grad or inference_mode is none of the model's
        with _recording, torch.inference_mode(False), torch.enable_grad():
            return tracer.trace(root)
    except UnsupportedLayer:  # a TypeError too, and it says all that is to be said
        raise
    except (TraceError, TypeError, RuntimeError, NotImplementedError, AttributeError, NameError) as error:
        name, path = tracer.failed_in or (type(root.model).__name__, "model")
        at = f" at '{path.removeprefix('model').removeprefix('.')}'" if path != "model" else ""
        raise UnsupportedLayer(
            f"the forward of {name}{at} cannot be traced: {error}; write it without branches or "
            "loops on tensor values, or declare the elementwise part with ntkit.infinite.register_activation, or the "
            "layer with ntkit.infinite.register_layer"
        ) from error


def _require_untouched(model: nn.Module) -> None:
    """What changes values behind a module's class would be missed: hooks, and a forward replaced on the instance."""
    if isinstance(model, torch.jit.ScriptModule) or isinstance(getattr(model, "_orig_mod", None), nn.Module):
        made = "torch.jit.script or trace" if isinstance(model, torch.jit.ScriptModule) else "torch.compile"
        raise UnsupportedLayer(f"the model is what {made} has made of it; pass the module that it was made of")
    for path, module in model.named_modules():
        name = f"{type(module).__name__} at '{path}'"
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise UnsupportedLayer(
                f"{name} does not know its sizes yet; call the model once on some samples, and pass it then"
            )
        if isinstance(module, ntkit.nn.Centered):
            raise UnsupportedLayer(
                f"{name} subtracts a copy of the network, so its parts are not independent; take InfiniteKernel of the "
                "network itself: its ntk times scale² is the centred network's, whose nngp is 0"
            )
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise UnsupportedLayer(
                f"{name} has a forward hook or a forward replaced from outside, which may change its values; remove it"
            )


def _prove_complete(model: nn.Module, reader: Reader) -> None:
    """Every parameter and buffer was used by a layer that has a meaning, once; else an error with its path."""
    owners: dict[int, str] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        name = reader.shown(path)
        if id(parameter) in owners:
            raise UnsupportedLayer(
                f"the parameter '{name}' is shared with '{owners[id(parameter)]}', and kernels of shared parameters "
                "have no rule; give each layer its own parameter"
            )
        owners[id(parameter)] = name
        if id(parameter) not in reader.used:
            raise UnsupportedLayer(
                f"the parameter '{name}' of shape {tuple(parameter.shape)} is not accounted for: no layer that ntkit "
                "knows uses it; remove it if forward does not need it"
            )
    for path, buffer in model.named_buffers():
        if id(buffer) not in reader.used:
            raise UnsupportedLayer(
                f"the buffer '{reader.shown(path)}' of shape {tuple(buffer.shape)} is not accounted for: no layer that "
                "ntkit knows uses it; remove it if forward does not need it"
            )
