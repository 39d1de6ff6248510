"""Pooling in the compiled engine: a sample has no distance from itself, however the sums were rounded.

The sums of a pair and the spreads that are taken from them come of two loops, with derivatives and without, in which a
smooth activation may be rounded differently. Sign tells: E[sign u sign v] = 1 − 2θ/π, where D of 1e-17 is 1e-8.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ntkit
from layer_cases import conv, data, linear

SIN = ntkit.nn.Sin(1.2, 0.8, 0.3)
SIGNS = [ntkit.nn.Sign(), ntkit.nn.Linear(64, 1, 1.0)]  # whose read-out is their covariance
HEADS = {
    "all positions": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(64), *SIGNS],
    "windows": [
        nn.AvgPool2d(2, 1),
        conv(64, padding=1),
        ntkit.nn.Sign(),
        nn.Flatten(),
        ntkit.nn.Linear(64 * 9, 1, 1.0),
    ],
}


@pytest.mark.parametrize("last", [SIN, nn.ReLU()], ids=["sine", "relu"])
@pytest.mark.parametrize("first", [SIN, nn.GELU()], ids=["sine", "gelu"])
@pytest.mark.parametrize("head", HEADS)
def test_a_sample_has_the_sign_of_itself_behind_a_pool(first, last, head):
    layers = conv(2, padding=1), first, conv(64, kernel=(3, 2), padding=(1, 0)), last
    kernel = ntkit.InfiniteKernel(nn.Sequential(*layers, *HEADS[head]))
    x, one = data(40, 2, 4, 5), torch.ones(40, dtype=torch.float64)
    for found in (kernel(x, engine="numba").nngp, kernel(x, x.clone(), engine="numba").nngp):
        torch.testing.assert_close(found.diagonal(), one, rtol=0, atol=1e-14)
    torch.testing.assert_close(kernel.diagonal(x, engine="numba").nngp, one, rtol=0, atol=1e-14)
