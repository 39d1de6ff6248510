"""Initial scales of plain torch layers: given as numbers, by path pattern, or "torch" for torch's default draw.

Layers in NTK parameterisation state their own and ignore what is given here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ntkit._arrays import to_tensor
from ntkit.architecture.network import Network, Node
from ntkit.architecture.specs import Number, Parameterization, Weighted
from ntkit.errors import InvalidInput, MissingScale
from ntkit.nn.scale import is_finite_scale

Scale = Number | str | Mapping[str, Number | str] | None


def with_scales(network: Network, w_std: Scale, b_std: Scale, parameterization: str) -> Network:
    """The network with the scale of every linear and convolution layer known.

    Args:
        network: as traced.
        w_std: for plain layers: a number, a tensor, "torch", or {path pattern: one of these}.
        b_std: the same for biases; layers without bias need none.
        parameterization: "ntk" or "standard", for plain layers.

    Raises:
        MissingScale: a plain layer has no scale.
        InvalidInput: a scale is not a number ≥ 0, or a pattern matches no layer.
    """
    if parameterization not in ("ntk", "standard"):
        raise InvalidInput(f'parameterization must be "ntk" or "standard", got {parameterization!r}')
    plain = [n.path for n in network.nodes if isinstance(n.spec, Weighted) and n.spec.parameterization is None]
    for name, scale in (("w_std", w_std), ("b_std", b_std)):
        _check_patterns(name, scale, network, plain)
    kind: Parameterization = "standard" if parameterization == "standard" else "ntk"
    return replace(network, nodes=tuple(_scaled(node, w_std, b_std, kind) for node in network.nodes))


def _scaled(node: Node, w_std: Scale, b_std: Scale, parameterization: Parameterization) -> Node:
    spec = node.spec
    if not isinstance(spec, Weighted) or spec.parameterization is not None:
        return node
    torch_w_std, torch_b_std = spec.torch_scales
    weight = _lookup("w_std", w_std, node, torch_w_std)
    bias = _lookup("b_std", b_std, node, torch_b_std) if spec.bias else 0.0
    return replace(node, spec=replace(spec, w_std=weight, b_std=bias, parameterization=parameterization))


def _lookup(name: str, scale: Scale, node: Node, torch_default: float) -> Number:
    path, layer = node.path, node.spec.name
    if isinstance(scale, Mapping):
        matching = (value for pattern, value in scale.items() if fnmatch.fnmatchcase(path, pattern))
        scale = next(matching, None)
    if scale is None:
        raise MissingScale(
            f"{layer} at '{path}' is a plain torch layer and states no {name}; give InfiniteKernel(model, {name}=...) "
            f'a number, {{path pattern: number}} or "torch" for torch\'s default draw, or use ntkit.nn.{layer}'
        )
    if isinstance(scale, str) and scale == "torch":
        return torch_default
    return _number(scale, f"{name} of the layer at '{path}'", ', or "torch"')


def _check_patterns(name: str, scale: Scale, network: Network, plain: list[str]) -> None:
    if not isinstance(scale, Mapping):
        return
    for pattern in scale:
        if not isinstance(pattern, str):
            raise InvalidInput(
                f"the keys of {name} are path patterns as text, and {pattern!r} is a {type(pattern).__name__}; write "
                f'"{pattern}"; {_say_plain(plain, network)}'
            )
        if not any(fnmatch.fnmatchcase(path, pattern) for path in plain):
            raise InvalidInput(
                f"the pattern {pattern!r} in {name} matches no plain layer; {_say_plain(plain, network)}"
            )


def _say_plain(plain: list[str], network: Network) -> str:
    if plain:
        return f"the plain layers are {', '.join(map(repr, plain))}"
    if network.weighted_paths:
        own = ", ".join(map(repr, network.weighted_paths))
        return f"there are no plain layers: all of {own} state their own scales"
    return "the model has no layers with weights"


# ---- other scales ------------------------------------------------------------------------------------------------

Scales = Mapping[str, Mapping[str, Number]]


def rescaled(network: Network, values: Scales) -> Network:
    """The network with other scales of some layers.

    Args:
        network: with all scales known.
        values: {path pattern: {"w_std": …, "b_std": …}}; of several patterns that match a layer the first one counts.
            Of a tensor that requires grad the network keeps a copy, which passes gradients on to it.

    Raises:
        InvalidInput: a pattern matches no layer, a name is no scale, a value is no number ≥ 0 or is of a bias that the
            layer does not have.
    """
    if not isinstance(values, Mapping) or not all(isinstance(scales, Mapping) for scales in values.values()):
        raise InvalidInput(f'the scales must be {{path pattern: {{"w_std": ..., "b_std": ...}}}}, got {values!r}')
    paths = network.weighted_paths
    for pattern, scales in values.items():
        if not isinstance(pattern, str) or not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            raise InvalidInput(
                f"the pattern {pattern!r} matches no layer; the layers are {', '.join(map(repr, paths))}"
            )
        if not set(scales) <= {"w_std", "b_std"}:
            raise InvalidInput(f"the scales of a layer are w_std and b_std, got {sorted(map(str, scales))}")
    return replace(network, nodes=tuple(_rescaled(node, values) for node in network.nodes))


def _rescaled(node: Node, values: Scales) -> Node:
    spec = node.spec
    pattern = next((p for p in values if fnmatch.fnmatchcase(node.path, p)), None)
    if not isinstance(spec, Weighted) or pattern is None:
        return node
    found = {name: _number(value, f"{name} of the layer at '{node.path}'") for name, value in values[pattern].items()}
    bias = found.get("b_std", 0.0)
    if not spec.bias and (isinstance(bias, Tensor) or bias > 0):
        raise InvalidInput(
            f"the layer at '{node.path}' has no bias, and b_std={values[pattern]['b_std']!r} is given for it"
        )
    return replace(node, spec=replace(spec, **found))


def _number(value: Any, name: str, alternative: str = "") -> Number:
    """A float, or where gradients are wanted a copy in float64: an optimiser may change the tensor, not the kernel.

    The copy's part of a graph holds no values, so that backward passes can go through it as often as they like.
    """
    if isinstance(value, Tensor):
        tensor = to_tensor(value, name)
        if tensor.ndim:
            raise InvalidInput(
                f"{name} must be one number, got a tensor of shape {tuple(tensor.shape)}; take entries of it, such as "
                "scales[0]"
            )
        number = float(tensor.detach())
    else:
        tensor, number = None, value
    if isinstance(number, bool) or not is_finite_scale(number) or float(number) < 0:
        raise InvalidInput(f"{name} must be a number >= 0, of finite square{alternative}, got {value!r}")
    if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
        return tensor.to(torch.float64, copy=True)
    return float(number)


def tensors_of(network: Network) -> dict[str, Tensor]:
    """{name: scale} of the scales in which gradients are wanted."""
    return {
        f"{name} of '{node.path}'": scale
        for node in network.nodes
        if isinstance(node.spec, Weighted)
        for name, scale in (("w_std", node.spec.w_std), ("b_std", node.spec.b_std))
        if isinstance(scale, Tensor)
    }


def in_numbers(network: Network) -> Network:
    """The network with the values of its scales, without gradients in them."""
    return _with_tensors(network, lambda scale: float(scale.detach()))


def on_device(network: Network, device: torch.device) -> Network:
    """The network with its tensors on a device."""
    return _with_tensors(network, lambda scale: scale.to(device))


def _with_tensors(network: Network, function: Callable[[Tensor], Number]) -> Network:
    def mapped(node: Node) -> Node:
        if not isinstance(node.spec, Weighted):
            return node
        scales = {"w_std": node.spec.w_std, "b_std": node.spec.b_std}
        return replace(
            node,
            spec=replace(node.spec, **{n: function(s) if isinstance(s, Tensor) else s for n, s in scales.items()}),
        )

    return replace(network, nodes=tuple(map(mapped, network.nodes)))
