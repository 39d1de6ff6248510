"""Empirical kernels against the whole Jacobian in float64, for every kind of network and every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian as oracle
from torch import nn

import ntkit.nn
from ntkit.empirical import EmpiricalKernel, empirical_ntk

LAYOUTS = ("full", "diagonal", "trace", "mean")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = self.first(x)
        h += torch.relu(self.block(torch.relu(h)))
        return self.last(h)


class Shared(nn.Module):
    """One linear layer called three times."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = self.first(x)
        for _ in range(3):
            h = torch.tanh(self.again(h))
        return self.last(h)


class Sequence(nn.Module):
    """Linear layers over positions, an in-place activation on a view, one layer over two position axes."""

    def __init__(self, features=4):
        super().__init__()
        self.embed, self.mix, self.last = nn.Linear(features, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = F.relu(self.embed(x), inplace=True)
        h = h.unsqueeze(1) * h.unsqueeze(2)
        return self.last(torch.tanh(self.mix(h)).mean((1, 2)))


class SequenceFirst(nn.Module):
    """Positions on axis 0 inside: a layer rule must not take them for samples."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.embed(x.transpose(0, 1))).cumsum(0)[-1])


class TokenMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.last = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.last(torch.tanh(self.tokens(ids)).mean(1))


class TiedDecoder(nn.Module):
    """Embedding and decoder are one parameter."""

    def __init__(self):
        super().__init__()
        self.tokens, self.mix, self.decoder = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.decoder.weight = self.tokens.weight

    def forward(self, ids):
        return self.decoder(torch.tanh(self.mix(self.tokens(ids).sum(1))))


class TiedLinears(nn.Module):
    """Two modules with one weight and biases of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Borrowed(nn.Module):
    """The weight is also used behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(torch.tanh(self.fc(x)), self.fc.weight)


class Rescaled(nn.Linear):
    """A subclass of nn.Linear that computes something else."""

    def forward(self, input):
        return 3 * super().forward(input)


class DirectParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.fc = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 3)

    def forward(self, x):
        return self.gain * self.fc(x) ** 2


class Branching(nn.Module):
    """Branches on values, one sample at a time: torch.vmap cannot run it."""

    def __init__(self):
        super().__init__()
        self.gain, self.left, self.right = nn.Parameter(torch.ones(4)), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = x * self.gain
        return torch.stack(
            [self.left(row) if float(row[0].detach()) > 0 else self.right(row).tanh() for row in x]
        )


class Experts(nn.Module):
    """The second expert sees no sample with x[0] > 0, and then a part of the batch."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        goes_left = x[:, 0] > 0
        out = torch.zeros(len(x), 2, dtype=x.dtype)
        if goes_left.any():
            out = out.index_put((goes_left,), self.left(x[goes_left]).tanh())
        if (~goes_left).any():
            out = out.index_put((~goes_left,), self.right(x[~goes_left]))
        return out


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        return torch.tanh(self.a(left)) * self.b(right)


def mlp(bias=True, outputs=3, inplace=False):
    return nn.Sequential(
        nn.Linear(4, 8, bias=bias),
        nn.ReLU(inplace=inplace),
        nn.Linear(8, 8, bias=bias),
        nn.Tanh(),
        nn.Linear(8, outputs, bias=bias),
    )


def ntk_mlp():
    return nn.Sequential(
        ntkit.nn.Linear(4, 8, 1.4, 0.3), nn.ReLU(), ntkit.nn.Linear(8, 3, 0.7), ntkit.nn.Abs()
    )


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.PReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
        nn.LayerNorm(3),
    ).eval()


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)).eval()


def parametrised():
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[2])
    return model


def features(n, *shape):
    return torch.randn(n, *(shape or (4,)), dtype=torch.float64)


def tokens(n):
    return torch.randint(0, 7, (n, 5))


# name -> (model, samples, the routes that must appear)
CASES = {
    "mlp": (mlp, features, {"layer"}),
    "no bias": (lambda: mlp(bias=False), features, {"layer"}),
    "one output": (lambda: nn.Sequential(mlp(outputs=1), nn.Flatten(0)), features, {"layer"}),
    "in-place ReLU": (lambda: mlp(inplace=True), features, {"layer"}),
    "NTK parameterisation": (ntk_mlp, features, {"layer"}),
    "centred": (lambda: ntkit.nn.center(mlp(), 2.0), features, {"layer"}),
    "residual": (Residual, features, {"layer"}),
    "shared layer": (Shared, features, {"layer"}),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)),
        features,
        {"layer", "generic"},
    ),
    "convolutions": (conv_net, lambda n: features(n, 1, 4, 4), {"layer", "generic"}),
    "image output": (lambda: nn.Conv2d(1, 2, 3), lambda n: features(n, 1, 4, 4), {"generic"}),
    "sequence": (Sequence, lambda n: features(n, 3, 4), {"layer"}),
    "sequence first": (SequenceFirst, lambda n: features(n, 3, 4), {"layer", "generic"}),
    "as many positions as samples": (SequenceFirst, lambda n: features(n, 4, 4), {"layer", "generic"}),
    "attention": (transformer, lambda n: features(n, 3, 4), {"layer", "generic"}),
    "recurrent": (
        lambda: nn.Sequential(nn.GRU(4, 3, batch_first=True), Last()),
        lambda n: features(n, 3, 4),
        {"layer", "generic"},
    ),
    "embedding": (TokenMean, tokens, {"layer", "generic"}),
    "tied embedding": (TiedDecoder, tokens, {"layer", "generic"}),
    "tied linears": (TiedLinears, features, {"layer", "generic"}),
    "borrowed weight": (Borrowed, features, {"layer", "generic"}),
    "another forward": (lambda: nn.Sequential(Rescaled(4, 3), nn.Tanh()), features, {"generic"}),
    "weight norm": (parametrised, features, {"layer", "generic"}),
    "direct parameter": (DirectParameter, features, {"layer", "generic"}),
    "branching": (Branching, features, {"generic"}),
    "tuple": (TwoInputs, lambda n: (features(n), features(n, 2)), {"layer"}),
    "dict": (TwoInputs, lambda n: {"right": features(n, 2), "left": features(n)}, {"layer"}),
}


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, states):
        return self.fc(states[0][:, -1])


