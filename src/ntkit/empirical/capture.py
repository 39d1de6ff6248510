"""A forward pass in which calls of chosen layers leave their input factors and a way to their output gradients.

A call's output is remembered as a gradient edge, its place in the autograd graph, and not as a tensor: an
activation that then works in place (nn.ReLU(inplace=True)) changes the tensor, but not that place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ntkit.empirical.layer_rules import has_rule, input_factors, output_factor
from ntkit.empirical.network import Network


@dataclass(frozen=True)
class Layer:
    """A layer with a rule, and those of its parameters that take it: {"weight": "blocks.0.weight"}."""

    path: str
    module: nn.Module
    parameters: dict[str, str]


@dataclass(frozen=True)
class LayerCall:
    """What one call of a layer left behind."""

    layer: Layer
    factors: dict[str, Float[Tensor, "_ t _"]]
    width: int  # columns of its output gradient's rows
    edge: GradientEdge


class Reassign(Exception):  # no error of the caller: the engine starts again without rules for the names
    """Parameters behaved on a later block otherwise than on the samples they were proved on."""

    def __init__(self, names: Sequence[str]):
        super().__init__(", ".join(names))
        self.names = frozenset(names)


def find_layers(network: Network) -> list[Layer]:
    """Every layer with a rule that owns a selected parameter which no other module owns."""
    names = {id(p): name for name, p in network.own.items() if name in network.selected}
    owned = [
        (path, module, short, id(p))
        for path, module in network.model.named_modules()
        for short, p in module.named_parameters(recurse=False)
    ]
    owners = [key for *_, key in owned]
    found: dict[str, Layer] = {}
    for path, module, short, key in owned:
        if key in names and owners.count(key) == 1 and has_rule(module):
            found.setdefault(path, Layer(path, module, {})).parameters[short] = names[key]
    return list(found.values())


def capture(network: Network, x: Any, layers: Sequence[Layer]) -> tuple[Float[Tensor, "n o"], list[LayerCall]]:
    """The outputs of a batch, and what every call of the layers left, in the order of the calls."""
    calls: list[LayerCall] = []
    handles = [
        layer.module.register_forward_hook(_recorder(layer, calls), prepend=True, with_kwargs=True) for layer in layers
    ]
    try:
        return network(x), calls
    finally:
        for handle in handles:
            handle.remove()


def _recorder(layer: Layer, calls: list[LayerCall]) -> Callable[..., Tensor | None]:
    def record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        x = args[0] if args else next(iter(kwargs.values()))
        if not output.requires_grad or x.dim() < 2:
            return None  # under no_grad, or without batch axis; where it matters the proof finds it missing
        if output.dim() > 2:  # over positions torch returns a view, whose place in the graph an in-place op replaces
            output = output.clone()
        factors = input_factors(module, x)
        own = {short: factors[short] for short in layer.parameters}
        width = output_factor(module, output.detach()).shape[-1]
        calls.append(LayerCall(layer, own, width, get_gradient_edge(output)))
        return output

    return record
