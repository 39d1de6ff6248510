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


@dataclass(frozen=True)
class Samples:
    """Samples, and which of their tokens are there where the network takes a mask."""

    x: np.ndarray
    mask: np.ndarray | None

    @property
    def given(self) -> Any:
        """What the kernel takes."""
        return self.x if self.mask is None else (self.x, self.mask)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.x[rows], None if self.mask is None else self.mask[rows])


def samples_of(recipe: Recipe, n: int = SAMPLES) -> Samples:
    """n random samples, of the recipe's own seed, each with one token at least."""
    rng = np.random.default_rng(recipe.seed)
    x, mask = rng.standard_normal((n, *recipe.shape)), None
    if recipe.takes_mask:
        mask = rng.random((n, *recipe.grid)) < 0.7
        mask[np.arange(n), rng.integers(mask.shape[1], size=n)] = True
    return Samples(x, mask)


def stacked(kernels: Any) -> np.ndarray:
    """(outputs, 2, …): NNGP and NTK of one output or several."""
    outputs = (kernels,) if isinstance(kernels, ntkit.infinite.Kernels) else kernels
    return np.stack([np.stack([np.asarray(k.nngp), np.asarray(k.ntk)]) for k in outputs])


# ---- against the textbook --------------------------------------------------------------------------------------------


def deviations(recipe: Recipe) -> dict[str, float]:
    """{engine: largest error of any entry, in units of the largest entry of its kernel}, of all engines that can.

    All samples with one another, a block of two different sides, and the diagonal are held against the textbook.
    """
    kernel, samples = model_of(recipe).kernel(), samples_of(recipe)
    expected = covariances(recipe, samples.x, samples.mask)
    scale = np.abs(expected).max((-2, -1))
    itself = np.diagonal(expected, axis1=-2, axis2=-1)
    found = {}
    for engine in engines_of(kernel, recipe):
        errors = (
            (stacked(kernel(samples.given, engine=engine)) - expected) / scale[..., None, None],
            (
                (stacked(kernel(samples[:2].given, samples[2:].given, engine=engine)) - expected[..., :2, 2:])
                / scale[..., None, None]
            ),
            (stacked(kernel.diagonal(samples.given, engine=engine)) - itself) / scale[..., None],
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
    samples = samples_of(recipe, 2 * n)
    x = samples.x
    steps = x[n:] / np.sqrt((x[n:].reshape(n, -1) ** 2).sum(1)).reshape(n, *[1] * len(recipe.shape))
    x = np.concatenate([x[:n], x[:n] + gap * steps]).astype(np.float32)
    mask = None if samples.mask is None else np.concatenate([samples.mask[:n]] * 2)
    k32, k64 = (stacked(kernel(Samples(x.astype(dtype), mask).given)) for dtype in (np.float32, np.float64))
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
    built, samples = model_of(recipe, width), samples_of(recipe)
    exact = stacked(built.kernel()(samples.given))
    inputs = [torch.from_numpy(part) for part in (samples.x, samples.mask) if part is not None]
    found = np.stack([random_kernels(built, inputs) for _ in range(draws)])
    scale = np.abs(exact).max((-2, -1), keepdims=True)
    gap = np.abs(found.mean(0) - exact)
    error = found.std(0, ddof=1) / draws**0.5
    beyond = np.maximum(gap - allowance * scale, 0) / np.maximum(error, 1e-300)
    return MonteCarlo(float(beyond.max()), float((gap / scale).max()))


def random_kernels(built: Built, inputs: list[Tensor]) -> np.ndarray:
    """(outputs, 2, n, n): of newly drawn parameters. All samples go through at once, so that each has its own masks.

    NNGP is the covariance given all layers but the last, of which w² φ·φ'/fan_in + b² is the exact mean.
    """
    model = built.draw()
    seen: list[Tensor] = []
    heads = [(path, module) for path, module in model.named_modules() if is_head(module)]
    hooks = [module.register_forward_hook(lambda m, args, out: seen.append(args[0].detach())) for _, module in heads]
    outputs = model(*inputs)
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
