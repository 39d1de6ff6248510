"""Linear and convolution layers: nngp' = w² mean(nngp) + b², and what their parameters add to the tangent kernel.

The mean is over the channels of the input and, for a convolution, over the taps of its window; a tap in zero padding
counts as 0. So does one of a transposed convolution that lies between two inputs: with stride s about one in s taps of
an axis has an input, and all of them count in the fan-in.
NTK parameterisation, z = w/√fan_in · W x + b · β:    ntk' = w² nngp + b² + w² ntk.
Standard parameterisation, z = W x + β, W ~ N(0, w²/fan_in):    ntk' = fan_in · nngp + [bias] + w² ntk.
Parameters that are not trained add nothing of their own.

Reference: Jacot et al. 2018; Arora et al. 2019, section 4, for convolutions; Novak et al. 2020 (stax.ConvTranspose of
neural-tangents) for transposed ones; Sohl-Dickstein, Novak, Schoenholz & Lee 2020 for the standard form.
"""

from __future__ import annotations

from ntkit.architecture.specs import Conv, Linear, Number, Weighted
from ntkit.errors import MissingScale, UnsupportedLayer
from ntkit.infinite.program import Affine, Window
from ntkit.infinite.rules.base import Builder, rule
from ntkit.infinite.rules.values import Value


@rule.register
def linear(spec: Linear, inputs: list[Value], builder: Builder) -> Value:
    """z = W x + b of anything whose covariance is known, at every position alone."""
    return affine_layer(spec, builder.settle(inputs[0]), spec.out_features, builder)


@rule.register
def convolution(spec: Conv, inputs: list[Value], builder: Builder) -> Value:
    """z = W * x + b, or z = W *ᵀ x + b: a transposed convolution is one with windows of its own."""
    if spec.groups > 1:
        _require_limit_of_groups(spec, inputs[0], builder)
    source = builder.settle(inputs[0])
    if not all(axis.is_pointwise for axis in spec.axes):
        source = builder.emit(Window(source, spec.axes))
    return affine_layer(spec, source, spec.out_channels, builder)


def affine_layer(spec: Weighted, source: int, channels: int, builder: Builder) -> Value:
    """W x + b of what a register holds."""
    w, b, standard = scales(spec, builder)
    weight_rate = (float(spec.fan_in) if standard else w) if spec.trains_weight else 0.0
    bias_rate = (1.0 if standard else b) if spec.bias and spec.trains_bias else 0.0
    return builder.single(Affine(source, w, b, weight_rate, bias_rate), "affine", channels=channels)


def scales(spec: Weighted, builder: Builder) -> tuple[Number, Number, bool]:
    """(variance of the weights times the fan-in, variance of the bias, whether the parameterisation is standard).

    Raises:
        MissingScale: they are not stated.
    """
    if spec.w_std is None or spec.b_std is None or spec.parameterization is None:
        raise MissingScale(f"{spec.name} at '{builder.path}' has no scale; give w_std and b_std")
    return spec.w_std**2, spec.b_std**2 if spec.bias else 0.0, spec.parameterization == "standard"


def _require_limit_of_groups(spec: Conv, value: Value, builder: Builder) -> None:
    """Every group averages over many channels of one distribution, so that all have the same limit."""
    who = f"{spec.name} at '{builder.path}' with groups={spec.groups}"
    if spec.in_channels == spec.groups:
        raise UnsupportedLayer(
            f"{who} is depthwise: an output sums over the window of one channel alone, which is no mean over many and "
            "has no Gaussian limit; use groups=1, or groups that grow in width"
        )
    if value.holds_data:
        raise UnsupportedLayer(
            f"{who} reads the data, whose channels differ from group to group, so that outputs have no common kernel; "
            "use groups=1 in the first layer"
        )
    if len(value.blocks) > 1:
        raise UnsupportedLayer(
            f"{who} reads channels of different layers side by side, so that groups have different kernels; use "
            "groups=1 after a concatenation"
        )
