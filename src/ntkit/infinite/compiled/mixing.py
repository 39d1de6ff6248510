"""Sums over positions with weights of each sample's own, K' = W K W'ᵀ, within compiled passes, and what is lost there.

For one left sample and several right ones: `d` and `t` are D and T, (p, columns), where the columns of a right sample
are its positions. Quantities of the left sample come as (p, planes), of the right ones as (planes, columns).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.infinite.compiled import cache
from ntkit.infinite.compiled.machine import INNER, OPTIONS
from ntkit.infinite.compiled.tiles import multiply
from ntkit.infinite.distance import ROUNDING
from ntkit.infinite.torch_registers import Within

CLOSE = 1e-3  # of the second moments: above it the difference loses at most three digits

# what is known of the results of each side, one plane after another; see `Within`
QUANTITIES = ("spread", "totals", "means", "norms", "sizes", "roots", "mean second moment")
_SPREAD, _TOTAL, _MEAN, _NORM, _SIZE, _ROOT, _ALL = range(len(QUANTITIES))

# Distances before that are good to float32, ε = 6e-8, make D' = W D W'ᵀ − … good to ε S with S² = Σ Σ W² W'² (q + q')²
# as long as roundings are as good as random. An angle θ is then known to ε S/√(h p), where p = √(q q') and h is the
# smaller one of 2(p − s) and 2(p + s), and tangent kernels, which grow with p, to ε S √(p/h) or so. That much is lost:
_ANGLES = 5e-6  # = (ε/2.7e-5)²: more than 2.7e-5 of the mean P of p over the positions of two samples
_VALUES = 400.0  # S²/P²: ε S is more than 1.2e-6 of P


def is_lost(distance, norm1, norm2, size1, size2, root1, root2, scale):
    """Whether float32 loses too much of a pair, or of which ones of tensors that broadcast; `scale` is P²."""
    product, gap = root1 * root2, (root1 - root2) ** 2
    square = (norm1 * size2 + size1 * norm2) ** 2
    bound = _ANGLES * product * square
    opposite = (gap + 4 * product - distance) * scale < bound
    return ((distance - gap) * scale < bound) | opposite | (square > _VALUES * scale)


_is_lost = cache.kept(**INNER)(is_lost)


@cache.kept(**INNER)
def mix(to, pairs, half, weights, turned, first, begin, end):
    """to ← W K W'ᵀ, where `to` may be K's own place; `half` is room for W K.

    weights: W of the left sample. turned: W'ᵀ of all right ones, of which `first` is that of the first columns. begin,
    end: samples among the columns.
    """
    p = len(weights)
    multiply(half, (0, begin * p), weights, (0, 0), pairs, (0, begin * p), p, (end - begin) * p, p)
    for j in range(begin, end):
        multiply(to, (0, j * p), half, (0, j * p), turned[first + j], (0, 0), p, p, p)


@cache.kept(**INNER)
def finish(d, left, right, plane, same, itself, begin, end, count):
    """D' of W D W'ᵀ, in place; of a sample with itself it is known, `itself`.

    plane: the first of QUANTITIES. same: of which right samples the left one is. Gives the number of pairs of positions
    of which float32 loses too much, where they are to be counted.
    """
    p, lost = len(left), 0
    for a in range(p):
        known = left[a, plane : plane + len(QUANTITIES)]
        spread1, total, mean = known[_SPREAD], known[_TOTAL], known[_MEAN]
        norm, size, root, scale = known[_NORM], known[_SIZE], known[_ROOT], known[_ALL]
        for j in range(begin, end):
            row = d[a, j * p : (j + 1) * p]
            if same[j]:
                for b in range(p):
                    row[b] = itself[a, b]
                continue
            # one plane at a time: rows of several might have gaps for all that the compiler knows
            first, last = j * p, (j + 1) * p
            spreads, means = right[plane + _SPREAD, first:last], right[plane + _MEAN, first:last]
            totals = right[plane + _TOTAL, first:last]
            for b in range(p):
                spread = spread1 + spreads[b]
                value = row[b] - spread + (total - totals[b]) * (mean - means[b])
                row[b] = value if value > ROUNDING * spread else 0.0
            if count:
                norms, sizes = right[plane + _NORM, first:last], right[plane + _SIZE, first:last]
                roots, scales = right[plane + _ROOT, first:last], right[plane + _ALL, first:last]
                for b in range(p):
                    lost += _is_lost(row[b], norm, norms[b], size, sizes[b], root, roots[b], scale * scales[b])
    return lost


@cache.kept(**INNER)
def total(pairs, room, left, right, plane, begin, end, sums, first):
    """sums[first + j] = Σ_p Σ_p' w[p] w'[p'] K[p, p'] for right samples from `begin` to `end`; w stand in one plane."""
    p = len(left)
    here = room[begin * p : end * p]
    for c in range(len(here)):
        here[c] = 0.0
    for a in range(p):
        row, weight = pairs[a, begin * p : end * p], left[a, plane]
        for c in range(len(here)):
            here[c] += weight * row[c]
    for j in range(begin, end):
        found = 0.0
        for c in range(j * p, (j + 1) * p):
            found += right[plane, c] * room[c]
        sums[first + j] = found


@cache.kept(**INNER)
def finish_total(sums, first, left, right, plane, same, begin, end, count):
    """`finish` for sums over all positions: of a sample with itself D' is 0."""
    p, lost = len(left), 0
    known = left[0, plane : plane + len(QUANTITIES)]
    norm, size, root, scale = known[_NORM], known[_SIZE], known[_ROOT], known[_ALL]
    for j in range(begin, end):
        there = right[plane : plane + len(QUANTITIES), j * p]
        spread = known[_SPREAD] + there[_SPREAD]
        value = sums[first + j] - spread + (known[_TOTAL] - there[_TOTAL]) * (known[_MEAN] - there[_MEAN])
        value = 0.0 if same[j] or value <= ROUNDING * spread else value
        sums[first + j] = value
        if count and not same[j]:
            lost += _is_lost(value, norm, there[_NORM], size, there[_SIZE], root, there[_ROOT], scale * there[_ALL])
    return lost


