"""Modules that torch has not, of which networks of several tests are made: factors, and branches of one value.

Branches hand on what they are given besides the value, the mask of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """factor · x."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class ReadsMask(nn.Module):
    """A module that takes the mask of a sequence as well, where the model has one."""


class Branches(ReadsMask):
    """Modules that read the same value."""

    def __init__(self, branches: Iterable[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)


class Summed(Branches):
    """Σ cᵢ branchᵢ(x)."""

    def __init__(self, branches: Iterable[nn.Module], coefficients: Sequence[float] | None = None):
        super().__init__(branches)
        self.coefficients = tuple(coefficients or (1.0,) * len(self.branches))

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        pairs = zip(self.branches, self.coefficients, strict=True)
        terms = [b(x, *mask) if c == 1 else c * b(x, *mask) for b, c in pairs]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class Concatenated(Branches):
    """The branches' channels side by side."""

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        return torch.cat([branch(x, *mask) for branch in self.branches], dim=1)


class Multiplied(Branches):
    """The product of two branches."""

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        one, two = self.branches
        return one(x, *mask) * two(x, *mask)


class Several(Branches):
    """A tuple, one output a branch."""

    def forward(self, x: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(branch(x, *mask) for branch in self.branches)
