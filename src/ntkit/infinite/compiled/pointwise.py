"""Steps of the torch interpreter that look at one pair of positions at a time, as compiled loops.

With torch each of the dozens of operations in a dual goes through memory; here a strip of pairs passes through all of
them while it lies in cache. For CPUs, and without gradients. Arrays are full pairs of positions, (n, p, m, p'), read as
matrices (n·p, m·p') whose rows and columns have values of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ntkit.infinite.compiled import cache, lanes
from ntkit.infinite.compiled.duals import STRIP, loop_source, strip_loop
from ntkit.infinite.compiled.machine import OPTIONS
from ntkit.infinite.compiled.runner import aligned_zeros
from ntkit.infinite.distance import ROUNDING
from ntkit.infinite.dual import ClosedForm


@cache.kept(**OPTIONS)
def dual_rows(work, address, roots1, roots2, d_in, t_in, d, t):
    """Distance and, where t is not empty, tangent kernel after an activation, row by row."""
    has_t = t.shape[0] > 0
    for i in range(d.shape[0]):
        for first in range(0, d.shape[1], STRIP):
            n = min(STRIP, d.shape[1] - first)
            columns, before = roots2[first : first + n], d_in[i, first : first + n]
            for k in range(n):
                work[k] = roots1[i]
                work[STRIP + k] = columns[k]
                work[2 * STRIP + k] = before[k]
            if has_t:
                before = t_in[i, first : first + n]
                for k in range(n):
                    work[3 * STRIP + k] = before[k]
            lanes.call_at(address, work, n)
            after = d[i, first : first + n]
            for k in range(n):
                after[k] = work[2 * STRIP + k]
            if has_t:
                after = t[i, first : first + n]
                for k in range(n):
                    after[k] = work[3 * STRIP + k]


@cache.kept(**OPTIONS)
def affine_rows(numbers, q1, q2, d_in, t_in, d, t):
    """D ← w D and, where t is not empty, T ← w T + weight_rate s + bias_rate."""
    w, half_rate, bias_rate = numbers[0], numbers[1] / 2, numbers[2]
    has_t = t.shape[0] > 0
    for i in range(d.shape[0]):
        before, after = d_in[i], d[i]
        if has_t:
            tangent, result = t_in[i], t[i]
            for k in range(d.shape[1]):
                result[k] = w * tangent[k] + half_rate * (q1[i] + q2[k] - before[k]) + bias_rate
        for k in range(d.shape[1]):
            after[k] = w * before[k]


@cache.kept(**OPTIONS)
def mixed_rows(spread1, spread2, total1, total2, mean1, mean2, d):
    """D of sums over positions from the sums of D: D − r − r' + (A − A')(m − m'), in place."""
    for i in range(d.shape[0]):
        row = d[i]
        for k in range(d.shape[1]):
            spread = spread1[i] + spread2[k]
            value = row[k] - spread + (total1[i] - total2[k]) * (mean1[i] - mean2[k])
            row[k] = value if value > ROUNDING * spread else 0.0


def dual(
    form: ClosedForm, second: tuple[Tensor, Tensor], distance: Tensor, ntk: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """D and T after an activation.

    Args:
        form: its formulas.
        second: second moments of both sides, (n, p) and (m, p).
        distance: D, (n, p, m, p).
        ntk: T, or None.
    """
    address = strip_loop(loop_source(form, ntk is not None), "float64").address
    d_in, t_in = _matrix(distance), _matrix(ntk)
    d, t = np.empty_like(d_in), np.empty_like(t_in)
    dual_rows(_workspace(), address, *(np.sqrt(_vector(q)) for q in second), d_in, t_in, d, t)
    return _like(d, distance), None if ntk is None else _like(t, distance)


def affine(
    numbers: tuple[float, float, float], second: tuple[Tensor, Tensor], distance: Tensor, ntk: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """D and T after a linear layer; numbers are w, weight_rate and bias_rate."""
    d_in, t_in = _matrix(distance), _matrix(ntk)
    d, t = np.empty_like(d_in), np.empty_like(t_in)
    affine_rows(np.array(numbers), *map(_vector, second), d_in, t_in, d, t)
    return _like(d, distance), None if ntk is None else _like(t, distance)


def mixed(
    summed: Tensor, spreads: tuple[Tensor, Tensor], totals: tuple[Tensor, Tensor], means: tuple[Tensor, Tensor]
) -> Tensor:
    """D of sums over positions; see `torch_positions.pool_distance`. Each pair is (n, p) and (m, p)."""
    d = _matrix(summed)
    mixed_rows(*map(_vector, (*spreads, *totals, *means)), d)
    return _like(d, summed)


def _workspace() -> np.ndarray:
    return aligned_zeros(4 * STRIP, np.dtype(np.float64))


def _matrix(pairs: Tensor | None) -> np.ndarray:
    if pairs is None:
        return np.empty((0, 0))
    return np.ascontiguousarray(pairs.numpy()).reshape(pairs.shape[0] * pairs.shape[1], -1)


def _vector(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.numpy()).ravel()


def _like(matrix: np.ndarray, pairs: Tensor) -> Tensor:
    return torch.from_numpy(matrix).view(pairs.shape)
