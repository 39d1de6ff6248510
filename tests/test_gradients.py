"""Per-sample gradients against autograd one by one, their features against the kernel, and the last layer's kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
import ntkit.nn
from empirical_networks import CASES, assert_same, conv_net, features, mlp, tokens
from ntkit.empirical import empirical_ntk
from ntkit.empirical.gradients import empirical_nngp, gradient_features, per_sample_gradients
from ntkit.errors import InvalidInput, MemoryLimitExceeded
from oracles import jacobian as oracle


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_autograds_one_by_one(name):
    make, draw, _ = CASES[name]
    model, x = make().double(), draw(3)
    gradients = per_sample_gradients(model, x)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert list(gradients) == names
    for n, g in gradients.items():
        j = oracle.jacobian(model, x, [n])
        assert g.shape == (*j.shape[:2], *model.get_parameter(n).shape)
        assert torch.allclose(g.reshape(j.shape), j, rtol=1e-9, atol=1e-11)
        assert not g.requires_grad


@pytest.mark.parametrize("name", ["mlp", "convolutions", "attention", "tied embedding", "branching", "tuple", "dict"])
def test_products_of_features_are_the_kernel(name):
    make, draw, _ = CASES[name]
    model, x, y = make().double(), draw(4), draw(3)
    one, two = gradient_features(model, x), gradient_features(model, y)
    assert one.shape[2] == sum(p.numel() for p in model.parameters())
    assert_same(torch.einsum("nop,mqp->nmoq", one, two), empirical_ntk(model, x, y), 1e-9)


def test_sketches_are_unbiased_with_the_variance_that_is_said():
    model, x = mlp(outputs=1).double(), features(3)
    K = empirical_ntk(model, x, outputs="trace")
    k, seeds = 10, 80
    phi = torch.stack([gradient_features(model, x, dimension=k, seed=s)[:, 0] for s in range(seeds)])
    products = phi @ phi.mT
    bound = (torch.outer(K.diag(), K.diag()) + K**2) / k
    assert ((products.mean(0) - K).abs() <= 4 * (bound / seeds).sqrt()).all()
    variance = products.var(0)
    assert (variance <= 2 * bound).all()
    assert (variance >= 0.05 * bound).all()


def test_a_sketch_is_the_same_map_for_every_batch_block_and_selection():
    model, x = mlp().double(), features(5)
    whole = gradient_features(model, x, dimension=7, seed=3)
    apart = torch.cat([gradient_features(model, x[i : i + 1], dimension=7, seed=3) for i in range(5)])
    assert_same(apart, whole, 1e-12)
    limit = whole.numel() * 8 + 40_000
    assert_same(gradient_features(model, x, dimension=7, seed=3, memory_limit=limit), whole, 1e-12)
    names = [n for n, _ in model.named_parameters()]
    parts = [gradient_features(model, x, dimension=7, seed=3, parameters=n) for n in names]
    assert_same(torch.stack(parts).sum(0), whole, 1e-12)
    assert not torch.allclose(gradient_features(model, x, dimension=7, seed=4), whole)
    single = gradient_features(model.float(), x.float(), dimension=7, seed=3)
    assert_same(single.double(), whole, 1e-5)


def test_a_sketch_adds_every_coordinate_to_one_sum():
    model, x = mlp().double(), features(3)
    phi, rows = gradient_features(model, x, dimension=11), gradient_features(model, x)
    table = columns(model, 11)
    assert_same(rows @ table, phi, 1e-12)
    assert ((table != 0).sum(1) == 1).all()
    assert (table.abs().sum(1) == 1).all()
    assert (table.abs().sum(0) > 0).all()


def columns(model, k):
    """The map itself, from a model that gives its own parameters."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            for name, p in model.named_parameters():
                owner = self
                *path, last = name.split(".")
                for part in path:
                    if not hasattr(owner, part):
                        owner.add_module(part, nn.Module())
                    owner = getattr(owner, part)
                owner.register_parameter(last, nn.Parameter(p.detach().clone()))

        def forward(self, x):
            return torch.cat([p.flatten() for p in self.parameters()]).expand(len(x), -1) + 0 * x[:, :1]

    return gradient_features(Own(), features(1), dimension=k)[0]


@pytest.mark.parametrize("vmapped", ["convolutions", "branching"])
def test_blocks_within_a_memory_limit(vmapped):
    make, draw, _ = CASES[vmapped]
    model, x = make().double(), draw(6)
    whole = per_sample_gradients(model, x)
    size = sum(g.numel() * 8 for g in whole.values())
    small = per_sample_gradients(model, x, memory_limit=size + 40_000)
    for name, g in whole.items():
        assert torch.allclose(small[name], g, rtol=1e-12, atol=1e-13)


