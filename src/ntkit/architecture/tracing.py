"""`trace(model)`: an nn.Module into a `Network`, or an error that names the part that has no meaning here.

torch.fx records what `forward` does; this file reads the record. Two things are proved on the way: every parameter
and buffer of the model is accounted for exactly once, and in-place operations change what the later ones see.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

import ntkit.nn
from ntkit.architecture.lowering import elementwise_op
from ntkit.architecture.network import Network
from ntkit.architecture.reader import Reader
from ntkit.errors import InvalidInput, UnsupportedLayer

# torch's layers that wait for a rule of their own; named, so that the error can say what they are
_LEAF_PREFIXES = ("torch.nn.", "torch.ao.nn.")


class _Tracer(fx.Tracer):
    """Stops at layers with a meaning of their own and at torch's layers; walks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return False
        return isinstance(m, nn.Linear) or elementwise_op(m) is not None or _is_torch_layer(m)


def _is_torch_layer(module: nn.Module) -> bool:
    home = type(module).__module__ + "."
    return home.startswith(_LEAF_PREFIXES) or (
        home.startswith("ntkit.nn.") and type(module) is not ntkit.nn.Centered
    )


class _Whole(nn.Module):
    """Holds a model that is a single layer, so that the layer is called and not looked into."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model(x)


def trace(model: nn.Module) -> Network:
    """The network that `model` computes, as data.

    Args:
        model: linear layers, activations, flatten, dropout in eval mode and residual sums, written with modules,
            functions or methods, in any nesting.

    Returns:
        Its operations in order; equal functions give equal data, however they were written.

    Raises:
        UnsupportedLayer: a layer, function or use has no meaning here, a parameter or buffer is not accounted for or
            used twice; the message names its path.
        InvalidInput: `model` is no module, takes several inputs, or its layer sizes do not fit.

    Example:
        >>> net = trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)))
        >>> net.linear_paths
        ('0', '2')
    """
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    tracer = _Tracer()
    single = tracer.is_leaf_module(model, "")
    root = _Whole(model) if single else model
    graph = _record(tracer, root)
    reader = Reader(root, prefix="model" if single else "")
    for node in graph.nodes:
        reader.read(node)
    _prove_complete(root, reader)
    return reader.network()


def _record(tracer: _Tracer, model: nn.Module) -> fx.Graph:
    """torch.fx's record of one forward, with optional arguments at their defaults."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    required = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(required) > 1:
        raise InvalidInput(
            f"the model's forward must take one input, got {', '.join(required)}; wrap it in a module that takes one"
        )
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    if not required and defaults:
        defaults.pop(next(iter(defaults)))
    try:
        return tracer.trace(model, concrete_args=defaults or None)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise UnsupportedLayer(
            f"the forward of {type(model).__name__} cannot be traced: {error}; write it without branches or loops on "
            "tensor values, or declare the elementwise part with ntkit.architecture.register_elementwise"
        ) from error


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
