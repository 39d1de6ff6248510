"""Which route each parameter takes, and the proof: a shortcut must reproduce autograd's gradient.

A rule covers a parameter only if every way from the parameter to the output is an operation with one, and if its rows
are those of samples. Sequence-first data, samples that meet, a rule that is wrong: all break this. So on a few samples
the rules must give what autograd gives (proof.py): then the parameter's route is "layer". Else it is the generic route,
slower and always exact; and there, torch.vmap is used if it gives those same gradients, else one sample is run at a
time. The backward passes of all outputs are run at once, by vmap, if that gives what they give one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntkit._products import fast_products
from ntkit.empirical.costs import LayerSizes
from ntkit.empirical.graph import find_uses, is_plain, structure
from ntkit.empirical.groups import Group, Order, grouped, has_rules, sizes_of
from ntkit.empirical.independence import (
    differentiating,
    require_alone,
    require_eval_layers,
    require_same,
    run_alone,
    running_the_model,
)
from ntkit.empirical.inputs import batch_size, leaves, take
from ntkit.empirical.network import Network
from ntkit.empirical.proof import Evidence, equal, gather, proved
from ntkit.empirical.routes import GenericRoute, gradients_at
from ntkit.errors import InvalidInput


@dataclass(frozen=True)
class Assignment:
    """The route of every selected parameter, and sizes seen on the way."""

    orders: dict[str, Order]  # parameters with proved rules, and how their rows are ordered
    generic: list[str]
    unused: list[str]  # reached from no output: contributes zero
    sizes: dict[Group, LayerSizes]
    n_outputs: int
    saved_bytes: int  # what autograd keeps of one sample's forward pass
    vmapped: bool  # whether torch.vmap runs the model right
    batched: bool  # whether it runs the backward passes of all outputs right
    way: tuple[Any, ...]  # the operations that the outputs were made by


def assign(network: Network, probe: Any, excluded: Collection[str]) -> Assignment:
    """Choose routes on a few samples.

    Args:
        network: the model.
        probe: the samples.
        excluded: parameters known not to follow their operations' rules.

    Raises:
        InvalidInput: the model mixes samples, draws random numbers, is not connected to any selected
            parameter, or holds a parameter in a place that `torch.func` cannot reach.
    """
    require_eval_layers(network.model)
    with running_the_model():
        alone, saved_bytes = run_alone(network, take(probe, slice(0, 1)))
        out = network(probe)
    require_same(alone, out.detach(), tolerance=network.tolerance)
    require_alone(network, probe, out.detach(), first=1)
    if not out.requires_grad:
        raise _disconnected(network)
    uses = find_uses(out, {name: network.standins[name] for name in network.selected})
    unused = [name for name, own in uses.items() if not own and name not in excluded]
    if len(unused) == len(network.selected):
        raise _disconnected(network)
    with differentiating():
        _check_reach(network, out)
    way = structure(out, network.standins)
    if any("CheckpointFunction" in step[0] for step in way[1:]):
        raise InvalidInput(
            "the model must be differentiable by torch.autograd.grad, but checkpoint(..., use_reentrant=True) hides "
            "what it holds; call it with use_reentrant=False"
        )
    ruled = {name: own for name, own in uses.items() if name not in excluded and has_rules(own)}
    with differentiating(), fast_products(out):
        evidence = gather(network, out, ruled)
        orders = proved(evidence, ruled, network.tolerance)
    sizes = {group: sizes_of(group, sites, len(out)) for group, sites in grouped(uses, orders, network.part_of).items()}
    generic = [name for name in network.selected if name not in orders and name not in unused]
    vmapped = bool(generic) and _vmap_reproduces(network, generic, probe, evidence)
    nodes = list(dict.fromkeys(use.node for name in orders for use in uses[name]))
    batched = _runs_batched(out, nodes, network.tolerance)
    return Assignment(orders, generic, unused, sizes, out.shape[1], saved_bytes, vmapped, batched, way)


# of models, by what their samples are and which parameters are selected; used while they take the same way
_found: WeakKeyDictionary[nn.Module, dict[Any, Assignment]] = WeakKeyDictionary()
_FOUND_OF_A_MODEL = 8


def remembered(network: Network, x: Any) -> Assignment | None:
    """The routes that were found for samples of this form; whether the model takes the same way is to be seen."""
    require_eval_layers(network.model)
    return _found.get(network.model, {}).get(_form(network, x))


def remember(network: Network, x: Any, assignment: Assignment) -> None:
    """Keeps routes that have proved right, and must be right whatever the samples are."""
    one_by_one = all(order == (True,) for order in assignment.orders.values())
    if batch_size(x) < 2 or not (one_by_one and is_plain(assignment.way)):  # alone, a sample meets no other
        return
    of_model = _found.setdefault(network.model, {})
    if len(of_model) >= _FOUND_OF_A_MODEL:
        of_model.clear()
    of_model[_form(network, x)] = assignment


def _form(network: Network, x: Any) -> tuple[Any, ...]:
    samples = tuple((name, tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in leaves(x, "x"))
    return samples, tuple(network.part_of.items()), network.dtype, network.device


def _runs_batched(out: Float[Tensor, "n o"], nodes: Sequence[Any], tolerance: float) -> bool:
    """Whether torch.vmap over two backward passes gives what they give one by one."""
    if out.shape[1] == 1 or not nodes:
        return False
    outs = range(2)
    try:
        together = gradients_at(nodes, out, outs, batched=True)
    except RuntimeError:
        return False
    apart = gradients_at(nodes, out, outs, batched=False)
    return all(equal(together[node], apart[node], tolerance) for node in apart)


def _vmap_reproduces(network: Network, names: list[str], probe: Any, evidence: Evidence) -> bool:
    """Whether torch.func gives autograd's gradients; in-place writes or branches on values may stop it."""
    route = GenericRoute(network, names, len(evidence.functional), vmapped=True)
    try:
        gradients = route.pulled_back(probe, evidence.functional[None])
    except RuntimeError:
        return False
    for name, g in zip(names, gradients, strict=True):
        total, expected = evidence.weights @ g[:, 0], evidence.at_parameters[name]
        if not equal(total, torch.zeros_like(total) if expected is None else expected.flatten(), network.tolerance):
            return False
    return True


def _check_reach(network: Network, out: Float[Tensor, "n o"]) -> None:
    """Raise `InvalidInput` if the output depends on a selected parameter itself, not only on its stand-in."""
    real = {name: network.own[name] for name in network.selected if network.own[name].requires_grad}
    if not real:
        return
    leaked = torch.autograd.grad(out.sum(), list(real.values()), allow_unused=True, retain_graph=True)
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
