"""Linear and convolution layers in NTK parameterisation: z = w_std/√fan_in · W x + b_std · b, all parameters N(0, 1).

The scale stands in the forward pass and not in the parameters, so that gradient descent moves every weight at the
rate at which the infinitely wide network's tangent kernel stays constant.
Reference: Jacot, Gabriel & Hongler 2018, section 2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.nn.scale import check_scales, check_sizes


def _draw_normal(layer: torch.nn.Linear | torch.nn.modules.conv._ConvNd) -> None:
    torch.nn.init.normal_(layer.weight)
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)


class Linear(torch.nn.Linear):
    """Linear layer in NTK parameterisation: z = w_std/√in_features · W x + b_std · b.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        w_std: standard deviation of the effective weights times √in_features.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        InvalidInput: a size is below 1, or a scale is negative or not finite.

    Example:
        >>> layer = Linear(3, 2, w_std=2**0.5, b_std=0.1)
        >>> layer(torch.ones(4, 3)).shape
        torch.Size([4, 2])

    Reference: Jacot et al. 2018, section 2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        w_std: float = 1.0,
        b_std: float = 0.0,
        *,
        device: Any = None,
        dtype: Any = None,
    ):
        check_sizes("ntkit.nn.Linear", in_features=in_features, out_features=out_features)
        check_scales("ntkit.nn.Linear", w_std, b_std)
        self.w_std, self.b_std = float(w_std), float(b_std)
        super().__init__(in_features, out_features, bias=b_std != 0, device=device, dtype=dtype)

    @property
    def weight_scale(self) -> float:
        """w_std/√fan_in, the factor on `weight` in the forward pass."""
        return self.w_std / math.sqrt(self.in_features)

    def reset_parameters(self) -> None:
        """Draw every parameter from N(0, 1)."""
        _draw_normal(self)

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch o"]:
        """z = w_std/√in_features · W x + b_std · b."""
        bias = None if self.bias is None else self.b_std * self.bias
        return F.linear(self.weight_scale * input, self.weight, bias)

    def extra_repr(self) -> str:
        """Sizes and scales."""
        return f"{self.in_features}, {self.out_features}, w_std={self.w_std:g}, b_std={self.b_std:g}"


class _Convolution(torch.nn.modules.conv._ConvNd):
    """What all convolutions share: scales in the forward pass, parameters N(0, 1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        w_std: float = 1.0,
        b_std: float = 0.0,
        **kwargs: Any,
    ):
        name = f"ntkit.nn.{type(self).__name__}"
        check_sizes(name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        for option, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
            each = value if isinstance(value, (tuple, list)) else (value,)
            check_sizes(name, **{f"{option}[{k}]" if len(each) > 1 else option: n for k, n in enumerate(each)})
        if in_channels % groups or out_channels % groups:
            raise InvalidInput(
                f"{name}: groups must divide in_channels and out_channels, got groups={groups} for {in_channels} and "
                f"{out_channels} channels"
            )
        check_scales(name, w_std, b_std)
        self.w_std, self.b_std = float(w_std), float(b_std)
        options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        sizes: Any = (in_channels, out_channels, kernel_size)
        super().__init__(*sizes, bias=b_std != 0, **options, **kwargs)  # torch's class follows in the resolution order

    @property
    def weight_scale(self) -> float:
        """w_std/√fan_in with fan_in = channels of a group × kernel size, also where a tap has no input."""
        return self.w_std / math.sqrt(self.in_channels // self.groups * math.prod(self.kernel_size))

    def reset_parameters(self) -> None:
        """Draw every parameter from N(0, 1)."""
        _draw_normal(self)

    def forward(self, input: Float[Tensor, "n c *hw"]) -> Float[Tensor, "n o *hw_out"]:
        """z = w_std/√fan_in · W * x + b_std · b."""
        bias = None if self.bias is None else self.b_std * self.bias
        return self._conv_forward(self.weight_scale * input, self.weight, bias)

    def extra_repr(self) -> str:
        """What torch's own layer shows, and scales."""
        shown = super().extra_repr().replace(", bias=False", "")  # which b_std=0 says, and no argument here
        return f"{shown}, w_std={self.w_std:g}, b_std={self.b_std:g}"


class Conv1d(_Convolution, torch.nn.Conv1d):
    """1-D convolution in NTK parameterisation: z = w_std/√fan_in · W * x + b_std · b.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in torch.nn.Conv1d, and so stride, padding, dilation and groups.
        w_std: standard deviation of the effective weights times √fan_in.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        kwargs: padding_mode, device, dtype of torch.nn.Conv1d.

    Example:
        >>> Conv1d(3, 5, 3, padding=1)(torch.ones(2, 3, 8)).shape
        torch.Size([2, 5, 8])
    """


