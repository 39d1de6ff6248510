"""(A + ridge I) x = b by conjugate gradients: each column on its own, the products of all columns at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ntkit._arrays import check_finite
from ntkit.errors import InvalidInput, ToleranceNotReached
from ntkit.matrix_free.products import Product, apply, require_count, require_number

_RESTARTS = 5  # from the true residual, where rounding has led the recursive one away from it
_PROGRESS = 0.5  # a restart that does not lower the residual to this share of the one before has met rounding


@dataclass(frozen=True, eq=False)
class Solution:
    """What conjugate gradients found.

    Attributes:
        x: (N, k) in float64.
        iterations: products with the matrix, restarts not counted.
        residual: (k,) ‖b − (A + ridge I) x‖/‖b‖ of each column, computed from x; 0 for b = 0.
        converged: (k,) whether that is within the tolerance.
    """

    x: Float[Tensor, "N k"]
    iterations: int
    residual: Float[Tensor, " k"]
    converged: Bool[Tensor, " k"]


def conjugate_gradients(
    product: Product,
    b: Float[Tensor, "N k"],
    *,
    ridge: float = 0.0,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
) -> Solution:
    """The solution of (A + ridge I) x = b for a symmetric positive definite A + ridge I.

    Vectors are kept in float64, products are made in `dtype`. The residual is computed from x at the end, and the
    iteration goes on from there where rounding has hidden what is missing.

    Args:
        product: v (N, k) -> A v (N, k).
        b: (N, k) right-hand sides.
        ridge: added to the diagonal, >= 0.
        preconditioner: r (N, k) -> P⁻¹ r (N, k), P⁻¹ symmetric positive definite.
        tolerance: of ‖b − (A + ridge I) x‖/‖b‖, for each column; default 1e-6, and 1e-4 for products in float32.
        max_iterations: default 10 N, at least 100.
        dtype: of the vectors that are multiplied; default that of b.
        strict: whether a column that did not converge is an error.

    Returns:
        x with the iterations and the residuals.

    Raises:
        InvalidInput: bad arguments; vᵀ(A + ridge I)v <= 0 or vᵀP⁻¹v <= 0 for some v; products that are not finite.
        ToleranceNotReached: the residual is above the tolerance, and `strict`.

    Example:
        >>> import torch
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> found = conjugate_gradients(lambda v: A @ v, torch.ones(2, 1, dtype=torch.float64), ridge=1.0)
        >>> found.x.flatten().tolist(), found.iterations
        ([0.25, 0.25], 1)

    Reference: Hestenes & Stiefel 1952; Golub & Van Loan 2013, algorithm 11.5.1.
    """
    ridge, tolerance = require_number(ridge, "ridge"), _tolerance(tolerance, b.dtype if dtype is None else dtype)
    if b.ndim != 2 or 0 in b.shape:
        raise InvalidInput(f"b must be columns (N, k), got shape {tuple(b.shape)}; one vector is b[:, None]")
    check_finite(b.detach(), "b")
    most = max(100, 10 * len(b)) if max_iterations is None else require_count(max_iterations, "max_iterations", 1)
    kind = b.dtype if dtype is None else dtype

    def shifted(v: Tensor) -> Tensor:
        return apply(product, v, kind) + ridge * v

    target = b.detach().double()
    target, scale = _normalised(target)
    x, iterations = torch.zeros_like(target), 0
    residual, reached = target, target.norm(dim=0)
    for _ in range(_RESTARTS):
        open_columns = torch.nonzero(reached > tolerance).flatten()
        if not len(open_columns) or iterations >= most:
            break
        step, used = _descend(shifted, residual[:, open_columns], preconditioner, tolerance, most - iterations)
        moved = x.index_add(1, open_columns, step)
        residual, iterations = target - shifted(moved), iterations + used
        before, now = reached, residual.norm(dim=0)
        better = now < before
        x, reached = torch.where(better, moved, x), torch.where(better, now, before)
        if not bool((now < _PROGRESS * before)[open_columns].any()):
            break
    solution = Solution(x * scale, iterations, reached, reached <= tolerance)
    if strict and not bool(solution.converged.all()):
        _refuse(solution, tolerance, most, kind)
    return solution


def _normalised(b: Float[Tensor, "N k"]) -> tuple[Float[Tensor, "N k"], Float[Tensor, " k"]]:
    """Columns of length 1, and their lengths; the largest entry is divided by first, so that no square is 0 or ∞."""
    largest = b.abs().amax(0)
    unit = b / torch.where(largest > 0, largest, 1.0)
    lengths = unit.norm(dim=0)
    return unit / torch.where(largest > 0, lengths, 1.0), largest * lengths


def _tolerance(wanted: float | None, kind: torch.dtype) -> float:
    """What a caller asked for, or what products in this precision reach with room to spare."""
    if wanted is None:
        return 1e-6 if kind == torch.float64 else 1e-4
    return require_number(wanted, "tolerance", positive=True)


def _descend(
    matrix: Callable[[Tensor], Tensor],
    b: Float[Tensor, "N k"],
    preconditioner: Callable[[Tensor], Tensor] | None,
    tolerance: float,
    most: int,
) -> tuple[Float[Tensor, "N k"], int]:
    """x with A x ≈ b from x = 0, until the recursive residual is at the tolerance; columns that are done stay out."""
    x, iterations = torch.zeros_like(b), 0
    at = torch.arange(b.shape[1], device=b.device)  # columns still in work
    r = b
    z = r if preconditioner is None else preconditioner(r)
    p, rz = z, _positive((r * z).sum(0), "the preconditioner")
    while iterations < most:
        image = matrix(p)
        iterations += 1
        curvature = _positive((p * image).sum(0), "the matrix plus ridge")
        alpha = rz / curvature
        x = x.index_add(1, at, alpha * p)
        r = r - alpha * image
        left = torch.nonzero(r.norm(dim=0) > tolerance).flatten()
        if not len(left):
            break
        at, r, p, rz = at[left], r[:, left], p[:, left], rz[left]
        z = r if preconditioner is None else preconditioner(r)
        new = _positive((r * z).sum(0), "the preconditioner")
        p, rz = z + new / rz * p, new
    return x, iterations


def _positive(values: Float[Tensor, " k"], what: str) -> Float[Tensor, " k"]:
    """`values`, which are vᵀMv of vectors other than zero."""
    bad = ~(values > 0) | ~torch.isfinite(values)
    if bool(bad.any()):
        raise InvalidInput(
            f"{what} must be positive definite, but vᵀMv = {float(values[bad][0]):.3g} for a vector v that was met; "
            "take a larger ridge, or compute the products in float64"
        )
    return values


def _refuse(solution: Solution, tolerance: float, most: int, kind: torch.dtype) -> None:
    worst = float(solution.residual.max())
    if solution.iterations >= most:
        why = f"after {solution.iterations} iterations"
        remedy = "raise max_iterations, take a larger ridge, or a preconditioner of higher rank"
    else:
        why = f"where products in {str(kind).removeprefix('torch.')} have no more digits"
        remedy = "take a larger ridge or tolerance, or compute the products in float64"
    raise ToleranceNotReached(
        f"conjugate gradients must reach a relative residual of {tolerance:g}, got {worst:.3g} {why}; {remedy}"
    )
