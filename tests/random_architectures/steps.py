"""A small language for networks: frozen steps, printable, of which a torch module and textbook covariances are made.

A value has a grid of positions, () for vectors, and channels counted in units of the network's width. Tokens are the
positions of a grid of one axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

Grid = tuple[int, ...]
Steps = tuple["Step", ...]


@dataclass(frozen=True)
class Step:
    """One layer, or branches that read one value."""


# ---- layers with weights ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Layer(Step):
    """Args: units: output channels over width, 0 for a single output. standard: a plain torch layer, drawn at scale."""

    w_std: float
    b_std: float
    units: int = 1
    trains_weight: bool = True
    trains_bias: bool = True
    standard: bool = False


@dataclass(frozen=True, kw_only=True)
class Dense(Layer):
    """A linear layer: of vectors, or of the channels of every position."""


@dataclass(frozen=True, kw_only=True)
class Windowed(Layer):
    """A layer with windows over positions; one number an axis."""

    kernel: Grid
    stride: Grid
    dilation: Grid
    padding: Grid
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Conv(Windowed):
    """A convolution."""

    circular: bool = False


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(Windowed):
    """A transposed convolution."""

    output_padding: Grid


@dataclass(frozen=True, kw_only=True)
class Attention(Layer):
    """Self-attention over tokens, with tied keys and queries.

    Args:
        mechanism: what becomes of the scores.
        score_scale: factor on them.
        heads: how many.
        masked: whether it leaves out tokens that are not there.
        trains_values: whether the values' weights train, beside the output's.
        positions: added to what the keys are made of; None for nothing.
    """

    mechanism: str
    score_scale: float
    heads: int
    masked: bool
    trains_values: bool
    positions: Positions | None


# ---- tokens ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Positions(Step):
    """A random vector a position, added, or `beside` the channels; near ones agree over a correlation length."""

    w_std: float
    correlation_length: float
    trains: bool
    beside: bool = False


@dataclass(frozen=True)
class Tokens(Step):
    """All axes of positions become one."""


@dataclass(frozen=True)
class MaskedFill(Step):
    """0 in place of tokens that are not there."""


@dataclass(frozen=True)
class MaskedMean(Step):
    """The mean over the tokens that are there."""


# ---- maps of positions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PositionMap(Step):
    """A linear map of positions, which torch applies to each channel alone."""

    def layer(self, rank: int) -> nn.Module:
        """Torch's own layer for so many axes."""
        raise NotImplementedError


@dataclass(frozen=True)
class AvgPool(PositionMap):
    """Means over windows."""

    kernel: int
    stride: int
    padding: int = 0
    counts_padding: bool = True

    def layer(self, rank: int) -> nn.Module:
        family = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[rank]
        return family(self.kernel, self.stride, self.padding, count_include_pad=self.counts_padding)


@dataclass(frozen=True)
class AdaptivePool(PositionMap):
    """Means over as many windows as asked for."""

    out: Grid

    def layer(self, rank: int) -> nn.Module:
        family = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[rank]
        return family(self.out)


@dataclass(frozen=True)
class Pad(PositionMap):
    """One position more on each side of every axis: zeros, reflected or around."""

    mode: str

    def layer(self, rank: int) -> nn.Module:
        return getattr(nn, f"{self.mode}{rank}d")(1)


@dataclass(frozen=True)
class Resize(PositionMap):
    """Interpolation to another grid: "nearest" or "linear"."""

    out: Grid
    mode: str
    corners: bool | None = None

    def layer(self, rank: int) -> nn.Module:
        linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
        return nn.Upsample(self.out, mode=linear if self.mode == "linear" else self.mode, align_corners=self.corners)


# ---- everything else -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation(Step):
    """An elementwise function by the name it has in `activations.py`."""

    name: str


