"""Expansions in the parameters, against whole Jacobians and Hessians, and against training's closed form."""

from __future__ import annotations

import copy
import io
import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from empirical_networks import CASES, DirectParameter, assert_same, features, mlp, tokens
from ntkit.empirical import empirical_ntk
from ntkit.empirical.expansion import linearize, taylor_expand
from ntkit.errors import InvalidInput


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.cells(x)[0][:, -1])


class Named(nn.Module):
    """Outputs in a dict and a tuple, one of them without parameters; called by names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, left, *, scale):
        h = torch.tanh(self.a(left)) * scale
        return {"hidden": h, "pair": (self.b(h), left.sum(1))}


class Fused(nn.Module):
    """Fused attention."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.scaled_dot_product_attention(self.q(x), self.k(x), x)


class Constants(nn.Module):
    """Autograd takes two factors for constants."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        with torch.no_grad():
            gate = torch.tanh(self.fc(x))
        return gate * self.fc(x) ** 2 * F.linear(x, self.fc.weight.data).detach()


class _Cube(torch.autograd.Function):
    """No jvp, and none of torch.func's transformations."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _OnceOnly(_Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _Outside(_Cube):
    """Its backward leaves autograd without a word."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (3 * x**2 * g).detach().clone()


class Cayley(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        eye = torch.eye(4, dtype=x.dtype)
        return torch.linalg.solve(eye + 0.1 * self.fc.weight, self.fc(x).mT).mT


class Custom(nn.Module):
    def __init__(self, function=_Cube):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 3), nn.Linear(3, 2), function

    def forward(self, x):
        return self.b(self.function.apply(self.a(x)))


def convolved(*norms):
    return nn.Sequential(nn.Conv1d(1, 2, 2), *norms, nn.Tanh(), nn.Flatten()).eval()


class Functional(nn.Module):
    """A normalisation by a function of torch's, over the samples where it is batch_norm."""

    def __init__(self, normalise):
        super().__init__()
        self.conv, self.normalise = nn.Conv1d(1, 2, 2), normalise
        self.scale, self.shift = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))

    def forward(self, x):
        return self.normalise(self.conv(x), self.scale, self.shift).tanh().flatten(1)


FUNCTIONAL_NORMS = {
    "F.batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "torch.batch_norm": lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "F.instance_norm": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "torch.instance_norm": lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "torch.layer_norm": lambda x, w, b: torch.layer_norm(x, (4,)) * w[:, None] + b[:, None],
    "F.group_norm": lambda x, w, b: F.group_norm(x, 1, w, b),
    "F.rms_norm": lambda x, w, b: F.rms_norm(x, (4,)) * w[:, None] + b[:, None],
    "running statistics": lambda x, w, b: F.batch_norm(x, b.detach().clone(), w.detach().square() + 1, w, b),
}


MODELS = {
    name: CASES[name][:2]
    for name in (
        "mlp", "in-place ReLU", "NTK parameterisation", "convolutions", "layer norm", "embedding", "tied embedding",
        "tied linears", "attention", "recurrent", "weight norm", "direct parameter", "branching", "centred", "tuple",
        "dict",
    )
} | {
    "LSTM": (Lstm, lambda n: features(n, 5, 4)),
    "fused attention": (Fused, lambda n: features(n, 5, 4)),
    "constants": (Constants, features),
    "custom function": (Custom, features),
    "solve": (Cayley, features),
    "instance norm": (lambda: convolved(nn.InstanceNorm1d(2, affine=True)), lambda n: features(n, 1, 5)),
    "in-place on the data": (lambda: nn.Sequential(nn.ReLU(inplace=True), mlp()), features),
}  # fmt: skip


def call(model, x):
    if isinstance(x, tuple):
        return model(*x)
    return model(**x) if isinstance(x, dict) else model(x)


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def moved(model, size=0.3):
    """θ and θ − θ₀: every trainable parameter moved at random."""
    with torch.no_grad():
        step = {name: size * torch.randn_like(p) for name, p in trainable(model).items()}
        for name, p in trainable(model).items():
            p += step[name]
    return step


def gradient(model, x, weights, wanted):
    """The gradients of Σ weights · model(x), as autograd gives them."""
    out = call(model, copy.deepcopy(x))
    found = torch.autograd.grad((out * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


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
    with pytest.raises(InvalidInput, match=r"order 2 needs forward-mode .* but _Cube has none .* or take order 1"):
        taylor_expand(Custom().double(), 2)(x)
    with pytest.raises(InvalidInput, match="order 1 needs forward-mode derivatives of every operation, but _OnceOnly"):
        linearize(Custom(_OnceOnly).double())(x)
    with pytest.raises(InvalidInput, match=r"but _Outside has none \(its backward cannot be differentiated\)"):
        linearize(Custom(_Outside).double())(x)
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
