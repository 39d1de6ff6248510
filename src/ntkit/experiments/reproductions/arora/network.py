"""The networks of Arora et al. 2019, section 4, for all depths as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

import ntkit.nn

Head = Literal["flatten", "gap"]
_WIDTH = 2  # channels of the module that stands for the limit; its kernel does not depend on them


class ConvolutionalNetwork(nn.Module):
    """The networks of several depths as one: they share convolutions, and each has its own dense layer.

    Args:
        shape: (channels, height, width) of an image.
        depths: d of each head, ascending; head d reads the (d − 1)-th convolution.
        head: "flatten" trains every layer; "gap" averages over positions and fixes first and last layers.

    Example:
        >>> import torch
        >>> network = ConvolutionalNetwork((3, 8, 8), (3, 4), "gap")
        >>> [y.shape for y in network(torch.ones(5, 3, 8, 8))]
        [torch.Size([5, 1]), torch.Size([5, 1])]
    """

    def __init__(self, shape: tuple[int, int, int], depths: Sequence[int], head: Head):
        super().__init__()
        channels, height, width = shape
        sizes = [channels] + [_WIDTH] * (max(depths) - 1)
        scales = [1.0] + [2**0.5] * (max(depths) - 2)
        self.depths = tuple(depths)
        self.convolutions = nn.ModuleList(
            ntkit.nn.Conv2d(i, _WIDTH, 3, padding=1, w_std=w_std) for i, w_std in zip(sizes, scales, strict=False)
        )
        self.relu = nn.ReLU()
        pool = [nn.AdaptiveAvgPool2d(1)] if head == "gap" else []
        self.pool = nn.Sequential(*pool, nn.Flatten())
        features = _WIDTH * (1 if head == "gap" else height * width)
        self.dense = nn.ModuleList(ntkit.nn.Linear(features, 1) for _ in depths)
        if head == "gap":
            self.convolutions[0].requires_grad_(False)
            self.dense.requires_grad_(False)

    def forward(self, x: Any) -> tuple[Any, ...]:  # tensors, or what stands for them while the network is traced
        """(n, c, h, w) images to one output (n, 1) a depth, in the order of `depths`."""
        outputs = []
        for depth, convolution in enumerate(self.convolutions, start=2):
            x = self.relu(convolution(x))
            if depth in self.depths:
                outputs.append(self.dense[len(outputs)](self.pool(x)))
        return tuple(outputs)
