"""A recipe's exact kernels against the textbook, in float32 against float64, and against wide random networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ntkit
from ntkit.errors import InvalidInput
from ntkit.infinite.engines import Engine
from random_architectures.steps import Recipe
from random_architectures.textbook import covariances
from random_architectures.torch_models import Built, model_of

SAMPLES = 3
CANNOT = 'engine="numba" cannot compute this kernel'


def samples_of(recipe: Recipe, n: int = SAMPLES) -> np.ndarray:
    """n random samples, of the recipe's own seed."""
    return np.random.default_rng(recipe.seed).standard_normal((n, *recipe.shape))


def stacked(kernels: Any) -> np.ndarray:
    """(outputs, 2, …): NNGP and NTK of one output or several."""
    outputs = (kernels,) if isinstance(kernels, ntkit.infinite.Kernels) else kernels
    return np.stack([np.stack([np.asarray(k.nngp), np.asarray(k.ntk)]) for k in outputs])


# ---- against the textbook --------------------------------------------------------------------------------------------


def deviations(recipe: Recipe) -> dict[str, float]:
    """{engine: largest error of any entry, in units of the largest entry of its kernel}, of all engines that can.

    All samples with one another, a block of two different sides, and the diagonal are held against the textbook.
    """
    kernel, x, expected = model_of(recipe).kernel(), samples_of(recipe), covariances(recipe, samples_of(recipe))
    scale = np.abs(expected).max((-2, -1))
    itself = np.diagonal(expected, axis1=-2, axis2=-1)
    found = {}
    for engine in engines_of(kernel, recipe):
        errors = (
            (stacked(kernel(x, engine=engine)) - expected) / scale[..., None, None],
            (stacked(kernel(x[:2], x[2:], engine=engine)) - expected[..., :2, 2:]) / scale[..., None, None],
            (stacked(kernel.diagonal(x, engine=engine)) - itself) / scale[..., None],
        )
        found[engine] = float(max(np.abs(error).max() for error in errors))
    return found


def engines_of(kernel: ntkit.InfiniteKernel, recipe: Recipe) -> tuple[Engine, ...]:
    """Torch's always, and the compiled one where it does not say why it cannot."""
    try:
        kernel.plan((SAMPLES, *recipe.shape), engine="numba")
    except InvalidInput as error:
        assert CANNOT in str(error)  # noqa: PT017
        return ("torch",)
    return "torch", "numba"


# ---- in float32 ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InSingle:
    """float32 beside float64 from the same samples, the worse of both kernels and of all outputs.

    Args:
        error: largest of an entry, in units of √(K_ii K_jj).
        shortfall: (λ_min(K64) − λ_min(K32)) / 4 ‖round32(K64) − K64‖₂, at most 1 where all is well.
    """

    error: float
    shortfall: float


def in_single(recipe: Recipe, n: int = 4, gap: float = 1e-4) -> InSingle:
    """Of n samples and a copy of each at a distance."""
    kernel = model_of(recipe).kernel()
    x = samples_of(recipe, 2 * n)
    steps = x[n:] / np.sqrt((x[n:].reshape(n, -1) ** 2).sum(1)).reshape(n, *[1] * len(recipe.shape))
    x = np.concatenate([x[:n], x[:n] + gap * steps]).astype(np.float32)
    k32, k64 = stacked(kernel(x)), stacked(kernel(x.astype(np.float64)))
    assert (k32.dtype, k64.dtype) == (np.float32, np.float64)
    root = np.sqrt(np.diagonal(k64, axis1=-2, axis2=-1))
    error = np.abs(k32 - k64) / (root[..., :, None] * root[..., None, :])
    rounding = np.linalg.norm(k64.astype(np.float32) - k64, 2, axis=(-2, -1))
    lost = np.linalg.eigvalsh(k64)[..., 0] - np.linalg.eigvalsh(k32.astype(np.float64))[..., 0]
    return InSingle(float(error.max()), float((lost / (4 * rounding)).max()))


# ---- wide networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MonteCarlo:
    """Wide random networks beside the exact kernels of the same width, the worst entry of both kernels and outputs.

    Args:
        standard_errors: largest |mean − exact| beyond the allowance, in standard errors of the mean.
        deviation: largest |mean − exact|, in units of the largest entry.
    """

    standard_errors: float
    deviation: float


def monte_carlo(recipe: Recipe, width: int, draws: int, allowance: float) -> MonteCarlo:
    """The mean over `draws` networks against the exact kernel.

    Args:
        recipe: of the network.
        width: channels of every layer.
        draws: networks.
        allowance: share of the largest entry by which finite width may move a mean.
    """
    torch.manual_seed(recipe.seed)
    built, x = model_of(recipe, width), torch.from_numpy(samples_of(recipe))
    exact = stacked(built.kernel()(x))
    found = np.stack([random_kernels(built, x) for _ in range(draws)])
    scale = np.abs(exact).max((-2, -1), keepdims=True)
    gap = np.abs(found.mean(0) - exact)
    error = found.std(0, ddof=1) / draws**0.5
    beyond = np.maximum(gap - allowance * scale, 0) / np.maximum(error, 1e-300)
    return MonteCarlo(float(beyond.max()), float((gap / scale).max()))


def random_kernels(built: Built, x: Tensor) -> np.ndarray:
    """(outputs, 2, n, n): of newly drawn parameters. All samples go through at once, so that each has its own masks.

    NNGP is the covariance given all layers but the last, of which w² φ·φ'/fan_in + b² is the exact mean.
    """
    model = built.draw()
    seen: list[Tensor] = []
    heads = [(path, module) for path, module in model.named_modules() if is_head(module)]
    hooks = [module.register_forward_hook(lambda m, args, out: seen.append(args[0].detach())) for _, module in heads]
    outputs = model(x)
    for hook in hooks:
        hook.remove()
    results = []
    for output, features, (path, module) in zip(
        outputs if isinstance(outputs, tuple) else (outputs,), seen, heads, strict=True
    ):
        rows = torch.stack([torch.cat(list(gradient)) for gradient in gradients(model, output[:, 0])])
        w, b = (getattr(built.plain.get(path, module), name) for name in ("w_std", "b_std"))
        nngp = w**2 * features @ features.T / features.shape[1] + b**2
        results.append(torch.stack([nngp, rows @ rows.T]))
    return torch.stack(results).numpy()


def is_head(module: nn.Module) -> bool:
    """Whether it gives an output of the network: the linear layers of width 1."""
    return isinstance(module, nn.Linear) and module.out_features == 1


def gradients(model: nn.Module, values: Tensor) -> Iterator[Iterator[Tensor]]:
    """∂value/∂θ of each value, parameter by parameter."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for value in values:
        parts = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
        yield (
            torch.zeros(p.numel(), dtype=p.dtype) if g is None else g.flatten()
            for p, g in zip(trained, parts, strict=True)
        )
