"""Initial scales of plain torch layers: given as numbers, by path pattern, or "torch" for torch's default draw.

Layers in NTK parameterisation state their own and ignore what is given here.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import replace

from ntkit.architecture.network import Network, Node
from ntkit.architecture.specs import Parameterization, Weighted
from ntkit.errors import InvalidInput, MissingScale
from ntkit.nn.scale import is_finite_scale

Scale = float | str | Mapping[str, float | str] | None


def with_scales(network: Network, w_std: Scale, b_std: Scale, parameterization: str) -> Network:
    """The network with the scale of every linear and convolution layer known.

    Args:
        network: as traced.
        w_std: for plain layers: a number, "torch", or {path pattern: one of these}.
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
    # torch draws weights and biases from U(−1/√fan_in, 1/√fan_in), of variance 1/(3 fan_in), with a fan_in of its own
    weight = _lookup("w_std", w_std, node, torch_default=math.sqrt(spec.fan_in / spec.torch_fan_in) / math.sqrt(3))
    bias = 0.0
    if spec.bias:
        bias = _lookup("b_std", b_std, node, torch_default=1 / math.sqrt(3 * spec.torch_fan_in))
    return replace(node, spec=replace(spec, w_std=weight, b_std=bias, parameterization=parameterization))


def _lookup(name: str, scale: Scale, node: Node, torch_default: float) -> float:
    path, layer = node.path, node.spec.name
    if isinstance(scale, Mapping):
        matching = (value for pattern, value in scale.items() if fnmatch.fnmatchcase(path, pattern))
        scale = next(matching, None)
    if scale is None:
        raise MissingScale(
            f"{layer} at '{path}' is a plain torch layer and states no {name}; give InfiniteKernel(model, {name}=...) "
            f'a number, {{path pattern: number}} or "torch" for torch\'s default draw, or use ntkit.nn.{layer}'
        )
    if scale == "torch":
        return torch_default
    if isinstance(scale, (bool, Mapping)) or not is_finite_scale(scale) or float(scale) < 0:
        raise InvalidInput(
            f"{name} of the layer at '{path}' must be a number >= 0, of finite square, or \"torch\", got {scale!r}"
        )
    return float(scale)


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


def rescaled(network: Network, values: Mapping[str, Mapping[str, float]]) -> Network:
    """The network with other scales of some layers.

    Args:
        network: with all scales known.
        values: {path pattern: {"w_std": …, "b_std": …}}; of several patterns that match a layer the first one counts.

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


def _rescaled(node: Node, values: Mapping[str, Mapping[str, float]]) -> Node:
    spec = node.spec
    pattern = next((p for p in values if fnmatch.fnmatchcase(node.path, p)), None)
    if not isinstance(spec, Weighted) or pattern is None:
        return node
    for name, value in values[pattern].items():
        if isinstance(value, (bool, str)) or not is_finite_scale(value) or float(value) < 0:
            raise InvalidInput(
                f"{name} of the layer at '{node.path}' must be a number >= 0, of finite square, got {value!r}"
            )
        if name == "b_std" and not spec.bias and float(value) > 0:
            raise InvalidInput(f"the layer at '{node.path}' has no bias, and b_std={value!r} is given for it")
    return replace(node, spec=replace(spec, **{name: float(value) for name, value in values[pattern].items()}))
