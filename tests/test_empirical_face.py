"""Which parameters count, what form samples have, and that the model is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import ntkit.nn
from empirical_networks import CASES, TiedDecoder, assert_same, conv_net, features, mlp, tokens
from ntkit.empirical import EmpiricalKernel, empirical_ntk
from oracles import jacobian as oracle


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("0.*", ["0.weight", "0.bias"]),
        (["*.bias"], ["0.bias", "2.bias", "4.bias"]),
        (["2.weight", "4.bias"], ["2.weight", "4.bias"]),
    ],
)
def test_selected_parameters(patterns, names):
    model, x = mlp().double(), features(5)
    j = oracle.jacobian(model, x, names)
    assert_same(empirical_ntk(model, x, parameters=patterns), oracle.kernel(j, j, "full"))


def test_frozen_parameters_are_left_out_unless_named():
    model, x = mlp().double(), features(5)
    whole = oracle.jacobian(model, x)
    part = oracle.jacobian(model, x, ["2.weight", "2.bias", "4.weight", "4.bias"])
    model[0].requires_grad_(False)
    assert_same(empirical_ntk(model, x), oracle.kernel(part, part, "full"))
    assert_same(empirical_ntk(model, x, parameters="*"), oracle.kernel(whole, whole, "full"))
    assert not model[0].weight.requires_grad


def test_an_alias_selects_a_tied_parameter():
    model, x = TiedDecoder().double(), tokens(4)
    j = oracle.jacobian(model, x, ["tokens.weight"])
    assert_same(empirical_ntk(model, x, parameters="decoder.weight"), oracle.kernel(j, j, "full"))


def test_a_parameter_that_reaches_no_output_contributes_zero():
    model, x = mlp().double(), features(5)
    before = empirical_ntk(model, x)
    model.spare = nn.Linear(3, 3).double()
    model.forward = lambda x: nn.Sequential(*list(model)[:5])(x)
    assert torch.equal(empirical_ntk(model, x), before)
    assert EmpiricalKernel(model).plan(x).parameters[-1].route == "unused"


def test_forward_function():
    model, x = mlp().double(), features(5)
    ours = EmpiricalKernel(model, forward=lambda f, x: f(x["a"])[:, :2] ** 2).ntk({"a": x})
    j = oracle.jacobian(nn.Sequential(model, Square()), x)
    assert_same(ours, oracle.kernel(j, j, "full"))


class Square(nn.Module):
    def forward(self, y):
        return y[:, :2] ** 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_in_numpy_out(dtype):
    model = mlp().to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(dtype)[::-1]
    K = empirical_ntk(model, x)
    assert isinstance(K, np.ndarray)
    assert K.dtype == dtype
    np.testing.assert_array_equal(K, empirical_ntk(model, torch.from_numpy(x.copy())).numpy())


@pytest.mark.parametrize("name", ["mlp", "convolutions", "in-place ReLU", "branching", "weight norm"])
def test_the_model_and_the_data_are_left_as_they_were(name):
    make, draw, _ = CASES[name]
    model, x = make().double(), draw(5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    next(iter(model.parameters())).requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    data, random = x.clone(), torch.random.get_rng_state()
    kernel = EmpiricalKernel(nn.Sequential(nn.ReLU(inplace=True), model))  # works in place on what it is given
    with torch.no_grad():
        kernel.ntk(x), kernel.ntk(x, x), kernel.diagonal(x), kernel.plan(x)
    assert torch.equal(x, data)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (len(list(model.parameters())) - 1)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())


def test_hooks_are_removed_when_the_model_fails():
    model = mlp().double()
    with pytest.raises(ntkit.errors.InvalidInput, match="cannot be run on samples of this form"):
        empirical_ntk(model, features(3, 5))
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(mode):
    model, x = conv_net().double(), features(3, 1, 4, 4)
    expected = empirical_ntk(model, x)
    with mode():
        assert torch.equal(empirical_ntk(model, x), expected)


def test_the_kernel_follows_training():
    model, x = mlp().double(), features(4)
    kernel = EmpiricalKernel(model, outputs="trace")
    before = kernel.ntk(x)
    with torch.no_grad():
        model[0].weight *= 2
    j = oracle.jacobian(model, x)
    assert_same(kernel.ntk(x), oracle.kernel(j, j, "trace"))
    assert not torch.allclose(kernel.ntk(x), before)


def test_float32_keeps_its_dtype_and_accuracy():
    model, x = mlp(), torch.randn(6, 4)
    K = empirical_ntk(model, x)
    assert K.dtype == torch.float32
    assert_same(K.double(), empirical_ntk(model.double(), x.double()), 1e-6)


def test_the_plan_prints_every_parameter():
    plan = EmpiricalKernel(conv_net(), outputs="trace").plan(torch.randn(5, 1, 4, 4))
    text = str(plan)
    assert all(p.name in text and p.route in text for p in plan.parameters)
    assert plan.flops == sum(p.flops for p in plan.parameters) > 0
    assert 'outputs="trace"' in text


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace", "mean"])
@pytest.mark.parametrize("name", ["no bias", "NTK parameterisation", "shared layer", "attention", "embedding"])
def test_the_kernel_is_a_constant(name, outputs):
    make, draw, _ = CASES[name]
    kernel = EmpiricalKernel(make().double(), outputs=outputs)
    assert not kernel.ntk(draw(3)).requires_grad
    assert not kernel.diagonal(draw(3)).requires_grad
