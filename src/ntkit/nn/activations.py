"""Elementwise activations that torch.nn lacks. Torch's own (ReLU, GELU, Tanh, …) are used as they are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.errors import InvalidInput


class Erf(torch.nn.Module):
    """erf(x).

    Example:
        >>> Erf()(torch.zeros(2))
        tensor([0., 0.])
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """erf(x), elementwise."""
        return torch.erf(input)


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
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise InvalidInput(f"ntkit.nn.Monomial: the degree n must be an integer >= 0, got {n!r}")
        self.n = n

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """xⁿ, elementwise."""
        return input**self.n

    def extra_repr(self) -> str:
        """The degree."""
        return f"{self.n}"
