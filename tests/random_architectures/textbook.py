"""Textbook covariances made of a recipe, by `oracles/`: nothing of ntkit takes part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

import numpy as np
from scipy import special
from torch import nn

from oracles import convolutional as oracle
from oracles import layers, recursion, sequences, transposed
from random_architectures.steps import (
    Activation,
    Attention,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Heads,
    Layer,
    MaskedFill,
    MaskedMean,
    Norm,
    PositionMap,
    Positions,
    Product,
    Recipe,
    Scale,
    Step,
    Steps,
    Sum,
    Tokens,
    Windowed,
)

Numbers = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Moments:
    """An activation's dual (E[σσ'], E[σ̇σ̇']), its mean, and E[uσ'(u) vσ'(v)]."""

    dual: Callable[..., Any]
    mean: Numbers
    behind_scale: Callable[..., Any]


def _rectified(slope: float) -> Moments:
    """uσ'(u) = σ(u)."""
    plain = recursion.leaky_relu_dual(slope)

    def dual(q1: np.ndarray, q2: np.ndarray, s: np.ndarray) -> Any:
        return plain(q1, q2, layers.settled(q1, q2, s))

    return Moments(dual, lambda q: (1 - slope) * np.sqrt(q / (2 * math.pi)), lambda *pair: dual(*pair)[0])


def _sign() -> Moments:
    def dual(q1: np.ndarray, q2: np.ndarray, s: np.ndarray) -> Any:
        return recursion.sign_dual(q1, q2, layers.settled(q1, q2, s))

    return Moments(dual, np.zeros_like, lambda q1, q2, s: np.zeros_like(s))


def _smooth(function: Numbers, slope: Numbers, dual: Callable[..., Any] | None = None) -> Moments:
    """By quadrature, but for what has a formula."""
    return Moments(
        dual or (lambda q1, q2, s: layers.plane(q1, q2, s, function, slope)),
        lambda q: layers.line(q, function),
        lambda q1, q2, s: layers.plane(q1, q2, s, lambda u: u * slope(u))[0],
    )


def _sigmoid_slope(x: np.ndarray) -> np.ndarray:
    return special.expit(x) * special.expit(-x)


MOMENTS = {
    "ReLU": _rectified(0.0),
    "LeakyReLU": _rectified(0.2),
    "Abs": _rectified(-1.0),
    "Sign": _sign(),
    "Erf": _smooth(special.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2)), recursion.erf_dual),
    "Sin": _smooth(
        lambda x: 1.2 * np.sin(0.8 * x + 0.3), lambda x: 0.96 * np.cos(0.8 * x + 0.3),
        recursion.sine_dual(1.2, 0.8, 0.3),
    ),
    "Cos": _smooth(
        lambda x: 0.9 * np.cos(1.1 * x + 0.4), lambda x: -0.99 * np.sin(1.1 * x + 0.4),
        recursion.cosine_dual(0.9, 1.1, 0.4),
    ),
    "Gaussian": _smooth(
        lambda x: 1.1 * np.exp(-0.5 * x**2), lambda x: -1.1 * x * np.exp(-0.5 * x**2),
        recursion.gaussian_dual(1.1, -0.5),
    ),
    "GELU": _smooth(recursion.gelu, recursion.gelu_slope),
    "Tanh": _smooth(np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "Sigmoid": _smooth(special.expit, _sigmoid_slope),
    "SiLU": _smooth(lambda x: x * special.expit(x), lambda x: special.expit(x) + x * _sigmoid_slope(x)),
}  # fmt: skip


def covariances(recipe: Recipe, x: np.ndarray, mask: np.ndarray | None = None, width: int = 8) -> np.ndarray:
    """(outputs, 2, n, n): NNGP and NTK of all samples; the width enters standard parameterisation alone."""
    (*body, last), book = recipe.steps, _Book(width, mask)
    heads = last.branches if isinstance(last, Heads) else ((last,),)
    x = x.swapaxes(1, 2) if recipe.is_sequence else x if recipe.grid else x[..., None]  # vectors: of one position
    data = oracle.data(x)
    blocks = book.behind(tuple(body), [(data, recipe.channels)])
    return np.stack([oracle.result(_joined(book.behind(head, blocks))[0]) for head in heads])


Block = tuple[oracle.Field, int]  # channels of one layer, and how many
_BLOCK_BY_BLOCK = (PositionMap, Activation, Dropout, Scale, MaskedFill, MaskedMean, Tokens)


def _joined(blocks: list[Block]) -> Block:
    """The mean covariance over all channels."""
    return blocks[0] if len(blocks) == 1 else (oracle.concatenate(*blocks), sum(c for _, c in blocks))


