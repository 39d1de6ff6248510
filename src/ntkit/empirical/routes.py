"""The two routes from a batch to the derivatives of its outputs: by layer, and generic."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ntkit._products import fast_products
from ntkit.empirical.contraction import Features, Jacobian, Later
from ntkit.empirical.costs import Contraction
from ntkit.empirical.graph import Reassign, Stale, find_uses, is_plain, no_gradient, structure
from ntkit.empirical.groups import Group, Order, Site, are_attributed, derivatives_of, grouped
from ntkit.empirical.independence import require_alone, require_few_alone
from ntkit.empirical.inputs import batch_size, take
from ntkit.empirical.network import Network


class Route(ABC):
    """Derivatives of a network's outputs."""

    @property
    @abstractmethod
    def shares(self) -> Sequence[str]:
        """The part of the kernel that each entry of `features` belongs to."""

    @abstractmethod
    def features(self, x: Any, outs: range) -> Features:
        """The derivatives of the outputs `outs` at every sample of x, one entry a group of parameters."""


def gradients_at(nodes: Sequence[Any], out: Float[Tensor, "n o"], outs: range, batched: bool) -> dict[Any, Tensor]:
    """The gradients of outputs `outs` at operations' outputs, (len(outs), …) each, by operation.

    Samples are independent, so the sum over the batch keeps them apart.

    Args:
        nodes: the operations.
        out: the outputs.
        outs: which of them.
        batched: whether all backward passes are run at once.
    """
    if not nodes:
        return {}
    edges = [GradientEdge(node, 0) for node in nodes]
    with fast_products(out):
        return _gradients_at(nodes, edges, out, outs, batched)


