"""What all specs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Parameterization = Literal["ntk", "standard"]
Number = float | Float[Tensor, ""]  # a tensor where gradients in it are wanted


@dataclass(frozen=True)
class Spec:
    """One operation of a network."""

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return type(self).__name__

    @property
    def is_unique(self) -> bool:
        """Whether two of it are two layers, however equal: it has parameters or chance of its own."""
        return False

    @property
    def reads_mask(self) -> bool:
        """Whether it is told which tokens are there."""
        return False