class _Book:
    """A value is a list of blocks of channels, of which an activation sees each alone."""

    def __init__(self, width: int, mask: np.ndarray | None):
        self.width, self.masks = width, (mask, mask)  # of both sides, the same samples

    def behind(self, steps: Steps, blocks: list[Block]) -> list[Block]:
        """The value behind all steps. What a trained scale adds depends on the step that comes next."""
        for i, step in enumerate(steps):
            if isinstance(step, Concat):
                blocks = [_joined(self.behind(branch, blocks)) for branch in step.branches]
                continue
            if isinstance(step, Positions) and step.beside:
                blocks = [*blocks, (_vectors(step, blocks[0][0]), self.width)]
                continue
            before = blocks if isinstance(step, _BLOCK_BY_BLOCK) else [_joined(blocks)]
            blocks = [self.step(step, *block) for block in before]
            if isinstance(step, Norm) and step.trains_scale and not isinstance(_at(steps, i + 1), Activation):
                blocks = [(layers.trained(field, field.k12, step.shared), c) for field, c in blocks]
            norm = _at(steps, i - 1)
            if isinstance(step, Activation) and isinstance(norm, Norm) and norm.trains_scale:
                product = MOMENTS[step.name].behind_scale
                ((field, channels),) = blocks
                blocks = [(layers.behind_scale(before[0][0], field, product, norm.shared), channels)]
        return blocks

    @singledispatchmethod
    def step(self, step: Step, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        """The value behind one step; a trained scale is left to `behind`."""
        raise TypeError(step)

    @step.register
    def _(self, step: Dense, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return _affine(step, field, channels), step.units * self.width or 1

    @step.register
    def _(self, step: Conv, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        seen = oracle.window(field, step.kernel, step.stride, step.dilation, step.padding, step.circular)
        return self._windowed(step, seen, channels)

    @step.register
    def _(self, step: ConvTranspose, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        names = ("stride", "padding", "output_padding", "dilation")
        seen = transposed.window(field, step.kernel, **{name: getattr(step, name) for name in names})
        return self._windowed(step, seen, channels)

    def _windowed(self, step: Windowed, seen: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return _affine(step, seen, channels // step.groups * math.prod(step.kernel)), step.units * self.width

    @step.register
    def _(self, step: Attention, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        keys = field if step.positions is None else oracle.add(field, _vectors(step.positions, field))
        masks = self.masks if step.masked else (None, None)
        seen = sequences.attention(field, keys, step.mechanism, step.score_scale, masks)
        rates = step.w_std**2 * (step.trains_weight + step.trains_values), step.b_std**2 * step.trains_bias
        return oracle.affine(seen, step.w_std, step.b_std, rates=rates), step.units * self.width

    @step.register
    def _(self, step: Positions, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return oracle.add(field, _vectors(step, field)), channels

    @step.register
    def _(self, step: Tokens, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return sequences.merged(field), channels

    @step.register
    def _(self, step: MaskedFill, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return sequences.masked_fill(field, self.masks), channels

    @step.register
    def _(self, step: MaskedMean, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return sequences.masked_mean(field, self.masks), channels

    @step.register
    def _(self, step: PositionMap, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return layers.mapped(field, step.layer(field.rank)), channels

    @step.register
    def _(self, step: Activation, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return oracle.activation(field, MOMENTS[step.name].dual, MOMENTS[step.name].mean), channels

    @step.register
    def _(self, step: Norm, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        field = layers.normalized(field, step.eps, step.whole or step.kind == "GroupNorm")
        return layers.trained(field, 1.0, step.shared) if step.trains_shift else field, channels

    @step.register
    def _(self, step: Dropout, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return layers.dropped(field, step.rate, step.whole), channels

    @step.register
    def _(self, step: Scale, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return oracle.scaled(field, step.factor), channels

    @step.register
    def _(self, step: Flatten, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        return oracle.flatten(field), channels * math.prod(field.grid)

    @step.register
    def _(self, step: GlobalPool, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        whole = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
        return layers.mapped(field, whole[field.rank](1)), channels

    @step.register
    def _(self, step: Sum, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        values = [_joined(self.behind(branch, [(field, channels)])) for branch in step.branches]
        terms = [oracle.scaled(value, c) for (value, _), c in zip(values, step.coefficients, strict=True)]
        return oracle.add(*terms), values[0][1]

    @step.register
    def _(self, step: Product, field: oracle.Field, channels: int) -> tuple[oracle.Field, int]:
        (one, channels), (two, _) = (_joined(self.behind(branch, [(field, channels)])) for branch in step.branches)
        return layers.multiplied(one, two), channels


def _affine(step: Layer, field: oracle.Field, fan_in: int) -> oracle.Field:
    """NTK parameterisation, or the standard one, whose gradients are √fan_in/w_std times as long."""
    weight, bias = (float(fan_in), 1.0) if step.standard else (step.w_std**2, step.b_std**2)
    rates = weight * step.trains_weight, bias * step.trains_bias * (step.b_std > 0)
    return oracle.affine(field, step.w_std, step.b_std, rates=rates)


def _vectors(step: Positions, field: oracle.Field) -> oracle.Field:
    """Of the positions of a field."""
    return sequences.positions(field, step.w_std, step.correlation_length, step.trains)


def _at(steps: Steps, i: int) -> Step | None:
    return steps[i] if 0 <= i < len(steps) else None
