"""Expansions as modules: copied, moved, saved, in other modes, and what they refuse."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from empirical_networks import CASES, assert_same, features, mlp
from expansion_models import MODELS, Cayley, Custom, Named, OnceOnly, Outside, moved
from ntkit.empirical.expansion import linearize, taylor_expand
from ntkit.errors import InvalidInput


def test_the_model_is_left_as_it_was():
    model, x = CASES["convolutions"][0]().double(), features(3, 1, 4, 4)
    state = copy.deepcopy(model.state_dict())
    linear = linearize(model)
    moved(linear)
    linear(x).sum().backward()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    before = linear(x)
    moved(model)
    assert torch.equal(linear(x), before)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


def test_frozen_parameters_stay_frozen():
    model, x = mlp().double(), features(3)
    model[0].requires_grad_(False)
    linear = linearize(model)
    assert [name for name, p in linear.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias"]
    linear(x).sum().backward()
    assert linear.get_parameter("0.weight").grad is None
    state = {name: p + 0.1 for name, p in model.state_dict().items()}
    linear.load_state_dict(state)  # a frozen parameter that has moved counts
    whole = linearize(mlp_like(model))
    whole.load_state_dict(state)
    assert_same(linear(x).detach(), whole(x).detach(), 1e-12)
    everything = linearize(model.requires_grad_(False))
    assert torch.equal(everything(x), model(x))


def mlp_like(model):
    return copy.deepcopy(model).requires_grad_(True)


def test_outputs_of_any_structure_and_keywords():
    model, x, scale = Named().double(), features(3), torch.tensor(2.0, dtype=torch.float64)
    linear = linearize(model)
    step = moved(linear)
    got = linear(left=x, scale=scale)
    assert list(got) == ["hidden", "pair"]
    assert isinstance(got["pair"], tuple)

    def leaves(p):
        out = torch.func.functional_call(model, p, (x,), {"scale": scale})
        return out["hidden"], *out["pair"]

    point = {name: p.detach() for name, p in model.named_parameters()}
    values, slopes = torch.func.jvp(leaves, (point,), (step,))
    for ours, value, slope in zip((got["hidden"], *got["pair"]), values, slopes, strict=True):
        assert_same(ours.detach(), value + slope, 1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_copies_pickles_and_states(order):
    model, x = CASES["direct parameter"][0]().double(), features(3)
    expanded = taylor_expand(model, order)
    moved(expanded)
    assert expanded.state_dict().keys() == model.state_dict().keys()
    expected = expanded(x)
    for other in (copy.deepcopy(expanded), pickle.loads(pickle.dumps(expanded))):
        assert torch.equal(other(x), expected)
        moved(other)
        assert not torch.equal(other(x), expected)
        assert torch.equal(expanded(x), expected)
        assert other.float()(x.float()).dtype == torch.float32
    file = io.BytesIO()
    torch.save(expanded.state_dict(), file)
    file.seek(0)
    again = taylor_expand(model, order)
    again.load_state_dict(torch.load(file))
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize("name", ["convolutions", "direct parameter", "LSTM", "attention"])
def test_types_move_both_points(name):
    make, draw = MODELS[name]
    model, x = make().double(), draw(3)
    expanded = linearize(model)
    moved(expanded)
    expected = expanded(x).detach()
    single = expanded.float()
    assert single is expanded
    assert_same(single(x.float()).detach().double(), expected, 1e-5)
    assert_same(single.double()(x).detach(), expected, 1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["mlp", "attention", "custom function"])
def test_without_gradients(name, mode):
    make, draw = MODELS[name]
    model, x = make().double(), draw(3)
    expanded = linearize(model)
    moved(expanded)
    expected = expanded(x)
    assert expected.requires_grad
    with mode():
        got = expanded(x.clone())
        made = linearize(model)
    assert not got.requires_grad
    assert torch.equal(got, expected)
    made(x).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_modes_follow():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).double()
    expanded, x = linearize(model), features(5)
    with pytest.raises(InvalidInput, match=r"1 \(Dropout\) in training mode it draws random numbers; call model.eval"):
        expanded(x)
    model[1].p = 0.0
    with pytest.raises(InvalidInput, match=r"2 \(BatchNorm1d\) in training mode its statistics mix the samples"):
        linearize(model)(x)
    assert not any(module.training for module in expanded.eval().modules())
    assert_same(expanded(x).detach(), model.eval()(x).detach(), 1e-12)
    assert "Sequential, order=1" in repr(expanded)


class Switch(nn.Module):
    """Reads its mode, and owns a buffer that it writes to."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.gain if self.training else -x * self.gain


def test_the_mode_and_the_buffers_of_the_model_itself():
    model, x = Switch().double(), features(2)
    expanded = linearize(model)
    assert torch.equal(expanded(x), x)
    assert torch.equal(expanded.eval()(x), -x)
    assert float(expanded.calls) == float(model.calls) == 0
    assert expanded.float().calls.dtype == torch.float32


