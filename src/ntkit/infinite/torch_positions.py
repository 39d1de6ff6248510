"""What convolutions and pooling layers do to arrays over positions: windows and weighted sums, one axis after another.

An array over positions has its positions, flattened in C order, at dimension 1, and where it is over pairs of positions
those of the second sample at dimension 3:

    of samples         (n, p)
    full pairs         (n, p, m, p')  every two positions of a pair
    equal positions    (n, p, m)      where nothing else is needed

Pairs of samples with themselves have m = 1. What belongs to one side of the pairs broadcasts over equal positions:
(n, p, 1) is the first side, (1, p, m) the second, and (n, p, 1) the second of samples with themselves.

Windows and pools are products over the axes of an image, so each is done axis by axis.
"""

from __future__ import annotations

import math
from functools import lru_cache, reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ntkit.architecture.windows import OUTSIDE, PoolAxis, WindowAxis
from ntkit.infinite.distance import ROUNDING
from ntkit.infinite.placement import Grid

# ---- which pairs of positions an array holds -------------------------------------------------------------------------


def equal_positions(pairs: Float[Tensor, "n p *rest"]) -> Float[Tensor, "n p m"]:
    """Of full pairs those of equal positions."""
    return pairs if pairs.ndim == 3 else pairs.diagonal(dim1=1, dim2=3).transpose(1, 2)


def full_pairs(pairs: Float[Tensor, "n p *rest"]) -> Float[Tensor, "n p m p"]:
    """Equal positions as full pairs, with zeros where nothing is needed."""
    return pairs if pairs.ndim == 4 else torch.diag_embed(pairs.transpose(1, 2), dim1=1, dim2=3)


def across(
    first: Float[Tensor, "n p 1"], second: Float[Tensor, "k p m"], pairs: Float[Tensor, "_ *rest"]
) -> tuple[Tensor, Tensor]:
    """Values of both sides, shaped to broadcast over `pairs`."""
    return (first, second) if pairs.ndim == 3 else (first[..., None], second.transpose(1, 2)[:, None])


def each_pair(values: Tensor, pairs: Float[Tensor, "_ *rest"]) -> Tensor:
    """Values of pairs of samples, (n, m), shaped to broadcast over `pairs`."""
    return values[:, None] if pairs.ndim == 3 else values[:, None, :, None]


# ---- convolution windows ---------------------------------------------------------------------------------------------


def window_mean(
    values: Float[Tensor, "n p *rest"], axes: tuple[WindowAxis, ...], grid: Grid
) -> Float[Tensor, "n q *new_rest"]:
    """The mean over taps, which move together in all positions; values outside are 0."""
    for k, axis in enumerate(axes):
        values = _window_mean_of_axis(values, axis, grid, k)
        grid = (*grid[:k], axis.size(grid[k]), *grid[k + 1 :])
    return values


def window_distance(
    distance: Float[Tensor, "n p m p"],
    first: Float[Tensor, "n p 1"],
    second: Float[Tensor, "k p m"],
    axes: tuple[WindowAxis, ...],
    grid: Grid,
) -> Float[Tensor, "n q m q"]:
    """The mean over taps of squared distances; where one position is outside, it is the second moment of the other.

    Args:
        distance: all pairs of positions.
        first: second moments of the first side.
        second: second moments of the second side.
        axes: the window.
        grid: positions of the input.
    """
    for k, axis in enumerate(axes):
        rims = tuple(q.expand_as(distance) for q in across(first, second, distance))
        distance = _window_mean_of_axis(distance, axis, grid, k, rims)
        first, second = (_window_mean_of_axis(q, axis, grid, k) for q in (first, second))
        grid = (*grid[:k], axis.size(grid[k]), *grid[k + 1 :])
    return distance


def _window_mean_of_axis(
    values: Tensor, axis: WindowAxis, grid: Grid, k: int, rims: tuple[Tensor, ...] | None = None
) -> Tensor:
    if axis.is_pointwise:
        return values
    table = axis.taps(grid[k])
    split, dims = _split(values, grid, k)
    if (table == OUTSIDE).any():
        split = (
            _with_zeros(split, dims) if rims is None else _with_rim(split, [_split(r, grid, k)[0] for r in rims], dims)
        )
    taps = torch.from_numpy(np.where(table == OUTSIDE, grid[k], table)).to(values.device)
    total = _at(split, taps[:, 0], dims)
    for tap in taps.T[1:]:
        total = total + _at(split, tap, dims)
    return _joined(total / axis.kernel, values)


def _at(values: Tensor, positions: Int[Tensor, "q"], dims: list[int]) -> Tensor:
    for dim in dims:
        values = values.index_select(dim, positions)
    return values


