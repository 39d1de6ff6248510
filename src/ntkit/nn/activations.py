"""Elementwise activations that torch.nn lacks. Torch's own (ReLU, GELU, Tanh, …) are used as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.nn.scale import is_finite_scale


class Erf(torch.nn.Module):
    """a · erf(b x) + c; with a = c = 1/2 and b = 1/2.4020563531719796 close to the logistic sigmoid, to within 0.02.

    Args:
        a: factor.
        b: scale of the argument.
        c: offset.

    Raises:
        InvalidInput: a constant is not a number of finite square.

    Example:
        >>> Erf()(torch.zeros(2))
        tensor([0., 0.])
        >>> Erf(0.5, 0.4, 0.5)(torch.zeros(1))
        tensor([0.5000])
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0):
        super().__init__()
        _require_finite("Erf", a=a, b=b, c=c)
        self.a, self.b, self.c = float(a), float(b), float(c)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """a · erf(b x) + c, elementwise."""
        return self.a * torch.erf(self.b * input) + self.c

    def extra_repr(self) -> str:
        """The three constants."""
        return f"a={self.a:g}, b={self.b:g}, c={self.c:g}"


class ABReLU(torch.nn.Module):
    """a · min(x, 0) + b · max(x, 0).

    Args:
        a: slope below 0.
        b: slope above 0.

    Raises:
        InvalidInput: a slope is not a number of finite square.

    Example:
        >>> ABReLU(-0.5, 2.0)(torch.tensor([-2.0, 3.0]))
        tensor([1., 6.])
    """

    def __init__(self, a: float, b: float):
        super().__init__()
        _require_finite("ABReLU", a=a, b=b)
        self.a, self.b = float(a), float(b)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """a · min(x, 0) + b · max(x, 0), elementwise."""
        return self.b * torch.relu(input) - self.a * torch.relu(-input)

    def extra_repr(self) -> str:
        """The two slopes."""
        return f"a={self.a:g}, b={self.b:g}"


class Abs(torch.nn.Module):
    """|x|.

    Example:
        >>> Abs()(torch.tensor([-2.0, 1.0]))
        tensor([2., 1.])
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """|x|, elementwise."""
        return torch.abs(input)


class Sign(torch.nn.Module):
    """sign(x); its derivative is 0 by convention, so weights before it do not train.

    Example:
        >>> Sign()(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([-1.,  0.,  1.])
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """sign(x), elementwise."""
        return torch.sign(input)


class Sin(torch.nn.Module):
    """a · sin(b x + c).

    Args:
        a: amplitude.
        b: frequency.
        c: phase in radians.

    Example:
        >>> Sin(a=2.0)(torch.zeros(1))
        tensor([0.])
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0):
        super().__init__()
        _require_finite("Sin", a=a, b=b, c=c)
        self.a, self.b, self.c = float(a), float(b), float(c)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """a · sin(b x + c), elementwise."""
        return self.a * torch.sin(self.b * input + self.c)

    def extra_repr(self) -> str:
        """The three constants."""
        return f"a={self.a:g}, b={self.b:g}, c={self.c:g}"


class Cos(torch.nn.Module):
    """a · cos(b x + c).

    Args:
        a: amplitude.
        b: frequency.
        c: phase in radians.

    Example:
        >>> Cos(a=2.0)(torch.zeros(1))
        tensor([2.])
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0):
        super().__init__()
        _require_finite("Cos", a=a, b=b, c=c)
        self.a, self.b, self.c = float(a), float(b), float(c)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """a · cos(b x + c), elementwise."""
        return self.a * torch.cos(self.b * input + self.c)

    def extra_repr(self) -> str:
        """The three constants."""
        return f"a={self.a:g}, b={self.b:g}, c={self.c:g}"


class Gaussian(torch.nn.Module):
    """a · exp(b x²); with b > 0 its moments are infinite for pre-activations of variance ≥ 1/(4b).

    Args:
        a: height at 0.
        b: coefficient of x²; negative for a bell.

    Example:
        >>> Gaussian(a=3.0)(torch.zeros(1))
        tensor([3.])
    """

    def __init__(self, a: float = 1.0, b: float = -1.0):
        super().__init__()
        _require_finite("Gaussian", a=a, b=b)
        self.a, self.b = float(a), float(b)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """a · exp(b x²), elementwise."""
        return self.a * torch.exp(self.b * input**2)

    def extra_repr(self) -> str:
        """The two constants."""
        return f"a={self.a:g}, b={self.b:g}"


