"""Empirical kernels of the architectures that people train, against the whole Jacobian, and which rules they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import empirical_architectures as models
import ntkit.nn
from empirical_networks import assert_equals_jacobian, assert_same, features, tokens
from ntkit.empirical import EmpiricalKernel


def images(n):
    return features(n, 3, 4, 4)


def embedded(n):
    return torch.randint(0, 11, (n, 5))


# name -> (model, samples, parameters without a rule, as patterns' beginnings)
CASES = {
    "ResNet-18": (lambda: models.ResNet18(2, 3).eval(), lambda n: features(n, 3, 8, 8), ()),
    "Vision Transformer": (lambda: models.VisionTransformer().eval(), images, ()),
    "GPT, head of its own": (lambda: models.GPT(tied=False), embedded, ()),
    "GPT, tied head": (lambda: models.GPT(), embedded, ()),
    "U-Net": (models.UNet, lambda n: features(n, 1, 6, 6), ()),
    "LSTM": (models.Recurrent, lambda n: features(n, 3, 4), ()),
    "LSTM, sequence first": (lambda: models.Recurrent(batch_first=False), lambda n: features(n, 3, 4), ()),
    "functional": (models.Functional, lambda n: features(n, 6), ()),
    "cross-attention": (models.CrossAttention, lambda n: (features(n, 3, 4), features(n, 2, 4)), ()),
    "both orders": (models.Gathered, lambda n: features(n, 3, 4), ()),
    "convolutions": (models.convolutions, lambda n: features(n, 2, 5), ()),
    "spectral norm": (models.spectral, features, ("0.parametrizations",)),
    "RMSNorm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), nn.Mish(), nn.Linear(6, 2)), features, ()),
    "attention's limit": (
        lambda: nn.Sequential(ntkit.nn.Linear(4, 6), ntkit.nn.SelfAttention(6, 6, heads=2), nn.Flatten()),
        lambda n: features(n, 3, 4), (),
    ),
    "bag of tokens": (lambda: nn.Sequential(nn.EmbeddingBag(7, 4), nn.Linear(4, 2)), tokens, ("0.weight",)),
    "padding": (
        lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Flatten(), nn.Linear(20, 2)), tokens, (),
    ),
}  # fmt: skip


@pytest.fixture(params=CASES, ids=str)
def case(request):
    torch.manual_seed(0)
    make, draw, generic = CASES[request.param]
    model = make().double()
    model(*draw(2)) if isinstance(draw(2), tuple) else model(draw(2))  # lazy layers
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():  # scales that are all 1 would hide what is wrong with them
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model, draw, generic


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_equals_the_whole_jacobian(case, outputs):
    model, draw, generic = case
    kernel = EmpiricalKernel(model, outputs=outputs)
    x1, _ = assert_equals_jacobian(kernel, draw)
    found = {p.name for p in kernel.plan(x1).parameters if p.route == "generic"}
    assert found == {name for name, _ in model.named_parameters() if name.startswith(generic)} if generic else not found


def test_every_contraction_gives_the_same(case, monkeypatch):
    model, draw, _ = case
    x = draw(4)
    chosen = EmpiricalKernel(model, outputs="trace").ntk(x)
    for kind in ("gram", "gradient"):
        monkeypatch.setattr(
            "ntkit.empirical.schedule.cheaper_contraction", lambda size, *_, kind=kind: size.only or kind
        )
        assert_same(EmpiricalKernel(model, outputs="trace").ntk(x), chosen, 1e-12)
