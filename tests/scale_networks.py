"""Networks of every kind of layer whose kernels have gradients in the scales, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntkit
from layer_cases import conv, linear
from ntkit.infinite import InfiniteKernel

TOLERANCE = 1e-11  # of quadrature, whose error finite differences divide by their step


class Net(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, forward: Callable[[Net, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), forward

    def __getattr__(self, name: str) -> Any:
        layers = self.__dict__["_modules"].get("layers", {})
        return layers[name] if name in layers else super().__getattr__(name)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def mlp(activation: nn.Module, *norm: nn.Module) -> nn.Module:
    return nn.Sequential(linear(5), *norm, activation, linear(64), activation, linear(64, 1))


def images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(conv(2, padding=1), nn.ReLU(), *layers)


def pooled() -> nn.Module:
    layers = nn.AvgPool2d(2, 1, 1), conv(64, stride=2), ntkit.nn.Erf(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return images(*layers, linear(64, 1))


def residual() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.stem(x)
        return m.last(h + 0.5 * m.branch(torch.relu(h)))

    return Net(forward, stem=linear(5), branch=linear(64), last=linear(64, 1))


def sum_of_activations() -> nn.Module:
    return Net(
        lambda m, x: m.last(torch.relu(m.one(x)) - 2 * torch.sigmoid(m.two(x))),
        one=linear(5), two=linear(5), last=linear(64, 1),
    )  # fmt: skip


def concatenation() -> nn.Module:
    return Net(
        lambda m, x: m.last(torch.relu(torch.cat([m.one(x), m.two(x)], 1))),
        one=linear(5, 16), two=linear(5, 48), last=linear(64, 1),
    )  # fmt: skip


def product() -> nn.Module:
    return Net(
        lambda m, x: m.last(torch.erf(m.one(x)) * torch.sigmoid(m.two(x))),
        one=linear(5), two=linear(5), last=linear(64, 1),
    )  # fmt: skip


def two_outputs() -> nn.Module:
    def forward(m: Net, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(m.stem(x))
        return {"early": m.early(h), "late": m.late(torch.erf(m.middle(h)))}

    return Net(forward, stem=linear(5), early=linear(64, 1), middle=linear(64), late=linear(64, 1))


def resized() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.relu(m.two(F.pad(m.one(x), (1, 0, 2, 1))))
        return m.last(F.interpolate(h, (3, 4), mode="bilinear").flatten(1))

    return Net(forward, one=conv(2), two=conv(64, kernel=2), last=linear(64 * 12, 1))


def closed_forms() -> nn.Module:
    layers = linear(5), ntkit.nn.Sin(1.1, 0.7, 0.3), linear(64), ntkit.nn.Gaussian(1.0, -0.3), linear(64)
    return nn.Sequential(*layers, ntkit.nn.Monomial(3), linear(64, 1))


def silu_on_images() -> nn.Module:
    return nn.Sequential(conv(2, kernel=2), nn.SiLU(), nn.AvgPool2d((1, 2)), nn.Flatten(), linear(128, 1))


def trained_norm_of_images() -> nn.Module:
    layers = nn.GroupNorm(2, 64, 0.1), ntkit.nn.Erf(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(conv(2, padding=1), *layers, linear(64, 1))


def dropout() -> nn.Module:
    return nn.Sequential(linear(5), nn.ReLU(), nn.Dropout(0.3), linear(64), nn.ReLU(), linear(64, 1))


def plain(**options: Any) -> InfiniteKernel:
    layers = nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 1)
    layers[2].weight.requires_grad_(False)
    return InfiniteKernel(nn.Sequential(*layers), w_std=1.2, b_std=0.3, tolerance=TOLERANCE, **options)


VECTOR, IMAGE = (5,), (2, 3, 3)
NETWORKS: dict[str, tuple[Callable[[], nn.Module | InfiniteKernel], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(nn.ReLU()), VECTOR),
    "leaky": (lambda: mlp(nn.LeakyReLU(0.2)), VECTOR),
    "gelu": (lambda: mlp(nn.GELU()), VECTOR),
    "closed forms": (closed_forms, VECTOR),
    "tanh by quadrature": (lambda: mlp(nn.Tanh()), VECTOR),
    "silu on images": (silu_on_images, IMAGE),
    "flattened": (lambda: images(conv(64, stride=2), nn.ReLU(), nn.Flatten(), linear(64, 1)), IMAGE),
    "pools": (pooled, IMAGE),
    "trained norm": (lambda: mlp(nn.ReLU(), nn.LayerNorm(64, 0.1)), VECTOR),
    "trained norm of images": (trained_norm_of_images, IMAGE),
    "rms norm behind": (lambda: nn.Sequential(linear(5), nn.ReLU(), nn.RMSNorm(64, 0.1), linear(64, 1)), VECTOR),
    "residual": (residual, VECTOR),
    "sum of activations": (sum_of_activations, VECTOR),
    "concatenation": (concatenation, VECTOR),
    "product": (product, VECTOR),
    "two outputs": (two_outputs, VECTOR),
    "padding and interpolation": (resized, IMAGE),
    "dropout": (dropout, VECTOR),
    "dropout of images": (lambda: images(nn.Dropout2d(0.2), conv(64), nn.ReLU(), nn.Flatten(), linear(64, 1)), IMAGE),
    "plain": (plain, IMAGE),
    "standard parameterisation": (lambda: plain(parameterization="standard"), IMAGE),
}


def kernel_of(name: str) -> tuple[InfiniteKernel, tuple[int, ...]]:
    make, sample = NETWORKS[name]
    made = make()
    return (made if isinstance(made, InfiniteKernel) else InfiniteKernel(made, tolerance=TOLERANCE)), sample


def leaves(kernel: InfiniteKernel, dtype: torch.dtype = torch.float64) -> dict[str, dict[str, Tensor]]:
    """A tensor for every scale of every layer; of biases where there are any."""
    return {
        path: {
            name: torch.tensor(float(value), dtype=dtype, requires_grad=True)
            for name, value in scales.items()
            if name == "w_std" or value > 0
        }
        for path, scales in kernel.hyperparameters.items()
    }
