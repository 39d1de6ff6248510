"""Modules around layers that take axes in another order than (n, channels, *positions), or a mask."""

from __future__ import annotations

from torch import Tensor, nn

import ntkit
from network_parts import ReadsMask


class ChannelsLast(nn.Module):
    """A layer over the channels of every position, of so many axes; counted from the front, for data too."""

    def __init__(self, layer: nn.Module, rank: int):
        super().__init__()
        self.layer, self.last = layer, rank + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(1, self.last)).movedim(self.last, 1)


class ChannelsFirst(nn.Module):
    """(n, tokens, channels) -> (n, channels, tokens)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class OneAxis(nn.Module):
    """All axes after the channels become one, the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


class Mean(nn.Module):
    """The mean over every axis after the channels."""

    def __init__(self, rank: int):
        super().__init__()
        self.axes = tuple(range(2, 2 + rank))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)


class Attending(ReadsMask):
    """Attention over (n, channels, tokens), with positions in its keys where they are given."""

    def __init__(self, layer: ntkit.nn.SelfAttention, positions: nn.Module | None, masked: bool):
        super().__init__()
        self.layer, self.positions, self.masked = layer, positions, masked

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        keys = None if self.positions is None else self.positions(x)
        return self.layer(x, keys, mask=mask[0] if self.masked else None).transpose(1, 2)


class Filled(ReadsMask):
    """Zeros in place of tokens that are not there."""

    def __init__(self):
        super().__init__()
        self.layer = ntkit.nn.MaskedFill()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2), mask).transpose(1, 2)


class MeanOfThose(ReadsMask):
    """The mean over the tokens that are there."""

    def __init__(self):
        super().__init__()
        self.layer = ntkit.nn.MaskedMean()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2), mask)


class Chain(ReadsMask):
    """One after another; those that read the mask are told it."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x, *mask) if isinstance(part, ReadsMask) else part(x)
        return x


class WithMask(nn.Module):
    """A network of samples and which of their tokens are there."""

    def __init__(self, body: Chain):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.body(x, mask)
