"""Derivatives along directions, of one block of samples: Jᵀ v by reverse mode, J w by forward mode or reverse twice.

Some operations know no forward derivative (functions of a user's own, oneDNN's recurrent layers). There the derivative
of u -> ⟨Jᵀ u, w⟩ is J w. Fused attention knows only one derivative at all, so attention runs by plain operations here.
What is chosen is tried first: ⟨J w, v⟩ = ⟨w, Jᵀ v⟩ must hold on a few samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel

from ntkit._arrays import check_finite
from ntkit._products import fast_products
from ntkit.empirical.inputs import batch_size, take
from ntkit.empirical.network import Network, derivatives
from ntkit.errors import InvalidInput

Mode = Literal["reverse-forward", "reverse-reverse"]


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by operations that have derivatives of every order, not by fused ones."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Block:
    """The derivative of f(θ, x) along θ for some samples; graphs are recorded when first needed, and kept.

    Args:
        network: the model.
        x: the samples.
        mode: how J w is computed.
    """

    def __init__(self, network: Network, x: Any, mode: Mode):
        self._network = network
        self._x = x
        self._mode = mode
        self._leaves = {name: network.standins[name] for name in network.selected}

    @cached_property
    def outputs(self) -> Float[Tensor, "n o"]:
        """f(x), with its graph."""
        with derivatives(), plain_attention():
            return self._network(take(self._x, slice(None)))

    def pull(self, weights: Float[Tensor, "n o"]) -> dict[str, Tensor]:
        """Jᵀ v by parameter."""
        with derivatives(), plain_attention():
            found = self._gradients(weights, create_graph=False)
        return {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(self._leaves.items(), found, strict=True)
        }

    def push(self, direction: Mapping[str, Tensor]) -> Float[Tensor, "n o"]:
        """J w."""
        with derivatives(), plain_attention():
            return self._push_forward(direction) if self._mode == "reverse-forward" else self._push_reverse(direction)

    def _push_forward(self, direction: Mapping[str, Tensor]) -> Tensor:
        n, network = batch_size(self._x), self._network
        with torch.no_grad(), forward_ad.dual_level():
            point = {name: p.detach() for name, p in network.standins.items()}
            point |= {name: forward_ad.make_dual(point[name], w) for name, w in direction.items()}
            out = network._evaluate(point, take(self._x, slice(None)))
            primal, tangent = forward_ad.unpack_dual(out)
            return (torch.zeros_like(primal) if tangent is None else tangent).reshape(n, -1)

    def _push_reverse(self, direction: Mapping[str, Tensor]) -> Tensor:
        start, pulled = self._pulled
        used = [(g, direction[name]) for name, g in pulled.items()]
        if not used:
            return torch.zeros_like(start)
        gradients, weights = zip(*used, strict=True)
        with fast_products(start):
            (found,) = torch.autograd.grad(gradients, start, weights, retain_graph=True, allow_unused=True)
        return torch.zeros_like(start) if found is None else found

    @cached_property
    def _pulled(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Some u, and Jᵀ u with its graph to u, of the parameters that have one."""
        start = torch.zeros_like(self.outputs, requires_grad=True)
        found = zip(self._leaves, self._gradients(start, create_graph=True), strict=True)
        return start, {name: g for name, g in found if g is not None and g.requires_grad}

    def _gradients(self, weights: Tensor, create_graph: bool) -> tuple[Tensor | None, ...]:
        leaves = list(self._leaves.values())
        with fast_products(weights):
            return torch.autograd.grad(
                self.outputs, leaves, weights, retain_graph=True, create_graph=create_graph, allow_unused=True
            )


def working_mode(network: Network, probe: Any, wanted: str) -> Mode:
    """`wanted` if it gives the transpose of Jᵀ on a few samples, else reverse mode twice.

    Args:
        network: the model.
        probe: the samples.
        wanted: a mode.

    Raises:
        InvalidInput: an unknown mode, or neither of them works; the message names the operation.
    """
    if wanted not in get_args(Mode):
        raise InvalidInput(f"mode must be one of {', '.join(map(repr, get_args(Mode)))}, got {wanted!r}")
    modes: list[Mode] = ["reverse-reverse"] if wanted == "reverse-reverse" else ["reverse-forward", "reverse-reverse"]
    failures = []
    for mode in modes:
        block = Block(network, probe, mode)
        try:
            if _is_transpose(block, network):
                return mode
            failures.append(f"{mode}: what an operation gives is not the transpose of its backward pass")
        except RuntimeError as error:  # NotImplementedError among them
            failures.append(f"{mode}: {str(error).splitlines()[0]}")
    own = users_functions([Block(network, probe, modes[-1]).outputs])
    named = f" (the model calls {', '.join(own)})" if own else ""
    raise InvalidInput(
        f"products with the tangent kernel need a forward derivative, or a second one, of every operation{named}, got "
        f"{'; '.join(failures)}; give the operation a jvp, or a backward pass that can be differentiated, or use "
        "EmpiricalKernel, which needs neither"
    )


def _is_transpose(block: Block, network: Network) -> bool:
    generator = torch.Generator().manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    v = drawn(block.outputs.detach())
    w = {name: drawn(network.standins[name].detach()) for name in network.selected}
    pulled = block.pull(v)
    for name, gradient in pulled.items():
        check_finite(gradient, f"the gradient of {name!r}")
    pushed = block.push(w).detach()
    terms = torch.stack([(pulled[name] * w[name]).double().sum() for name in w])
    gap = float((pushed.double() * v.double()).sum() - terms.sum())
    bound = 1e-3 if v.dtype == torch.float32 else 1e-7
    scale = max(float(pushed.double().norm() * v.double().norm()), float(terms.abs().max()))
    return abs(gap) <= bound * scale  # false for what is not finite


def users_functions(outs: Sequence[Tensor]) -> list[str]:
    """Names of the `torch.autograd.Function`s that outputs were made by."""
    names, seen, waiting = [], set(), [out.grad_fn for out in outs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(before for before, _ in node.next_functions)
        if isinstance(node, BackwardCFunction):
            names.append(type(node).__name__.removesuffix("Backward"))
    return sorted(set(names))
