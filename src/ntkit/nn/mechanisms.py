"""What attention makes of its scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MECHANISMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: torch.softmax(scores, dim=-1),
    "identity": lambda scores: scores,
    "relu": torch.relu,
    "abs": torch.abs,
}


def attention_weights(
    mechanism: str, scores: Float[Tensor, "*batch p p"], mask: Bool[Tensor, "... p"] | None
) -> Float[Tensor, "*batch p p"]:
    """How much each token takes of every token that is there.

    Args:
        mechanism: a name in MECHANISMS.
        scores: of each token, with every other on the last axis.
        mask: True where a token is there.

    Example:
        >>> attention_weights("softmax", torch.zeros(2, 2), torch.tensor([True, False]))
        tensor([[1., 0.],
                [1., 0.]])
    """
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, :], -torch.inf if mechanism == "softmax" else 0.0)
    return MECHANISMS[mechanism](scores)
