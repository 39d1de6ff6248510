"""Normalisation layers: against a textbook recursion, wide networks, and each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from layer_cases import B, W, assert_limit, conv, data, linear
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.infinite.dual import erf
from oracles import recursion

EPS = 0.1


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


# ---- a textbook recursion --------------------------------------------------------------------------------------------


def textbook(x: np.ndarray, trained: bool, act: Any) -> tuple[np.ndarray, np.ndarray]:
    """(nngp, ntk) of linear, norm, activation, linear, norm, linear, from covariances and nothing else."""

    def affine(k, t):
        return W**2 * k + B**2, W**2 * t + W**2 * k + B**2

    def norm(k, t):
        r = np.sqrt(np.diag(k) + EPS)
        return k / np.outer(r, r), t / np.outer(r, r)

    k, t = affine(x @ x.T / x.shape[1], np.zeros((len(x), len(x))))
    k, t = norm(k, t)
    q = np.diag(k)
    after, slope, scale = (np.empty_like(k) for _ in range(3))
    for i in range(len(x)):
        for j in range(len(x)):
            after[i, j], slope[i, j], scale[i, j] = act(q[i], q[j], k[i, j])
    t = slope * (t + trained) + trained * scale
    k, t = norm(*affine(after, t))
    return affine(k, t + trained * (k + 1))


def by_grid(function: Any, slope: Any) -> Any:
    """E[σσ], E[σ'σ'] and E[uσ' vσ'] by Gauss-Hermite quadrature in the plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def act(q1, q2, s):
        rho = s / math.sqrt(q1 * q2)
        u = math.sqrt(q1) * nodes[:, None]
        v = math.sqrt(q2) * (rho * nodes[:, None] + math.sqrt(max(1 - rho**2, 0)) * nodes[None, :])
        w = weights[:, None] * weights[None, :]
        return tuple(float((w * f(u) * f(v)).sum()) for f in (function, slope, lambda z: z * slope(z)))

    return act


def rectified(slope: float) -> Any:
    dual = recursion.leaky_relu_dual(slope)

    def act(q1, q2, s):
        after, derivative = (float(v) for v in dual(*(np.array(v) for v in (q1, q2, s))))
        return after, derivative, after  # uσ'(u) = σ(u)

    return act


class Exponential(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x)


ACTIVATIONS = {
    "relu": (nn.ReLU(), rectified(0.0)),
    "leaky": (nn.LeakyReLU(0.2), rectified(0.2)),
    "erf": (ntkit.nn.Erf(), by_grid(np.vectorize(math.erf), lambda z: 2 / math.sqrt(math.pi) * np.exp(-(z**2)))),
    "sin": (
        ntkit.nn.Sin(1.1, 0.7, 0.3),
        by_grid(lambda z: 1.1 * np.sin(0.7 * z + 0.3), lambda z: 0.77 * np.cos(0.7 * z + 0.3)),
    ),
    "cos": (
        ntkit.nn.Cos(1.0, 1.2, 0.4),
        by_grid(lambda z: np.cos(1.2 * z + 0.4), lambda z: -1.2 * np.sin(1.2 * z + 0.4)),
    ),
    "gaussian": (
        ntkit.nn.Gaussian(1.2, -0.6),
        by_grid(lambda z: 1.2 * np.exp(-0.6 * z**2), lambda z: -1.44 * z * np.exp(-0.6 * z**2)),
    ),
    "gelu": (nn.GELU(), by_grid(recursion.gelu, recursion.gelu_slope)),
    "exp": (Exponential(), by_grid(np.exp, np.exp)),
    "monomial": (ntkit.nn.Monomial(3), by_grid(lambda z: z**3, lambda z: 3 * z**2)),
}


