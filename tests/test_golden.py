"""Exact kernels of many networks against golden values of neural-tangents 0.6.5, and those against wide networks.

neural-tangents takes the angle between a sample and itself from the root of a difference, so that a rounding of 1e-16
in its moments puts its self-pairs off by 1e-8. The golden samples are whole 32nds, whose moments carry no rounding:
its self-pairs are right for them, and every entry is compared alike.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import ntkit
from golden.networks import MASKED, NETWORKS, torch_model
from golden.steps import shape_after_all, widened

GOLDEN = Path(__file__).with_name("golden") / "golden.npz"
BY_NAME = {net.name: net for net in NETWORKS}
ENGINES = ("numba", "torch")
every_network = pytest.mark.parametrize("net", NETWORKS, ids=lambda net: net.name)
every_engine = pytest.mark.parametrize(
    ("net", "engine"),
    [pytest.param(net, e, id=f"{net.name}-{e}") for net in NETWORKS for e in ENGINES if e == "torch" or net.compiled],
)


@cache
def stored():
    with np.load(GOLDEN) as file:
        return dict(file)


def samples_of(net):
    return stored()[f"{net.name}/samples"] / 32


def kernels_of(net):
    """(outputs, 2, n, n): NNGP and NTK of all samples, those of x1 before those of x2."""
    return stored()[f"{net.name}/kernels"]


def stacked(kernels):
    """The same layout, of what ntkit gives for one output or several."""
    outputs = (kernels,) if isinstance(kernels, ntkit.infinite.Kernels) else kernels
    return np.stack([np.stack([output.nngp, output.ntk]) for output in outputs])


def scale_of(golden):
    """√(K_ii K_jj)."""
    root = np.sqrt(np.diagonal(golden, axis1=-2, axis2=-1))
    return root[..., :, None] * root[..., None, :]


def with_mask(net, x):
    """What the model takes: samples, and where tokens are missing which are there."""
    if not net.masked:
        return x
    return x, (x != MASKED / 32).all(axis=1)


def agree_within(bound, kernel, net, x, golden, engine):
    """All samples with one another, and x1 with x2."""
    joint = stacked(kernel(with_mask(net, x), engine=engine))
    assert joint.dtype == x.dtype
    assert np.all(np.abs(joint - golden) <= bound)

    block = stacked(kernel(with_mask(net, x[: net.n1]), with_mask(net, x[net.n1 :]), engine=engine))
    assert block.dtype == x.dtype
    assert np.all(np.abs(block - golden[..., : net.n1, net.n1 :]) <= bound[..., : net.n1, net.n1 :])


@every_engine
def test_float64_equals_neural_tangents(net, engine):
    kernel, x, golden = ntkit.InfiniteKernel(torch_model(net)), samples_of(net), kernels_of(net)
    bound = 1e-9 * np.maximum(np.abs(golden), 0.01 * scale_of(golden))  # of the entry, unless it is nearly zero
    agree_within(bound, kernel, net, x, golden, engine)


@every_engine
def test_float32_is_close_to_neural_tangents_in_float64(net, engine):
    kernel, x, golden = ntkit.InfiniteKernel(torch_model(net)), samples_of(net).astype(np.float32), kernels_of(net)
    bound = (2e-6 if net.fully_connected else 5e-6) * scale_of(golden)
    agree_within(bound, kernel, net, x, golden, engine)


@every_network
def test_golden_values_belong_to_the_network_as_it_stands(net):
    assert stored()[f"{net.name}/fingerprint"] == net.fingerprint, "run make_golden.py again (golden/README.md)"
    assert samples_of(net).shape == (net.n1 + net.n2, *net.shape)
    assert kernels_of(net).shape == (len(net.outputs), 2, net.n1 + net.n2, net.n1 + net.n2)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@every_network
def test_torch_gives_the_shapes_that_the_description_states(net):
    x = torch.from_numpy(samples_of(net)).float()
    given = with_mask(net, x)
    result = torch_model(net)(*given) if net.masked else torch_model(net)(x)
    outputs = result if isinstance(result, tuple) else (result,)
    expected = [shape_after_all(steps, net.shape) for steps in net.outputs]
    assert [tuple(output.shape[1:]) for output in outputs] == expected


def test_the_list_is_as_broad_as_it_says():
    assert len(BY_NAME) == len(NETWORKS) >= 36
    assert max(Counter(net.feature for net in NETWORKS).values()) <= 3
    assert {str(stored()["version"])} == {"0.6.5"}
    assert {name.split("/")[0] for name in stored()} == {*BY_NAME, "version"}
    assert all(n % 16 for net in NETWORKS for n in (net.n1, net.n2, net.n1 + net.n2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stride-2-even", "pool-uncounted", "circular-even"])
def test_golden_nngp_is_the_covariance_of_wide_random_networks(name):
    """The two translations of a description mean the same network: torch's wide networks have golden covariances."""
    net, draws = BY_NAME[name], 1000
    model = torch_model(replace(net, steps=widened(net.steps, 32)))
    x = torch.from_numpy(samples_of(net)).float()
    covariances = []
    with torch.no_grad():
        for _ in range(draws):
            for module in model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            output = model(x)
            covariances.append(output @ output.T / output.shape[1])
    estimate = torch.stack(covariances).double().numpy()
    error = np.abs(estimate.mean(0) - kernels_of(net)[0, 0])
    assert np.all(error <= 4 * estimate.std(0, ddof=1) / draws**0.5)
