"""Small versions of the architectures that people train, for empirical kernels."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """Of ResNet-18 and 34 (He et al. 2015)."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        self.one = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.skip = nn.Sequential()
        if stride != 1 or before != channels:
            self.skip = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm_one(self.one(x)), inplace=True)
        return F.relu(self.norm_two(self.two(out)) + self.skip(x))


class ResNet18(nn.Module):
    """For CIFAR: no pooling in front."""

    def __init__(self, width: int = 64, outputs: int = 10):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(
            *(
                BasicBlock(before if k == 0 else after, after, 2 if k == 0 and after > width else 1)
                for before, after in pairwise(widths)
                for k in range(2)
            )
        )
        self.last = nn.Linear(8 * width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.blocks(F.relu(self.norm(self.first(x)))).mean((2, 3)))


class VisionTransformer(nn.Module):
    """Patches, a class token and learned positions (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int = 8, patches: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.token, self.positions = (
            nn.Parameter(torch.randn(1, 1, width)),
            nn.Parameter(torch.randn(1, patches + 1, width)),
        )
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.last(self.norm(self.layers(x)[:, 0]))


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight is not transposed."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(before, after) / math.sqrt(before)),
            nn.Parameter(torch.zeros(after)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)


class GPT(nn.Module):
    """GPT-2's layout (Radford et al. 2019): embedded positions, pre-norm, causal fused attention, tied head or not."""

    def __init__(self, width: int = 8, tokens: int = 11, tied: bool = True):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Embedding(16, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attend, self.project = Conv1D(width, 3 * width), Conv1D(width, width)
        self.up, self.down = Conv1D(width, 4 * width), Conv1D(4 * width, width)
        self.head = nn.Linear(width, tokens, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1])[None])
        q, k, v = (
            part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.attend(self.norms[0](x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        x = x + self.down(F.gelu(self.up(self.norms[1](x)), approximate="tanh"))
        return self.head(self.norms[2](x)[:, -1])


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip (Ronneberger et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.down, self.low = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.norm, self.up = nn.GroupNorm(2, 6), nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = F.silu(self.down(x))
        low = F.silu(self.norm(self.low(high)))
        return self.last(torch.cat([high, self.up(low)], dim=1))


class Recurrent(nn.Module):
    """An LSTM in both directions, and its last output."""

    def __init__(self, batch_first: bool = True):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.batch_first, self.last = batch_first, nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self.lstm(x if self.batch_first else x.transpose(0, 1))
        return self.last(out[:, -1] if self.batch_first else out[-1])


class Functional(nn.Module):
    """A convolution and a linear map that are no layers, a scale, a shift and a matrix from the left."""

    def __init__(self):
        super().__init__()
        self.kernel, self.matrix = nn.Parameter(torch.randn(4, 1, 3)), nn.Parameter(torch.randn(4, 2))
        self.scale, self.shift = nn.Parameter(torch.randn(4, 1)), nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv1d(x[:, None], self.kernel, padding=1, dilation=1)
        x = torch.tanh(x * self.scale - self.shift)
        return x.mean(2) @ self.matrix


class CrossAttention(nn.Module):
    """Keys and values from somewhere else, so that the packed projection is split."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.last(self.attend(x, y, y, need_weights=False)[0].mean(1))


class Gathered(nn.Module):
    """A linear layer that sees all tokens of the batch, positions first, and once more samples first."""

    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.fc(x.transpose(0, 1))).transpose(0, 1)
        return self.last(torch.tanh(self.fc(x)).sum(1))


def convolutions() -> nn.Module:
    """Of one, two and three axes; groups, strides, dilations, paddings, transposed ones."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1, groups=2),
        nn.Tanh(),
        nn.ConvTranspose1d(4, 6, 3, 2, groups=2),
        nn.Unflatten(1, (3, 2)),
        nn.Conv2d(3, 6, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(1, 2), padding_mode="circular"),
        nn.InstanceNorm2d(6, affine=True),
        nn.Unflatten(1, (2, 3)),
        nn.Conv3d(2, 2, 2, groups=2, padding=1),
        nn.ConvTranspose3d(2, 1, 2, bias=False),
        nn.Flatten(),
        nn.LazyLinear(2),
    )


def spectral() -> nn.Module:
    """A weight over its largest singular value, which is no view of a parameter."""
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.GELU(), nn.Linear(5, 2)).eval()
