"""What callers of the theory say: an activation by name or as a module, scales, sizes."""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

import ntkit.nn
from ntkit.architecture import trace
from ntkit.architecture.specs import Activation
from ntkit.errors import InvalidInput

LARGEST = 1000  # dimension and depth
MOST_DEGREES = 1000
TOLERANCE = 1e-13  # of duals without closed form


def read_activation(activation: str | nn.Module) -> Activation:
    """An elementwise function from its name ("relu", "erf", "gelu", …) or its module.

    Raises:
        InvalidInput: neither, no such name, or a module that is no elementwise function.
        UnsupportedLayer: a module that exact kernels do not know.
    """
    module = _named(activation) if isinstance(activation, str) else activation
    if not isinstance(module, nn.Module):
        raise InvalidInput(
            f'activation must be a name such as "relu" or a module such as torch.nn.ReLU(), got {activation!r}'
        )
    layers = [ntkit.nn.Linear(2, 2), module, ntkit.nn.Linear(2, 1)]
    specs = [node.spec for node in trace(nn.Sequential(*layers)).nodes]
    found = [spec for spec in specs if isinstance(spec, Activation)]
    if len(found) != 1 or len(specs) != 4:  # the input, two linear layers, and the function between them
        raise InvalidInput(
            f"activation must be one elementwise function, such as torch.nn.ReLU(), got {module}; the theory's "
            "networks have the same one in every hidden layer"
        )
    return found[0]


def _named(name: str) -> nn.Module:
    wanted = name.lower().replace("_", "")  # leaky_relu, as torch.nn.functional has it
    for place in (ntkit.nn, nn):
        for known, kind in vars(place).items():
            if known.lower() == wanted and isinstance(kind, type) and issubclass(kind, nn.Module):
                return _without_arguments(name, kind)
    raise InvalidInput(
        f'activation must be the name of a module of torch.nn or ntkit.nn, such as "relu", "tanh" or "erf", got '
        f"{name!r}"
    )


def _without_arguments(name: str, kind: type[nn.Module]) -> nn.Module:
    parameters = inspect.signature(kind).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise InvalidInput(
            f"activation {name!r} needs {', '.join(needed)}; pass the module, {kind.__name__}({', '.join(needed)})"
        )
    return kind()


def read_whole(value: Any, name: str, least: int, most: int | None = None) -> int:
    """A whole number in its range."""
    good = isinstance(value, Integral) and not isinstance(value, bool)
    if not good or int(value) < least or (most is not None and int(value) > most):
        bounds = f"from {least}" if most is None else f"from {least} to {most}"
        raise InvalidInput(f"{name} must be a whole number {bounds}, got {value!r}")
    return int(value)


def read_scale(value: Any, name: str) -> torch.Tensor:
    """A standard deviation, as float64."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1e100:
        raise InvalidInput(f"{name} must be a number from 0, a standard deviation, got {value!r}")
    return torch.tensor(float(value), dtype=torch.float64)
