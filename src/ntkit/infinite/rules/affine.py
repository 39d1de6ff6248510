"""Linear layers: nngp' = w² nngp + b², and what their parameters add to the tangent kernel.

NTK parameterisation, z = w/√fan_in · W x + b · β:    ntk' = w² nngp + b² + w² ntk.
Standard parameterisation, z = W x + β, W ~ N(0, w²/fan_in):    ntk' = fan_in · nngp + [bias] + w² ntk.
Parameters that are not trained add nothing of their own.

Reference: Jacot et al. 2018; Sohl-Dickstein, Novak, Schoenholz & Lee 2020 for the standard form.
"""

from __future__ import annotations

from ntkit.architecture.specs import Linear
from ntkit.errors import MissingScale
from ntkit.infinite.program import Affine
from ntkit.infinite.rules.base import Builder, Value, rule


@rule.register
def linear(spec: Linear, inputs: list[Value], builder: Builder) -> Value:
    """z = W x + b of anything whose covariance is known."""
    if spec.w_std is None or spec.b_std is None or spec.parameterization is None:
        raise MissingScale(f"Linear at '{builder.path}' has no scale; give w_std and b_std")
    w, b = spec.w_std**2, spec.b_std**2 if spec.bias else 0.0
    standard = spec.parameterization == "standard"
    weight_rate = (float(spec.in_features) if standard else w) if spec.trains_weight else 0.0
    bias_rate = (1.0 if standard else b) if spec.bias and spec.trains_bias else 0.0
    source = builder.settle(inputs[0])
    return builder.single(Affine(source, w, b, weight_rate, bias_rate), "affine")