def test_sizes_are_checked_before_they_are_allocated():
    model, x = mlp(), torch.randn(1000, 4)
    what = r"the gradients of 1000 samples, 3 outputs and 139 parameters, needs 1\.59 MiB, but 1\.00 MiB is the memory"
    with pytest.raises(MemoryLimitExceeded, match=what):
        per_sample_gradients(model, x, memory_limit=2**20)
    with pytest.raises(MemoryLimitExceeded, match=r"the features, shape \(1000, 3, 100\), needs 1\.14 MiB"):
        gradient_features(model, x, dimension=100, memory_limit=2**20)
    with pytest.raises(MemoryLimitExceeded, match="one output at one sample need"):
        gradient_features(model, x[:1], dimension=1, memory_limit=100)
    with pytest.raises(InvalidInput, match="memory_limit must be a positive number of bytes, such as 4e9, got 0"):
        per_sample_gradients(model, x, memory_limit=0)


def test_selection_forward_and_numpy():
    model, x = mlp().double(), features(3)
    model[0].requires_grad_(False)
    assert list(per_sample_gradients(model, x)) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    g = per_sample_gradients(model, x, parameters="*.bias", forward=lambda f, x: f(x)[:, :1] ** 2)
    assert {name: tuple(t.shape) for name, t in g.items()} == {
        "0.bias": (3, 1, 8), "2.bias": (3, 1, 8), "4.bias": (3, 1, 3),
    }  # fmt: skip
    expected = (2 * model(x)[:, 0].detach())[:, None] * torch.eye(3, dtype=x.dtype)[0]
    assert_same(g["4.bias"][:, 0], expected, 1e-12)
    of_numpy = per_sample_gradients(model, x.numpy())["4.bias"]
    assert isinstance(of_numpy, np.ndarray)
    phi = gradient_features(model, x.numpy(), dimension=5)
    assert isinstance(phi, np.ndarray)
    np.testing.assert_array_equal(phi, gradient_features(model, x, dimension=5).numpy())
    with torch.inference_mode():
        assert torch.equal(per_sample_gradients(model, x)["4.bias"], torch.from_numpy(of_numpy))
    assert all(p.grad is None for p in model.parameters())


def test_what_is_refused():
    model, x = mlp(), torch.randn(3, 4)
    with pytest.raises(InvalidInput, match="dimension must be a whole number, 1 or more, got 0; None keeps"):
        gradient_features(model, x, dimension=0)
    with pytest.raises(InvalidInput, match="in training mode its statistics mix the samples"):
        per_sample_gradients(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), x)
    with pytest.raises(InvalidInput, match="x must be finite"):
        gradient_features(model, torch.full((3, 4), torch.nan))
    with pytest.raises(InvalidInput, match="'nothing' matches none of the model's parameters"):
        per_sample_gradients(model, x, parameters="nothing")


@pytest.mark.usefixtures("unchecked")
def test_wrong_types():
    with pytest.raises(InvalidInput, match=r"dimension must be a whole number, 1 or more, got 2.5"):
        gradient_features(mlp(), torch.randn(3, 4), dimension=2.5)
    with pytest.raises(InvalidInput, match="seed must be a whole number, got 'a'"):
        gradient_features(mlp(), torch.randn(3, 4), dimension=2, seed="a")


def test_the_nngp_at_large_width_is_the_infinite_one():
    wide = nn.Sequential(
        ntkit.nn.Linear(3, 4096, w_std=1.4, b_std=0.3), nn.ReLU(), ntkit.nn.Linear(4096, 4096, w_std=1.2, b_std=0.2),
        nn.ReLU(), ntkit.nn.Linear(4096, 2, w_std=1.1, b_std=0.4),
    )  # fmt: skip
    x = torch.randn(5, 3)
    K = ntkit.InfiniteKernel(wide).nngp(x)
    assert_same(empirical_nngp(wide, x), K, 0.1)  # a layer's sum of 4096 has a standard deviation of 3.5 %
    shallow = nn.Sequential(ntkit.nn.Linear(3, 4096, b_std=0.3), nn.ReLU(), ntkit.nn.Linear(4096, 2, 1.1, b_std=0.4))
    draws = []
    for _ in range(8):
        for layer in shallow[::2]:
            layer.reset_parameters()
        draws.append(empirical_nngp(shallow, x))
    assert_same(torch.stack(draws).mean(0), ntkit.InfiniteKernel(shallow).nngp(x), 0.03)


