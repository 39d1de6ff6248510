"""Torch modules made of the steps: plain torch.nn and ntkit.nn, and a few modules of branches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import ntkit
from golden.steps import (
    Activation,
    AdaptivePool,
    Attention,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    GlobalPool,
    Heads,
    Norm,
    Pool,
    Scale,
    Shape,
    Step,
    Steps,
    Sum,
    per_axis,
    shape_after,
)
from network_parts import Concatenated, Scaled, Several, Summed


class Exp(nn.Module):
    """exp(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)


class GlobalSum(nn.Module):
    """The sum over every axis after the channels."""

    def __init__(self, axes: int):
        super().__init__()
        self.axes = tuple(range(2, 2 + axes))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(self.axes)


class ChannelNorm(nn.Module):
    """The norm of each position's channels alone."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class OfTokens(nn.Module):
    """Attention, or a mean over tokens, of (n, channels, tokens); `mask` says which are there."""

    def __init__(self, layer: nn.Module, positions: nn.Module | None = None, in_values: bool = False):
        super().__init__()
        self.layer, self.positions, self.in_values = layer, positions, in_values

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.transpose(1, 2)
        if isinstance(self.layer, ntkit.nn.MaskedMean):
            return self.layer(x, mask)
        keys = x if self.positions is None else self.positions(x)
        return self.layer(keys if self.in_values else x, keys, mask=mask).transpose(1, 2)


class Masked(nn.Module):
    """Modules one after another; those of tokens are told which are there."""

    def __init__(self, modules: nn.Sequential):
        super().__init__()
        self.parts = modules

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x, mask) if isinstance(part, OfTokens) else part(x)
        return x


def sequential(steps: Steps, shape: Shape) -> nn.Sequential:
    """The steps one after another, for samples of the given shape."""
    modules = []
    for step in steps:
        modules.append(_module(step, shape))
        shape = shape_after(step, shape)
    return nn.Sequential(*modules)


def _module(step: Step, shape: Shape) -> nn.Module:
    match step:
        case Conv():
            return _convolution(step, shape)
        case ConvTranspose():
            layer = {1: ntkit.nn.ConvTranspose1d, 2: ntkit.nn.ConvTranspose2d}[len(shape) - 1]
            sizes = (step.kernel, step.stride, step.padding, step.output_padding)
            return layer(shape[0], step.width, *sizes, w_std=step.w_std, b_std=step.b_std)
        case Dense():
            return ntkit.nn.Linear(shape[0], step.width, step.w_std, step.b_std)
        case Attention():
            return _attention(step, shape)
        case GlobalPool(masked=True):
            return OfTokens(ntkit.nn.MaskedMean())
        case Norm():
            if step.positions or len(shape) == 1:
                return nn.GroupNorm(1, shape[0], step.eps, affine=False)
            return ChannelNorm(shape[0], step.eps)
        case Activation(name="Exp"):
            return Exp()
        case Activation():
            family = ntkit.nn if hasattr(ntkit.nn, step.name) else nn
            return getattr(family, step.name)(*step.constants)
        case Pool():
            return _pool(step, len(shape) - 1)
        case AdaptivePool():
            return getattr(nn, f"AdaptiveAvgPool{len(shape) - 1}d")(step.out)
        case GlobalPool(total=True):
            return GlobalSum(len(shape) - 1)
        case GlobalPool():
            return nn.Sequential(getattr(nn, f"AdaptiveAvgPool{len(shape) - 1}d")(1), nn.Flatten())
        case Flatten():
            return nn.Flatten()
        case Scale():
            return Scaled(step.factor)
        case Sum() | Concat() | Heads():
            kind = {Sum: Summed, Concat: Concatenated, Heads: Several}[type(step)]
            return kind([sequential(branch, shape) for branch in step.branches])


def _convolution(step: Conv, shape: Shape) -> nn.Module:
    layer = {1: ntkit.nn.Conv1d, 2: ntkit.nn.Conv2d}[len(shape) - 1]
    mode = "circular" if step.circular else "zeros"
    return layer(
        shape[0], step.width, step.kernel, step.stride, step.padding,
        w_std=step.w_std, b_std=step.b_std, padding_mode=mode,
    )  # fmt: skip


def _attention(step: Attention, shape: Shape) -> nn.Module:
    channels, tokens = shape
    joined = channels + step.position_channels if step.positions == "concat" else channels
    positions = None
    if step.positions:
        positions = ntkit.nn.PositionalEmbedding(
            tokens, joined - channels or channels, step.position_std, concatenate=step.positions == "concat",
            correlation_length=step.correlation_length,
        )  # fmt: skip
    layer = ntkit.nn.SelfAttention(
        joined if step.in_values else channels, step.width, w_std=step.w_std, b_std=step.b_std,
        mechanism=step.mechanism, score_scale=step.score_scale, key_in_channels=joined,
    )  # fmt: skip
    return OfTokens(layer, positions, step.in_values)


def _pool(step: Pool, axes: int) -> nn.Module:
    layer: Any = {1: nn.AvgPool1d, 2: nn.AvgPool2d}[axes]
    sizes = (per_axis(value, axes) for value in (step.kernel, step.stride, step.padding))
    total = {"divisor_override": 1} if step.total else {}  # divided by 1, torch's average is the sum
    return layer(*sizes, count_include_pad=step.count_padding, **total)
