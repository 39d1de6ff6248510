"""Squared distances of all pairs of rows, accurate also for rows that nearly agree.

|x|² + |y|² − 2 x·y by one matrix product keeps an absolute accuracy of a rounding of |x|²; pairs so close that this is
too little are done again as Σ (x − y)².
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_CLOSE = 1e-3  # of |x|² + |y|²: above it the product loses at most three digits
_CLOSE_AT_ONCE = 65536


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|x_i − y_j|², never negative, exactly 0 for equal rows.

    Args:
        x: rows.
        y: rows.

    Returns:
        All squared distances; differentiable once.
    """
    x_square, y_square = (x**2).sum(1), (y**2).sum(1)
    total = x_square[:, None] + y_square[None, :]
    rough = total - 2 * (x @ y.T)
    with torch.no_grad():
        rows, columns = torch.nonzero(rough <= _CLOSE * total, as_tuple=True)
        if len(rows) == 0:
            return rough
        exact = torch.cat(
            [
                ((x[r] - y[c]) ** 2).sum(1)
                for r, c in zip(rows.split(_CLOSE_AT_ONCE), columns.split(_CLOSE_AT_ONCE), strict=True)
            ]
        )
        if not rough.requires_grad:
            rough[rows, columns] = exact
            return rough
        correction = torch.zeros_like(rough)
        correction[rows, columns] = exact - rough[rows, columns]
    return rough + correction  # the value is corrected, the slope 2 (x − y) needs no correction
