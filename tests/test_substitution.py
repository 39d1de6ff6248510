"""Other tensors in the places of a module's own, and everything back where it was."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from empirical_networks import assert_same, features
from ntkit.empirical import EmpiricalKernel, NTKOperator, empirical_ntk
from ntkit.empirical.expansion import linearize
from ntkit.empirical.gradients import gradient_features, per_sample_gradients
from ntkit.empirical.substitution import substituted
from oracles import jacobian as oracle


def exact(model, x):
    jacobian = oracle.jacobian(model, x)
    return oracle.kernel(jacobian, jacobian, "full")


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again, self.layers = self.first, nn.ModuleList([self.first])

    def forward(self, x):
        return self.first(x).tanh() @ self.again.weight


def twice(make=lambda: nn.Linear(4, 4)):
    layer = make()
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied_and_twice():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), first)


ALIASED = {
    "a layer twice": twice,
    "two names": Alias,
    "weight norm twice": lambda: twice(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
    "tied and twice": tied_and_twice,
    "batch norm twice": lambda: twice(lambda: nn.BatchNorm1d(4)).eval(),
}


@pytest.mark.parametrize("name", ALIASED)
def test_modules_with_two_names(name):
    model, x = ALIASED[name]().double(), features(5)
    expected = exact(model, x)
    before = {n: (p, p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)}
    buffers = {n: (b, b.clone()) for n, b in model.named_buffers(remove_duplicate=False)}
    for _ in range(2):  # the second would see what the first left behind
        assert_same(empirical_ntk(model, x), expected, 1e-9)
    EmpiricalKernel(model).diagonal(x), EmpiricalKernel(model).plan(x), EmpiricalKernel(model).parts(x)
    NTKOperator(model, x) @ torch.ones(20, dtype=x.dtype)
    per_sample_gradients(model, x), gradient_features(model, x, dimension=3), linearize(model)(x)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[n] is p and p.requires_grad == needed for n, (p, needed) in before.items())
    held = dict(model.named_buffers(remove_duplicate=False))
    assert all(held[n] is b and torch.equal(b, was) for n, (b, was) in buffers.items())


def test_an_expansion_of_modules_with_two_names_is_trained():
    linear = linearize(twice().double())
    x, own = features(5), dict(linear.named_parameters())
    for _ in range(2):
        linear(x).sum().backward()
    assert dict(linear.named_parameters()).keys() == own.keys()
    assert all(p is own[n] and p.grad is not None for n, p in linear.named_parameters())


def test_everything_is_put_back_behind_an_error():
    model = twice()
    weight = model[0].weight
    seen = []

    def fails():
        with substituted(model, {"2.weight": torch.zeros(4, 4)}):
            seen.append(model[0].weight)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not seen[0].any()
    assert model[0].weight is weight


def test_threads_do_not_take_each_others_tensors():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double(), features(6)
    expected, own = exact(model, x), list(model.parameters())
    found = []
    work = lambda: found.extend(empirical_ntk(model, x) for _ in range(5))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for kernel in found:
        assert_same(kernel, expected, 1e-9)
    assert all(p is q for p, q in zip(model.parameters(), own, strict=True))


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), features(3)
        found = empirical_ntk(model, x)
    usual = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    usual.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    assert_same(found.clone(), exact(usual, x.clone()), 1e-9)
