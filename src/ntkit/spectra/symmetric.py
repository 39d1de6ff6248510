"""Kernels and targets at the door: checked once, in float64, flattened sample-major.

A 2-D kernel (n, n) stands for K ⊗ I_O whatever the number of outputs O, so it is kept as it is and targets
keep their columns. A 4-D kernel (n, n, O, O) becomes one (n·O, n·O) matrix whose row i·O + a is output a of
sample i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import to_tensor
from ntkit._memory import require_bytes
from ntkit.errors import InvalidInput

# How far from symmetric a kernel may be, relative to its largest entry: what rounding alone explains.
_ASYMMETRY = {torch.float32: 1e-5, torch.float64: 1e-10}
_NEGATIVE_SHARE = 1e-3  # of the positive eigenvalues' sum: more than rounding, in float32 too


@dataclass(frozen=True)
class SymmetricKernel:
    """A checked kernel: `matrix` in float64; `n_outputs` is None for a 2-D kernel: any number."""

    matrix: Float[Tensor, "N N"]
    n_samples: int
    n_outputs: int | None
    dtype: torch.dtype  # of the kernel as it was given

    @property
    def size(self) -> int:
        """Rows of the matrix: n, or n·O."""
        return len(self.matrix)


def check_kernel(K: Any, name: str = "K") -> SymmetricKernel:
    """`K`, (n, n) or (n, n, O, O), as a symmetric float64 matrix.

    Raises:
        InvalidInput: not a floating-point array, not finite, wrong shape, empty, or not symmetric.
        MemoryLimitExceeded: its float64 copies would not fit.
    """
    tensor = to_tensor(K, name).detach()
    require_square(tensor, name)
    require_bytes(3 * 8 * tensor.numel(), f"checking {name} in float64", "use fewer samples")
    matrix = flatten_kernel(tensor).double()
    require_symmetric(name, tensor.dtype, float((matrix - matrix.T).abs().max()), float(matrix.abs().max()))
    return SymmetricKernel(
        matrix=(matrix + matrix.T) / 2,
        n_samples=tensor.shape[0],
        n_outputs=tensor.shape[2] if tensor.ndim == 4 else None,
        dtype=tensor.dtype,
    )


def require_square(K: Tensor, name: str) -> None:
    """Raise `InvalidInput` unless a kernel has the shape (n, n) or (n, n, O, O)."""
    square = K.ndim in (2, 4) and all(K.shape[i] == K.shape[i + 1] for i in range(0, K.ndim, 2))
    if not square or K.numel() == 0:
        raise InvalidInput(
            f"{name} must be the kernel of the training points with themselves, of shape (n, n) or "
            f"(n, n, outputs, outputs), got shape {tuple(K.shape)}; compute it with kernel.ntk(x)"
        )


def require_symmetric(name: str, dtype: torch.dtype, gap: float, scale: float) -> None:
    """Raise `InvalidInput` where entries differ from their transposes by more than rounding."""
    tolerance = _ASYMMETRY[dtype]
    if gap > tolerance * scale:
        raise InvalidInput(
            f"{name} must be symmetric to {tolerance:g} of its largest entry, but it differs from its "
            f"transpose by {gap:.3g} where its largest entry is {scale:.3g}; if rounding explains that, pass "
            f"({name} + {name}.T) / 2"
        )


def require_semidefinite(eigenvalues: Float[Tensor, "N"], what: str) -> Float[Tensor, "N"]:
    """A kernel's eigenvalues, those that rounding made negative as 0.

    Raises:
        InvalidInput: they are not those of a positive semi-definite kernel.
    """
    positive, negative = float(eigenvalues.clamp(min=0).sum()), float(-eigenvalues.clamp(max=0).sum())
    if positive == 0.0 or negative > _NEGATIVE_SHARE * positive:
        raise InvalidInput(
            f"{what} needs a positive semi-definite kernel, but the positive eigenvalues sum to {positive:.3g} and the "
            f"negative ones to {-negative:.3g}; compute the kernel in float64, or check that it is one"
        )
    return eigenvalues.clamp(min=0)


def flatten_kernel(K: Tensor) -> Float[Tensor, "M N"]:
    """(m, n) as it is; (m, n, O, O) as the sample-major (m·O, n·O) matrix."""
    if K.ndim == 2:
        return K
    m, n, o, _ = K.shape
    return K.permute(0, 2, 1, 3).reshape(m * o, n * o)


def check_target(y: Any, name: str) -> Tensor:
    """`y` as a float64 tensor, of whatever shape.

    Raises:
        InvalidInput: class numbers instead of one-hot rows, not floating point, or not finite.
    """
    integer = np.issubdtype(y.dtype, np.integer) if isinstance(y, np.ndarray) else _is_integer(y)
    if integer:
        raise InvalidInput(
            f"{name} must hold real-valued targets, got integers ({y.dtype}), whose size would be taken as a "
            f"value; for class numbers pass the one-hot rows ntkit.data.one_hot({name}), else convert to "
            "float64"
        )
    return to_tensor(y, name).detach().double()


def _is_integer(y: Any) -> bool:
    return isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def check_columns(y: Any, name: str, n_samples: int, n_outputs: int | None) -> Float[Tensor, "N c"]:
    """A target as columns that the kernel's matrix can multiply.

    That is (n, o) beside a 2-D kernel, whose `n_outputs` is None, and (n·O, 1) beside a 4-D one.
    """
    target = check_target(y, name)
    n, o, shape = n_samples, n_outputs, tuple(target.shape)
    if o is None:
        fits = target.ndim in (1, 2) and shape[0] == n and target.numel() > 0
        wanted = f"({n},) or ({n}, outputs)"
    else:
        fits = shape in ((n, o), (n * o,))
        wanted = f"({n}, {o}) or its sample-major flattening ({n * o},)"
    if not fits:
        raise InvalidInput(
            f"{name} must have shape {wanted}, one row for each of the kernel's {n} samples, got {shape}"
        )
    return target.reshape(n, -1) if o is None else target.reshape(n * o, 1)


def largest_magnitude(tensor: Tensor, name: str) -> float:
    """The largest |entry|, by which to divide before squaring, so that nothing under- or overflows.

    Raises:
        InvalidInput: every entry is zero, so directions and ratios do not exist.
    """
    scale = float(tensor.abs().max())
    if scale == 0.0:
        raise InvalidInput(f"{name} is zero everywhere, so it has no direction; pass one that is not")
    return scale
