"""Models whose samples meet: what they give would depend on the batch, and on how it is cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from empirical_networks import features
from ntkit.empirical import EmpiricalKernel, NTKOperator
from ntkit.errors import InvalidInput

MIXING = {
    "its place": lambda self, x: self(x) * torch.arange(1, len(x) + 1)[:, None],
    "the largest": lambda self, x: self(x / x.abs().amax()),
    "the smallest": lambda self, x: self(x - x.min()),
    "one before": lambda self, x: self(x) + self(torch.cat([torch.zeros_like(x[:1]), x[:-1]])).tanh(),
    "a capacity": lambda self, x: self(x) * ((x[:, :1] > 0).cumsum(0) <= 2),
    "sums so far": lambda self, x: self(x).cumsum(0),
    "the best few": lambda self, x: self(x) * (x[:, :1] >= x[:, 0].topk(len(x) // 3 + 1).values[-1]),
    "a scale": lambda self, x: self(x) * self(x).detach().std(),
    "noise by place": lambda self, x: self(x) + torch.randn(len(x), 1, generator=torch.Generator().manual_seed(0)),
}  # fmt: skip


@pytest.mark.parametrize("what", MIXING)
@pytest.mark.parametrize("n", [7, 20])
def test_a_model_that_mixes_samples_is_refused(what, n):
    layer, x = nn.Linear(4, 2).double(), features(n)
    message = "samples must be treated independently, but the model gives a sample another output alone"
    with pytest.raises(InvalidInput, match=message):
        EmpiricalKernel(layer, forward=MIXING[what]).ntk(x)
    with pytest.raises(InvalidInput, match=message):
        EmpiricalKernel(layer, forward=MIXING[what]).ntk(features(2), x)
    with pytest.raises(InvalidInput, match=message):
        NTKOperator(layer, x, forward=MIXING[what])


def test_samples_that_meet_in_large_batches_alone_are_seen():
    # the samples that are looked at first are too few to meet; the batch is looked at as well
    layer = nn.Linear(4, 2).double()
    with pytest.raises(InvalidInput, match="another output alone than in a batch"):
        EmpiricalKernel(layer, forward=lambda self, x: self(x) * (1 if len(x) < 10 else 2)).ntk(features(20))
