"""The networks of Kopitkov & Indelman 2020: fully connected, leaky ReLU, Xavier weights, biases that begin at zero.

A layer is a weight matrix with its bias, so a network of L layers has L − 1 layers of neurons with an activation
behind them, and a linear output. Xavier: weights uniform with variance 2/(fan-in + fan-out).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

INPUTS = 2


def leaky_network(layers: int, width: int, slope: float, seed: int) -> nn.Sequential:
    """A float32 network from the plane to a number.

    Args:
        layers: weight matrices, at least 2.
        width: neurons of every layer between.
        slope: of leaky ReLU where its input is negative.
        seed: of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise([INPUTS, *[width] * (layers - 1), 1]):
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")  # draws nothing yet
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.LeakyReLU(slope)]
    return nn.Sequential(*parts[:-1])