class Monomial(torch.nn.Module):
    """xⁿ.

    Args:
        n: the degree, an integer ≥ 0.

    Raises:
        InvalidInput: n is not an integer ≥ 0.

    Example:
        >>> Monomial(2)(torch.tensor([3.0]))
        tensor([9.])
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = _degree("Monomial", n)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """xⁿ, elementwise."""
        return input**self.n

    def extra_repr(self) -> str:
        """The degree."""
        return f"{self.n}"


class RectifiedMonomial(torch.nn.Module):
    """max(x, 0)ⁿ, the activation of the arc-cosine kernel of order n.

    Args:
        n: the degree, an integer ≥ 1.

    Raises:
        InvalidInput: n is not an integer ≥ 1.

    Example:
        >>> RectifiedMonomial(2)(torch.tensor([-3.0, 3.0]))
        tensor([0., 9.])

    Reference: Cho & Saul 2009.
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = _degree("RectifiedMonomial", n, 1, "; for a step write (1 + torch.sign(x)) / 2")

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """max(x, 0)ⁿ, elementwise."""
        return torch.relu(input) ** self.n

    def extra_repr(self) -> str:
        """The degree."""
        return f"{self.n}"


class Polynomial(torch.nn.Module):
    """c_0 + c_1 x + … + c_n xⁿ.

    Args:
        coefficients: c_0, c_1, …, c_n, the lowest power first as in `numpy.polynomial.Polynomial`.

    Raises:
        InvalidInput: there are none, or one is not a number of finite square.

    Example:
        >>> Polynomial([1.0, 0.0, 2.0])(torch.tensor([3.0]))
        tensor([19.])
    """

    def __init__(self, coefficients: Sequence[float | int]):
        super().__init__()
        if not isinstance(coefficients, (Sequence, np.ndarray)) or isinstance(coefficients, str):
            raise InvalidInput(
                f"ntkit.nn.Polynomial: wanted a sequence of coefficients, c_0 first, got {coefficients!r}; for one "
                "power there is ntkit.nn.Monomial"
            )
        _require_finite("Polynomial", **{f"c_{j}": c for j, c in enumerate(coefficients)})
        self.coefficients = tuple(map(float, coefficients))
        if not self.coefficients:
            raise InvalidInput("ntkit.nn.Polynomial: wanted at least one coefficient, got none; the first is c_0")

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Σ_j c_j xʲ, elementwise, by Horner's rule."""
        total = torch.zeros_like(input)
        for c in reversed(self.coefficients):
            total = total * input + c
        return total

    def extra_repr(self) -> str:
        """The coefficients."""
        return ", ".join(f"{c:g}" for c in self.coefficients)


class Hermite(torch.nn.Module):
    """h_n(x) = He_n(x)/√n!, Hermite polynomials whose squares have mean 1 for x ~ N(0, 1).

    Pre-activations of variance 1 give the kernel ρⁿ of their correlation ρ; others are exact as well.

    Args:
        n: the degree, an integer ≥ 0.

    Raises:
        InvalidInput: n is not an integer ≥ 0.

    Example:
        >>> Hermite(2)(torch.tensor([1.0, -1.0]))      # (x² − 1)/√2
        tensor([0., 0.])

    Reference: Daniely, Frostig & Singer 2016.
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = _degree("Hermite", n)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """He_n(x)/√n!, elementwise, by h_{k+1} = (x h_k − √k h_{k−1})/√(k+1)."""
        before, now = torch.zeros_like(input), torch.ones_like(input)
        for k in range(self.n):
            before, now = now, (input * now - k**0.5 * before) / (k + 1) ** 0.5
        return now

    def extra_repr(self) -> str:
        """The degree."""
        return f"{self.n}"


def _degree(who: str, n: object, least: int = 0, remedy: str = "") -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        raise InvalidInput(f"ntkit.nn.{who}: the degree n must be an integer >= {least}, got {n!r}{remedy}")
    return n


def _require_finite(who: str, **constants: object) -> None:
    for name, value in constants.items():
        if not is_finite_scale(value):
            raise InvalidInput(f"ntkit.nn.{who}: wanted a number of finite square for {name}, got {value!r}")
