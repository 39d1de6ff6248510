"""Squared distances of all pairs of rows, accurate also for rows that nearly agree.

|x|² + |y|² − 2 x·y by one matrix product keeps an absolute accuracy of a rounding of |x|²; pairs so close that this is
too little are done again as Σ (x − y)². Short rows, such as the channels of a pixel, are done so at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# of sums of distances: a smaller difference of them is 0, for equal terms may differ by a unit, as between loops with
# derivatives and without
ROUNDING = 8 * 2.0**-52
_CLOSE = 1e-3  # of |x|² + |y|²: above it the product loses at most three digits
_CLOSE_AT_ONCE = 65536
_SHORT = 8  # values in a row up to which Σ (x − y)² costs no more than a product and its repair


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|x_i − y_j|², never negative, exactly 0 for equal rows.

    Args:
        x: rows.
        y: rows.

    Returns:
        All squared distances; differentiable once.
    """
    if x.shape[1] <= _SHORT:
        return _sum_of_squares(x[:, None], y[None, :])
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


def distances_at_positions(x: Float[Tensor, "n p d"], y: Float[Tensor, "m p d"]) -> Float[Tensor, "n p m"]:
    """|x_ip − y_jp|² at equal positions p."""
    if x.shape[2] <= _SHORT:
        return _sum_of_squares(x[:, :, None], y.transpose(0, 1)[None])
    return torch.stack([squared_distances(x[:, p], y[:, p]) for p in range(x.shape[1])], dim=1)


def _sum_of_squares(x: Tensor, y: Tensor) -> Tensor:
    """Σ (x − y)² over the last axis, one of its values after another: no array has that axis and all pairs."""
    total = (x[..., 0] - y[..., 0]) ** 2
    for c in range(1, x.shape[-1]):
        total = total + (x[..., c] - y[..., c]) ** 2
    return total
