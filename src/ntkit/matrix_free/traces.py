"""Trace and diagonal from a few products: XTrace and XDiag.

Both spend half of their products on a basis Q of where A acts most, and the rest on what it does there. Each test
vector in turn is left out of the basis and used to estimate what that basis misses; the mean of these exchangeable
estimators is unbiased, and their scatter gives the standard error. All bases without one vector are one basis with one
direction s removed, so nothing is orthogonalised anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.matrix_free.products import Product, apply, require_count

ValueT = TypeVar("ValueT")
_LEAST = 4  # products: two test vectors, whose estimates differ
_AT_ONCE = 64  # unit vectors multiplied at once where the answer is exact


@dataclass(frozen=True, eq=False)
class Estimate(Generic[ValueT]):
    """A number, or one an entry, and how far from the truth it is likely to be.

    Attributes:
        value: the estimate.
        error: its standard error; 0 where the value is exact up to rounding. It is an estimate as well, from numbers
            that share most of what they are made of: by experience up to 1.8 times too small, the more so the more
            products there are for the size. A diagonal matrix's own diagonal has no scatter that few vectors show.
    """

    value: ValueT
    error: ValueT


def xtrace(
    product: Product,
    size: int,
    products: int,
    seed: torch.Generator,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Estimate[float]:
    """Tr A of a symmetric matrix from its products with vectors, unbiased.

    t_i = Tr(Q_iᵀ A Q_i) + ω_iᵀ (I − Q_iQ_iᵀ) A (I − Q_iQ_iᵀ) ω_i · (N − m + 1)/‖(I − Q_iQ_iᵀ)ω_i‖², Q_i a basis of the
    A ω_j with j ≠ i; the value is the mean of the m = products / 2 numbers t_i. Where eigenvalues decay its error does
    so as quickly as that of the best approximation of rank m.

    Args:
        product: v (N, k) -> A v (N, k).
        size: N.
        products: how many vectors may be multiplied, at least 4; from N on the trace is exact.
        seed: the source of random numbers, on the CPU.
        dtype: of the vectors that are multiplied.
        device: where they are.

    Returns:
        The trace, with the standard error of the mean of the t_i.

    Raises:
        InvalidInput: a bad size, too few products, or a product of another shape or not finite.

    Example:
        >>> import torch
        >>> values = 2.0 ** -torch.arange(200, dtype=torch.float64)
        >>> found = xtrace(lambda v: values[:, None] * v, 200, 40, torch.Generator().manual_seed(0))
        >>> abs(found.value - 2.0) < 1e-4, found.error < 1e-4
        (True, True)

    Reference: Epperly, Tropp & Webber 2024, XTrace: making the most of every sample in stochastic trace estimation.
    """
    if _is_exact(size, products):
        return Estimate(float(_exact_diagonal(product, size, dtype, device).sum()), 0.0)
    m = products // 2
    tests = torch.randn(size, m, generator=seed, dtype=torch.float64).to(device, dtype).double()
    sketch = _Sketch.of(product, tests, dtype)
    H, R, S = sketch.Q.T @ sketch.Z, sketch.R, sketch.S
    H = (H + H.T) / 2
    W = sketch.Q.T @ tests
    U = W - S * (S * W).sum(0)  # Q_iᵀ ω_i, in terms of Q
    missed = ((S * W).sum(0) * (S * R).sum(0)) - (U * (R - H @ U)).sum(0)
    length = tests.square().sum(0) - U.square().sum(0)
    each = H.trace() - (S * (H @ S)).sum(0) + missed * (size - m + 1) / length
    return Estimate(float(each.mean()), float(each.std() / m**0.5))


def xdiag(
    product: Product,
    size: int,
    products: int,
    seed: torch.Generator,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Estimate[Float[Tensor, " N"]]:
    """The diagonal of a symmetric matrix from its products with vectors, unbiased.

    d_i = diag(Q_iQ_iᵀ A) + ω_i ∘ (I − Q_iQ_iᵀ) A ω_i with signs ω_i, Q_i a basis of the A ω_j with j ≠ i; the value is
    the mean of the m = products / 2 vectors d_i.

    Args:
        product: v (N, k) -> A v (N, k).
        size: N.
        products: how many vectors may be multiplied, at least 4; from N on the diagonal is exact.
        seed: the source of random numbers, on the CPU.
        dtype: of the vectors that are multiplied, and of the result.
        device: where they are.

    Returns:
        The diagonal (N,), with a standard error for each entry. It is scatter of m numbers: with few products single
        entries' errors are rough, their mean square is not.

    Raises:
        InvalidInput: a bad size, too few products, or a product of another shape or not finite.

    Example:
        >>> import torch
        >>> values = 2.0 ** -torch.arange(200, dtype=torch.float64)
        >>> found = xdiag(lambda v: values[:, None] * v, 200, 40, torch.Generator().manual_seed(0))
        >>> float((found.value - values).abs().max()) < 1e-4
        True

    Reference: Epperly, Tropp & Webber 2024, XTrace, section 5 (XDiag).
    """
    if _is_exact(size, products):
        diagonal = _exact_diagonal(product, size, dtype, device).to(dtype)
        return Estimate(diagonal, torch.zeros_like(diagonal))
    m = products // 2
    tests = torch.randint(0, 2, (size, m), generator=seed).to(device, torch.float64) * 2 - 1
    sketch = _Sketch.of(product, tests, dtype)
    removed = sketch.Q @ sketch.S  # the direction that Q_i lacks
    each = removed * (tests * (sketch.S * sketch.R).sum(0) - sketch.Z @ sketch.S)
    value = (sketch.Q * sketch.Z).sum(1) + each.mean(1)
    return Estimate(value.to(dtype), (each.std(1) / m**0.5).to(dtype))


@dataclass(frozen=True, eq=False)
class _Sketch:
    """Q R = A Ω and Z = A Q, with the direction s_i, in terms of Q, that Q has more than Q_i."""

    Q: Float[Tensor, "N m"]
    R: Float[Tensor, "m m"]
    Z: Float[Tensor, "N m"]
    S: Float[Tensor, "m m"]

    @classmethod
    def of(cls, product: Product, tests: Float[Tensor, "N m"], dtype: torch.dtype) -> _Sketch:
        """From test vectors, by two products with as many vectors each."""
        Q, R = torch.linalg.qr(apply(product, tests, dtype))
        Q = Q.to(dtype).double()  # that which is multiplied
        return cls(Q, R, apply(product, Q, dtype), _orthogonal_to_others(R))


def _orthogonal_to_others(R: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """Unit vectors s_i orthogonal to all columns of R but the i-th: the columns of R⁻ᵀ, normalised.

    Where A has a lower rank than m, R has a null space from the left, which large singular values of the inverse lead
    to: removing a direction of it from Q costs nothing.
    """
    U, values, Vt = torch.linalg.svd(R)
    floor = torch.finfo(R.dtype).eps * values[0]
    inverse = torch.where(values > floor, floor / values.clamp(min=torch.finfo(R.dtype).tiny), 1.0)
    S = (U * inverse) @ Vt
    return S / S.norm(dim=0).clamp(min=torch.finfo(R.dtype).tiny)


def _is_exact(size: int, products: int) -> bool:
    """Whether there are products enough for every unit vector; both numbers are checked here."""
    require_count(size, "size", 1)
    require_count(products, "products", 1)
    if products < min(_LEAST, size):
        raise InvalidInput(
            f"products must be at least {min(_LEAST, size)}, two test vectors and as many directions, got {products}"
        )
    return products >= size


def _exact_diagonal(product: Product, size: int, dtype: torch.dtype, device: torch.device | str) -> Float[Tensor, " N"]:
    """The diagonal by products with all unit vectors."""
    parts = []
    for start in range(0, size, _AT_ONCE):
        count = min(_AT_ONCE, size - start)
        units = torch.zeros(size, count, dtype=torch.float64, device=device)
        units[start : start + count] = torch.eye(count, dtype=torch.float64, device=device)
        parts.append(apply(product, units, dtype)[start : start + count].diagonal())
    return torch.cat(parts)
