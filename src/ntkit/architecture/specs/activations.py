"""Elementwise functions of one variable. Those with a name have a dual in closed form."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any

from ntkit.architecture.expressions import Expression
from ntkit.architecture.specs.base import Spec
from ntkit.errors import InvalidInput
from ntkit.nn.scale import is_finite_scale


def _is_degree(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_coefficients(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(is_finite_scale, value))


# annotation of a constant -> (what it must be, whether a value is that)
_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a number of finite square", is_finite_scale),
    "int": ("a whole number from 0", _is_degree),
    "tuple[float, ...]": ("a tuple of numbers of finite square, c_0 first,", _are_coefficients),
    "Activation": ("an activation", lambda value: isinstance(value, Activation)),
    "Expression": ("an Expression of x", lambda value: isinstance(value, Expression)),
}


@dataclass(frozen=True)
class Activation(Spec):
    """An elementwise function of one variable.

    Raises:
        InvalidInput: a constant is none that its function can have.
    """

    def __post_init__(self) -> None:
        for constant in fields(self):
            value = getattr(self, constant.name)
            if constant.type not in _KINDS:
                continue
            wanted, is_one = _KINDS[constant.type]
            if not is_one(value):
                raise InvalidInput(f"{type(self).__name__} takes {wanted} as {constant.name}, got {value!r}")

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
class ABReLU(Activation):
    """a · min(x, 0) + b · max(x, 0)."""

    a: float
    b: float


@dataclass(frozen=True)
class RectifiedMonomial(Activation):
    """max(x, 0)ⁿ for n ≥ 1."""

    n: int


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
class Exp(Activation):
    """exp(x)."""


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
class Registered(Activation):
    """A function from outside, with formulas of its own (`ntkit.infinite.register_activation`).

    Args:
        function: the function or module class that was registered.
        constants: in the order in which its formulas take them.
    """

    function: Callable[..., Any]
    constants: tuple[Hashable, ...] = ()

    @property
    def name(self) -> str:
        """Its own, with its constants."""
        constants = f"({', '.join(map(str, self.constants))})" if self.constants else ""
        return f"{self.function.__name__}{constants}"


@dataclass(frozen=True)
class Polynomial(Activation):
    """c_0 + c_1 x + … + c_n xⁿ."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Hermite(Activation):
    """He_n(x)/√n!, the Hermite polynomial whose square has mean 1 under the standard normal density."""

    n: int


@dataclass(frozen=True)
class Shifted(Activation):
    """σ(x) + offset for an activation σ in closed form."""

    activation: Activation
    offset: float

    @property
    def name(self) -> str:
        """As a sum."""
        return f"{self.activation.name} {self.offset:+g}"


@dataclass(frozen=True)
class Elementwise(Activation):
    """Any other elementwise function; its dual is found by quadrature."""

    expression: Expression

    @property
    def name(self) -> str:
        """Its formula."""
        return str(self.expression)
