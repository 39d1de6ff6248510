"""The layers a traced network is made of, as frozen data. What they do to a kernel stands in `infinite/rules`.

Adding a layer: a spec here (or anywhere), a lowering for its torch module, a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ntkit.architecture.expressions import Expression

Parameterization = Literal["ntk", "standard"]


@dataclass(frozen=True)
class Spec:
    """One operation of a network."""

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return type(self).__name__


@dataclass(frozen=True)
class Input(Spec):
    """The data themselves."""


@dataclass(frozen=True)
class Flatten(Spec):
    """Everything after the batch axis becomes one axis of `features` entries (None: as many as there are)."""

    features: int | None = None


@dataclass(frozen=True)
class Linear(Spec):
    """z = W x + b with Gaussian W and b.

    Args:
        in_features: fan-in.
        out_features: number of outputs.
        bias: whether a bias parameter exists.
        trains_weight: whether the weight requires grad, and so enters the tangent kernel.
        trains_bias: the same for the bias.
        w_std: standard deviation of the weights times √fan-in; None while not yet known.
        b_std: standard deviation of the bias; None while not yet known.
        parameterization: "ntk" scales in the forward pass, "standard" in the initial draw.
    """

    in_features: int
    out_features: int
    bias: bool
    trains_weight: bool = True
    trains_bias: bool = True
    w_std: float | None = None
    b_std: float | None = None
    parameterization: Parameterization | None = None


@dataclass(frozen=True)
class LinearCombination(Spec):
    """Σ cᵢ xᵢ of its inputs: residual sums, differences, constant factors."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Activation(Spec):
    """An elementwise function of one variable."""

    @property
    def name(self) -> str:
        """Its type, and its constants if it has any: Sin(1, 2, 0)."""
        values = [getattr(self, constant.name) for constant in fields(self)]
        constants = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        return f"{type(self).__name__}({constants})" if constants else type(self).__name__


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """x for x > 0, slope · x else; slope 0 is ReLU, slope −1 is |x|."""

    negative_slope: float = 0.0

    @property
    def name(self) -> str:
        """ReLU and Abs under their own names."""
        return {0.0: "ReLU", -1.0: "Abs"}.get(self.negative_slope, super().name)


@dataclass(frozen=True)
class Erf(Activation):
    """erf(x)."""


@dataclass(frozen=True)
class GELU(Activation):
    """x Φ(x), the exact form."""


@dataclass(frozen=True)
class Sin(Activation):
    """a · sin(b x + c); cos is c + π/2."""

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0


@dataclass(frozen=True)
class Cos(Activation):
    """a · cos(b x + c)."""

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0


@dataclass(frozen=True)
class Sign(Activation):
    """sign(x), whose derivative is 0 by convention."""


@dataclass(frozen=True)
class Gaussian(Activation):
    """a · exp(b x²)."""

    a: float = 1.0
    b: float = -1.0


@dataclass(frozen=True)
class Monomial(Activation):
    """xⁿ."""

    n: int


@dataclass(frozen=True)
class Elementwise(Activation):
    """Any other elementwise function; its dual is found by quadrature."""

    expression: Expression

    @property
    def name(self) -> str:
        """Its formula."""
        return str(self.expression)
