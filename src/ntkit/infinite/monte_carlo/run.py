"""What is known after some draws, and the result that a user gets of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ntkit._arrays import like
from ntkit.empirical.inputs import first_leaf
from ntkit.infinite.monte_carlo.identity import Identity
from ntkit.infinite.monte_carlo.moments import Moments


@dataclass(frozen=True, eq=False)
class Run:
    """The draws 0 … draws − 1 of a configuration.

    Args:
        identity: what they were drawn for.
        moments: of each kernel, "nngp" or "ntk"; all of the same number of draws.
    """

    identity: Identity
    moments: Mapping[str, Moments]

    @property
    def draws(self) -> int:
        """How many networks have been drawn."""
        return next(iter(self.moments.values())).count

    @property
    def precision(self) -> float:
        """The largest standard error of any entry, as a part of its kernel's largest entry."""
        return max(moments.precision for moments in self.moments.values())

    def including(self, kernels: Mapping[str, Float64[np.ndarray, "n m"]]) -> Run:
        """With the kernels of one network more."""
        return Run(self.identity, {kind: m.including(kernels[kind]) for kind, m in self.moments.items()})


@dataclass(frozen=True, eq=False)
class MonteCarloKernels:
    """Means of the kernels of random finite networks, with their standard errors.

    Args:
        nngp: mean of f(x) f(x') over draws and outputs, (n, m); None where it was not asked for.
        ntk: mean of the tangent kernel, (n, m); None where it was not asked for.
        nngp_error: standard error of each entry of `nngp`, from the scatter between draws, (n, m).
        ntk_error: standard error of each entry of `ntk`, (n, m).
        draws: how many networks were drawn.
        seed: from which they were drawn.
        precision: the largest standard error of any entry, as a part of its kernel's largest absolute entry.
        run: means and scatter in float64, from which `resume=` goes on.
    """

    nngp: Any
    ntk: Any
    nngp_error: Any
    ntk_error: Any
    draws: int
    seed: int
    precision: float
    run: Run = field(repr=False)


def result_of(run: Run, x1: Any, dtype: torch.dtype) -> MonteCarloKernels:
    """The result in the kind and on the device of x1."""
    leaf = first_leaf(x1)
    device = leaf.device if isinstance(leaf, Tensor) else torch.device("cpu")

    def delivered(array: Float64[np.ndarray, "n m"]) -> Any:
        return like(torch.tensor(array, dtype=dtype).to(device), leaf)

    means = {kind: delivered(moments.mean) for kind, moments in run.moments.items()}
    errors = {kind: delivered(moments.standard_error) for kind, moments in run.moments.items()}
    return MonteCarloKernels(
        nngp=means.get("nngp"),
        ntk=means.get("ntk"),
        nngp_error=errors.get("nngp"),
        ntk_error=errors.get("ntk"),
        draws=run.draws,
        seed=run.identity.seed,
        precision=run.precision,
        run=run,
    )