@pytest.mark.parametrize(
    ("model", "draw", "last", "body"),
    [
        (mlp(), features, None, lambda m, x: m[:4](x)),
        (nn.Sequential(mlp(), nn.Flatten(), nn.Identity()), features, None, lambda m, x: m[0][:4](x)),
        (nn.Sequential(mlp(), nn.Linear(3, 2), nn.LayerNorm(2)), features, "0.4", None),
        (conv_net()[:6], lambda n: features(n, 1, 4, 4), None, lambda m, x: m[:5](x)),
    ],
)
def test_the_nngp_is_the_kernel_of_the_features(model, draw, last, body):
    model, x, y = model.double(), draw(4), draw(2)
    if body is None:
        with pytest.raises(
            InvalidInput, match=r"affine in the parameters of the layer '0\.4', 0\.4\.weight, 0\.4\.bias"
        ):
            empirical_nngp(model, x, layer=last)
        with pytest.raises(InvalidInput, match=r"the parameter used last is '2\..*', which is none; name the module"):
            empirical_nngp(model, x)
        return
    one, two = body(model, x).detach(), body(model, y).detach()
    assert_same(empirical_nngp(model, x, y), one @ two.mT + 1, 1e-12)
    assert_same(empirical_nngp(model, x), one @ one.mT + 1, 1e-12)


class Headed(nn.Module):
    """A parameter of its own, a head that is called before it is made use of, and a scale behind it."""

    def __init__(self, tied=False):
        super().__init__()
        self.start = nn.Parameter(torch.randn(4))
        self.tokens, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.0))
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        return self.scale * self.head(torch.tanh(self.tokens(ids).mean(1) + self.start))


def test_the_layer_can_be_named():
    model, ids = Headed().double(), tokens(4)
    with pytest.raises(InvalidInput, match="the parameter used last is 'scale', which is none; name the module"):
        empirical_nngp(model, ids)
    h = torch.tanh(model.tokens(ids).mean(1) + model.start).detach()
    assert_same(empirical_nngp(model, ids, layer="head"), 4 * h @ h.T, 1e-12)
    with pytest.raises(
        InvalidInput, match=r"layer must be the path of a module that has parameters, one of .*'head', got"
    ):
        empirical_nngp(model, ids, layer="nothing")
    with pytest.raises(
        InvalidInput, match=r"affine in the parameters of the layer 'head', tokens.weight, but they are not"
    ):
        empirical_nngp(Headed(tied=True).double(), ids, layer="head")


@pytest.mark.parametrize("behind", [nn.ReLU(), nn.Tanh(), nn.Softmax(1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_activation_behind_the_last_layer_is_refused(behind, dtype):
    model = nn.Sequential(mlp(), behind).to(dtype)
    with pytest.raises(
        InvalidInput, match="must be affine in the parameters of the layer whose parameters are used last"
    ):
        empirical_nngp(model, torch.randn(1, 4, dtype=dtype))
    K = empirical_nngp(model, features(3).to(dtype), forward=lambda m, x: m[0](x))
    h = model[0][:4](features(3).to(dtype))
    assert K.shape == (3, 3)
    assert K.dtype == h.dtype


def test_the_nngp_of_numpy_data_and_several_inputs():
    model, x = mlp().double(), features(3)
    K = empirical_nngp(model, x.numpy())
    assert isinstance(K, np.ndarray)
    np.testing.assert_array_equal(K, empirical_nngp(model, x).numpy())

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, left, right):
            return self.b(torch.tanh(self.a(left)) * right)

    two, left, right = Two().double(), features(3), features(3, 1)
    h = (torch.tanh(two.a(left)) * right).detach()
    assert_same(empirical_nngp(two, (left, right)), h @ h.T + 1, 1e-12)
    assert_same(empirical_nngp(two, {"right": right, "left": left}), h @ h.T + 1, 1e-12)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x):
        return torch.cat([self.first(x.tanh()), self.second(x.tanh())], 1)


def test_heads_side_by_side_have_features_of_their_own():
    model, x = Heads().double(), features(5)
    for layer in (None, "second"):
        with pytest.raises(InvalidInput, match=r"the first output must depend on the layer of second\.weight"):
            empirical_nngp(model, x, layer=layer)
    expected = x.tanh() @ x.tanh().T + 1
    assert_same(empirical_nngp(model, x, layer="first"), expected, 1e-12)
    assert_same(empirical_nngp(model, x, forward=lambda m, x: m(x)[:, 2:]), expected, 1e-12)


def test_samples_that_meet_have_no_gradients_of_their_own():
    layer, x = nn.Linear(4, 2).double(), features(10)
    capacity = lambda self, x: self(x) * (torch.arange(len(x)) < 5).to(x)[:, None]  # noqa: E731
    for function in (per_sample_gradients, gradient_features):
        with pytest.raises(InvalidInput, match="another output alone than in a batch"):
            function(layer, x, forward=capacity)