@pytest.mark.parametrize("trained", [False, True])
def test_tanh_by_quadrature_equals_a_textbook_recursion(trained):
    act = by_grid(np.tanh, lambda z: 1 / np.cosh(z) ** 2)
    x = data(3, 5)
    found = ntkit.InfiniteKernel(two_norms(nn.Tanh(), trained), tolerance=1e-11)(x)
    np.testing.assert_allclose(
        found.ntk.numpy(), textbook(x.numpy(), trained, act)[1], rtol=1e-8
    )  # the grid's own error


def two_norms(activation: nn.Module, trained: bool) -> nn.Module:
    first, second = nn.LayerNorm(64, EPS), nn.LayerNorm(64, EPS)
    if not trained:
        first, second = frozen(first), frozen(second)
    return nn.Sequential(linear(5), first, activation, linear(64), second, linear(64, 1))


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equal_to_a_textbook_recursion(name, trained, engine):
    activation, act = ACTIVATIONS[name]
    x = data(4, 5)
    nngp, ntk = textbook(x.numpy(), trained, act)
    found = ntkit.InfiniteKernel(two_norms(activation, trained))(x, engine=engine)
    np.testing.assert_allclose(found.nngp.numpy(), nngp, rtol=1e-9)
    np.testing.assert_allclose(found.ntk.numpy(), ntk, rtol=1e-9)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU()])
def test_frozen_scales_go_before_any_activation(activation):
    x = data(3, 5)
    normal = ntkit.InfiniteKernel(nn.Sequential(linear(5), frozen(nn.LayerNorm(64, EPS)), activation, linear(64, 1)))
    found = normal.nngp(x)
    q = ntkit.InfiniteKernel(linear(5, 1)).nngp(x)
    r = (q.diagonal() + EPS).sqrt()
    rows = torch.linalg.cholesky(q / r / r[:, None]) * 3**0.5  # data whose covariance is the normalised one
    layer = ntkit.nn.Linear(3, 64, 1.0, 0.0)
    torch.testing.assert_close(found, ntkit.InfiniteKernel(nn.Sequential(layer, activation, linear(64, 1))).nngp(rows))


def test_a_trained_scale_before_an_activation_without_its_rule_is_refused(monkeypatch):
    monkeypatch.delattr(erf, "scale_derivative")  # as an activation from outside may leave it out
    kernel = ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.LayerNorm(64), ntkit.nn.Erf(), linear(64, 1)))
    assert kernel.nngp(data(2, 5)).shape == (2, 2)  # which the scale does not enter
    with pytest.raises(UnsupportedLayer, match=r"Erf at '2' reads what a normalisation .*freeze them"):
        kernel.ntk(data(2, 5))
    with pytest.raises(InvalidInput, match=r"Erf at '2' has no rule for a trained scale before it"):
        kernel.ntk(data(2, 5), engine="numba")


# ---- the same function, written in another way -----------------------------------------------------------------------


def same(one: nn.Module, two: nn.Module, x: torch.Tensor) -> None:
    first, second = (ntkit.InfiniteKernel(model)(x) for model in (one, two))
    torch.testing.assert_close(first.nngp, second.nngp, rtol=1e-12, atol=0)
    torch.testing.assert_close(first.ntk, second.ntk, rtol=1e-12, atol=0)


class Written(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = linear(5), linear(64, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.function(self.first(x))))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (nn.LayerNorm(64, EPS, elementwise_affine=False), lambda h: F.layer_norm(h, (64,), eps=EPS)),
        (nn.RMSNorm(64, EPS, elementwise_affine=False), lambda h: F.rms_norm(h, (64,), eps=EPS)),
        (nn.GroupNorm(4, 64, EPS, affine=False), lambda h: F.group_norm(h, 4, eps=EPS)),
    ],
)
def test_modules_and_functions_are_the_same(module, function):
    same(nn.Sequential(linear(5), module, nn.ReLU(), linear(64, 1)), Written(function), data(3, 5))