@pytest.fixture(params=CASES, ids=str)
def case(request):
    make, draw, routes = CASES[request.param]
    return make().double(), draw, routes


def assert_same(ours, theirs, tolerance=1e-10):
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= tolerance * theirs.norm()
    assert theirs.norm() > 0


@pytest.mark.parametrize("outputs", LAYOUTS)
def test_equals_the_whole_jacobian(case, outputs):
    model, draw, routes = case
    x1, x2 = draw(5), draw(3)
    j1, j2 = oracle.jacobian(model, x1), oracle.jacobian(model, x2)
    kernel = EmpiricalKernel(model, outputs=outputs)
    square = kernel.ntk(x1)
    assert_same(square, oracle.kernel(j1, j1, outputs))
    assert_same(kernel.ntk(x1, x2), oracle.kernel(j1, j2, outputs))
    assert_same(kernel.diagonal(x1), torch.stack([square[n, n] for n in range(5)]))
    swapped = square.transpose(0, 1)
    assert torch.equal(square, swapped.transpose(2, 3) if outputs == "full" else swapped)
    assert {p.route for p in kernel.plan(x1).parameters} == routes


@pytest.mark.parametrize("outputs", LAYOUTS)
def test_equals_torch_func(outputs):
    model, x = mlp().double(), features(6)
    j = oracle.func_jacobian(model, x)
    assert_same(empirical_ntk(model, x, outputs=outputs), oracle.kernel(j, j, outputs))


@pytest.mark.parametrize("outputs", LAYOUTS)
@pytest.mark.parametrize("name", ["mlp", "convolutions", "sequence", "tied embedding", "branching"])
def test_many_blocks_equal_one(name, outputs):
    make, draw, _ = CASES[name]
    model, x1, x2 = make().double(), draw(7), draw(4)
    whole = EmpiricalKernel(model, outputs=outputs)
    cut, limit = smallest_kernel(model, outputs, x1)
    assert {p.block for p in cut.plan(x1).parameters} != {7}, limit
    assert_same(cut.ntk(x1), whole.ntk(x1), 1e-13)
    assert_same(cut.ntk(x1, x2), whole.ntk(x1, x2), 1e-13)
    assert_same(cut.diagonal(x1), whole.diagonal(x1), 1e-13)
    swapped = cut.ntk(x1).transpose(0, 1)
    assert torch.equal(cut.ntk(x1), swapped.transpose(2, 3) if outputs == "full" else swapped)


def smallest_kernel(model, outputs, x):
    """The kernel with the least memory limit, to a tenth, that is not refused."""
    limit = 2_000
    while True:
        kernel = EmpiricalKernel(model, outputs=outputs, memory_limit=limit)
        try:
            kernel.plan(x), kernel.diagonal(x)
        except ntkit.errors.MemoryLimitExceeded:
            limit = limit * 11 // 10
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
    assert_same(
        EmpiricalKernel(model, outputs=outputs, memory_limit=9_000).ntk(x), oracle.kernel(j, j, outputs)
    )


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
    short = EmpiricalKernel(Sequence(), outputs="trace").plan(torch.randn(20, 2, 4))
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
    layers = [
        part for i, o in zip(sizes, widths, strict=False) for part in (nn.Linear(i, o, bias=bias), nn.Tanh())
    ]
    model = nn.Sequential(*layers).double()
    x1, x2 = features(n, 3), features(m, 3)
    j1, j2 = oracle.jacobian(model, x1), oracle.jacobian(model, x2)
    assert_same(empirical_ntk(model, x1, x2, outputs=outputs), oracle.kernel(j1, j2, outputs))


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
    list(model.parameters())[0].requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    data, random = x.clone(), torch.random.get_rng_state()
    kernel = EmpiricalKernel(
        nn.Sequential(nn.ReLU(inplace=True), model)
    )  # works in place on what it is given
    with torch.no_grad():
        kernel.ntk(x), kernel.ntk(x, x), kernel.diagonal(x), kernel.plan(x)
    assert torch.equal(x, data)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (
        len(list(model.parameters())) - 1
    )
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
