"""The empirical tangent kernel without forming it: K v = J (Jᵀ v), one backward and one forward derivative."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from ntkit._arrays import Array
from ntkit.empirical.inputs import Inputs, admit, batch_size
from ntkit.empirical.kernel import EmpiricalKernel
from ntkit.empirical.network import Network, derivatives
from ntkit.errors import InvalidInput


class Tangent:
    """The derivative of f(θ, x) along θ at the model's parameters, and its transpose.

    Args:
        model: any torch module; its parameters of this moment are copied.
        x: (n, ...) samples as the model takes them.
        parameters: names or glob patterns; default all that require grad.
        forward: f(model, x) -> (n, o) in place of calling the model.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        *,
        parameters: str | Sequence[str] | None = None,
        forward: Callable[[nn.Module, Any], Tensor] | None = None,
    ):
        with derivatives():
            network = Network(model, parameters, forward)
            self.x = admit(x, "x", network.dtype, network.device, network.embeds)
            self.point = {name: network.standins[name].detach().clone() for name in network.selected}
            fixed = {n: p.detach().clone() for n, p in network.standins.items() if n not in self.point}
            self.outputs = network(self.x).detach()
            n = batch_size(self.x)

            def evaluate(point: dict[str, Tensor]) -> Tensor:
                return network._evaluate({**fixed, **point}, self.x).reshape(n, -1)

            self._function = evaluate
            self._pullback = torch.func.vjp(evaluate, self.point)[1]

    def push(self, direction: Mapping[str, Tensor]) -> Float[Tensor, "n o"]:
        """J δθ: how the outputs move when the parameters move by `direction`."""
        with derivatives():
            return torch.func.jvp(self._function, (self.point,), (dict(direction),))[1].detach()

    def pull(self, weights: Float[Tensor, "n o"]) -> dict[str, Tensor]:
        """Jᵀ v: the gradient of Σ v f with respect to the parameters."""
        with derivatives():
            return {name: g.detach() for name, g in self._pullback(weights.contiguous())[0].items()}


class NTKOperator(LinearOperator):
    """The empirical tangent kernel as a matrix-free symmetric (n·o)×(n·o) operator, sample-major.

    K v = J (Jᵀ v). It is a SciPy LinearOperator, so scipy.sparse.linalg.eigsh(operator, k) works; products with torch
    tensors give torch tensors. The parameters are those of the moment it was made.

    Args:
        model: any torch module in float32 or float64 that treats samples independently.
        x: (n, ...) samples as the model takes them.
        parameters: names or glob patterns; default all that require grad.
        forward: f(model, x) -> (n, o), for a model that is not called as model(x), model(*x) or model(**x).

    Raises:
        InvalidInput: as for `EmpiricalKernel`.

    Example:
        >>> operator = NTKOperator(torch.nn.Linear(3, 2), torch.eye(3))
        >>> operator.shape, operator.n_samples
        ((6, 6), 3)
        >>> operator @ torch.ones(6)
        tensor([4., 4., 4., 4., 4., 4.])

    Reference: Novak, Sohl-Dickstein & Schoenholz 2022, NTK-vector products.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        *,
        parameters: str | Sequence[str] | None = None,
        forward: Callable[[nn.Module, Any], Tensor] | None = None,
    ):
        self.tangent = Tangent(model, x, parameters=parameters, forward=forward)
        self.n_samples, self.n_outputs = self.tangent.outputs.shape
        size = self.n_samples * self.n_outputs
        dtype = np.float64 if self.tangent.outputs.dtype == torch.float64 else np.float32
        super().__init__(dtype=dtype, shape=(size, size))
        self._dense = EmpiricalKernel(copy.deepcopy(model), parameters=parameters, forward=forward)

    def apply(self, v: Float[Tensor, " no"]) -> Float[Tensor, " no"]:
        """K v of one vector."""
        out = self.tangent.outputs
        return self.tangent.push(self.tangent.pull(v.to(out).reshape(out.shape))).flatten()

    def __matmul__(self, other: Any) -> Any:
        if not isinstance(other, Tensor):
            return super().__matmul__(other)
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[0]:
            raise InvalidInput(
                f"an operator of shape {self.shape} takes (no,) or (no, k), got shape {tuple(other.shape)}"
            )
        if other.ndim == 1:
            return self.apply(other)
        return torch.stack([self.apply(column) for column in other.T], dim=1)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.apply(torch.from_numpy(np.ascontiguousarray(x, dtype=self.dtype).reshape(-1))).cpu().numpy()

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        return self._matvec(x)  # symmetric

    def diagonal(self) -> Float[Tensor, " no"]:
        """The diagonal (n·o,), sample-major."""
        blocks = self._dense.diagonal(self.tangent.x)
        assert isinstance(blocks, Tensor)
        return torch.diagonal(blocks, dim1=-2, dim2=-1).flatten()

    def trace(self) -> float:
        """The sum of the diagonal."""
        return float(self.diagonal().double().sum())

    def to_dense(self) -> Float[Array, "no no"]:
        """The matrix; its size is checked before it is made."""
        full = self._dense.ntk(self.tangent.x)
        assert isinstance(full, Tensor)
        return full.permute(0, 2, 1, 3).reshape(self.shape)
