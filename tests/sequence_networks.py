"""Networks of sequences that several tests read: tokens, attention over vectors, and a mask."""

from typing import Any

import torch
from torch import nn

import ntkit
from layer_cases import B, W, linear

WIDTH, VOCABULARY, TOKENS = 64, 11, 5
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]).bool()


def attention(width: int = WIDTH, **more: Any) -> nn.Module:
    return ntkit.nn.SelfAttention(width, width, 4, W, B, score_scale=0.8, **more)


def words(n: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (n, TOKENS), generator=torch.Generator().manual_seed(seed))


class Reader(nn.Module):
    """Tokens with positions, attention, and the mean over those that are there."""

    def __init__(self, width: int = WIDTH, mechanism: str = "softmax") -> None:
        super().__init__()
        self.embed = ntkit.nn.Embedding(VOCABULARY, width, 1.2)
        self.position = ntkit.nn.PositionalEmbedding(TOKENS, width, 0.7, correlation_length=1.5)
        self.attend, self.mean = attention(width, mechanism=mechanism), ntkit.nn.MaskedMean()
        self.out = linear(width, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        return self.out(self.mean(torch.relu(self.attend(h, self.position(h), mask)), mask))


class Vectors(nn.Module):
    """Attention over vectors, and the mean over all of them."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.first, self.body, self.out = linear(3), nn.Sequential(*body), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.body(self.first(x))).mean(1))
