"""The exact rows' networks as torch modules of `ntkit.nn`."""

from __future__ import annotations

from torch import Tensor, nn

import ntkit
from peers.networks import Step, Steps, parse, shape_after
from peers.rows import B_STD, W_STD

PARAMETER_FREE = {
    "relu": nn.ReLU,
    "erf": ntkit.nn.Erf,
    "gelu": nn.GELU,
    "pool": lambda: nn.AvgPool2d(2),
    "flatten": nn.Flatten,
}


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class TokensFirst(nn.Module):
    """(n, channels, tokens) as (n, tokens, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mean(nn.Module):
    """The mean over tokens of (n, tokens, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def network(words: str, shape: tuple[int, ...]) -> nn.Sequential:
    """The network of these words for samples of this shape; sequences come with channels first, as images do."""
    layers = _sequence(parse(words), shape)
    return nn.Sequential(TokensFirst(), *layers) if len(shape) == 2 else layers


def _sequence(steps: Steps, shape: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in steps:
        layers.append(_layer(step, shape))
        shape = shape_after(step, shape)
    return nn.Sequential(*layers)


def _layer(step: Step, shape: tuple[int, ...]) -> nn.Module:
    match step:
        case "dense":
            return ntkit.nn.Linear(shape[0], 1, W_STD, B_STD)
        case "conv":
            return ntkit.nn.Conv2d(shape[0], 1, 3, padding=1, w_std=W_STD, b_std=B_STD)
        case "token":
            return ntkit.nn.Linear(shape[0], 1, W_STD, B_STD)
        case "attend":
            return ntkit.nn.SelfAttention(shape[0], 1, w_std=W_STD, b_std=B_STD)
        case "gap":
            return Mean() if len(shape) == 2 else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case tuple():
            return Residual(_sequence(step, shape))
    return PARAMETER_FREE[step]()
