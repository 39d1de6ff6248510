"""A small neutral language for networks: frozen steps, of which torch modules and neural-tangents layers are made.

Sizes follow torch: integer padding on both sides, windows from the left, what is left over at the end is cropped.
A shape is (channels, *positions) before a flatten or global pool, and (features,) after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

Shape = tuple[int, ...]
PerAxis = int | tuple[int, ...]
Steps = tuple["Step", ...]


@dataclass(frozen=True)
class Conv:
    """A convolution of zero-padded or periodic (`circular`) images, in NTK parameterisation."""

    kernel: PerAxis
    stride: PerAxis = 1
    padding: PerAxis | str = 0
    circular: bool = False
    w_std: float = 1.4
    b_std: float = 0.2
    width: int = 4


@dataclass(frozen=True)
class ConvTranspose:
    """A transposed convolution in NTK parameterisation."""

    kernel: PerAxis
    stride: PerAxis = 1
    padding: PerAxis = 0
    output_padding: PerAxis = 0
    w_std: float = 1.4
    b_std: float = 0.2
    width: int = 4


@dataclass(frozen=True)
class Dense:
    """A linear layer in NTK parameterisation."""

    w_std: float = 1.4
    b_std: float = 0.2
    width: int = 4


@dataclass(frozen=True)
class Activation:
    """An elementwise function by the name that its module has in torch.nn or ntkit.nn; Exp has none."""

    name: str
    constants: tuple[float | tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Norm:
    """Division by the root mean square over channels and, with `positions`, over positions; no parameters."""

    positions: bool = False
    eps: float = 0.1


@dataclass(frozen=True)
class Attention:
    """Self-attention of a sequence, with tied keys and queries and scores divided by their number.

    `positions` is "", "sum" or "concat": how random vectors of positions enter the keys and, `in_values`, the values.
    """

    mechanism: str = "softmax"
    score_scale: float = 1.3
    w_std: float = 1.4
    b_std: float = 0.2
    width: int = 4
    positions: str = ""
    position_std: float = 0.7
    position_channels: int = 4
    correlation_length: float = 0.0
    in_values: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Pool:
    """Average (or, with `total`, sum) over windows; padding counts in the average's divisor unless told not to."""

    kernel: PerAxis
    stride: PerAxis
    padding: PerAxis = 0
    count_padding: bool = True
    total: bool = False


@dataclass(frozen=True)
class AdaptivePool:
    """Average over equal windows, as many as `out` says."""

    out: tuple[int, ...]


@dataclass(frozen=True)
class GlobalPool:
    """Average (or, with `total`, sum) over all positions, or those that are there; they are gone afterwards."""

    total: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Flatten:
    """Channels and positions become features."""


@dataclass(frozen=True)
class Scale:
    """A constant factor."""

    factor: float


@dataclass(frozen=True)
class Sum:
    """The sum of branches that read the same value; the empty branch is that value itself."""

    branches: tuple[Steps, ...]


@dataclass(frozen=True)
class Concat:
    """The branches' channels (or features) side by side."""

    branches: tuple[Steps, ...]


@dataclass(frozen=True)
class Heads:
    """Several outputs, one a branch; only at the end of a network."""

    branches: tuple[Steps, ...]


Layer = Conv | ConvTranspose | Dense | Attention
Step = Layer | Norm | Activation | Pool | AdaptivePool | GlobalPool | Flatten | Scale | Sum | Concat | Heads


def per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    return (value,) * axes if isinstance(value, int) else value


def windows(step: Conv | Pool, positions: Shape) -> list[tuple[int, int, int, int]]:
    """(size, kernel, stride, padding on the left) of each axis."""
    axes = len(positions)
    kernel, stride = per_axis(step.kernel, axes), per_axis(step.stride, axes)
    # "same" adds kernel − 1, of which the smaller half stands on the left
    padding = tuple((k - 1) // 2 for k in kernel) if isinstance(step.padding, str) else per_axis(step.padding, axes)
    return list(zip(positions, kernel, stride, padding, strict=True))


def transposed_windows(step: ConvTranspose, positions: Shape) -> list[tuple[int, int, int, int, int]]:
    """(size, kernel, stride, padding, padding of the output) of each axis."""
    options = (step.kernel, step.stride, step.padding, step.output_padding)
    return list(zip(positions, *(per_axis(option, len(positions)) for option in options), strict=True))


def shape_after(step: Step, shape: Shape) -> Shape:
    """The shape of what a step gives for one sample of the given shape."""
    match step:
        case Conv(padding="same"):
            return (step.width, *shape[1:])
        case Conv() | Pool():
            positions = tuple((size + 2 * pad - k) // stride + 1 for size, k, stride, pad in windows(step, shape[1:]))
            return (step.width if isinstance(step, Conv) else shape[0], *positions)
        case Attention():
            return (step.width, *shape[1:])
        case ConvTranspose():
            parts = transposed_windows(step, shape[1:])
            return (step.width, *((n - 1) * stride - 2 * pad + k + added for n, k, stride, pad, added in parts))
        case Dense():
            return (step.width,)
        case AdaptivePool():
            return (shape[0], *step.out)
        case GlobalPool():
            return shape[:1]
        case Flatten():
            return (math.prod(shape),)
        case Sum():
            shapes = {shape_after_all(branch, shape) for branch in step.branches}
            if len(shapes) > 1:
                raise ValueError(f"the branches of a sum have the shapes {shapes}; they must agree")
            return shapes.pop()
        case Concat():
            shapes = [shape_after_all(branch, shape) for branch in step.branches]
            return (sum(branch[0] for branch in shapes), *shapes[0][1:])
    return shape


def shape_after_all(steps: Steps, shape: Shape) -> Shape:
    """The shape after several steps."""
    for step in steps:
        shape = shape_after(step, shape)
    return shape


def every(steps: Steps) -> Iterator[Step]:
    """The steps, and those of their branches."""
    for step in steps:
        yield step
        if isinstance(step, Sum | Concat | Heads):
            for branch in step.branches:
                yield from every(branch)


def widened(steps: Steps, factor: int) -> Steps:
    """The same steps, every layer `factor` times as wide."""
    return tuple(_widened_step(step, factor) for step in steps)


def _widened_step(step: Step, factor: int) -> Step:
    match step:
        case Conv() | ConvTranspose() | Dense() | Attention():
            return replace(step, width=factor * step.width)
        case Sum() | Concat() | Heads():
            return replace(step, branches=tuple(widened(branch, factor) for branch in step.branches))
    return step