def test_over_vectors_all_three_are_the_same():
    layers = [nn.LayerNorm(64, EPS), nn.RMSNorm(64, EPS), nn.GroupNorm(2, 64, EPS)]
    one, *others = [nn.Sequential(linear(5), layer, nn.ReLU(), linear(64, 1)) for layer in layers]
    x, kernels = data(3, 5), []
    same(one, others[1], x)
    kernels = [ntkit.InfiniteKernel(model).ntk(x) for model in (one, others[0])]
    assert (kernels[0] > kernels[1]).all()  # RMSNorm has no shift


def test_rms_norm_takes_torch_s_rounding_unit_where_no_eps_is_given():
    eps = torch.finfo(torch.float32).eps
    layers = [nn.RMSNorm(64, elementwise_affine=False), nn.RMSNorm(64, eps, elementwise_affine=False)]
    same(*(nn.Sequential(linear(5), layer, linear(64, 1)) for layer in layers), 1e-3 * data(3, 5))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scale_of_the_data_does_not_matter_without_eps_and_biases(scale):
    layers = [ntkit.nn.Linear(5, 64, W), nn.LayerNorm(64, 0.0), nn.ReLU(), linear(64, 1)]
    kernel, x = ntkit.InfiniteKernel(nn.Sequential(*layers)), data(3, 5)
    torch.testing.assert_close(kernel.nngp(scale * x), kernel.nngp(x), rtol=1e-12, atol=0)


def test_group_norm_of_images_is_layer_norm_over_channels_and_positions():
    def model(norm: nn.Module) -> nn.Module:
        return nn.Sequential(
            conv(2, padding=1),
            norm,
            nn.ReLU(),
            conv(64, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            linear(64, 1),
        )

    norms = nn.GroupNorm(4, 64, EPS, affine=False), nn.LayerNorm((64, 4, 5), EPS, elementwise_affine=False)
    same(*map(model, norms), data(3, 2, 4, 5))


def test_over_channels_alone_each_position_has_its_own_norm():
    """On a network of one position it is the vectors' norm; of several it is no longer GroupNorm's."""

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = conv(2, padding=1), nn.LayerNorm(64, EPS), linear(64 * 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.last(torch.relu(h).flatten(1))

    x = data(3, 2, 2, 3)
    found = ntkit.InfiniteKernel(ChannelsLast()).nngp(x).diagonal()
    expected = W**2 * (1 - EPS / (1 + EPS)) / 2  # at eps of 0 every position would have second moment 1/2
    assert (found - B**2 < W**2 / 2).all()
    assert (found - B**2 > 0.5 * expected).all()
    whole = nn.Sequential(conv(2, padding=1), nn.GroupNorm(1, 64, EPS), nn.ReLU(), nn.Flatten(), linear(64 * 6, 1))
    assert not torch.allclose(ntkit.InfiniteKernel(whole).nngp(x).diagonal(), found, rtol=1e-3)


# ---- wide networks ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Trained scales before an activation, before a layer, in a sum, and before a pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(2, width, padding=1), conv(width, width, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(1, width, EPS), nn.GroupNorm(1, width, EPS)])
        self.last = linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norms[0](self.first(x)))
        return self.last(self.norms[1](self.second(h)).mean((2, 3)))


class OfPositions(nn.Module):
    """A scale for every channel and position, before an activation and before the read-out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(2, width, padding=1), conv(width, width, padding=1)
        self.norms = nn.ModuleList([nn.LayerNorm((width, 2, 3), EPS), nn.LayerNorm((width, 2, 3), EPS)])
        self.last = linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norms[0](self.first(x)))
        return self.last(self.norms[1](self.second(h)).mean((2, 3)))


class PreNorm(nn.Module):
    """A residual network with normalised branches, of vectors; RMSNorm behind an activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.branch = linear(5, width), linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width, EPS), nn.RMSNorm(width, EPS)])
        self.last = linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h = h + self.branch(self.norms[0](h))
        return self.last(self.norms[1](torch.relu(h)))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "sample"), [(Plain, (2, 2, 3)), (OfPositions, (2, 2, 3)), (PreNorm, (5,))])
