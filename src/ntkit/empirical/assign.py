"""Which route each parameter takes, and the proof: a shortcut must reproduce autograd's gradient.

A layer rule covers a parameter only if every way from the parameter to the output goes through captured
calls, batched on axis 0. Tied weights, `F.linear(x, self.fc.weight)`, a subclass with another forward and
sequence-first data break this. So autograd takes the gradient of a random functional of *half* of the
samples, and the rule takes it from that half's rows. Equal: the parameter's route is "layer". Not equal: the
generic route, slower and always exact; and there, torch.vmap is used if it gives that same gradient, else one
sample is run at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.empirical.capture import Layer, LayerCall, capture, find_layers
from ntkit.empirical.costs import LayerSizes
from ntkit.empirical.independence import (
    require_eval_layers,
    require_same,
    run_alone,
    running_the_model,
)
from ntkit.empirical.inputs import take
from ntkit.empirical.layer_rules import output_factor
from ntkit.empirical.network import Network
from ntkit.empirical.routes import GenericRoute
from ntkit.errors import InvalidInput

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of a gradient, relative to its norm


@dataclass(frozen=True)
class Assignment:
    """The route of every selected parameter, and sizes seen on the way."""

    layers: list[Layer]
    generic: list[str]
    unused: list[str]  # reached from no output: contributes zero
    sizes: dict[str, LayerSizes]  # by layer path
    n_outputs: int
    saved_bytes: int  # what autograd keeps of one sample's forward pass
    vmapped: bool  # whether torch.vmap runs the model right


@dataclass(frozen=True)
class _Evidence:
    """The functional Σ_o c_o f_o summed over the first half of n samples: its gradient by autograd."""

    n: int
    half: int
    functional: Float[Tensor, " o"]
    at_calls: Sequence[tuple[LayerCall, Tensor]]  # calls that it reaches
    at_parameters: Mapping[str, Tensor | None]
    generator: torch.Generator


def assign(network: Network, probe: Any, excluded: Collection[str]) -> Assignment:
    """Choose routes on a few samples.

    Args:
        network: the model.
        probe: the samples.
        excluded: parameters known not to follow their layer's rule.

    Raises:
        InvalidInput: the model mixes samples, draws random numbers, is not connected to any selected
            parameter, or holds a parameter in a place that `torch.func` cannot reach.
    """
    require_eval_layers(network.model)
    candidates = find_layers(network)
    with running_the_model():
        alone, saved_bytes = run_alone(network, take(probe, slice(0, 1)))
        out, calls = capture(network, probe, candidates)
    require_same(alone, out.detach())
    evidence = _gather(network, out, calls)
    unused = [name for name, g in evidence.at_parameters.items() if g is None and name not in excluded]
    if len(unused) == len(network.selected):
        raise _disconnected(network)
    layers: list[Layer] = []
    sizes: dict[str, LayerSizes] = {}
    for layer in candidates:
        calls = [(call, g) for call, g in evidence.at_calls if call.layer is layer]
        proved = {
            short: name
            for short, name in layer.parameters.items()
            if name not in excluded and _reproduces(evidence, name, short, calls)
        }
        if proved:
            layers.append(Layer(layer.path, layer.module, proved))
            sizes[layer.path] = _sizes(layer, calls, proved)
    covered = {*unused, *(name for layer in layers for name in layer.parameters.values())}
    generic = [name for name in network.selected if name not in covered]
    vmapped = bool(generic) and _vmap_reproduces(network, generic, probe, evidence)
    return Assignment(layers, generic, unused, sizes, len(evidence.functional), saved_bytes, vmapped)


def _gather(network: Network, out: Float[Tensor, "n o"], calls: list[LayerCall]) -> _Evidence:
    if not out.requires_grad:
        raise _disconnected(network)
    n = out.shape[0]
    half = (n + 1) // 2
    generator = torch.Generator().manual_seed(0)
    functional = torch.randn(out.shape[1], generator=generator, dtype=out.dtype).to(out.device)
    value = (out[:half] @ functional).sum()
    _check_reach(network, value)
    inputs = [*(call.edge for call in calls), *network.edges(network.selected)]
    gradients = torch.autograd.grad([value], inputs, allow_unused=True)
    at_calls = [(call, g) for call, g in zip(calls, gradients, strict=False) if g is not None]
    at_parameters = dict(zip(network.selected, gradients[len(calls) :], strict=True))
    return _Evidence(n, half, functional, at_calls, at_parameters, generator)


def _reproduces(evidence: _Evidence, name: str, short: str, calls: list[tuple[LayerCall, Tensor]]) -> bool:
    """Whether Σ g ⊗ a over the first half's rows is the gradient, both seen through a random projection.

    The projection, along the columns of a, saves an array of the parameter's size; it is zero for no error
    but one orthogonal to it.
    """
    gradient = evidence.at_parameters[name]
    if gradient is None or not calls:
        return False
    if any(call.factors[short].shape[0] != evidence.n or g.shape[0] != evidence.n for call, g in calls):
        return False
    columns = calls[0][0].factors[short].shape[-1]
    direction = torch.randn(columns, generator=evidence.generator, dtype=gradient.dtype).to(gradient.device)
    expected = gradient.reshape(-1, columns) @ direction
    by_rule = torch.zeros_like(expected)
    for call, g in calls:
        rows = output_factor(call.layer.module, g)[: evidence.half].flatten(0, 1)
        by_rule += rows.mT @ (call.factors[short][: evidence.half].flatten(0, 1) @ direction)
    return _equal(by_rule, expected)


def _vmap_reproduces(network: Network, names: list[str], probe: Any, evidence: _Evidence) -> bool:
    """Whether torch.func gives autograd's gradient; in-place writes or branches on values may stop it."""
    route = GenericRoute(network, names, len(evidence.functional), vmapped=True)
    try:
        gradients = route.pulled_back(take(probe, slice(0, evidence.half)), evidence.functional[None])
    except RuntimeError:
        return False
    expected = [evidence.at_parameters[name] for name in names]
    return all(
        _equal(g.sum((0, 1)), torch.zeros_like(g[0, 0]) if e is None else e.flatten())
        for g, e in zip(gradients, expected, strict=True)
    )


def _equal(gradient: Tensor, expected: Tensor) -> bool:
    return bool((gradient - expected).norm() <= _TOLERANCE[expected.dtype] * expected.norm())


def _sizes(layer: Layer, calls: list[tuple[LayerCall, Tensor]], proved: Collection[str]) -> LayerSizes:
    rows = [output_factor(layer.module, g) for _, g in calls]
    columns = {short: calls[0][0].factors[short].shape[-1] for short in proved}
    return LayerSizes(sum(r.shape[1] for r in rows), columns, rows[0].shape[-1])


def _check_reach(network: Network, value: Tensor) -> None:
    """Raise `InvalidInput` if the output depends on a selected parameter itself, not only on its stand-in."""
    real = {name: network.own[name] for name in network.selected if network.own[name].requires_grad}
    if not real:
        return
    leaked = torch.autograd.grad(value, list(real.values()), allow_unused=True, retain_graph=True)
    names = [name for name, g in zip(real, leaked, strict=True) if g is not None]
    if names:
        raise InvalidInput(
            f"the model must use its parameters through the modules that own them, but {names[0]!r} is also "
            "held elsewhere (in a list or a closure); use the module's attribute in forward"
        )


def _disconnected(network: Network) -> InvalidInput:
    return InvalidInput(
        "the model's output must depend on a selected parameter, but none of "
        f"{', '.join(network.selected)} reaches it; look for detach() or no_grad() in forward"
    )
