"""Torch modules made of a recipe: ordinary layers of torch.nn and ntkit.nn, to be traced or, wide, to be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import TypeVar

import torch
from torch import nn

import ntkit
from network_parts import Concatenated, Multiplied, Scaled, Several, Summed
from random_architectures.modules import (
    Attending,
    Chain,
    ChannelsFirst,
    ChannelsLast,
    Filled,
    Mean,
    MeanOfThose,
    OneAxis,
    WithMask,
)
from random_architectures.steps import (
    Activation,
    Attention,
    Branching,
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
)

Weighted = TypeVar("Weighted", nn.Linear, nn.modules.conv._ConvNd)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # constants as elsewhere in the tests: their machine code is shared
    "ReLU": nn.ReLU,
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "Abs": ntkit.nn.Abs,
    "Sign": ntkit.nn.Sign,
    "Erf": ntkit.nn.Erf,
    "Sin": lambda: ntkit.nn.Sin(1.2, 0.8, 0.3),
    "Cos": lambda: ntkit.nn.Cos(0.9, 1.1, 0.4),
    "Gaussian": lambda: ntkit.nn.Gaussian(1.1, -0.5),
    "GELU": nn.GELU,
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "SiLU": nn.SiLU,
}


@dataclass(frozen=True)
class Built:
    """A recipe as a module.

    Args:
        model: in training mode, so that dropout counts.
        plain: layers of torch.nn by their paths, which state no scale of their own.
    """

    model: nn.Module
    plain: Mapping[str, Layer]

    def kernel(self, tolerance: float = 1e-11) -> ntkit.InfiniteKernel:
        """The exact kernel; plain layers are in standard parameterisation."""
        w, b = ({path: getattr(step, name) for path, step in self.plain.items()} for name in ("w_std", "b_std"))
        return ntkit.InfiniteKernel(
            self.model, w_std=w or None, b_std=b or None, parameterization="standard", tolerance=tolerance
        )

    def draw(self) -> nn.Module:
        """The model with new random parameters, N(0, 1) or, of plain layers, at scale."""
        with torch.no_grad():
            for path, module in self.model.named_modules():
                if isinstance(module, ntkit.nn.SelfAttention | ntkit.nn.PositionalEmbedding):
                    module.reset_parameters()
                if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                    continue
                step = self.plain.get(path)
                module.weight.normal_(0, 1 if step is None else step.w_std / math.sqrt(_fan_in(module)))
                if module.bias is not None:
                    module.bias.normal_(0, 1 if step is None else step.b_std)
        return self.model


def model_of(recipe: Recipe, width: int = 8) -> Built:
    """The network of a width, a multiple of 4."""
    builder = _Builder(width, Chain if recipe.takes_mask else nn.Sequential)
    model, _ = builder.sequential(recipe.steps, (recipe.channels, *recipe.grid))
    if recipe.is_sequence and not isinstance(recipe.steps[0], Flatten):
        model = builder.chain(ChannelsFirst(), model)
    if isinstance(model, Chain):
        model = WithMask(model)
    plain = {path: builder.plain[m] for path, m in model.named_modules() if m in builder.plain}
    return Built(model.double(), plain)


def _fan_in(layer: nn.Linear | nn.modules.conv._ConvNd) -> int:
    """Of a transposed convolution too, whose weights have the input's channels first."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return layer.weight[0].numel()


