"""The kernels of one finite network: its tangent kernel, and products of its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from ntkit._memory import require_bytes
from ntkit.empirical.inputs import Inputs, batch_size, require_alike, take
from ntkit.empirical.kernel import EmpiricalKernel
from ntkit.empirical.network import Network
from ntkit.empirical.outputs import outputs
from ntkit.errors import InvalidInput

Forward = Callable[[nn.Module, Any], Tensor]
_ARRAYS = 7  # of a kernel's size in float64: mean and scatter, the same after one draw more, the draw's, deviations
_OUTPUTS = 8  # of the first network that go into the identity of a run


@dataclass(frozen=True, eq=False)
class Task:
    """What is computed of every network.

    Args:
        x1: admitted samples of the rows.
        x2: admitted samples of the columns; None for x1.
        kinds: "nngp", "ntk" or both.
        forward: f(model, x) in place of calling the model.
        memory_limit: bytes for one network's kernels; None for what is free.
        dtype: that the networks compute in.
    """

    x1: Any
    x2: Any
    kinds: tuple[str, ...]
    forward: Forward | None
    memory_limit: int | None
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return batch_size(self.x1), batch_size(self.x1 if self.x2 is None else self.x2)

    def kernels(self, model: nn.Module) -> dict[str, Float64[np.ndarray, "n m"]]:
        """The kernels of one network by kind.

        Raises:
            InvalidInput: as for `ntkit.empirical_ntk`.
            MemoryLimitExceeded: the same.
        """
        found = {}
        if "nngp" in self.kinds:
            found["nngp"] = self._products(model)
        if "ntk" in self.kinds:
            kernel = EmpiricalKernel(model, outputs="mean", forward=self.forward, memory_limit=self.memory_limit)
            found["ntk"] = _as_float64(kernel.ntk(self.x1, self.x2))
        return found

    def _products(self, model: nn.Module) -> Float64[np.ndarray, "n m"]:
        """Σ_o f_o(x) f_o(x') / O."""
        network = Network(model, "*", self.forward)
        first = _as_float64(outputs(network, self.x1, self.memory_limit))
        second = first if self.x2 is None else _as_float64(outputs(network, self.x2, self.memory_limit))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # what overflows is refused by name
            return first @ second.T / first.shape[1]

    def first_outputs(self, model: nn.Module) -> tuple[float, ...]:
        """A few outputs of a network at the first sample."""
        row = outputs(Network(model, "*", self.forward), take(self.x1, slice(0, 1)), self.memory_limit)
        return tuple(_as_float64(row)[0, :_OUTPUTS].tolist())


def task_of(
    model: nn.Module, x1: Inputs, x2: Inputs | None, kinds: tuple[str, ...], forward: Forward | None, limit: int | None
) -> Task:
    """The task, once samples are known to be such as the networks take.

    Raises:
        InvalidInput: samples are not finite, not alike, or not of the network's dtype and device; the tangent kernel
            is asked for and no parameter is trained.
        MemoryLimitExceeded: means and scatter of a kernel of that size do not fit.
    """
    if "ntk" in kinds and not any(p.requires_grad for p in model.parameters()):
        raise InvalidInput(
            "the tangent kernel needs a parameter that requires grad, but the builder's networks have none; train "
            'some, or pass which="nngp"'
        )
    network = Network(model, "*", forward)
    first, second = network.admit(x1, "x1"), None if x2 is None else network.admit(x2, "x2")
    if second is not None:
        require_alike(first, second)
    task = Task(first, second, kinds, forward, limit, network.dtype)
    n, m = task.shape
    require_bytes(
        8 * n * m * len(kinds) * _ARRAYS,
        f"means and standard errors of kernels of {n} x {m} samples",
        "use fewer samples, or compute it in blocks monte_carlo_kernel(builder, x1[i:j], x2)",
        limit,
    )
    return task


def _as_float64(x: Any) -> Float64[np.ndarray, "..."]:
    """In numpy, where sums over draws and outputs are taken."""
    return torch.as_tensor(x).detach().cpu().double().numpy()