@dataclass(frozen=True)
class Norm(Step):
    """LayerNorm, GroupNorm or RMSNorm; `whole`: over all positions too. GroupNorm is always whole, of two groups."""

    kind: str
    whole: bool
    eps: float
    trains_scale: bool = False
    trains_shift: bool = False

    @property
    def shared(self) -> bool:
        """Whether all positions of a channel have one scale and shift."""
        return self.kind == "GroupNorm" or not self.whole


@dataclass(frozen=True)
class Dropout(Step):
    """Dropout in training; `whole`: of channels at all positions together."""

    rate: float
    whole: bool = False


@dataclass(frozen=True)
class Scale(Step):
    """factor · x."""

    factor: float


@dataclass(frozen=True)
class Flatten(Step):
    """Channels and positions become one axis."""


@dataclass(frozen=True)
class GlobalPool(Step):
    """The mean over all positions; by a layer, or by `x.mean`."""

    by_layer: bool = False


@dataclass(frozen=True)
class Branching(Step):
    """Branches that read one value."""

    branches: tuple[Steps, ...]


@dataclass(frozen=True)
class Sum(Branching):
    """Σ cᵢ xᵢ."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Concat(Branching):
    """Channels side by side."""


@dataclass(frozen=True)
class Product(Branching):
    """x y of two."""


@dataclass(frozen=True)
class Heads(Branching):
    """Several outputs; the last step of a network."""


@dataclass(frozen=True)
class Recipe:
    """A network and its samples.

    Args:
        seed: of which it was drawn.
        channels: of the data, or features.
        grid: of the data, () for vectors.
        steps: the network.
        is_sequence: whether samples are (tokens, features), not (channels, *grid).
    """

    seed: int
    channels: int
    grid: Grid
    steps: Steps
    is_sequence: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (*self.grid, self.channels) if self.is_sequence else (self.channels, *self.grid)

    @property
    def takes_mask(self) -> bool:
        """Whether a step reads which tokens are there."""
        return any(map(reads_mask, _walk(self.steps)))

    def __str__(self) -> str:
        with_mask = ", with a mask" if self.takes_mask else ""
        lines = [f"seed {self.seed}: samples of shape {self.shape}{with_mask}", *_lines(self.steps, "  ")]
        return "\n".join(lines)


def reads_mask(step: Step) -> bool:
    """Whether it reads which tokens are there."""
    return isinstance(step, MaskedFill | MaskedMean) or (isinstance(step, Attention) and step.masked)


def _walk(steps: Steps) -> Iterator[Step]:
    """The steps of all branches."""
    for step in steps:
        yield step
        if isinstance(step, Branching):
            for branch in step.branches:
                yield from _walk(branch)


def _lines(steps: Steps, indent: str):
    for step in steps:
        if isinstance(step, Branching):
            yield f"{indent}{type(step).__name__}" + (f" {step.coefficients}" if isinstance(step, Sum) else "")
            for branch in step.branches:
                yield f"{indent}  branch"
                yield from _lines(branch, indent + "    ")
        else:
            yield f"{indent}{step}"


def depth_of(steps: Steps) -> int:
    """Activations on the longest way."""
    return sum(
        max(depth_of(branch) for branch in step.branches)
        if isinstance(step, Branching)
        else isinstance(step, Activation)
        for step in steps
    )


def grid_after(step: Step, grid: Grid) -> Grid:
    """The grid behind a step."""
    match step:
        case Conv():
            axes = zip(grid, step.kernel, step.stride, step.dilation, step.padding, strict=True)
            return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in axes)
        case PositionMap():
            return tuple(step.layer(len(grid))(torch.zeros(1, 1, *grid)).shape[2:])
        case ConvTranspose():
            axes = zip(grid, step.kernel, step.stride, step.dilation, step.padding, step.output_padding, strict=True)
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + added + 1 for n, k, s, d, p, added in axes)
        case Flatten() | GlobalPool() | MaskedMean():
            return ()
        case Tokens():
            return (math.prod(grid),)
        case Branching():
            for inner in step.branches[0]:
                grid = grid_after(inner, grid)
            return grid
        case _:
            return grid
