"""Where float32 arithmetic is enough: errors that stay within a few roundings of a kernel's entries.

Activations say it themselves (`safe_in_single`). Pools lose by averaging. The mean of n independent values has 1/n of
their covariance, but D and its rounding stay as large, so errors grow with n; those of constants, such as a
convolution's 1/3, in full, for all D have the same. And the n² distances of two windows are added up in float32. What
helps:

- an activation of ReLU's family before the pool: it has a mean, which no averaging makes small;
- an activation after the pool: then near pairs of positions are computed in float64 in any case (pooling.py);
- that a mean over all positions is summed up in float64: behind an activation it may be as large as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ntkit.infinite import program as ops
from ntkit.infinite.compiled.pooling import feeding_activations
from ntkit.infinite.dual import ClosedForm
from ntkit.infinite.placement import Grid, Placement

# (activation before, activation after): positions that may be averaged. Measured on images of noise and their near
# copies: the largest square window at which smallest eigenvalues keep the bound of tests/test_compiled_float32.py
_MOST = {(False, False): 1, (False, True): 4, (True, False): 9, (True, True): 16}


def safe_in_single(placement: Placement, duals: Iterable[ClosedForm]) -> bool:
    """Whether the distances of pairs may be computed in float32."""
    return all(dual.safe_in_single for dual in duals) and _pools_are_safe(placement)


def _pools_are_safe(placement: Placement) -> bool:
    feeding = feeding_activations(placement.program)
    averaged: list[float] = []  # positions in the mean that a register is, since an activation or the data
    activated: list[bool] = []  # whether it was an activation
    for i, op in enumerate(placement.program.instructions):
        is_dual = isinstance(op, ops.Dual)
        averaged.append(1.0 if is_dual else max((averaged[source] for source in op.sources), default=1.0))
        activated.append(is_dual or any(activated[source] for source in op.sources))
        if isinstance(op, ops.Pool):
            averaged[i] *= independent_values(op, placement.grids[op.source])
            in_double = activated[i] and placement.positions(i) == 1
            if averaged[i] > _MOST[activated[i], i in feeding] and not in_double:
                return False
    return True


def independent_values(op: ops.Pool, grid: Grid) -> float:
    """(Σ w)² / Σ w² of a window's weights, the largest: of how many independent values its mean has the variance."""
    found = 1.0
    for axis, n in zip(op.axes, grid, strict=True):
        weights = axis.matrix(n)
        weights = weights[weights.any(axis=1)]  # windows that lie in the padding altogether have none
        found *= np.max(weights.sum(1) ** 2 / (weights**2).sum(1), initial=0.0)
    return float(found)
