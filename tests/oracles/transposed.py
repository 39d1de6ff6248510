"""Transposed convolutions of covariances: each tap is a linear map of positions, found from torch's own layer.

K' = 1/k Σ_a M_a K M_aᵀ for a covariance K of all pairs of positions and the k taps a of the window, where M_a says what
the layer with weight 1 at tap a and 0 elsewhere does to unit impulses.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F


def tap_maps(grid, kernel, **options):
    """One matrix (output positions, input positions) a tap, and the grid of the output."""
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(grid) - 1]
    impulses = torch.eye(math.prod(grid), dtype=torch.float64).view(-1, 1, *grid)
    maps = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        weight = torch.zeros(1, 1, *kernel, dtype=torch.float64)
        weight[(0, 0, *tap)] = 1
        out = convolve(impulses, weight, **options)
        maps.append(out.flatten(1).T.numpy())
    return maps, tuple(out.shape[2:])


def window(field, kernel, **options):
    """The mean over taps of a field of `oracles.convolutional`."""
    r, size = field.rank, math.prod(field.grid)
    kernel = (kernel,) * r if isinstance(kernel, int) else kernel
    maps, out = tap_maps(field.grid, kernel, **options)

    def moved(k):
        lead = k.shape[: k.ndim - 2 * r]
        square = k.reshape(*lead, size, size)
        total = 0
        for m in maps:
            of_tap = m if k.dtype != object else m.astype(int)  # mpmath's numbers take whole ones
            total = total + np.matmul(np.matmul(of_tap, square), of_tap.T)
        return (total / len(maps)).reshape(*lead, *out, *out)

    return field.linear(moved)
