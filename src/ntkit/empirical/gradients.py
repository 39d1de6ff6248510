"""Gradients of single samples: by parameter, as features whose products are the tangent kernel, and of the last layer.

All derivatives are those of a sample alone, exact, in blocks of samples that fit in memory. A projection of them is
drawn by parameter, so that it is the same for every batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ntkit._arrays import Array, check_finite, like
from ntkit._memory import read_limit, room_beside
from ntkit.empirical.assign import assign
from ntkit.empirical.contraction import Jacobian
from ntkit.empirical.costs import Work, cut
from ntkit.empirical.graph import find_uses
from ntkit.empirical.independence import require_eval_layers, require_few_alone, running_the_model
from ntkit.empirical.inputs import Inputs, a_few, batch_size, first_leaf, take
from ntkit.empirical.kernel import EmpiricalKernel
from ntkit.empirical.network import Network, derivatives
from ntkit.empirical.routes import GenericRoute
from ntkit.empirical.rules import Matrix, rule_of
from ntkit.errors import InvalidInput

_SHIFTS = 3  # of a layer's parameters
_SHIFT_SIZE = 4.0  # in root mean squares of a parameter, so that what follows the layer sees its values change sign


def per_sample_gradients(
    model: nn.Module,
    x: Inputs,
    *,
    parameters: str | Sequence[str] | None = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    memory_limit: int | None = None,
) -> dict[str, Float[Array, "n o *_"]]:
    """The gradient of every output at every sample with respect to every parameter, ∂f_o(x_n)/∂θ, exact.

    Args:
        model: any torch module in float32 or float64 that treats samples independently; it is left as it was.
        x: (n, ...) samples as the model takes them: a tensor, or a tuple or dict of them.
        parameters: names or glob patterns; default all that require grad.
        forward: f(model, x) -> (n, o), for a model that is not called as model(x), model(*x) or model(**x).
        memory_limit: bytes for result and intermediates together; default: half of what is free beside the result.

    Returns:
        name -> (n, o, *shape of the parameter), in the model's order; numpy where x is numpy.

    Raises:
        InvalidInput: as for `EmpiricalKernel` and its `ntk`.
        MemoryLimitExceeded: the gradients, n · o times the size of the parameters, exceed the memory limit.

    Example:
        >>> import torch
        >>> gradients = per_sample_gradients(torch.nn.Linear(3, 2), torch.ones(4, 3))
        >>> {name: tuple(g.shape) for name, g in gradients.items()}
        {'weight': (4, 2, 2, 3), 'bias': (4, 2, 2)}

    Reference: Jacot, Gabriel & Hongler 2018, whose kernel is Σ_θ of their products.
    """
    with derivatives():
        source = _Source.of(model, x, parameters, forward)
        numbers = source.samples * source.outputs * source.size
        what = f"the gradients of {source.samples} samples, {source.outputs} outputs and {source.size} parameters,"
        remedy = "take fewer samples or parameters, or gradient_features(model, x, dimension=...), which projects them"
        budget = source.budget(numbers, what, remedy, memory_limit)
        network, n, o = source.network, source.samples, source.outputs
        result = {name: source.zeros(n, o, *network.own[name].shape) for name in network.selected}
        for samples, outs, rows in source.blocks(budget, 1):
            for name, j in zip(network.selected, rows, strict=True):
                result[name][samples, outs] = (
                    j.unflatten(-1, network.own[name].shape) if network.own[name].dim() else j[..., 0]
                )
        for name, g in result.items():
            check_finite(g, f"the gradient of {name!r}")
        return {name: like(g, first_leaf(x)) for name, g in result.items()}


def gradient_features(
    model: nn.Module,
    x: Inputs,
    *,
    dimension: int | None = None,
    parameters: str | Sequence[str] | None = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
) -> Float[Array, "n o k"]:
    """Gradients as rows φ_o(x_n) with φ_o(x) · φ_o'(x') = k(x, x')_{oo'}, the tangent kernel; projected if asked.

    With a dimension k it is a CountSketch: every coordinate of θ is added to one of k sums, drawn by the seed and its
    parameter's name, with a random sign. Products then are k(x, x') on average over seeds, with a variance of at most
    (‖u‖²‖v‖² + (u · v)²)/k for gradients u, v. The projection does not depend on the batch, so features of training
    and test samples fit together, as data attribution by TRAK needs them.

    Args:
        model: any torch module in float32 or float64 that treats samples independently; it is left as it was.
        x: (n, ...) samples as the model takes them: a tensor, or a tuple or dict of them.
        dimension: k; None for all p coordinates, without projection.
        parameters: names or glob patterns; default all that require grad.
        forward: f(model, x) -> (n, o), for a model that is not called as model(x), model(*x) or model(**x).
        seed: of the projection.
        memory_limit: bytes for result and intermediates together; default: half of what is free beside the result.

    Returns:
        (n, o, k), or (n, o, p) without projection; numpy where x is numpy.

    Raises:
        InvalidInput: a dimension below 1, a seed that is no whole number; else as for `EmpiricalKernel` and its `ntk`.
        MemoryLimitExceeded: the features, or the gradients of one output at one sample, exceed the memory limit.

    Example:
        >>> import torch
        >>> phi = gradient_features(torch.nn.Linear(3, 1), torch.eye(2, 3))[:, 0]
        >>> phi @ phi.T
        tensor([[2., 1.],
                [1., 2.]])
        >>> gradient_features(torch.nn.Linear(3, 1), torch.eye(2, 3), dimension=2).shape
        torch.Size([2, 1, 2])

    Reference: Charikar, Chen & Farach-Colton 2002; Weinberger et al. 2009; TRAK: Park et al. 2023.
    """
    if dimension is not None and (isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1):
        raise InvalidInput(
            f"dimension must be a whole number, 1 or more, got {dimension!r}; None keeps all coordinates"
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidInput(f"seed must be a whole number, got {seed!r}")
    with derivatives():
        source = _Source.of(model, x, parameters, forward)
        width = source.size if dimension is None else dimension
        remedy = "take fewer samples or parameters, or a smaller dimension, onto which gradients are projected"
        what = f"the features, shape {(source.samples, source.outputs, width)},"
        budget = source.budget(source.samples * source.outputs * width, what, remedy, memory_limit)
        result = source.zeros(source.samples, source.outputs, width)
        sketch = None if dimension is None else _Sketch.drawn(source, dimension, seed)
        held = 0 if sketch is None else sketch.bytes
        for samples, outs, rows in source.blocks(budget - held, 1 if sketch is None else 2):
            if sketch is None:
                result[samples, outs] = torch.cat(rows, -1)
            else:
                sketch.add(result[samples, outs], rows)
        check_finite(result, "the gradients of the model")
        return like(result, first_leaf(x))


def empirical_nngp(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    layer: str | None = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
) -> Float[Array, "n m"]:
    """The kernel of the features that the last layer reads, ⟨∂f₁/∂θ_L(x), ∂f₁/∂θ_L(x')⟩: the finite network's NNGP.

    Scales count: behind an `ntkit.nn.Linear` it is w_std²/fan_in φ(x) · φ(x') + b_std², which at large width tends to
    `InfiniteKernel.nngp`. It is the part of the tangent kernel that training the last layer alone has.

    Args:
        model: any torch module in float32 or float64 that treats samples independently; it is left as it was.
        x1: (n, ...) samples as the model takes them: a tensor, or a tuple or dict of them.
        x2: (m, ...) samples of the same form; None means x1.
        layer: the path of the module whose parameters are θ_L; default the one whose parameters are used last.
        forward: f(model, x) -> (n, o), for a model that is not called as model(x), model(*x) or model(**x).

    Returns:
        (n, m); numpy where x1 is numpy.

    Raises:
        InvalidInput: no such layer, or outputs that are not affine in its parameters; else as for `EmpiricalKernel`
            and its `ntk`.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2, bias=False))
        >>> x = torch.randn(4, 3)
        >>> features = model[:2](x)
        >>> torch.allclose(empirical_nngp(model, x), features @ features.T)
        True

    Reference: Neal 1996; Lee et al. 2018; the kernel of the last layer: Lee et al. 2019, section 2.3.
    """
    with derivatives():
        network = Network(model, "*", forward)
        probe = a_few(network.admit(x1, "x1"))
        require_eval_layers(model)
        with running_the_model():
            out = network(probe)
        names = _last_layer(network, out) if layer is None else _named_layer(model, layer)
        _require_affine(network, probe, names, layer)

    kernel = EmpiricalKernel(model, outputs="trace", parameters=names, forward=forward, project=0)
    found, of_all = kernel.ntk(x1, x2), EmpiricalKernel(model, outputs="trace", parameters=names, forward=forward)
    if not found.any() and of_all.diagonal(x1).any():
        raise InvalidInput(
            f"the first output must depend on the layer of {', '.join(names)}, but others do and it does not, as of "
            "several heads side by side; name its own layer with layer=..., or take one head's outputs with forward=..."
        )
    return found


@dataclass(frozen=True)
class _Source:
    """A network and samples whose gradients are wanted."""

    network: Network
    x: Any
    outputs: int
    saved_bytes: int  # what autograd keeps of one sample's forward pass
    vmapped: bool

    @staticmethod
    def of(
        model: nn.Module,
        x: Inputs,
        parameters: str | Sequence[str] | None,
        forward: Callable[[nn.Module, Any], Tensor] | None,
    ) -> _Source:
        """The samples admitted, the model known to be good, and whether torch.vmap runs it right."""
        network = Network(model, parameters, forward)
        admitted = network.admit(x, "x")
        probe = a_few(admitted)
        found = assign(network, probe, frozenset())
        vmapped = _vmap_is_right(network, probe, found.n_outputs)
        return _Source(network, admitted, found.n_outputs, found.saved_bytes, vmapped)

    @property
    def samples(self) -> int:
        """n."""
        return batch_size(self.x)

    @property
    def size(self) -> int:
        """p, of all selected parameters."""
        return sum(self.network.own[name].numel() for name in self.network.selected)

    def zeros(self, *shape: int) -> Tensor:
        """Of the model's kind."""
        return torch.zeros(shape, dtype=self.network.dtype, device=self.network.device)

    def budget(self, numbers: int, what: str, remedy: str, memory_limit: int | None) -> int:
        """Bytes left for intermediates beside a result of so many numbers, whose size is checked."""
        limit = read_limit(memory_limit)
        return room_beside(numbers * self.network.dtype.itemsize, what, remedy, limit, self.network.device)

    def blocks(self, budget: int, copies: int) -> Iterator[tuple[slice, slice, list[Float[Tensor, "b c _"]]]]:
        """Gradients of some samples and outputs, by parameter, where they stand.

        Args:
            budget: bytes.
            copies: of a block's gradients that its user makes.
        """
        work = self._work(budget, copies)
        route = GenericRoute(self.network, self.network.selected, self.outputs, self.vmapped)
        for first in range(0, self.samples, work.block):
            samples = slice(first, min(first + work.block, self.samples))
            block = take(self.x, samples)
            with torch.no_grad():
                require_few_alone(self.network, block, self.network(take(block, slice(None))))
            for start in range(0, self.outputs, work.chunk):
                outs = range(start, min(start + work.chunk, self.outputs))
                rows = [f.j for f in route.features(block, outs) if isinstance(f, Jacobian)]
                yield samples, slice(outs.start, outs.stop), rows

    def _work(self, budget: int, copies: int) -> Work:
        def sample_bytes(chunk: int) -> int:
            numbers = (2 + copies) * chunk * self.size  # rows of each output, side by side, and what is made of them
            return self.network.dtype.itemsize * numbers + (1 + 2 * chunk) * self.saved_bytes

        return cut(self.samples, self.outputs, sample_bytes, lambda chunk: 1, budget, "trace")


