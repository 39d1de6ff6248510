"""The data, layers with weights, and what moves, mixes or drops values of networks of any kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ntkit.architecture.specs.base import Number, Parameterization, Spec
from ntkit.architecture.windows import ConvAxis, PoolAxis, WindowAxis


@dataclass(frozen=True)
class Input(Spec):
    """The data themselves.

    Args:
        channel_axis: the axis that holds the channels, batch axis counted (1 in (n, c, h, w)); None for vectors, or
            data that are flattened before anything else reads them, or numbers of tokens.
        position_axes: the axes of positions, in the order in which layers see them.
        channels: how many, None where no layer states it.
    """

    channel_axis: int | None = None
    position_axes: tuple[int, ...] = ()
    channels: int | None = None

    @property
    def holds_tokens(self) -> bool:
        """Whether the data are whole numbers, one a position."""
        return self.channel_axis is None and len(self.position_axes) > 0


@dataclass(frozen=True)
class Flatten(Spec):
    """Channels and positions become one axis, of `features` entries (None: as many as there are)."""

    features: int | None = None


@dataclass(frozen=True)
class Squeeze(Spec):
    """A grid of one position becomes a vector of channels."""


@dataclass(frozen=True)
class Weighted(Spec):
    """A layer z = W x + b with Gaussian W and b.

    Args:
        bias: whether a bias parameter exists.
        trains_weight: whether the weight requires grad, and so enters the tangent kernel.
        trains_bias: the same for the bias.
        w_std: standard deviation of the weights times √fan_in; None while not yet known.
        b_std: standard deviation of the bias; None while not yet known.
        parameterization: "ntk" scales in the forward pass, "standard" in the initial draw; None while not yet known.
    """

    bias: bool = field(kw_only=True)
    trains_weight: bool = field(default=True, kw_only=True)
    trains_bias: bool = field(default=True, kw_only=True)
    w_std: Number | None = field(default=None, kw_only=True, hash=False)  # equal tensors have unequal hashes
    b_std: Number | None = field(default=None, kw_only=True, hash=False)
    parameterization: Parameterization | None = field(default=None, kw_only=True)

    @property
    def fan_in(self) -> int:
        """Weights that meet in one output value, also at zero-padded edges."""
        raise NotImplementedError

    @property
    def torch_fan_in(self) -> int:
        """The fan-in by which torch's default draw scales."""
        return self.fan_in

    @property
    def torch_scales(self) -> tuple[float, float]:
        """w_std and b_std of torch's default draw from U(−1/√f, 1/√f), of variance 1/(3 f), f its own fan-in."""
        return math.sqrt(self.fan_in / self.torch_fan_in) / math.sqrt(3), 1 / math.sqrt(3 * self.torch_fan_in)

    @property
    def is_unique(self) -> bool:
        """It has weights."""
        return True


@dataclass(frozen=True)
class Linear(Weighted):
    """A linear layer; of a flattened image it sums over positions as well.

    Args:
        in_features: size of the axis that it sums over.
        out_features: number of outputs.
    """

    in_features: int
    out_features: int

    @property
    def fan_in(self) -> int:
        """in_features."""
        return self.in_features


@dataclass(frozen=True)
class Conv(Weighted):
    """A convolution over 1, 2 or 3 axes of positions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        axes: the window, one entry an axis.
        groups: blocks of channels that do not mix.
    """

    in_channels: int
    out_channels: int
    axes: tuple[WindowAxis, ...]
    groups: int = 1

    @property
    def name(self) -> str:
        """With its number of axes, as torch calls it."""
        return f"Conv{len(self.axes)}d"

    @property
    def fan_in(self) -> int:
        """Channels of a group times taps."""
        return self.in_channels // self.groups * math.prod(axis.kernel for axis in self.axes)


@dataclass(frozen=True)
class ConvTranspose(Conv):
    """A transposed convolution; all its taps count in the fan-in, though a stride leaves some of them without input."""

    @property
    def name(self) -> str:
        """With its number of axes, as torch calls it."""
        return f"ConvTranspose{len(self.axes)}d"

    @property
    def torch_fan_in(self) -> int:
        """Of the weight, (in_channels, out_channels/groups, *taps), torch counts all but the first axis."""
        return self.out_channels // self.groups * math.prod(axis.kernel for axis in self.axes)


@dataclass(frozen=True)
class Normalization(Spec):
    """x / √(mean x² + ε) over channels, or channels and positions, times a scale of 1 plus a shift of 0.

    Groups of channels, as they become large, all have the mean of the whole, so their number does not matter.

    Args:
        layer: what torch calls it.
        eps: ε.
        over_positions: whether the mean is over positions too.
        subtracts_mean: whether the mean of x is taken away before.
        trains_scale: whether the scale is a parameter that trains, and so enters the tangent kernel.
        trains_shift: the same for the shift.
        shared: whether a channel has one scale and shift for all positions.
    """

    layer: str
    eps: float
    over_positions: bool
    subtracts_mean: bool
    trains_scale: bool = False
    trains_shift: bool = False
    shared: bool = True

    @property
    def name(self) -> str:
        """As torch calls it."""
        return self.layer

    @property
    def is_unique(self) -> bool:
        """Where scale or shift train."""
        return self.trains_scale or self.trains_shift


@dataclass(frozen=True)
class Dropout(Spec):
    """Dropout in training: each value is 0 with probability `rate`, else divided by 1 − rate.

    Args:
        rate: the probability.
        whole_channels: whether a channel is dropped at all positions together.
    """

    rate: float
    whole_channels: bool = False

    @property
    def is_unique(self) -> bool:
        """It has a mask of its own."""
        return True


@dataclass(frozen=True)
class Pool(Spec):
    """Weighted sums over windows of positions, each channel alone: pooling, padding, interpolation.

    Args:
        axes: the windows, one entry an axis.
        factor: multiplies the result.
        verb: what it does to a value, for errors.
    """

    axes: tuple[PoolAxis, ...]
    factor: float = 1.0
    verb: str = field(default="pooled", compare=False)


@dataclass(frozen=True)
class Concat(Spec):
    """Its inputs one after another along the channel axis (or, for vectors, the features).

    Args:
        channels: how many each input has.
    """

    channels: tuple[int, ...]


@dataclass(frozen=True)
class LinearCombination(Spec):
    """Σ cᵢ xᵢ of its inputs: residual sums, differences, constant factors."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Product(Spec):
    """The product of its two inputs, value by value: gates."""


@dataclass(frozen=True)
class Layer(Spec):
    """A layer from outside (`ntkit.infinite.register_layer`): specs derive from this and add constants of their own.

    It acts on the channels of every position alone, unless it has `axes`.

    Args:
        in_channels: what each of its inputs must have; None for any number.
        out_channels: what it gives; None for as many as arrive.
        channel_axis: the axis of its inputs on which it takes the channels, batch axis counted; None where it does not
            look at axes.
        axes: windows, one entry an axis of positions, for layers of (batch, channels, positions …).
    """

    in_channels: int | None = field(default=None, kw_only=True)
    out_channels: int | None = field(default=None, kw_only=True)
    channel_axis: int | None = field(default=-1, kw_only=True)
    axes: tuple[ConvAxis, ...] | tuple[PoolAxis, ...] = field(default=(), kw_only=True)

    @property
    def is_unique(self) -> bool:
        """It may have parameters; where it has none, equal instructions are one all the same."""
        return True
