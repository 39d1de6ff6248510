"""The empirical rows' network for the contestants on PyTorch: the same weights, as plain torch.nn layers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from peers.rows import EmpiricalRow


def mlp(row: EmpiricalRow) -> nn.Sequential:
    """The row's network, its weights not yet set."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(row.widths):
        layers += [nn.utils.skip_init(nn.Linear, fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def stage(model: nn.Sequential, arrays: dict[str, np.ndarray]) -> Tensor:
    """Give the model this repetition's weights, and return its samples (n, d)."""
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for i, layer in enumerate(linears):
            layer.weight.copy_(torch.from_numpy(arrays[f"W{i}"]))
            layer.bias.copy_(torch.from_numpy(arrays[f"b{i}"]))
    return torch.from_numpy(arrays["x"])
