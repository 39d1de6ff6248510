"""A short check that the kernels of this installation are right, against formulas written out here.

Each case compares a kernel with an independent reference; the error is the largest difference, relative to
the reference's largest entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import ntkit
from ntkit._arrays import Array, to_tensor
from ntkit.errors import NtkitError


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference, relative to the largest entry, and how large it may be."""

    name: str
    error: float
    tolerance: float
    problem: str = ""  # what was raised instead of a result

    @property
    def passed(self) -> bool:
        """Whether there is a result and it is within the tolerance; NaN is not."""
        return not self.problem and self.error <= self.tolerance


def run_checks() -> tuple[Check, ...]:
    """Every case, in order; what raises counts as failed."""
    return tuple(_run_check(*case) for case in _CASES)


def _network(outputs: int, dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    """3 → 8 → outputs with ReLU."""
    return _drawn(lambda: (ntkit.nn.Linear(3, 8), torch.nn.ReLU(), ntkit.nn.Linear(8, outputs)), dtype)


def _drawn(layers: Callable[[], Iterable[torch.nn.Module]], dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    """Layers one after another, drawn by a fixed seed that leaves the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(*layers()).to(dtype)


def _inputs() -> Float[Tensor, "n d"]:
    """Six points in general position, a near copy of one and its opposite, where a careless formula fails."""
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.cat([x, x[:1] + 1e-4, -x[:1]])


def _textbook_ntk(x: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """The NTK of W₂ ReLU(W₁ x/√d)/√width, in the arc-cosine form.

        Θ = √(q q')·[sin θ + 2(π − θ) cos θ]/(2π),   q = ‖x‖²/d,

    the sum of E[ReLU ReLU] (the last layer) and E[ReLU' ReLU']·x·x'/d (the first). The angle is Kahan's,
    θ = 2 atan2(‖u − v‖, ‖u + v‖) for unit vectors, which keeps its digits at 0 and π.
    Reference: Y. Cho, L. Saul, Kernel Methods for Deep Learning, 2009; A. Jacot et al., 2018.
    """
    norms = x.norm(dim=1)
    u = x / norms[:, None]
    apart, together = (u[:, None] - u).norm(dim=2), (u[:, None] + u).norm(dim=2)
    theta = 2 * torch.atan2(apart, together)
    scale = torch.outer(norms, norms) / x.shape[1]
    return scale * (theta.sin() + 2 * (math.pi - theta) * theta.cos()) / (2 * math.pi)


def _jacobian_ntk(model: torch.nn.Module, x: Float[Tensor, "n d"]) -> Float[Tensor, "n n o o"]:
    """Σ_p ∂f_o(x_n)/∂θ_p · ∂f_o'(x_m)/∂θ_p, one backward pass for each output of each sample."""
    outputs, parameters = model(x), list(model.parameters())
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in outputs.flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    jacobian = jacobian.reshape(*outputs.shape, -1)
    return torch.einsum("nop,mqp->nmoq", jacobian, jacobian)


def _exact_and_textbook() -> tuple[Array, Array]:
    x = _inputs()
    return ntkit.InfiniteKernel(_network(1)).ntk(x), _textbook_ntk(x)


def _single_and_double() -> tuple[Array, Array]:
    kernel, x = ntkit.InfiniteKernel(_network(1)), _inputs().float()
    return kernel.ntk(x), kernel.ntk(x.double())


def _both_engines() -> tuple[Array, Array]:
    """A convolutional network with pooling, whose covariances between pixels the two engines hold quite differently."""

    def layers() -> Iterator[torch.nn.Module]:
        yield from (ntkit.nn.Conv2d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AvgPool2d(2))
        yield from (ntkit.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        yield from (torch.nn.Flatten(), ntkit.nn.Linear(4, 1))

    x = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = ntkit.InfiniteKernel(_drawn(layers))
    return kernel.ntk(x, engine="numba"), kernel.ntk(x, engine="torch")


def _empirical_and_jacobian() -> tuple[Array, Array]:
    model, x = _network(2), _inputs()
    return ntkit.empirical_ntk(model, x, outputs="full"), _jacobian_ntk(model, x)


_CASES: tuple[tuple[str, Callable[[], tuple[Array, Array]], float], ...] = (
    ("exact: arc-cosine formula", _exact_and_textbook, 1e-12),
    ("exact: float32, float64", _single_and_double, 1e-6),
    ("exact: numba, torch", _both_engines, 1e-12),
    ("empirical: Jacobian", _empirical_and_jacobian, 1e-12),
)


def _run_check(name: str, compute: Callable[[], tuple[Array, Array]], tolerance: float) -> Check:
    try:
        result, reference = (to_tensor(part, name).double() for part in compute())
    except (NtkitError, RuntimeError, ImportError) as error:  # what torch raises; a numba that does not fit numpy
        return Check(name, math.inf, tolerance, f"{type(error).__name__}: {error}")
    if result.shape != reference.shape:
        shapes = f"got shape {tuple(result.shape)}, wanted {tuple(reference.shape)}"
        return Check(name, math.inf, tolerance, shapes)
    return Check(name, float((result - reference).abs().max() / reference.abs().max()), tolerance)