# ---- each sample alone -----------------------------------------------------------------------------------------------


@cache.kept(**OPTIONS)
def alone(weights, distance, second, room, lines, quantities, itself):
    """What sums over positions take from each sample with itself; see `Within`.

    Args:
        weights: W, (n, q, p).
        distance: D, (n, p, p).
        second: second moments, (n, p).
        room: (4, p, p).
        lines: (3, p).
        quantities: spread, totals, means, norms and sizes of the results, (5, n, q), to be written.
        itself: their squared distances, (n, q, q), to be written.
    """
    p, q = distance.shape[1], weights.shape[1]
    covariance, own, half, turned = room[0], room[1], room[2], room[3]
    for i in range(len(weights)):
        w, d, s = weights[i], distance[i], second[i]
        multiply(half, (0, 0), w, (0, 0), d, (0, 0), q, p, p)
        for a in range(q):
            spread, total, mean, norm, size = 0.0, 0.0, 0.0, 0.0, 0.0
            for c in range(p):
                spread += half[a, c] * w[a, c]
                total += w[a, c]
                mean += w[a, c] * s[c]
                norm += w[a, c] ** 2
                size += (w[a, c] * s[c]) ** 2
            found = quantities[:, i, a]
            found[_SPREAD], found[_TOTAL], found[_MEAN] = spread / 2, total, mean
            found[_NORM], found[_SIZE] = norm**0.5, size**0.5
        for a in range(p):
            for c in range(p):
                covariance[a, c] = (s[a] + s[c] - d[a, c]) / 2
        distances_alone(w, covariance, own, half, turned, lines, itself[i])


@cache.kept(**INNER)
def distances_alone(weights, covariance, own, half, turned, lines, distances):
    """(W_P − W_Q) S (W_P − W_Q)ᵀ, by one product, and once more for pairs so near that it cancels.

    What all rows of W share is taken off first, for weights that hardly differ are common. Tokens that occur twice have
    equal rows, and so a distance of exactly 0.
    """
    q, p = weights.shape
    for c in range(p):
        mean = 0.0
        for a in range(q):
            mean += weights[a, c]
        mean /= q
        for a in range(q):
            own[a, c] = weights[a, c] - mean
            turned[c, a] = own[a, c]
    multiply(half, (0, 0), own, (0, 0), covariance, (0, 0), q, p, p)
    multiply(distances, (0, 0), half, (0, 0), turned, (0, 0), q, q, p)
    squares, gap, along = lines[0], lines[1], lines[2]
    for a in range(q):
        squares[a] = distances[a, a]
    for a in range(q):
        distances[a, a] = 0.0
        for b in range(a + 1, q):
            total = squares[a] + squares[b]
            value = total - distances[a, b] - distances[b, a]
            if value <= CLOSE * total:
                for c in range(p):
                    gap[c], along[c] = own[a, c] - own[b, c], 0.0
                for c in range(p):
                    row, step = covariance[c], gap[c]
                    for e in range(p):
                        along[e] += step * row[e]
                value = 0.0
                for c in range(p):
                    value += along[c] * gap[c]
                value = max(value, 0.0)
            distances[a, b] = value
            distances[b, a] = value


def within(weights: Float[Tensor, "n q p"], distance: Float[Tensor, "n p p"], second: Float[Tensor, "n p"]) -> Within:
    """What a sum over positions with weights of each sample's own takes from each sample alone."""
    n, q, p = weights.shape
    found, itself = np.empty((5, n, q)), np.empty((n, q, q))
    w, d, s = (np.ascontiguousarray(values.numpy()) for values in (weights, distance, second))
    alone(w, d, s, np.empty((4, p, p)), np.empty((3, p)), found, itself)
    spread, totals, means, norms, sizes = (torch.from_numpy(array) for array in found)
    return Within(spread, totals, means, norms, sizes, weights, torch.from_numpy(itself))
