"""Expansions in the parameters, against whole Jacobians and Hessians, and against training's closed form."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from empirical_networks import CASES, DirectParameter, assert_same, features, mlp, tokens
from expansion_models import (
    FUNCTIONAL_NORMS,
    MODELS,
    Constants,
    Functional,
    Fused,
    Lstm,
    call,
    convolved,
    gradient,
    moved,
    trainable,
)
from ntkit.empirical import empirical_ntk
from ntkit.empirical.expansion import linearize, taylor_expand
from ntkit.errors import InvalidInput


@pytest.mark.parametrize("name", MODELS)
def test_first_order_is_the_jacobian(name):
    make, draw = MODELS[name]
    model, x = make().double(), draw(3)
    linear = linearize(model)
    assert [n for n, _ in linear.named_parameters()] == [n for n, _ in model.named_parameters()]
    start = call(model, copy.deepcopy(x)).detach()
    assert torch.allclose(call(linear, x), start, rtol=1e-12, atol=1e-12)
    step = moved(linear)
    size = torch.cat([s.flatten() for s in step.values()])
    rows = torch.eye(start.numel(), dtype=start.dtype).reshape(-1, *start.shape)
    expected = torch.stack([gradient(model, x, row, list(trainable(model).values())) @ size for row in rows])
    got = call(linear, x)
    assert_same(got.detach() - start, expected.reshape(start.shape), 1e-9)
    weights = torch.randn_like(start)
    wanted = gradient(model, x, weights, list(trainable(model).values()))
    assert_same(gradient(linear, x, weights, list(trainable(linear).values())), wanted, 1e-9)


def test_a_batch_norm_that_moves_its_statistics_is_refused():
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    model = Functional(lambda x, w, b: F.batch_norm(x, mean, var, w, b, training=True)).double()
    with pytest.raises(InvalidInput, match=r"an expansion of order 2 needs .*, but batch_norm has none"):
        taylor_expand(model, 2)(features(3, 1, 5))


@pytest.mark.parametrize("name", ["mlp", "layer norm", "attention", "LSTM", "custom function", "fused attention",
                                  "solve", "instance norm"])  # fmt: skip
def test_the_gradient_in_the_data(name):
    make, draw = MODELS[name]
    model, x = make().double(), draw(2).requires_grad_()
    linear = linearize(model)
    step = moved(linear)
    weights = torch.randn_like(call(model, x))
    (got,) = torch.autograd.grad((linear(x) * weights).sum(), [x])

    def expanded(x):
        names = list(step)
        out = (call(model, x) * weights).sum()
        grads = torch.autograd.grad(out, [trainable(model)[n] for n in names], create_graph=True)
        return out + sum((g * step[n]).sum() for n, g in zip(names, grads, strict=True))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (expected,) = torch.autograd.grad(expanded(x), [x])
    assert_same(got, expected, 1e-9)


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), lambda: features(3, 3)),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Softplus(), nn.Flatten(), nn.Linear(8, 2)),
         lambda: features(2, 1, 3, 3)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 1)), lambda: features(2, 3)),
        (lambda: convolved(nn.InstanceNorm1d(2, affine=True)), lambda: features(2, 1, 5)),
        (lambda: convolved(nn.GroupNorm(1, 2), nn.BatchNorm1d(2)), lambda: features(2, 1, 5)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.SiLU(), nn.Linear(4, 1)), lambda: features(2, 3)),
        (lambda: nn.Sequential(Fused(), nn.Flatten(), nn.Linear(8, 2)), lambda: features(2, 2, 4)),
        (Constants, lambda: features(2)),
        (DirectParameter, lambda: features(2)),
        (Lstm, lambda: features(1, 2, 4)),
        *((lambda norm=norm: Functional(norm), lambda: features(3, 1, 5)) for norm in FUNCTIONAL_NORMS.values()),
    ],
)  # fmt: skip
def test_second_order_is_the_hessian(make, draw):
    model, x = make().double(), draw()
    names = list(trainable(model))
    start = [p.detach().clone() for p in trainable(model).values()]
    quadratic = taylor_expand(model, 2)
    step = torch.cat([s.flatten() for s in moved(quadratic).values()])

    def f(flat):
        parts = [part.view(p.shape) for part, p in zip(flat.split([p.numel() for p in start]), start, strict=True)]
        return torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (x,)).flatten()

    at = torch.cat([p.flatten() for p in start])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        J = torch.autograd.functional.jacobian(f, at)
        rows = range(len(J))
        H = torch.stack([torch.autograd.functional.hessian(lambda t, o=o: f(t)[o], at) for o in rows])
        expected = f(at) + J @ step + 0.5 * torch.einsum("oij,i,j->o", H, step, step)
    got = quadratic(x).flatten()
    assert_same(got.detach(), expected, 1e-9)
    weights = torch.randn(len(J), dtype=at.dtype)
    found = torch.autograd.grad(weights @ got, list(trainable(quadratic).values()))
    assert_same(torch.cat([g.flatten() for g in found]), weights @ (J + H @ step), 1e-9)


def test_the_third_order_of_a_scalar_network():
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    x = torch.tensor([[0.7]], dtype=torch.float64)
    cubic = taylor_expand(model, 3)
    a, b, c, d = (float(p.detach()) for p in model.parameters())
    da, db, dc, dd = (float(s) for s in moved(cubic).values())
    # along the line, tanh(z + t w) has the derivatives (1 − s²), −2s(1 − s²), (1 − s²)(6s² − 2), times wᵏ
    s, w = torch.tanh(torch.tensor(a * 0.7 + b, dtype=torch.float64)), da * 0.7 + db
    h = [s, (1 - s**2) * w, -2 * s * (1 - s**2) * w**2, (1 - s**2) * (6 * s**2 - 2) * w**3]
    expected = c * (h[0] + h[1] + h[2] / 2 + h[3] / 6) + dc * (h[0] + h[1] + h[2] / 2) + d + dd
    assert_same(cubic(x).detach().flatten(), expected.reshape(1), 1e-12)


def test_orders_come_closer_to_the_model():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double(), features(5)
    point = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved(model, 0.02)
    errors = [float((taylor_expand(model, k, point)(x) - model(x)).detach().abs().max()) for k in (1, 2, 3, 4)]
    assert all(later < earlier / 2 for earlier, later in pairwise(errors))


def test_a_given_point_of_expansion():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double(), features(5)
    point = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    f = lambda p: torch.func.functional_call(model, p, (x,))  # noqa: E731
    step = {name: p.detach() - point[name] for name, p in model.named_parameters()}
    value, slope = torch.func.jvp(f, (point,), (step,))
    linear = linearize(model, point)
    expected = (value + slope).detach()
    for p in point.values():
        p.zero_()  # it was copied
    assert_same(linear(x).detach(), expected, 1e-12)


def test_the_point_of_a_tied_model_by_either_name():
    model, x = CASES["tied embedding"][0]().double(), tokens(3)
    point = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    by_alias = {"decoder.weight" if name == "tokens.weight" else name: p for name, p in point.items()}
    assert torch.equal(linearize(model, point)(x), linearize(model, by_alias)(x))


def test_the_kernel_of_the_linearized_model_stays():
    model, x = mlp().double(), features(4)
    K = empirical_ntk(model, x)
    linear = linearize(model)
    moved(linear, 1.0)
    assert_same(empirical_ntk(linear, x), K, 1e-9)
    quadratic = taylor_expand(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double(), 2)
    before = empirical_ntk(quadratic, x)
    moved(quadratic, 1.0)
    assert (empirical_ntk(quadratic, x) - before).norm() > 0.1 * before.norm()


def test_training_follows_the_exponential():
    model, x = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 1)).double(), features(4)
    y = torch.randn(4, dtype=torch.float64)
    K = empirical_ntk(model, x, outputs="trace") / 4  # of the mean loss
    linear = linearize(model)
    start = linear(x).detach().flatten()
    rate, steps = 2e-3 / float(torch.linalg.eigvalsh(K)[-1]), 300
    optimiser = torch.optim.SGD(linear.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (0.5 * (linear(x).flatten() - y).square().mean()).backward()
        optimiser.step()
    got = linear(x).detach().flatten() - y
    flow = torch.linalg.matrix_exp(-rate * steps * K) @ (start - y)
    descent = torch.linalg.matrix_power(torch.eye(4) - rate * K, steps) @ (start - y)
    assert_same(got, flow, 1e-3)
    assert_same(got, descent, 1e-9)
    assert (got - (start - y)).norm() > 0.1 * got.norm()