def _gradients_at(
    nodes: Sequence[Any], edges: Sequence[GradientEdge], out: Tensor, outs: range, batched: bool
) -> dict[Any, Tensor]:
    if batched and len(outs) > 1:
        each = torch.eye(out.shape[1], dtype=out.dtype, device=out.device)[outs.start : outs.stop, None]
        with warnings.catch_warnings():  # an operation that vmap runs one by one is slower, and as right
            warnings.filterwarnings("ignore", message="There is a performance drop")
            found = torch.autograd.grad(
                [out], edges, [each.expand(-1, *out.shape)], retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        return {node: no_gradient(node, len(outs)) if g is None else g for node, g in zip(nodes, found, strict=True)}
    rows = [torch.autograd.grad([out[:, o].sum()], edges, retain_graph=True, allow_unused=True) for o in outs]
    if len(rows) == 1:
        return {node: no_gradient(node, 1) if g is None else g[None] for node, g in zip(nodes, rows[0], strict=True)}
    return {
        node: torch.stack([no_gradient(node, 1)[0] if g is None else g for g in of_node])
        for node, of_node in zip(nodes, zip(*rows, strict=True), strict=True)
    }


@dataclass(frozen=True)
class LayerRoute(Route):
    """One forward pass, then the backward passes of all outputs, for all operations with rules at once.

    Args:
        network: the model.
        orders: parameters with proved rules, and how their rows are ordered.
        contractions: whether factors stay apart ("gram") or are multiplied ("gradient").
        unused: parameters that reached no output on the probe; that they still do not is watched.
        batched: whether backward passes may be run at once.
        way: the operations by which the outputs of a few samples were made.
        strictly: whether the outputs must be made by the same ones.
        pending: whether factors are multiplied only while the kernel is.
        later: whether they are made only then, one group after the other.
    """

    network: Network
    orders: Mapping[str, Order]
    contractions: Mapping[Group, Contraction]
    unused: Sequence[str]
    batched: bool
    way: tuple[Any, ...]
    strictly: bool
    pending: bool = False
    later: bool = False

    @property
    def shares(self) -> Sequence[str]:
        """See `Route`."""
        return [group.share for group in self.contractions]

    def features(self, x: Any, outs: range) -> Features:
        """See `Route`.

        Raises:
            Reassign: a parameter is used otherwise than on the probe, as in a model that sends samples
                different ways.
            Stale: the outputs are made in another way than was asked.
            InvalidInput: they are made in another way than on the probe, and samples have others alone.
        """
        n, out = batch_size(x), self.network(x)
        way = structure(out, self.network.standins)
        if way != self.way:
            if self.strictly:
                raise Stale
            require_alone(self.network, x, out.detach())
        elif not self.strictly:
            require_few_alone(self.network, x, out.detach())
        names = [*self.orders, *self.unused]
        uses = find_uses(out, {name: self.network.standins[name] for name in names})
        used = [name for name in self.unused if uses[name]]
        if used:
            raise Reassign(used)
        found = grouped(uses, self.orders, self.network.part_of)
        if found.keys() != self.contractions.keys():
            raise Reassign([name for group in found.keys() ^ self.contractions.keys() for name in group.names])
        nodes = list(dict.fromkeys(site[0].node for sites in found.values() for site in sites))
        gradients = gradients_at(nodes, out, outs, self.batched)
        if way != self.way or not is_plain(way):
            self._require_attributed(found, nodes, gradients, out[:, outs.start : outs.stop])
        makers = [
            partial(derivatives_of, group, found[group], gradients, n, len(outs), kind, self.pending)
            for group, kind in self.contractions.items()
        ]
        return [Later(make) for make in makers] if self.later else [make() for make in makers]

    def _require_attributed(
        self,
        found: Mapping[Group, Sequence[Site]],
        nodes: Sequence[Any],
        gradients: Mapping[Any, Tensor],
        out: Float[Tensor, "n k"],
    ) -> None:
        """Raise `Reassign` for parameters whose rows belong to other samples than they are taken for.

        Operations that move numbers about may do so otherwise in every batch: one backward pass in which each sample
        has a weight of its own must give all rows the weights of their samples.
        """
        generator = torch.Generator().manual_seed(1)
        weights, functional = (
            (torch.rand(size, generator=generator, dtype=torch.float64) + 0.5).to(out) for size in out.shape
        )
        value = (weights[:, None] * out * functional).sum().view(1, 1)
        weighted = gradients_at(nodes, value, range(1), batched=False)
        low = self.network.tolerance > 1e-3
        tolerance = self.network.tolerance if low else 100 * torch.finfo(out.dtype).eps
        alike = {node: torch.tensordot(functional.to(g), g, 1)[None] for node, g in gradients.items()}
        lost = [
            name
            for group, sites in found.items()
            if not are_attributed(group, sites, alike, weighted, weights, tolerance)
            for name in group.names
        ]
        if lost:
            raise Reassign(lost)


@dataclass(frozen=True)
class GenericRoute(Route):
    """Per-sample Jacobians of any parameters: by torch.func where it can, else one sample at a time."""

    network: Network
    names: Sequence[str]
    n_outputs: int
    vmapped: bool

    @property
    def shares(self) -> Sequence[str]:
        """See `Route`."""
        return [self.network.part_of[name] for name in self.names]

    def features(self, x: Any, outs: range) -> Features:
        """See `Route`."""
        if not self.vmapped:
            return [Jacobian(j.to(self.network.result_dtype)) for j in self._looped(x, outs)]
        every = torch.eye(self.n_outputs, dtype=self.network.dtype, device=self.network.device)
        rows = self.pulled_back(x, every[outs.start : outs.stop])
        return [Jacobian(j.to(self.network.result_dtype)) for j in rows]

    def pulled_back(self, x: Any, functionals: Float[Tensor, "k o"]) -> list[Float[Tensor, "n k p"]]:
        """Every sample's gradients of linear functionals of its outputs, by parameter, with torch.func.

        Samples are vectorised and functionals are not: a second vmap over them meets operations whose
        batching rules are wrong (PReLU's backward, torch 2.13), for little speed.
        """
        parameters = {name: self.network.standins[name].detach() for name in self.names}

        def of_sample(sample: Any) -> dict[str, Tensor]:
            _, pullback, *_ = torch.func.vjp(lambda chosen: self.network.of_sample(chosen, sample), parameters)
            rows = [pullback(functional)[0] for functional in functionals]
            return {name: torch.stack([row[name] for row in rows]) for name in parameters}

        with warnings.catch_warnings():  # an operation that vmap runs sample by sample is no news on this route
            warnings.filterwarnings("ignore", message="There is a performance drop")
            gradients = torch.func.vmap(of_sample)(x)
        shape = (batch_size(x), functionals.shape[0], -1)
        return [gradients[name].detach().reshape(shape) for name in self.names]

    def _looped(self, x: Any, outs: range) -> list[Float[Tensor, "n o p"]]:
        parameters = [self.network.standins[name] for name in self.names]
        n = batch_size(x)
        jacobians = [p.new_zeros(n, len(outs), p.numel(), requires_grad=False) for p in parameters]
        for i in range(n):
            out = self.network(take(x, slice(i, i + 1)))
            for k, o in enumerate(outs):
                grads = torch.autograd.grad(out[0, o], parameters, retain_graph=o != outs[-1], allow_unused=True)
                for j, g in zip(jacobians, grads, strict=True):
                    if g is not None:
                        j[i, k] = g.flatten()
        return jacobians