class _Builder:
    def __init__(self, width: int, chain: Callable[..., nn.Module]):
        self.width, self.chain = width, chain
        self.plain: dict[nn.Module, Layer] = {}

    def sequential(self, steps: Steps, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        """The steps one after another, for samples of a shape, and the shape behind them."""
        modules: list[nn.Module] = []
        for step in steps:
            module, shape = self.module(step, shape)
            modules.append(module)
        return self.chain(*modules), shape

    @singledispatchmethod
    def module(self, step: Step, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        """A step's module, for samples of a shape, and the shape behind it."""
        raise TypeError(step)

    @module.register
    def _(self, step: Dense, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        out = step.units * self.width or 1
        layer = (
            nn.Linear(shape[0], out, bias=step.b_std > 0)
            if step.standard
            else ntkit.nn.Linear(shape[0], out, step.w_std, step.b_std)
        )
        return _channels_last(self._with_options(layer, step), shape), (out, *shape[1:])

    @module.register
    def _(self, step: Conv, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        out, rank = step.units * self.width, len(shape) - 1
        windows = (step.kernel, step.stride, step.padding, step.dilation, step.groups)
        mode = "circular" if step.circular else "zeros"
        if step.standard:
            family = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
            layer = family(shape[0], out, *windows, bias=step.b_std > 0, padding_mode=mode)
        else:
            own = {1: ntkit.nn.Conv1d, 2: ntkit.nn.Conv2d, 3: ntkit.nn.Conv3d}[rank]
            kernel, stride, padding, dilation, groups = windows
            layer = own(
                shape[0], out, kernel, stride, padding, dilation, groups,
                w_std=step.w_std, b_std=step.b_std, padding_mode=mode,
            )  # fmt: skip
        return self._with_options(layer, step), _shape_behind(layer, shape)

    @module.register
    def _(self, step: ConvTranspose, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        out, rank = step.units * self.width, len(shape) - 1
        windows = (step.kernel, step.stride, step.padding, step.output_padding, step.groups)
        if step.standard:
            family = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
            layer = family(shape[0], out, *windows, bias=step.b_std > 0, dilation=step.dilation)
        else:
            own = {1: ntkit.nn.ConvTranspose1d, 2: ntkit.nn.ConvTranspose2d, 3: ntkit.nn.ConvTranspose3d}[rank]
            layer = own(shape[0], out, *windows, dilation=step.dilation, w_std=step.w_std, b_std=step.b_std)
        return self._with_options(layer, step), _shape_behind(layer, shape)

    @module.register
    def _(self, step: Attention, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        out = step.units * self.width
        layer = ntkit.nn.SelfAttention(
            shape[0], out, step.heads, step.w_std, step.b_std,
            mechanism=step.mechanism, score_scale=step.score_scale, key_channels=4 * self.width,
        )  # fmt: skip
        layer.weight.requires_grad_(step.trains_weight)
        layer.value_weight.requires_grad_(step.trains_values)
        if layer.bias is not None:
            layer.bias.requires_grad_(step.trains_bias)
        positions = None if step.positions is None else _positions(step.positions, shape, shape[0])
        return Attending(layer, positions, step.masked), (out, *shape[1:])

    @module.register
    def _(self, step: Positions, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        channels = self.width if step.beside else shape[0]
        layer = _channels_last(_positions(step, shape, channels), shape)
        return layer, (shape[0] + channels if step.beside else channels, *shape[1:])

    @module.register
    def _(self, step: Tokens, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return OneAxis(), (shape[0], math.prod(shape[1:]))

    @module.register
    def _(self, step: MaskedFill, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return Filled(), shape

    @module.register
    def _(self, step: MaskedMean, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return MeanOfThose(), shape[:1]

    def _with_options(self, layer: Weighted, step: Layer) -> Weighted:
        layer.weight.requires_grad_(step.trains_weight)
        if layer.bias is not None:
            layer.bias.requires_grad_(step.trains_bias)
        if step.standard:
            self.plain[layer] = step
        return layer

    @module.register
    def _(self, step: PositionMap, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        layer = step.layer(len(shape) - 1)
        return layer, _shape_behind(layer, shape)

    @module.register
    def _(self, step: Activation, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return ACTIVATIONS[step.name](), shape

    @module.register
    def _(self, step: Norm, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        norm: nn.LayerNorm | nn.RMSNorm | nn.GroupNorm
        if step.kind == "GroupNorm":
            norm = nn.GroupNorm(2, shape[0], step.eps)
        else:
            family = {"LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm}[step.kind]
            norm = family(shape if step.whole else shape[0], step.eps)
        for name, trains in (("weight", step.trains_scale), ("bias", step.trains_shift)):
            parameter = getattr(norm, name, None)
            if parameter is not None:
                parameter.requires_grad_(trains)
        return norm if step.kind == "GroupNorm" or step.whole else _channels_last(norm, shape), shape

    @module.register
    def _(self, step: Dropout, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        whole = {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}
        return (whole[len(shape)] if step.whole else nn.Dropout)(step.rate), shape

    @module.register
    def _(self, step: Scale, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return Scaled(step.factor), shape

    @module.register
    def _(self, step: Flatten, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return nn.Flatten(), (math.prod(shape),)

    @module.register
    def _(self, step: GlobalPool, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        rank = len(shape) - 1
        layer = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[rank](1)
        return nn.Sequential(layer, nn.Flatten()) if step.by_layer else Mean(rank), shape[:1]

    @module.register
    def _(self, step: Branching, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        built = [self.sequential(branch, shape) for branch in step.branches]
        branches, behind = [module for module, _ in built], built[0][1]
        match step:
            case Sum():
                return Summed(branches, step.coefficients), behind
            case Concat():
                return Concatenated(branches), (sum(after[0] for _, after in built), *behind[1:])
            case Product():
                return Multiplied(branches), behind
            case Heads():
                return Several(branches), behind
            case _:
                raise TypeError(step)


def _shape_behind(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(layer(torch.zeros(1, *shape)).shape[1:])


def _positions(step: Positions, shape: tuple[int, ...], channels: int) -> nn.Module:
    layer = ntkit.nn.PositionalEmbedding(
        shape[1:], channels, step.w_std, correlation_length=step.correlation_length, concatenate=step.beside
    )
    return layer.requires_grad_(step.trains)


def _channels_last(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    return layer if len(shape) == 1 else ChannelsLast(layer, len(shape) - 1)