def test_operations_without_derivatives():
    x = features(3)
    with pytest.raises(InvalidInput, match=r"order 2 needs forward-mode .* but Cube has none .* or take order 1"):
        taylor_expand(Custom().double(), 2)(x)
    with pytest.raises(InvalidInput, match="order 1 needs forward-mode derivatives of every operation, but OnceOnly"):
        linearize(Custom(OnceOnly).double())(x)
    with pytest.raises(InvalidInput, match=r"but Outside has none \(its backward cannot be differentiated\)"):
        linearize(Custom(Outside).double())(x)
    with pytest.raises(InvalidInput, match="but linalg_solve has none"):
        taylor_expand(Cayley().double(), 2)(x)
    with pytest.raises(InvalidInput, match="but _weight_norm_interface has none"):
        taylor_expand(CASES["weight norm"][0]().double(), 2)(x)


def test_the_models_own_errors_stay():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        linearize(mlp().double())(features(3, 5))
    assert not isinstance(caught.value, InvalidInput)


class Integers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x), self.fc(x).argmax(1)


def test_what_is_refused():
    model = mlp()
    point = dict(model.named_parameters())
    with pytest.raises(InvalidInput, match="must have parameters to be expanded in, got ReLU with none"):
        linearize(nn.ReLU())
    with pytest.raises(InvalidInput, match="'weight' has no shape yet; run the model once"):
        linearize(nn.LazyLinear(3))
    with pytest.raises(InvalidInput, match=r"got also nonsense and nothing for 0\.weight; take dict"):
        linearize(model, {("nonsense" if name == "0.weight" else name): p for name, p in point.items()})
    with pytest.raises(InvalidInput, match=r"params0\['0.bias'\] must be like .* shape \(8,\) .* got shape \(7,\)"):
        linearize(model, point | {"0.bias": torch.zeros(7)})
    with pytest.raises(InvalidInput, match=r"float32 on cpu, got shape \(8,\) torch.float64"):
        linearize(model, point | {"0.bias": torch.zeros(8, dtype=torch.float64)})
    with pytest.raises(InvalidInput, match=r"params0\['0.bias'\] must be finite, got 8"):
        linearize(model, point | {"0.bias": torch.full((8,), torch.nan)})
    with pytest.raises(InvalidInput, match=r"floating point tensors, .* got a tensor of torch.int64 among its outputs"):
        linearize(Integers())(torch.ones(2, 4))
    model.leftover = model[0].weight * 2
    with pytest.raises(InvalidInput, match=r"the model must be copyable, .* but copy.deepcopy fails"):
        linearize(model)


@pytest.mark.usefixtures("unchecked")
def test_wrong_types():
    model = mlp()
    for order in (0, 1.0, True, -1):
        with pytest.raises(InvalidInput, match=f"order must be a whole number, 1 or more, got {order!r}"):
            taylor_expand(model, order)
    with pytest.raises(InvalidInput, match=r"params0\['0.bias'\] must be a torch tensor, got list"):
        linearize(model, dict(model.named_parameters()) | {"0.bias": [0.0]})
    with pytest.raises(InvalidInput, match=r"model must be a.*Module, got str"):
        linearize("model")
    with pytest.raises(InvalidInput, match="params0 must be a mapping from names to tensors, got list"):
        linearize(mlp(), list(mlp().parameters()))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x) + torch.randn_like(x[:, :3])


@pytest.mark.parametrize(
    "make",
    [Noisy, lambda: nn.LSTM(4, 3, 2, dropout=0.5), lambda: nn.Sequential(nn.Linear(4, 3), nn.RReLU())],
)
@pytest.mark.parametrize("order", [1, 2])
def test_models_that_draw_random_numbers_are_refused(make, order):
    expanded, state = taylor_expand(make(), order), torch.get_rng_state()
    x = torch.ones(5, 4)
    with pytest.raises(InvalidInput, match=r"the same function in every call .* draws random numbers"):
        expanded(x)
    assert torch.equal(torch.get_rng_state(), state)


class Pushed(torch.autograd.Function):
    """x³ with a jvp, of which torch takes no derivative."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g

    @staticmethod
    def jvp(ctx, t):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * t


def test_derivatives_of_a_jvp_are_refused():
    model, x = Custom(Pushed).double(), features(3)
    exact = model.b(3 * model.a(x) ** 2 * model.a(x))  # the derivative of x³ along x is 3 x³, and b's bias adds once
    linear = linearize(model)
    with torch.no_grad():
        linear.a.weight *= 2
        linear.a.bias *= 2
    assert_same((linear(x) - model(x)).detach(), (exact - model.b.bias).detach(), 1e-9)
    with pytest.raises(InvalidInput, match=r"order 2 needs .* the model calls Pushed; .*take order 1"):
        taylor_expand(model, 2)(x)


def test_values_of_tied_parameters_that_differ():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    point = {name: value.clone() for name, value in model.state_dict().items()}
    linearize(model, point)
    point["1.weight"] += 1
    with pytest.raises(InvalidInput, match=r"must agree where parameters are tied, '1.weight' differs from '0.weight'"):
        linearize(model, point)
