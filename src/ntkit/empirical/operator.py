"""The empirical tangent kernel without forming it: K v = J (Jᵀ v), one backward and one forward derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from ntkit._arrays import Array, check_finite, like, to_tensor
from ntkit._memory import require_bytes
from ntkit.empirical.directional import Mode
from ntkit.empirical.inputs import Inputs
from ntkit.empirical.kernel import EmpiricalKernel
from ntkit.empirical.tangent import Tangent as Tangent
from ntkit.errors import InvalidInput, MemoryLimitExceeded
from ntkit.matrix_free import (
    Estimate,
    Product,
    conjugate_gradients,
    nystrom_preconditioner,
    repeated_preconditioner,
    xdiag,
    xtrace,
)
from ntkit.matrix_free.products import require_count, require_number

Preconditioner = Literal["auto", "mean", "nystrom"]
_RANK = 100  # of the Nyström preconditioner: as many products as a hundred iterations


class NTKOperator(LinearOperator):
    """The empirical tangent kernel as a matrix-free symmetric (n·o)×(n·o) operator, sample-major.

    K v = J (Jᵀ v). It is a SciPy LinearOperator, so scipy.sparse.linalg.eigsh(operator, k) works; products with torch
    tensors give torch tensors. Model and samples are those of the moment it was made.

    Args:
        model: any torch module in float32 or float64 that treats samples independently.
        x: (n, ...) samples as the model takes them.
        parameters: names or glob patterns; default all that require grad.
        forward: f(model, x) -> (n, o), for a model that is not called as model(x), model(*x) or model(**x).
        memory_limit: bytes for graphs and gradients, one gradient of the model not counted; default: half of what is
            free. Where not all samples fit, every product goes through them in blocks.
        mode: "reverse-forward", J by forward mode where every operation has it, else by reverse mode twice;
            "reverse-reverse" does so always.

    Raises:
        InvalidInput: as for `EmpiricalKernel`; an unknown mode, or an operation that has neither a forward derivative
            nor a second one.
        MemoryLimitExceeded: the graph of one sample exceeds the memory limit.

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
        memory_limit: int | None = None,
        mode: Mode = "reverse-forward",
    ):
        self.tangent = Tangent(model, x, parameters=parameters, forward=forward, memory_limit=memory_limit, mode=mode)
        self.n_samples, self.n_outputs = self.tangent.outputs.shape
        size = self.n_samples * self.n_outputs
        dtype = np.float64 if self.tangent.outputs.dtype == torch.float64 else np.float32
        super().__init__(dtype=dtype, shape=(size, size))
        self._options: dict[str, Any] = {"parameters": parameters, "forward": forward, "memory_limit": memory_limit}
        self._dense = EmpiricalKernel(self.tangent.model, **self._options)

    def apply(self, v: Float[Tensor, " no"]) -> Float[Tensor, " no"]:
        """K v of one vector.

        Raises:
            InvalidInput: v is no vector of that length, not finite, or complex.
        """
        if not isinstance(v, Tensor) or tuple(v.shape) != self.shape[:1]:
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise InvalidInput(f"an operator of shape {self.shape} is applied to a tensor (no,), got {got}")
        return self._columns(v[:, None])[:, 0]

    def __matmul__(self, other: Any) -> Any:
        if not isinstance(other, Tensor):
            return super().__matmul__(other)
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[0]:
            raise InvalidInput(
                f"an operator of shape {self.shape} takes (no,) or (no, k), got shape {tuple(other.shape)}"
            )
        return self.apply(other) if other.ndim == 1 else self._columns(other)

    def _columns(self, v: Float[Tensor, "no k"]) -> Float[Tensor, "no k"]:
        """K v of several vectors, block after block of samples."""
        if v.is_complex() or v.layout != torch.strided:
            raise InvalidInput(
                f"the operator is multiplied by dense real vectors, got {v.dtype} of layout {v.layout}; multiply real "
                "and imaginary parts one after the other, and sparse ones as x.to_dense()"
            )
        if v.shape[1] == 0:
            return v.to(self.tangent.outputs)
        weights = v.detach().to(self.tangent.outputs).T.reshape(-1, self.n_samples, self.n_outputs)
        check_finite(weights, "what the operator is multiplied by")
        result = self.tangent.products(weights)
        check_finite(result, "the product with the tangent kernel (the model's derivatives at these parameters)")
        return result.flatten(1).T.contiguous()

    def _matmat(self, X: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(X):  # K is real, and linear
            return self._matmat(np.real(X)) + 1j * self._matmat(np.imag(X))
        return self._columns(torch.from_numpy(np.ascontiguousarray(X, dtype=self.dtype))).cpu().numpy()

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(np.reshape(x, (-1, 1)))[:, 0]

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

    def estimate_trace(self, products: int = 100, seed: int = 0) -> Estimate[float]:
        """Tr K from a few products, unbiased, by XTrace; `trace` is exact and costs n·o backward passes.

        Args:
            products: how many, at least 4; from n·o on the trace is exact.
            seed: of the random vectors.

        Returns:
            `value` and its standard `error`.

        Raises:
            InvalidInput: too few products.

        Example:
            >>> estimate = NTKOperator(torch.nn.Linear(3, 2), torch.eye(3)).estimate_trace(products=6)
            >>> estimate.value, estimate.error
            (12.0, 0.0)

        Reference: Epperly, Tropp & Webber 2024, XTrace.
        """
        return xtrace(self._product, self.shape[0], products, _generator(seed), **self._kind)

    def estimate_diagonal(self, products: int = 100, seed: int = 0) -> Estimate[Float[Tensor, " no"]]:
        """The diagonal of K from a few products, unbiased, by XDiag; `diagonal` is exact.

        Args:
            products: how many, at least 4; from n·o on the diagonal is exact.
            seed: of the random vectors.

        Returns:
            `value` (n·o,), sample-major, and a standard `error` for each entry.

        Raises:
            InvalidInput: too few products.

        Example:
            >>> NTKOperator(torch.nn.Linear(3, 1), torch.eye(3)).estimate_diagonal(products=4).value
            tensor([2., 2., 2.])

        Reference: Epperly, Tropp & Webber 2024, XTrace, section 5 (XDiag).
        """
        return xdiag(self._product, self.shape[0], products, _generator(seed), **self._kind)

    def solve(
        self,
        y: Float[Array, "n o"] | Float[Array, " no"],
        ridge: float = 0.0,
        *,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        preconditioner: Preconditioner | None = "auto",
        rank: int | None = None,
        seed: int = 0,
    ) -> Float[Array, "n o"] | Float[Array, " no"]:
        """α = (K + ridge I)⁻¹ y by preconditioned conjugate gradients; K is not formed.

        Args:
            y: (n, o), or sample-major (n·o,).
            ridge: >= 0; without one, K must be positive definite.
            tolerance: of ‖y − (K + ridge I) α‖/‖y‖; default 1e-6, and 1e-4 for a model in float32.
            max_iterations: default 10 n·o, at least 100.
            preconditioner: "mean": the mean of K over outputs, (n, n), for every output, factored; "nystrom": from
                `rank` products; "auto": the first where it fits in memory, else the second; None: none.
            rank: of the Nyström preconditioner; default 100, at most n·o.
            seed: of its random vectors.

        Returns:
            α, of the form, kind and dtype of y.

        Raises:
            InvalidInput: y of another shape or not finite, a negative ridge, an unknown preconditioner, or K + ridge I
                that is not positive definite.
            ToleranceNotReached: it did not converge.
            MemoryLimitExceeded: the mean kernel was asked for and does not fit.

        Example:
            >>> operator = NTKOperator(torch.nn.Linear(3, 1), torch.eye(3))
            >>> operator.solve(torch.tensor([[1.0], [1.0], [1.0]]), ridge=1.0).flatten()
            tensor([0.2000, 0.2000, 0.2000])

        Reference: Frangella, Tropp & Udell 2023, Randomized Nyström preconditioning.
        """
        target = to_tensor(y, "y").detach()
        if tuple(target.shape) not in ((self.n_samples, self.n_outputs), (self.shape[0],)):
            raise InvalidInput(
                f"y must have shape ({self.n_samples}, {self.n_outputs}) or its sample-major flattening "
                f"({self.shape[0]},), got {tuple(target.shape)}"
            )
        ridge, size = require_number(ridge, "ridge"), self.shape[0]
        rank = min(size, _RANK) if rank is None else require_count(rank, "rank", 1, size)
        found = conjugate_gradients(
            self._product,
            target.to(self._kind["device"]).reshape(-1, 1),
            ridge=ridge,
            preconditioner=self._preconditioner(preconditioner, ridge, rank, seed),
            tolerance=tolerance,
            max_iterations=max_iterations,
            dtype=self._kind["dtype"],
        )
        return like(found.x.reshape(target.shape).to(target), y)

    def _preconditioner(self, name: str | None, ridge: float, rank: int, seed: int) -> Product | None:
        if name is not None and name not in get_args(Preconditioner):
            known = ", ".join(map(repr, get_args(Preconditioner)))
            raise InvalidInput(f"preconditioner must be one of {known} or None, got {name!r}")
        if name is None:
            return None
        if name in ("auto", "mean"):
            try:
                return self._mean_preconditioner(ridge)
            except MemoryLimitExceeded:
                if name == "mean":
                    raise
        return nystrom_preconditioner(self._product, self.shape[0], rank, ridge, _generator(seed), **self._kind)

    def _mean_preconditioner(self, ridge: float) -> Product:
        limit, n = self._dense.memory_limit, self.n_samples
        remedy = 'raise memory_limit, or take preconditioner="nystrom"'
        require_bytes(4 * 8 * n * n, f"the mean kernel of {n} samples and its factor", remedy, limit)
        mean = EmpiricalKernel(self.tangent.model, outputs="mean", **self._options).ntk(self.tangent.x)
        assert isinstance(mean, Tensor)
        return repeated_preconditioner(mean, ridge, self.n_outputs)

    def _product(self, v: Tensor) -> Tensor:
        return self._columns(v)

    @property
    def _kind(self) -> dict[str, Any]:
        """Dtype and device of the products."""
        return {"dtype": self.tangent.outputs.dtype, "device": self.tangent.outputs.device}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(require_count(seed, "seed", 0))
