"""Sums over positions of full pairs, (n, p, m, p'): matrix products, and compiled loops for what stands around them.

For CPUs, and without gradients.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ntkit.infinite.compiled import cache
from ntkit.infinite.compiled.machine import INNER, OPTIONS
from ntkit.infinite.distance import ROUNDING
from ntkit.infinite.torch_registers import Within

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


@cache.kept(**OPTIONS)
def finish_rows(
    d, same, itself, spread1, spread2, total1, total2, mean1, mean2, norm1, norm2, size1, size2, root1, root2, all1,
    all2,
):  # fmt: skip
    """D of sums over positions from the sums of D: D − r − r' + (A − A')(m − m'), in place; see `Within`.

    Of a sample with itself distances are taken from `itself`, or where there are none are 0 at equal positions. Gives
    the number of pairs of which float32 loses too much. all1, all2: mean second moments of the results of a sample.
    """
    lost = 0
    for i in range(d.shape[0]):
        for a in range(d.shape[1]):
            for j in range(d.shape[2]):
                row, is_same = d[i, a, j], same[i, j]
                if is_same and itself.shape[0] > 0:
                    known = itself[i, a]
                    for b in range(d.shape[3]):
                        row[b] = known[b]
                    continue
                spreads, totals, means = spread2[j], total2[j], mean2[j]
                for b in range(d.shape[3]):
                    spread = spread1[i, a] + spreads[b]
                    value = row[b] - spread + (total1[i, a] - totals[b]) * (mean1[i, a] - means[b])
                    row[b] = value if value > ROUNDING * spread else 0.0
                if is_same:
                    row[a] = 0.0
                else:
                    norms, sizes, roots = norm2[j], size2[j], root2[j]
                    scale = all1[i] * all2[j]
                    norm, size, root = norm1[i, a], size1[i, a], root1[i, a]
                    for b in range(d.shape[3]):
                        lost += _is_lost(row[b], norm, norms[b], size, sizes[b], root, roots[b], scale)
    return lost


@cache.kept(**OPTIONS)
def add_weighted(pairs, one, two, room, sums):
    """sums[i, j] = Σ_p Σ_p' one[i, p] two[j, p'] pairs[i, p, j, p']; `room` is (m, p')."""
    for i in range(pairs.shape[0]):
        room[:] = 0
        for p in range(pairs.shape[1]):
            for j in range(pairs.shape[2]):
                row, here = pairs[i, p, j], room[j]
                for k in range(pairs.shape[3]):
                    here[k] += one[i, p] * row[k]
        for j in range(pairs.shape[2]):
            total = 0.0
            for k in range(pairs.shape[3]):
                total += two[j, k] * room[j, k]
            sums[i, j] = total


def summed(
    pairs: Float[Tensor, "n p m p"], one: Float[Tensor, "n q p"], two: Float[Tensor, "m q p"]
) -> Float[Tensor, "n q m q"]:
    """W K W'ᵀ of every pair, in the precision of K."""
    n, p, m, _ = pairs.shape
    q = one.shape[1]
    if q == 1:
        sums = np.empty((n, m))
        add_weighted(pairs.numpy(), one[:, 0].numpy(), two[:, 0].numpy(), np.empty((m, p)), sums)
        return torch.from_numpy(sums)[:, None, :, None]
    rows = torch.bmm(one.to(pairs), pairs.reshape(n, p, m * p)).view(n * q, m, p)
    result = torch.empty(n * q, m, q, dtype=pairs.dtype)
    for j, weights in enumerate(two.to(pairs).mT):
        torch.mm(rows[:, j], weights, out=result[:, j])
    return result.view(n, q, m, q)


def finish(summed: Float[Tensor, "n q m q"], same: Bool[Tensor, "n m"], one: Within, two: Within) -> int:
    """Makes distances of W D W'ᵀ, in place; gives of how many float32 loses too much."""
    itself = np.empty((0, 0, 0)) if one.itself is None else one.itself.numpy()
    names = ("spread", "totals", "means", "norms", "sizes", "roots", "mean_second")
    return finish_rows(
        summed.numpy(), same.numpy(), itself, *(getattr(side, name).numpy() for name in names for side in (one, two))
    )
