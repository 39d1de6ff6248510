"""Activations and layers as a user registers them in a file of their own; what the tests of both share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ntkit
from ntkit.architecture.specs import LeakyReLU
from ntkit.architecture.windows import PoolAxis
from ntkit.infinite import Layer, register_activation, register_layer
from ntkit.infinite.dual.elementary import exp, expm1
from ntkit.infinite.program import Affine, Combine, Dual, Multiply, Pool
from ntkit.infinite.rules import Builder, Value

# ---- activations -----------------------------------------------------------------------------------------------------


def snake_formulas(**changed: Any) -> dict[str, Any]:
    """x + (1 − cos bx)/b; `changed` replaces formulas by functions of the right one and its arguments."""
    right = {
        "variance": lambda q, b: q + (-2 * expm1(-b * b * q / 2) + expm1(-2 * b * b * q) / 2) / b**2,
        "mean": lambda q, b: -expm1(-b * b * q / 2) / b,
        "distance": lambda q1, q2, d, b: (
            d
            + (
                expm1(-b * b * d / 2) * expm1(-b * b * (q1 + q2 - d / 2))
                + (exp(-b * b * q1) - exp(-b * b * q2)) ** 2 / 2
            )
            / b**2
        ),
        "derivative": lambda q1, q2, d, b: 1 + (exp(-b * b * d / 2) - exp(-b * b * (q1 + q2 - d / 2))) / 2,
    }

    def wrapped(name: str) -> Any:
        if name not in changed:
            return right[name]
        change, formula = changed[name], right[name]
        arity = 2 if name in ("variance", "mean") else 4
        if arity == 2:
            return lambda q, b: change(formula(q, b), q)
        return lambda q1, q2, d, b: change(formula(q1, q2, d, b), q1, q2, d)

    return {name: wrapped(name) for name in right}


class Wave(nn.Module):
    """x + (1 − cos bx)/b, which has no rule of its own: the classes below are registered."""

    def __init__(self, b: float = 1.3) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        return x + (1 - torch.cos(self.b * x)) / self.b


def snake(formulas: dict[str, Any]) -> type[nn.Module]:
    """A new class of modules, registered with these formulas."""
    return register_activation(constants=("b",), **formulas)(type("Snake", (Wave,), {}))


@register_activation(constants=("b",), **snake_formulas())
class Snake(Wave):
    """The right one, by a name that pickle finds."""


def _snake_scale(q1, q2, d, b):
    """E[uσ'(u) vσ'(v)] of x + (1 − cos bx)/b: σ' = 1 + sin bx, and E[uv sin sin] by derivatives of E[cos]."""
    s = (q1 + q2 - d) / 2
    apart = (s + b**2 * (q1 - s) * (q2 - s)) * exp(-(b**2) * d / 2)
    together = (s - b**2 * (q1 + s) * (q2 + s)) * exp(-(b**2) * (q1 + q2 - d / 2))
    return s + (apart - together) / 2


@register_activation(scale_derivative=_snake_scale, **snake_formulas())
def snake_of(x: Tensor, b: float = 1.3) -> Tensor:
    """The same as a function."""
    return x + (1 - torch.cos(b * x)) / b


# ---- layers ----------------------------------------------------------------------------------------------------------


class Maxout(nn.Module):
    """The maximum of every two channels, on the last axis."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x[..., 0::2], x[..., 1::2])


@dataclass(frozen=True)
class Pairs(Layer):
    pass


@register_layer(Maxout, Pairs, read=lambda m: Pairs(in_channels=m.features, out_channels=m.features // 2))
def maxout(spec: Pairs, inputs: list[Value], builder: Builder) -> Value:
    x = builder.gaussian(inputs[0])
    folded = builder.emit(Dual(x, LeakyReLU(-1.0), builder.path))
    return builder.single(Combine((x, folded), (0.5, 0.5)), "mixed", inputs[0].support, spec.out_channels)


class Bilinear(nn.Module):
    """w/√(l r) Σ W_ij x_i y_j for x and y of one width."""

    def __init__(self, features: int, outputs: int, w_std: float) -> None:
        super().__init__()
        self.features, self.outputs, self.w_std = features, outputs, w_std
        self.weight = nn.Parameter(torch.randn(outputs, features, features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.w_std / self.features * torch.einsum("...i,oij,...j->...o", x, self.weight, y)


@dataclass(frozen=True)
class Form(Layer):
    w_std: float
    trains: bool


def _read_form(m: Bilinear) -> Form:
    return Form(m.w_std, m.weight.requires_grad, in_channels=m.features, out_channels=m.outputs)


@register_layer(Bilinear, Form, read=_read_form)
def bilinear(spec: Form, inputs: list[Value], builder: Builder) -> Value:
    product = builder.emit(Multiply(builder.settle(inputs[0]), builder.settle(inputs[1])))
    variance = spec.w_std**2
    layer = Affine(product, variance, 0.0, variance if spec.trains else 0.0, 0.0)
    return builder.single(layer, "affine", channels=spec.out_channels)


@dataclass(frozen=True)
class BinomialAxis(PoolAxis):
    """Weights 1/4, 1/2, 1/4, zeros outside."""

    def matrix(self, n: int) -> np.ndarray:
        return (2 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)) / 4


class Blur(nn.Module):
    """A fixed binomial filter over images, with a buffer that holds it."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
        self.register_buffer("filter", row[:, None] * row)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)[:, None]
        return torch.conv2d(rows, self.get_buffer("filter").to(x.dtype)[None, None], padding=1).view(x.shape)


@dataclass(frozen=True)
class Filter(Layer):
    pass


@register_layer(Blur, Filter, read=lambda m: Filter(axes=(BinomialAxis(), BinomialAxis())))
def blur(spec: Filter, inputs: list[Value], builder: Builder) -> Value:
    return builder.each_term(inputs[0], Pool(-1, spec.axes), "blurred")  # pyright: ignore[reportArgumentType]


class Dense(nn.Module):
    """A linear layer whose rule tests may break: w/√n W x + b β."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return 1.3 / math.sqrt(self.inputs) * x @ self.weight.T + 0.4 * self.bias


# ---- networks --------------------------------------------------------------------------------------------------------


def with_maxout(width: int) -> nn.Module:
    first, last = ntkit.nn.Linear(5, width, 1.2, 0.3), ntkit.nn.Linear(width // 2, 16, 1.0, 0.1)
    return nn.Sequential(first, Maxout(width), last)


class Gated(nn.Module):
    """Both branches of the bilinear layer read the same layer: W makes it right all the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = ntkit.nn.Linear(5, width), ntkit.nn.Linear(5, width, 1.0, 0.5)
        self.form = Bilinear(width, 8, 1.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        return self.form(torch.relu(h), h + self.two(x))


class Blurred(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (ntkit.nn.Conv2d(c, width, 3, w_std=1.2, padding=1) for c in (2, width))
        self.blur, self.again, self.last = Blur(), Blur(), ntkit.nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.blur(self.first(x)))
        return self.last(self.again(self.second(h)).mean((2, 3)))
