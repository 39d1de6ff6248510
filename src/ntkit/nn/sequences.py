"""Embeddings of tokens and of positions, and what a mask does to sequences of different length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.nn.scale import check_scales, check_sizes


class Embedding(torch.nn.Embedding):
    """A vector a token in NTK parameterisation: w_std · W[token], W ~ N(0, 1).

    Args:
        num_embeddings: size of the vocabulary.
        embedding_dim: channels of a vector.
        w_std: standard deviation of every entry.
        kwargs: padding_idx, device, dtype of torch.nn.Embedding.

    Raises:
        InvalidInput: a size is below 1, or the scale is negative or not finite.

    Example:
        >>> Embedding(100, 16)(torch.tensor([[3, 7, 3]])).shape
        torch.Size([1, 3, 16])
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, w_std: float = 1.0, **kwargs: Any):
        check_sizes("ntkit.nn.Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        check_scales("ntkit.nn.Embedding", w_std, 0.0)
        padding = kwargs.get("padding_idx")
        if padding is not None and not (isinstance(padding, int) and -num_embeddings <= padding < num_embeddings):
            raise InvalidInput(
                f"ntkit.nn.Embedding: padding_idx must be None or a token from {-num_embeddings} to "
                f"{num_embeddings - 1}, got {padding!r}"
            )
        self.w_std = float(w_std)
        super().__init__(num_embeddings, embedding_dim, **kwargs)

    def forward(self, input: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens c"]:
        """The vector of every token."""
        return self.w_std * super().forward(input)

    def extra_repr(self) -> str:
        """What torch's own layer shows, and the scale."""
        return f"{super().extra_repr()}, w_std={self.w_std:g}"


class PositionalEmbedding(torch.nn.Module):
    """A random vector a position, added to x: x_p + w_std · e_p, with E[e_p e_p'] = exp(−|p − p'|²/(2 ℓ²)).

    Args:
        positions: how many, or a tuple of sizes where x has several axes of positions.
        channels: of each vector, as many as x has.
        w_std: standard deviation of every entry.
        correlation_length: ℓ, in positions; 0 makes the vectors of different positions independent.
        concatenate: put the vectors beside x's channels and do not add them.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        InvalidInput: a size is below 1, or a scale is negative or not finite.

    Example:
        >>> PositionalEmbedding(5, 16)(torch.zeros(2, 5, 16)).shape
        torch.Size([2, 5, 16])

    Reference: Hron et al. 2020, section 3.3.
    """

    def __init__(
        self,
        positions: int | tuple[int, ...],
        channels: int,
        w_std: float = 1.0,
        *,
        correlation_length: float = 0.0,
        concatenate: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        name = "ntkit.nn.PositionalEmbedding"
        self.positions = tuple(positions) if isinstance(positions, Iterable) else (positions,)
        if not self.positions:
            raise InvalidInput(f"{name}: positions must be a whole number or a tuple of some, got {positions!r}")
        check_sizes(name, channels=channels, **{f"positions[{k}]": n for k, n in enumerate(self.positions)})
        check_scales(name, w_std, 0.0)
        if not isinstance(correlation_length, (int, float)) or not 0 <= correlation_length < math.inf:
            raise InvalidInput(f"{name}: correlation_length must be a finite number >= 0, got {correlation_length!r}")
        self.channels, self.w_std, self.concatenate = channels, float(w_std), bool(concatenate)
        self.correlation_length = float(correlation_length)
        self.weight = torch.nn.Parameter(torch.empty(*self.positions, channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from N(0, 1)."""
        torch.nn.init.normal_(self.weight)

    def forward(self, input: Float[Tensor, "n *positions c"]) -> Float[Tensor, "n *positions o"]:
        """x with the vectors of its positions."""
        vectors = self.weight.reshape(-1, self.channels)
        if self.correlation_length:
            covariance = position_covariance(self.positions, self.correlation_length)
            values, directions = torch.linalg.eigh(covariance)  # a wide bell is singular to rounding
            root = (directions * values.clamp(min=0).sqrt()) @ directions.T
            vectors = root.to(vectors) @ vectors
        vectors = self.w_std * vectors.view(*self.positions, self.channels)
        if not self.concatenate:
            return input + vectors
        return torch.cat([input, vectors.expand(len(input), *vectors.shape)], dim=-1)

    def extra_repr(self) -> str:
        """Sizes and scales."""
        how = ", concatenate=True" if self.concatenate else ""
        return (
            f"{self.positions}, {self.channels}, w_std={self.w_std:g}, "
            f"correlation_length={self.correlation_length:g}{how}"
        )


class MaskedMean(torch.nn.Module):
    """The mean over the tokens that are there, for sequences of different length.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> MaskedMean()(x, torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """

    def forward(self, input: Float[Tensor, "n p c"], mask: Bool[Tensor, "n p"]) -> Float[Tensor, "n c"]:
        """The mean where the mask is True."""
        kept = torch.where(mask[..., None], input, 0.0)
        return kept.sum(1) / mask.sum(1, keepdim=True).to(input)


class MaskedFill(torch.nn.Module):
    """0 in place of tokens that are not there, as before a convolution.

    Example:
        >>> MaskedFill()(torch.ones(1, 2, 1), torch.tensor([[True, False]])).flatten()
        tensor([1., 0.])
    """

    def forward(self, input: Float[Tensor, "n p c"], mask: Bool[Tensor, "n p"]) -> Float[Tensor, "n p c"]:
        """x where the mask is True, else 0."""
        return torch.where(mask[..., None], input, 0.0)


def position_covariance(sizes: tuple[int, ...], correlation_length: float) -> Float[Tensor, "p p"]:
    """exp(−|p − p'|²/(2 ℓ²)) between all positions of a grid, 1 on the diagonal and 0 beside it for ℓ = 0.

    Example:
        >>> position_covariance((2,), 0.0)
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    axes = [torch.arange(n, dtype=torch.float64) for n in sizes]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(sizes))
    squares = ((places[:, None] - places[None]) ** 2).sum(-1)
    if correlation_length == 0:
        return (squares == 0).double()
    return torch.exp(-squares / (2 * correlation_length**2))
