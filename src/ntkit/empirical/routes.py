"""The two routes from a batch to the derivatives of its outputs: by layer, and generic."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.empirical.capture import Layer, LayerCall, Reassign, capture
from ntkit.empirical.contraction import Factored, Features, Jacobian
from ntkit.empirical.costs import Contraction
from ntkit.empirical.inputs import batch_size, take
from ntkit.empirical.layer_rules import output_factor
from ntkit.empirical.network import Network


class Route(ABC):
    """Derivatives of a network's outputs."""

    @abstractmethod
    def features(self, x: Any, outs: range) -> Features:
        """The derivatives of the outputs `outs` at every sample of x, one entry a group of parameters."""


@dataclass(frozen=True)
class LayerRoute(Route):
    """One forward pass, then one backward pass an output for all layers at once.

    Args:
        network: the model.
        layers: those with a proved rule.
        contractions: by layer path, whether factors stay apart ("gram") or are multiplied ("gradient").
        unused: parameters that reached no output on the probe; that they still do not is watched.
    """

    network: Network
    layers: Sequence[Layer]
    contractions: Mapping[str, Contraction]
    unused: Sequence[str]

    def features(self, x: Any, outs: range) -> Features:
        """See `Route`.

        Raises:
            Reassign: a layer saw something else than the batch, or an unused parameter is used, as in a model
                that sends samples different ways.
        """
        n = batch_size(x)
        out, calls = capture(self.network, x, self.layers)
        inputs = [*(call.edge for call in calls), *self.network.edges(self.unused)]
        gradients: list[Tensor | None] = [None] * len(calls)
        for k, o in enumerate(outs):  # samples are independent, so the sum over the batch keeps them apart
            value = out[:, o].sum()
            grads = torch.autograd.grad([value], inputs, retain_graph=o != outs[-1], allow_unused=True)
            used = [name for name, g in zip(self.unused, grads[len(calls) :], strict=True) if g is not None]
            if used:
                raise Reassign(used)
            for i, call in enumerate(calls):
                gradients[i] = _placed(gradients[i], call, grads[i], k, len(outs), n)
        return [self._of_layer(layer, calls, gradients, len(outs)) for layer in self.layers]

    def _of_layer(
        self, layer: Layer, calls: list[LayerCall], gradients: list[Tensor | None], o: int
    ) -> Factored | Jacobian:
        """The layer's calls side by side as positions; its parameters side by side as columns of a."""
        own = [(call, g) for call, g in zip(calls, gradients, strict=True) if call.layer is layer]
        if not own:  # these samples take another way than the probe's did
            raise Reassign(list(layer.parameters.values()))
        a = torch.cat([_side_by_side(list(call.factors.values()), -1) for call, _ in own], dim=1)
        factored = Factored(a, _side_by_side([_zeros(call, o) if g is None else g for call, g in own], 1))
        return factored if self.contractions[layer.path] == "gram" else factored.multiplied()


def _placed(
    gradient: Tensor | None, call: LayerCall, g: Tensor | None, k: int, o: int, n: int
) -> Float[Tensor, "n t o q"] | None:
    """`gradient` with output k's rows filled in; None while no output has reached the call."""
    if g is None:
        return gradient
    rows = output_factor(call.layer.module, g)
    if rows.shape[0] != n or any(a.shape[0] != n for a in call.factors.values()):
        raise Reassign(list(call.layer.parameters.values()))
    if o == 1:
        return rows.unsqueeze(2)
    if gradient is None:
        gradient = rows.new_zeros(n, rows.shape[1], o, rows.shape[2])
    gradient[:, :, k] = rows
    return gradient


def _zeros(call: LayerCall, o: int) -> Float[Tensor, "n t o q"]:
    """The gradient where none of the outputs depends on the call."""
    rows = next(iter(call.factors.values()))
    return rows.new_zeros(*rows.shape[:2], o, call.width)


def _side_by_side(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


@dataclass(frozen=True)
class GenericRoute(Route):
    """Per-sample Jacobians of any parameters: by torch.func where it can, else one sample at a time."""

    network: Network
    names: Sequence[str]
    n_outputs: int
    vmapped: bool

    def features(self, x: Any, outs: range) -> Features:
        """See `Route`."""
        if not self.vmapped:
            return [Jacobian(j) for j in self._looped(x, outs)]
        every = torch.eye(self.n_outputs, dtype=self.network.dtype, device=self.network.device)
        return [Jacobian(j) for j in self.pulled_back(x, every[outs.start : outs.stop])]

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
