"""scale · (f − f₀): a network with the untrained one subtracted, so that training starts at the zero function.

A large scale makes training lazy (the kernel barely moves), a small one makes it rich.
Reference: Chizat, Oyallon & Bach 2019, section 1.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ntkit.errors import InvalidInput


class Centered(torch.nn.Module):
    """scale · (model(x) − model₀(x)), where model₀ is a frozen copy of the model as it was given.

    Args:
        model: the network; the centred one trains these very parameters.
        scale: factor on the difference; > 0.
    """

    def __init__(self, model: torch.nn.Module, scale: float = 1.0):
        super().__init__()
        if not isinstance(model, torch.nn.Module):
            raise InvalidInput(f"ntkit.center: model must be a torch.nn.Module, got {type(model).__name__}")
        if not (isinstance(scale, (int, float)) and math.isfinite(scale) and scale > 0):
            raise InvalidInput(f"ntkit.center: scale must be a finite number > 0, got {scale!r}")
        self.model = model
        self.initial = copy.deepcopy(model).requires_grad_(False)
        self.scale = float(scale)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """scale · (f(x) − f₀(x))."""
        with torch.no_grad():
            start = self.initial(*args, **kwargs)
        return self.scale * (self.model(*args, **kwargs) - start)


def center(model: torch.nn.Module, scale: float = 1.0) -> Centered:
    """scale · (f − f₀), the untrained network subtracted; scale turns training lazy (large) or rich (small).

    Args:
        model: the network f; it is not copied, training the result trains it.
        scale: factor on the difference; > 0.

    Returns:
        A module whose output is exactly zero until the model's parameters move.

    Raises:
        InvalidInput: model is no module, or scale is not a finite number > 0.

    Example:
        >>> f = center(torch.nn.Linear(2, 1))
        >>> f(torch.ones(3, 2)).abs().max().item()
        0.0

    Reference: Chizat, Oyallon & Bach 2019.
    """
    return Centered(model, scale)