def test_wide_networks_tend_to_the_exact_kernel(model, sample):
    x = data(3, *sample)
    exact = ntkit.InfiniteKernel(model(64))(x)
    draws = []
    for seed in range(48):
        torch.manual_seed(seed)
        draws.append(ntkit.empirical_ntk(model(512).double(), x, outputs="trace"))
    assert_limit(draws, exact.ntk)


# ---- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(("model", "sample"), [(Plain, (2, 4, 3)), (PreNorm, (5,))])
def test_both_engines_give_the_same(model, sample, n):
    kernel, x1, x2 = ntkit.InfiniteKernel(model(64)), data(n, *sample), data(3, *sample, seed=1)
    for second in (None, x2):
        found, expected = (kernel(x1, second, engine=engine) for engine in ("numba", "torch"))
        torch.testing.assert_close(found.nngp, expected.nngp, rtol=1e-11, atol=0)
        torch.testing.assert_close(found.ntk, expected.ntk, rtol=1e-11, atol=0)
        single = kernel(x1.float(), None if second is None else second.float(), engine="numba")
        torch.testing.assert_close(single.ntk.double(), expected.ntk, rtol=5e-6, atol=0)


def test_scales_of_every_position_take_the_torch_engine_where_positions_meet():
    assert "torch" in str(ntkit.InfiniteKernel(OfPositions(64)).plan((2, 2, 2, 3)))
    assert "numba" in str(ntkit.InfiniteKernel(Plain(64)).plan((2, 2, 4, 3)))
    flat = nn.Sequential(conv(2, padding=1), nn.LayerNorm((64, 2, 3)), nn.ReLU(), nn.Flatten(), linear(64 * 6, 1))
    kernel, x = ntkit.InfiniteKernel(flat), data(3, 2, 2, 3)
    torch.testing.assert_close(kernel.ntk(x, engine="numba"), kernel.ntk(x, engine="torch"), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("model", "sample"), [(Plain, (2, 2, 3)), (OfPositions, (2, 2, 3)), (PreNorm, (5,))])
def test_blocks_diagonals_and_definiteness(model, sample):
    kernel, x = ntkit.InfiniteKernel(model(64)), data(6, *sample)
    joint = kernel(x)
    for kind in ("nngp", "ntk"):
        whole = getattr(joint, kind)
        assert torch.linalg.eigvalsh(whole).min() > 0
        torch.testing.assert_close(getattr(kernel(x[:4], x[4:]), kind), whole[:4, 4:], rtol=1e-12, atol=0)
        torch.testing.assert_close(getattr(kernel.diagonal(x), kind), whole.diagonal(), rtol=1e-12, atol=0)


def test_gradients_in_the_inputs():
    kernel, x, y = ntkit.InfiniteKernel(Plain(64)), data(2, 2, 2, 3).requires_grad_(), data(2, 2, 2, 3, seed=1)
    assert torch.autograd.gradcheck(lambda v: kernel.ntk(v, y), (x,))
    assert torch.autograd.gradcheck(lambda v: kernel.diagonal(v).ntk, (x,))


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
def test_nearly_equal_samples_keep_their_distance(eps):
    layers = [ntkit.nn.Linear(8, 64, 1.0), nn.LayerNorm(64, eps, elementwise_affine=False), ntkit.nn.Linear(64, 1, 1.0)]
    kernel, x = ntkit.InfiniteKernel(nn.Sequential(*layers)), data(1, 8)
    step = data(1, 8, seed=1)
    step = step - (step * x).sum() / (x * x).sum() * x  # across, so that only the angle changes
    near = torch.cat([x, x + 1e-6 * step])
    q = (near**2).mean(1)
    unit = near / (q + eps).sqrt()[:, None]
    expected = ((unit[0] - unit[1]) ** 2).mean()
    gram = kernel.nngp(near)
    found = gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]
    assert abs(found - expected) < 1e-15