class Conv2d(_Convolution, torch.nn.Conv2d):
    """2-D convolution in NTK parameterisation: z = w_std/√fan_in · W * x + b_std · b.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in torch.nn.Conv2d, and so stride, padding, dilation and groups.
        w_std: standard deviation of the effective weights times √fan_in.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        kwargs: padding_mode, device, dtype of torch.nn.Conv2d.

    Example:
        >>> Conv2d(3, 5, 3, padding=1)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 5, 8, 8])
    """


class Conv3d(_Convolution, torch.nn.Conv3d):
    """3-D convolution in NTK parameterisation: z = w_std/√fan_in · W * x + b_std · b.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in torch.nn.Conv3d, and so stride, padding, dilation and groups.
        w_std: standard deviation of the effective weights times √fan_in.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        kwargs: padding_mode, device, dtype of torch.nn.Conv3d.

    Example:
        >>> Conv3d(3, 5, 3, padding=1)(torch.ones(2, 3, 4, 4, 4)).shape
        torch.Size([2, 5, 4, 4, 4])
    """


class _TransposedConvolution(_Convolution):
    """What ConvTranspose1d, ConvTranspose2d and ConvTranspose3d share; the order of arguments is torch's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        *,
        dilation: Any = 1,
        w_std: float = 1.0,
        b_std: float = 0.0,
        **kwargs: Any,
    ):
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*sizes, w_std=w_std, b_std=b_std, output_padding=output_padding, **kwargs)

    def forward(self, input: Float[Tensor, "n c *hw"], output_size: Any = None) -> Float[Tensor, "n o *hw_out"]:
        """z = w_std/√fan_in · W *ᵀ x + b_std · b; `output_size` as in torch."""
        bias, axes = None if self.bias is None else self.b_std * self.bias, len(self.kernel_size)
        layer: Any = self  # torch's class of so many axes, which knows what output_size means
        added = layer._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, axes, self.dilation
        )
        convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        scaled = self.weight_scale * input
        return convolve(scaled, self.weight, bias, self.stride, self.padding, added, self.groups, self.dilation)


class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
    """1-D transposed convolution in NTK parameterisation: z = w_std/√fan_in · W *ᵀ x + b_std · b.

    fan_in = in_channels/groups × kernel size, as for a convolution, though a stride of s lets only about one in s taps
    an axis meet in one output value: the others count as zeros, as in neural-tangents.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in torch.nn.ConvTranspose1d, and so stride, padding, output_padding, groups and dilation.
        w_std: standard deviation of the effective weights times √fan_in.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        kwargs: device, dtype of torch.nn.ConvTranspose1d.

    Example:
        >>> ConvTranspose1d(3, 5, 3, stride=2, padding=1, output_padding=1)(torch.ones(2, 3, 8)).shape
        torch.Size([2, 5, 16])

    Reference: Novak et al. 2020, Neural Tangents, stax.ConvTranspose.
    """


class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
    """2-D transposed convolution in NTK parameterisation: z = w_std/√fan_in · W *ᵀ x + b_std · b.

    fan_in = in_channels/groups × kernel size, as for a convolution, though a stride of s lets only about one in s taps
    an axis meet in one output value: the others count as zeros, as in neural-tangents.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in torch.nn.ConvTranspose2d, and so stride, padding, output_padding, groups and dilation.
        w_std: standard deviation of the effective weights times √fan_in.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        kwargs: device, dtype of torch.nn.ConvTranspose2d.

    Example:
        >>> ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 5, 16, 16])

    Reference: Novak et al. 2020, Neural Tangents, stax.ConvTranspose.
    """


class ConvTranspose3d(_TransposedConvolution, torch.nn.ConvTranspose3d):
    """3-D transposed convolution in NTK parameterisation: z = w_std/√fan_in · W *ᵀ x + b_std · b.

    fan_in = in_channels/groups × kernel size, as for a convolution, though a stride of s lets only about one in s taps
    an axis meet in one output value: the others count as zeros, as in neural-tangents.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in torch.nn.ConvTranspose3d, and so stride, padding, output_padding, groups and dilation.
        w_std: standard deviation of the effective weights times √fan_in.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        kwargs: device, dtype of torch.nn.ConvTranspose3d.

    Example:
        >>> ConvTranspose3d(3, 5, 3, stride=2, padding=1, output_padding=1)(torch.ones(2, 3, 4, 4, 4)).shape
        torch.Size([2, 5, 8, 8, 8])

    Reference: Novak et al. 2020, Neural Tangents, stax.ConvTranspose.
    """


# torch's class -> the same layer in NTK parameterisation
COUNTERPARTS: dict[type[torch.nn.Module], type[Linear | _Convolution]] = {
    torch.nn.Linear: Linear,
    torch.nn.Conv1d: Conv1d,
    torch.nn.Conv2d: Conv2d,
    torch.nn.Conv3d: Conv3d,
    torch.nn.ConvTranspose1d: ConvTranspose1d,
    torch.nn.ConvTranspose2d: ConvTranspose2d,
    torch.nn.ConvTranspose3d: ConvTranspose3d,
}