@dataclass(frozen=True)
class _Sketch:
    """For every coordinate of θ which of k sums it is added to, and its sign."""

    dimension: int
    buckets: list[Int[Tensor, " _"]]
    signs: list[Float[Tensor, " _"]]

    @staticmethod
    def drawn(source: _Source, dimension: int, seed: int) -> _Sketch:
        """On the CPU and by the parameter's name, so that it is the same for all batches, parts and devices."""
        buckets, signs = [], []
        for name in source.network.selected:
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            drawn = torch.randint(2 * dimension, (source.network.own[name].numel(),), generator=generator)
            buckets.append((drawn // 2).to(source.network.device))
            signs.append((1 - 2 * (drawn % 2)).to(source.network.device, source.network.dtype))
        return _Sketch(dimension, buckets, signs)

    @property
    def bytes(self) -> int:
        """What it takes."""
        return sum(t.numel() * t.element_size() for t in [*self.buckets, *self.signs])

    def add(self, total: Float[Tensor, "b c k"], rows: Sequence[Float[Tensor, "b c _"]]) -> None:
        """Add the sums of each row to `total`."""
        for row, buckets, signs in zip(rows, self.buckets, self.signs, strict=True):
            total.index_add_(2, buckets, row * signs)


def _vmap_is_right(network: Network, probe: Any, o: int) -> bool:
    """Whether torch.func gives, of a random functional of each sample alone, the gradient that autograd gives."""
    generator = torch.Generator().manual_seed(0)
    functional = torch.randn(o, generator=generator, dtype=network.dtype).to(network.device)
    try:
        together = GenericRoute(network, network.selected, o, True).pulled_back(probe, functional[None])
    except RuntimeError:
        return False
    parameters = [network.standins[name] for name in network.selected]
    for s in range(batch_size(probe)):
        value = network(take(probe, slice(s, s + 1)))[0] @ functional
        alone = torch.autograd.grad([value], parameters, allow_unused=True, materialize_grads=True)
        rounding = 100 * torch.finfo(network.dtype).eps * max(float(g.norm()) for g in alone)  # of what cancels
        for rows, g in zip(together, alone, strict=True):
            if float((rows[s, 0] - g.flatten()).norm()) > network.tolerance * float(g.norm()) + rounding:
                return False
    return True


def _last_layer(network: Network, out: Tensor) -> list[str]:
    """The parameters of the module one of whose parameters is used last, by a linear map."""
    uses = find_uses(out, {name: network.standins[name] for name in network.selected})
    used = [(own[-1].node._sequence_nr(), name) for name, own in uses.items() if own]
    if not used:
        return network.selected  # of which the kernel says that no output depends on them
    last = max(used)[1]
    path = last.rpartition(".")[0]
    names = [name for name in network.selected if name.rpartition(".")[0] == path]
    maps = [use for name in names if network.own[name].dim() > 1 for use in uses[name]]
    if not any(isinstance(rule_of(use), Matrix) for use in maps):
        raise InvalidInput(
            f"the last layer must be a linear map of the features, but the parameter used last is {last!r}, which is "
            "none; name the module that reads the features with layer=..."
        )
    return names


def _named_layer(model: nn.Module, layer: str) -> list[str]:
    """The parameters of a module, aliases of tied ones by their first names."""
    owners = {path: module for path, module in model.named_modules() if next(module.parameters(), None) is not None}
    if layer not in owners:
        known = ", ".join(repr(path) for path in owners)
        raise InvalidInput(f"layer must be the path of a module that has parameters, one of {known}, got {layer!r}")
    own = {id(p) for p in owners[layer].parameters()}
    return [name for name, p in model.named_parameters() if id(p) in own]


@torch.no_grad()
def _require_affine(network: Network, probe: Any, names: Sequence[str], layer: str | None) -> None:
    """Raise `InvalidInput` unless f(θ + δ) + f(θ − δ) = 2 f(θ) for parameters of one layer."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(_SHIFTS):
        shifts = {}
        for name in names:
            p = network.standins[name].detach()
            size = _SHIFT_SIZE * (float(p.norm()) / math.sqrt(p.numel()) or 1.0)
            shifts[name] = size * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        above, here, below = (_shifted(network, probe, shifts, sign) for sign in (1, 0, -1))
        size = max(float(out.abs().max()) for out in (above, here, below))
        if float((above + below - 2 * here).abs().max()) > 10 * network.tolerance * size:
            which = "the layer whose parameters are used last" if layer is None else f"the layer {layer!r}"
            raise InvalidInput(
                f"the outputs must be affine in the parameters of {which}, {', '.join(names)}, but they are not; name "
                "the module that gives the outputs with layer=..., or leave out what follows it with forward=..."
            )


def _shifted(network: Network, probe: Any, shifts: dict[str, Tensor], sign: int) -> Tensor:
    moved = {name: network.standins[name].detach() + sign * shift for name, shift in shifts.items()}
    fixed = {name: p.detach() for name, p in network.standins.items() if name not in moved}
    out = network._evaluate({**fixed, **moved}, take(probe, slice(0, None)))
    return out.reshape(len(out), -1)
