"""The proof that rules hold: on a few samples they must give autograd's gradients.

A random functional of each sample alone must give a rule no rows but that sample's own, which says how rows are
ordered; then the rows of all samples, each with a random weight, must add up to what autograd gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ntkit.empirical.graph import Use
from ntkit.empirical.groups import Order, by_sample, order_of
from ntkit.empirical.network import Network
from ntkit.empirical.rules import Matrix, Table, rule_in_use

_ROUNDINGS = 100  # of the factors that it is made of, for gradients that are 0 but for rounding


@dataclass(frozen=True)
class Evidence:
    """Gradients of c · f(x_s) for each sample s, and of their sum with weights w_s.

    Args:
        functional: c.
        weights: w.
        at_nodes: of each sample, its gradients at operations' outputs that it reaches.
        at_parameters: the gradients of the weighted sum; None where no sample reaches a parameter.
    """

    functional: Float[Tensor, " o"]
    weights: Float[Tensor, " n"]
    at_nodes: Sequence[Mapping[Any, Tensor]]
    at_parameters: Mapping[str, Tensor | None]


def gather(network: Network, out: Float[Tensor, "n o"], uses: Mapping[str, Sequence[Use]]) -> Evidence:
    """What autograd gives at operations that read parameters, and at all selected parameters."""
    generator = torch.Generator().manual_seed(0)
    functional = torch.randn(out.shape[1], generator=generator, dtype=out.dtype).to(out.device)
    weights = torch.rand(len(out), generator=generator, dtype=out.dtype).to(out.device) + 0.5
    values = (out * functional).sum(1)  # no product of matrices, which autocast would round
    nodes = list(dict.fromkeys(use.node for own in uses.values() for use in own))
    edges = [GradientEdge(node, 0) for node in nodes]
    at_nodes = []
    for value in values if nodes else []:
        gradients = torch.autograd.grad([value], edges, allow_unused=True, retain_graph=True)
        at_nodes.append({node: g for node, g in zip(nodes, gradients, strict=True) if g is not None})
    found = torch.autograd.grad(
        [(values * weights).sum()], network.edges(network.selected), allow_unused=True, retain_graph=True
    )
    return Evidence(functional, weights, at_nodes, dict(zip(network.selected, found, strict=True)))


@torch.no_grad()
def proved(evidence: Evidence, uses: Mapping[str, Sequence[Use]], tolerance: float) -> dict[str, Order]:
    """The parameters whose rules give their gradients, with the order of the rows of each use."""
    orders = {}
    for name, own in uses.items():
        order = [found for use in own if (found := _order_of(evidence, use)) is not None]
        if len(order) == len(own) and _gives_gradient(evidence, own, evidence.at_parameters[name], tolerance):
            orders[name] = order_of(order)
    return orders


def equal(one: Tensor, two: Tensor, tolerance: float) -> bool:
    """Whether two gradients agree, relative to the second."""
    return bool((one - two).norm() <= tolerance * two.norm())


def _gives_gradient(evidence: Evidence, uses: Sequence[Use], expected: Tensor | None, tolerance: float) -> bool:
    """Whether the rows of all uses add up to a parameter's gradient."""
    total, size = None, 0.0
    for use in uses:
        at_node = [w * g[use.node] for w, g in zip(evidence.weights, evidence.at_nodes, strict=True) if use.node in g]
        if at_node:
            share, factors = _share(use, torch.stack(at_node).sum(0))
            total, size = share if total is None else total + share, size + factors
    if total is None or expected is None:
        given = total if expected is None else expected
        return given is None or float(given.norm()) <= _ROUNDINGS * torch.finfo(given.dtype).eps * size
    rounding = _ROUNDINGS * torch.finfo(total.dtype).eps * size
    return bool((total - expected).norm() <= tolerance * expected.norm() + rounding)


def _order_of(evidence: Evidence, use: Use) -> bool | None:
    """Which order puts the rows of each sample's functional at that sample; None for neither."""
    n = len(evidence.at_nodes)
    possible = [True, False]
    for s, gradients in enumerate(evidence.at_nodes):
        if use.node not in gradients:
            continue
        rows = rule_in_use(use).flat_right(use.node, gradients[use.node][None], use.shape)[0]
        for samples_first in list(possible):
            apart = by_sample(rows, n, samples_first)
            if apart is None or any(bool(apart[k].any()) for k in range(n) if k != s):
                possible.remove(samples_first)
    return possible[0] if possible else None


def _share(use: Use, gradient: Tensor) -> tuple[Tensor, float]:
    """A use's part of the parameter's gradient, and how large the factors are that it is made of."""
    rule = rule_in_use(use)
    right = rule.flat_right(use.node, gradient[None], use.shape)[0]
    left = None
    if isinstance(rule, Matrix):
        left = rule.flat_left(use.node)
    elif isinstance(rule, Table):
        left = rule.tokens(use.node)
    size = float(right.norm()) * (float(left.norm()) if isinstance(rule, Matrix) and left is not None else 1.0)
    return use.pulled_back(rule.assembled(left, right, use.shape)), size * abs(use.scale)
