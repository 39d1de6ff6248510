"""Empirical kernels against the whole Jacobian in float64, for every kind of network and every layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ntkit.nn
from empirical_networks import CASES, Experts, Sequence, assert_equals_jacobian, assert_same, features, mlp
from ntkit.empirical import EmpiricalKernel, empirical_ntk
from oracles import jacobian as oracle

LAYOUTS = ("full", "diagonal", "trace", "mean")


@pytest.fixture(params=CASES, ids=str)
def case(request):
    make, draw, routes = CASES[request.param]
    return make().double(), draw, routes


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])  # "mean" is checked below, by torch.func
def test_equals_the_whole_jacobian(case, outputs):
    model, draw, routes = case
    kernel = EmpiricalKernel(model, outputs=outputs)
    x1, square = assert_equals_jacobian(kernel, draw)
    swapped = square.transpose(0, 1)
    assert torch.equal(square, swapped.transpose(2, 3) if outputs == "full" else swapped)
    if outputs == "full":
        assert {p.route for p in kernel.plan(x1).parameters} == routes


@pytest.mark.parametrize("outputs", LAYOUTS)
def test_equals_torch_func(outputs):
    model, x = mlp().double(), features(6)
    j = oracle.func_jacobian(model, x)
    assert_same(empirical_ntk(model, x, outputs=outputs), oracle.kernel(j, j, outputs))


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "sequence", "tied embedding", "branching", "heads"])
def test_many_blocks_equal_one(name, outputs):
    make, draw, _ = CASES[name]
    model, x1, x2 = make().double(), draw(4), draw(3)
    whole = EmpiricalKernel(model, outputs=outputs)
    cut, limit = smallest_kernel(model, outputs, x1)
    assert passes(model, lambda: cut.ntk(x1)) > passes(model, lambda: whole.ntk(x1)), limit
    square = cut.ntk(x1)
    assert_same(square, whole.ntk(x1), 1e-13)
    assert_same(cut.ntk(x1, x2), whole.ntk(x1, x2), 1e-13)
    assert_same(cut.diagonal(x1), whole.diagonal(x1), 1e-13)
    swapped = square.transpose(0, 1)
    assert torch.equal(square, swapped.transpose(2, 3) if outputs == "full" else swapped)


def passes(model, compute):
    """How often the model is run."""
    compute()  # routes are found, and remembered
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    compute()
    handle.remove()
    return len(calls)


def smallest_kernel(model, outputs, x):
    """The kernel with about the least memory limit that is not refused."""
    limit = 1_500
    while True:
        kernel = EmpiricalKernel(model, outputs=outputs, memory_limit=limit)
        try:
            kernel.plan(x), kernel.diagonal(x)
        except ntkit.errors.MemoryLimitExceeded:
            limit = limit * 2
        else:
            return kernel, limit


@pytest.mark.parametrize("outputs", LAYOUTS)
def test_samples_that_take_another_way_than_the_probe(outputs):
    model = Experts().double()
    x = features(9)
    x[:, 0] = x[:, 0].abs()
    x[[1, 4], 0] *= -1  # neither is among the samples that the routes are proved on
    j = oracle.jacobian(model, x)
    assert_same(empirical_ntk(model, x, outputs=outputs), oracle.kernel(j, j, outputs))
    assert_same(EmpiricalKernel(model, outputs=outputs, memory_limit=9_000).ntk(x), oracle.kernel(j, j, outputs))


@pytest.mark.parametrize("outputs", LAYOUTS)
def test_both_contractions_over_positions_agree(outputs, monkeypatch):
    model, x = Sequence().double(), features(5, 3, 4)
    kernels = []
    for kind in ("gram", "gradient"):
        monkeypatch.setattr("ntkit.empirical.schedule.cheaper_contraction", lambda *_, kind=kind: kind)
        kernel = EmpiricalKernel(model, outputs=outputs)
        assert {p.contraction for p in kernel.plan(x).parameters} == {kind}
        kernels.append((kernel.ntk(x), kernel.diagonal(x)))
    for one, other in zip(*kernels, strict=True):
        assert_same(one, other, 1e-13)


def test_the_contraction_is_chosen_by_cost():
    short = EmpiricalKernel(Sequence(), outputs="trace").plan(torch.randn(20, 1, 4))
    long = EmpiricalKernel(Sequence(), outputs="trace").plan(torch.randn(20, 30, 4))
    assert {p.contraction for p in long.parameters if p.name.startswith("mix")} == {"gradient"}
    assert {p.contraction for p in short.parameters if p.name.startswith("embed")} == {"gram"}


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    outputs=st.sampled_from(LAYOUTS),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_mlp(n, m, widths, outputs, bias, seed):
    torch.manual_seed(seed)
    sizes = [3, *widths]
    layers = [part for i, o in zip(sizes, widths, strict=False) for part in (nn.Linear(i, o, bias=bias), nn.Tanh())]
    model = nn.Sequential(*layers).double()
    x1, x2 = features(n, 3), features(m, 3)
    j1, j2 = oracle.jacobian(model, x1), oracle.jacobian(model, x2)
    assert_same(empirical_ntk(model, x1, x2, outputs=outputs), oracle.kernel(j1, j2, outputs))
