"""What a dual activation is: the moments of σ(u), σ(v) for Gaussian u, v, in a form that does not cancel.

For u, v with variances q1, q2 and squared distance D = E[(u − v)²] = q1 + q2 − 2 Cov(u, v) a dual gives

    variance    E[σ(u)²]            mean        E[σ(u)]
    distance    E[(σ(u) − σ(v))²]   derivative  E[σ'(u) σ'(v)]

The distance is carried in place of the covariance because it keeps its relative accuracy for nearly equal inputs,
where a covariance keeps only its absolute one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ntkit.architecture.specs import Activation
from ntkit.errors import UnsupportedLayer

Formula = Callable[..., Any]


@dataclass(frozen=True)
class Samples:
    """What is known of one side of the pairs, after and before the activation.

    Args:
        q: variance before, (n,).
        variance: second moment after, (n,).
        mean: mean after, (n,).
        tables: whatever else a dual computes once a sample, each with first axis n.
    """

    q: Tensor
    variance: Tensor
    mean: Tensor
    tables: dict[str, Tensor]

    def __getitem__(self, rows: slice | Tensor) -> Samples:
        tables = {name: table[rows] for name, table in self.tables.items()}
        return Samples(self.q[rows], self.variance[rows], self.mean[rows], tables)


@runtime_checkable
class Dual(Protocol):
    """How an interpreter uses a dual: once for the samples, then once for each block of pairs."""

    def samples(self, q: Tensor) -> Samples:
        """Second moment, mean and tables for variances q (n,); the two sides of `pairs` are rows of one call."""
        ...

    def pairs(self, left: Samples, right: Samples, d: Tensor, derivative: bool) -> tuple[Tensor, Tensor | None]:
        """Distance after and, where asked for, the derivative's covariance; `d` (n, m), or (n,) for pairs in line."""
        ...


@dataclass(frozen=True)
class ClosedForm:
    """A dual written as four formulas over numbers; each broadcasts.

    Distance and derivative use the free names of `elementary.py` only, so they take symbols as well as tensors, and
    the compiled engine makes machine code of them.

    Args:
        variance_of: q -> E[σ(u)²].
        mean_of: q -> E[σ(u)].
        distance: (q1, q2, D) -> E[(σ(u) − σ(v))²].
        derivative: (q1, q2, D) -> E[σ'(u) σ'(v)].
        check: raises where the moments do not exist for variances q.
        safe_in_single: whether float32 arithmetic loses no more of a kernel's spectrum than rounding it to float32;
            if not, the compiled engine computes in float64 whatever the data are.
        scale_derivative: (q1, q2, D) -> E[uσ'(u) vσ'(v)], what a trained scale of u and v adds; None where not known.
    """

    variance_of: Callable[[Tensor], Tensor]
    mean_of: Callable[[Tensor], Tensor]
    distance: Callable[..., Any]
    derivative: Callable[..., Any]
    check: Callable[[Tensor], None] | None = None
    safe_in_single: bool = False
    scale_derivative: Callable[..., Any] | None = None

    @classmethod
    def of(cls, formulas: Any, *constants: Any) -> ClosedForm:
        """The formulas of a module of this folder, or those from outside, with the activation's constants put in."""
        names = ("variance", "mean", "distance", "derivative")
        bound = [partial(_with_constants, getattr(formulas, name), constants) for name in names]
        check, scale = getattr(formulas, "check", None), getattr(formulas, "scale_derivative", None)
        rule = getattr(formulas, "safe_in_single", None)
        safe = rule is not None and rule(*constants)
        return cls(
            *bound,
            scale_derivative=scale and partial(_with_constants, scale, constants),
            check=check and partial(_with_constants, check, constants),
            safe_in_single=safe,
        )

    def moments(self, q: Tensor, mean: bool = True) -> tuple[Tensor, Tensor | None]:
        """Second moment and, where asked for, mean for variances q (n,)."""
        if self.check is not None:
            self.check(q)
        return _for_each(q, self.variance_of(q)), _for_each(q, self.mean_of(q)) if mean else None

    def samples(self, q: Tensor) -> Samples:
        """Second moment and mean for variances q (n,)."""
        variance, mean = self.moments(q)
        assert mean is not None
        return Samples(q, variance, mean, {})

    def pairs(self, left: Samples, right: Samples, d: Tensor, derivative: bool) -> tuple[Tensor, Tensor | None]:
        """Distance after and derivative's covariance for every pair."""
        q1, q2 = (left.q, right.q) if d.ndim == 1 else (left.q[:, None], right.q[None, :])
        return self.distance(q1, q2, d), self.derivative(q1, q2, d) if derivative else None


def _for_each(q: Tensor, moment: Tensor | float) -> Tensor:
    """A moment of every q; a formula may give one number for all, as the mean of an odd function."""
    return torch.as_tensor(moment, dtype=q.dtype, device=q.device).expand_as(q)


def _with_constants(function: Callable[..., Any], constants: tuple[Any, ...], *args: Any) -> Any:
    return function(*args, *constants)


@singledispatch
def dual(activation: Activation, tolerance: float) -> Dual:
    """The dual of an activation; registered by the spec's type.

    Args:
        activation: the spec.
        tolerance: relative accuracy wanted of duals found by quadrature.

    Raises:
        UnsupportedLayer: no dual is registered for this type.
    """
    raise UnsupportedLayer(
        f"{activation.name} has no dual activation; register one with ntkit.infinite.register_activation"
    )
