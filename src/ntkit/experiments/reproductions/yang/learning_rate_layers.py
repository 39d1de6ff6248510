"""Networks of several depths as one, so that one pass over pairs of inputs gives the kernels of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

import ntkit.nn
from ntkit.experiments.reproductions.yang.learning_rate_tasks import Scales

Domain = Literal["ring", "image"]
Kind = Literal["connected", "flatten", "gap"]
_WIDTH = 2  # of the module that stands for the limit; its kernel does not depend on it


class EveryDepth(nn.Module):
    """Hidden layers that all depths share, each followed by ReLU, and a head of its own for some of them.

    Args:
        hidden: the layers up to the greatest depth.
        depths: how many layers each head reads the last of, ascending.
        heads: as many as depths.
    """

    def __init__(self, hidden: Sequence[nn.Module], depths: Sequence[int], heads: Sequence[nn.Module]):
        super().__init__()
        self.hidden, self.heads = nn.ModuleList(hidden), nn.ModuleList(heads)
        self.depths = tuple(depths)
        self.relu = nn.ReLU()

    def forward(self, x: Any) -> tuple[Any, ...]:  # tensors, or what stands for them while the network is traced
        """Inputs to one output (n, 1) a depth."""
        outputs = []
        for depth, layer in enumerate(self.hidden, start=1):
            x = self.relu(layer(x))
            if depth in self.depths:
                outputs.append(self.heads[len(outputs)](x))
        return tuple(outputs)


def connected(features: int, depths: Sequence[int], scales: Scales) -> EveryDepth:
    """Fully connected layers, of inputs (n, features)."""
    sizes = [features] + [_WIDTH] * (max(depths) - 1)
    hidden = [ntkit.nn.Linear(size, _WIDTH, scales.w_std, scales.b_std) for size in sizes]
    return EveryDepth(hidden, depths, [_head(_WIDTH, scales) for _ in depths])


def convolutional(
    domain: Domain, positions: int, depths: Sequence[int], kind: Literal["flatten", "gap"], scales: Scales
) -> EveryDepth:
    """Convolutions of 3 positions around a ring, inputs (n, 1, d), or of 3×3 pixels, zero-padded, inputs (n, 1, h, w).

    Args:
        domain: which of both.
        positions: how many, d or h · w.
        depths: how many convolutions each head has before it.
        kind: whether positions are flattened or averaged before the last layer.
        scales: of every layer.
    """
    channels = [1] + [_WIDTH] * (max(depths) - 1)
    w, b = scales.w_std, scales.b_std
    if domain == "ring":
        pool: nn.Module = nn.AdaptiveAvgPool1d(1)
        hidden: list[nn.Module] = [
            ntkit.nn.Conv1d(c, _WIDTH, 3, padding=1, padding_mode="circular", w_std=w, b_std=b) for c in channels
        ]
    else:
        pool = nn.AdaptiveAvgPool2d(1)
        hidden = [ntkit.nn.Conv2d(c, _WIDTH, 3, padding=1, w_std=w, b_std=b) for c in channels]
    if kind == "gap":
        heads = [nn.Sequential(pool, nn.Flatten(), _head(_WIDTH, scales)) for _ in depths]
    else:
        heads = [nn.Sequential(nn.Flatten(), _head(_WIDTH * positions, scales)) for _ in depths]
    return EveryDepth(hidden, depths, heads)


def _head(features: int, scales: Scales) -> nn.Module:
    return ntkit.nn.Linear(features, 1, scales.w_std, scales.b_std)