def _with_zeros(values: Tensor, dims: list[int]) -> Tensor:
    """One more position in every dimension, outside of the image, with value 0."""
    for dim in dims:
        values = torch.cat([values, torch.zeros_like(values.narrow(dim, 0, 1))], dim)
    return values


def _with_rim(distance: Tensor, rims: list[Tensor], dims: list[int]) -> Tensor:
    """One more position for both samples, outside of the image: |x − 0|² = q, and 0 where both are outside."""
    row, column = dims
    first, second = rims
    rows = torch.cat([distance, second.narrow(row, 0, 1)], row)
    last = first.narrow(column, 0, 1)
    last = torch.cat([last, torch.zeros_like(last.narrow(row, 0, 1))], row)
    return torch.cat([rows, last], column)


# ---- pooling ---------------------------------------------------------------------------------------------------------


def pool_sum(
    values: Float[Tensor, "n p *rest"], axes: tuple[PoolAxis, ...], grid: Grid, power: int = 1
) -> Float[Tensor, "n q *new_rest"]:
    """Σ_p W[q, p]^power values[p] in all positions."""
    for k, axis in enumerate(axes):
        matrix = axis.matrix(grid[k]) ** power
        if not np.array_equal(matrix, np.eye(grid[k])):
            weights = torch.from_numpy(matrix).to(values)
            split, dims = _split(values, grid, k)
            for dim in dims:
                split = (split.transpose(dim, -1) @ weights.T).transpose(dim, -1)
            values = _joined(split, values)
        grid = (*grid[:k], len(matrix), *grid[k + 1 :])
    return values


@lru_cache(maxsize=64)  # blocks of pairs ask one after another
def weights_of_total(axes: tuple[PoolAxis, ...], grid: Grid) -> Float[Tensor, "p"] | None:
    """The weights of all positions where one number is made of them; else None."""
    matrices = [axis.matrix(n) for axis, n in zip(axes, grid, strict=True)]
    if not all(len(matrix) == 1 for matrix in matrices):
        return None
    return torch.from_numpy(reduce(np.kron, matrices)[0])


def pool_distance(
    summed: Float[Tensor, "n q *rest"],
    weights: tuple[Float[Tensor, "_ q 1"], Float[Tensor, "_ q _"]],
    means: tuple[Float[Tensor, "n q 1"], Float[Tensor, "k q m"]],
    spreads: tuple[Float[Tensor, "n q 1"], Float[Tensor, "k q m"]],
    same: Bool[Tensor, "n m"],
) -> Float[Tensor, "n q *rest"]:
    """D' of the pooled values from Σ Σ W D W.

    With s = (q + q' − D)/2, A = Σ_p W[·, p], m = W q and r[P] = ½ Σ W[P, p] W[P, p'] D[p, p'] of a sample with itself,
    s' = W s Wᵀ gives q'[P] = A m − r and D'[P, Q] = Σ Σ W D W − r_x[P] − r_y[Q] + (A[P] − A[Q]) (m_x[P] − m_y[Q]).

    Args:
        summed: Σ Σ W[P, p] W[Q, p'] D[p, p'].
        weights: A of both sides.
        means: m of both sides.
        spreads: r of both sides.
        same: which samples are equal; at equal positions their distance is exactly 0.
    """
    (r1, r2), (a1, a2), (m1, m2) = (across(*both, summed) for both in (spreads, weights, means))
    spread = r1 + r2
    distance = summed - spread + (a1 - a2) * (m1 - m2)
    distance = distance.masked_fill(distance <= ROUNDING * spread, 0.0)
    if summed.ndim == 3:
        return distance.masked_fill(same[:, None], 0.0)
    equal = torch.eye(summed.shape[1], dtype=torch.bool, device=same.device)[None, :, None]
    return distance.masked_fill(same[:, None, :, None] & equal, 0.0)


# ---- one axis of a grid ----------------------------------------------------------------------------------------------


def _split(values: Tensor, grid: Grid, k: int) -> tuple[Tensor, list[int]]:
    """Every dimension of positions split at axis k into (before, length, after), and where the lengths are."""
    parts = (math.prod(grid[:k]), grid[k], math.prod(grid[k + 1 :]))
    shape: list[int] = []
    dims: list[int] = []
    for dim, size in enumerate(values.shape):
        if dim in (1, 3):
            dims.append(len(shape) + 1)
            shape.extend(parts)
        else:
            shape.append(size)
    return values.reshape(shape), dims


def _joined(split: Tensor, like: Tensor) -> Tensor:
    """The dimensions of `like` again, with new positions."""
    shape = [split.shape[0], -1, *like.shape[2:3], *([math.prod(split.shape[5:8])] if like.ndim == 4 else [])]
    return split.reshape(shape)
