"""The bound on the error of quadrature that `kernel.plan` states: of single pairs in sixty digits, and of networks."""

from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import ntkit
from ntkit.architecture import VARIABLE, Expression
from ntkit.infinite.dual import Series, plane
from ntkit.infinite.dual.quadrature import value_and_slope
from oracles import convolutional, recursion

# functions whose moments are known in sixty digits, integrated all the same
INTEGRATED = {
    "relu": Expression("clamp", (VARIABLE, 0.0, None)),
    "rectified square": Expression("pow", (Expression("clamp", (VARIABLE, 0.0, None)), 2)),
    "erf": Expression("erf", (VARIABLE,)),
    "gelu": Expression("gelu", (VARIABLE, "none")),
    "gaussian": Expression("gaussian", (VARIABLE, 1.0, -1.0)),
    "exp": Expression("exp", (VARIABLE,)),
    "cube": Expression("pow", (VARIABLE, 3)),
}
TOLERANCES = [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12]
# whole powers of two, so that neither the variances nor the angles carry a rounding: h is sin²(θ/2)
R1, R2 = np.resize([1.0, 2.0, 0.5, 1.0], 26), np.resize([1.0, 2.0, 1.0, 0.25], 26)
H = np.concatenate(
    [2.0 ** -np.array([1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40]), 1 - 2.0 ** -np.arange(1.0, 40, 3)]
)


def in_sixty_digits(name):
    """E[σσ] and E[σ'σ'] of all pairs, (2, n); the second is the slope of the first along s (Price 1958)."""
    kernel, rows = recursion.MP[name], []
    with mpmath.workdps(60):
        for r1, r2, h in zip(R1, R2, H, strict=True):
            q1, q2, s = mpmath.mpf(r1) ** 2, mpmath.mpf(r2) ** 2, mpmath.mpf(r1) * r2 * (1 - 2 * mpmath.mpf(h))
            rows.append([float(kernel(q1, q2, s)), float(mpmath.diff(partial(kernel, q1, q2), s))])
    return np.array(rows).T


@pytest.mark.parametrize("name", INTEGRATED)
def test_every_pair_is_within_the_bound(name):
    product, slopes = in_sixty_digits(name)
    q = torch.from_numpy(np.concatenate([R1, R2]) ** 2)
    d = torch.from_numpy((R1 - R2) ** 2 + 4 * H * R1 * R2)
    for tolerance in TOLERANCES:
        series = Series(INTEGRATED[name], tolerance)
        both = series.samples(q)
        one, two = both[: len(R1)], both[len(R1) :]
        distance, found = series.pairs(one, two, d, True)
        assert found is not None
        covariance = (one.variance + two.variance - distance) / 2
        size = torch.sqrt(one.variance * two.variance).numpy()
        slope_size = torch.sqrt(one.tables["b_square"] * two.tables["b_square"]).numpy()
        assert series.error == max(tolerance, 1e-11)
        assert np.max(np.abs(covariance.numpy() - product) / size) <= series.error
        assert np.max(np.abs(found.numpy() - slopes) / slope_size) <= series.error


# ---- close and opposite pairs of steep functions ---------------------------------------------------------------------

SIGMOID = Expression("sigmoid", (VARIABLE,))
STEEP = {  # what is integrated -> function and slope
    "tanh": (Expression("tanh", (VARIABLE,)), np.tanh, lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2),
    "sigmoid": (SIGMOID, special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "silu": (
        Expression("mul", (VARIABLE, SIGMOID)),
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    ),
    "softplus": (  # without torch's step of 2e-9 at x = 20, which is a panel's edge here and not in the oracle
        Expression("softplus", (VARIABLE, 1.0, 60.0)),
        lambda x: np.logaddexp(0, x),
        special.expit,
    ),
    "mish": (
        Expression("mish", (VARIABLE,)),
        lambda x: x * np.tanh(np.logaddexp(0, x)),
        lambda x: (t := np.tanh(np.logaddexp(0, x))) + x * (1 - t * t) * special.expit(x),
    ),
    "elu": (
        Expression("elu", (VARIABLE,)),
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    ),
    "softsign": (
        Expression("softsign", (VARIABLE,)),
        lambda x: x / (1 + np.abs(x)),
        lambda x: 1 / (1 + np.abs(x)) ** 2,
    ),
}
GAPS = np.repeat([1e-2, 1e-5, 1e-12], 2)  # each beside correlation 1 and −1
RATIOS = np.resize([1.0, 1.0, 1.3, 1.3, 1.0, 1.0], len(GAPS))


@pytest.mark.parametrize("name", STEEP)
@pytest.mark.parametrize("variances", [(0.01, 20.0), (100.0,), (2.0, 600.0), (1e4,)])
def test_close_and_opposite_pairs_are_within_the_bound_at_any_variance(name, variances):
    expression, function, slope = STEEP[name]
    r1 = np.repeat(np.sqrt(variances), len(GAPS))
    r2, gap, opposite = (np.resize(a, len(r1)) for a in (RATIOS, GAPS, [False, True]))
    r2 = r1 * r2
    exact = np.array(
        [recursion.close_pair_moments(function, slope, *pair) for pair in zip(r1, r2, gap, opposite, strict=True)]
    )
    d = torch.from_numpy((r1 - r2) ** 2 + 2 * r1 * r2 * np.where(opposite, 2 - gap, gap))
    for tolerance in (1e-8, 1e-11):
        series = Series(expression, tolerance)
        both = series.samples(torch.from_numpy(np.concatenate([r1, r2]) ** 2))
        one, two = both[: len(r1)], both[len(r1) :]
        distance, slopes = series.pairs(one, two, d, True)
        assert slopes is not None
        covariance = (one.variance + two.variance - distance) / 2
        size = torch.sqrt(one.variance * two.variance).numpy()
        slope_size = torch.sqrt(one.tables["b_square"] * two.tables["b_square"]).numpy()
        assert np.max(np.abs(covariance.numpy() - exact[:, 0]) / size) <= series.error
        assert np.max(np.abs(slopes.numpy() - exact[:, 1]) / slope_size) <= series.error


def test_pairs_of_a_function_with_many_kinks_take_little_memory(monkeypatch):
    """Sawteeth, 90 kinks: each pair has 2 million points."""
    sizes = []

    def counted(expression, x):
        sizes.append(x.numel())
        return value_and_slope(expression, x)

    monkeypatch.setattr(plane, "value_and_slope", counted)
    wave = Expression("abs", (Expression("sin", (VARIABLE, 1.0, 1.0, 0.0)),))
    series, q = Series(wave, 1e-8), torch.full((3,), 240.0, dtype=torch.float64)
    both = series.samples(q)
    assert both.tables["kinks"].shape[1] > 80
    distance, _ = series.pairs(both[:1], both[1:], 1e-7 * q[None, :2], True)
    # u and v are close: E[(σu − σv)²] is E[σ'²] E[(u − v)²], up to the share s of pairs with a kink between
    assert distance.numpy() == pytest.approx(1e-7 * 240.0 * float(both.tables["b_square"][0]), rel=1e-2)
    assert max(sizes) <= 400_000


# ---- a convolutional network -----------------------------------------------------------------------------------------

W, B = 1.3, 0.2


class Clamp(nn.Module):
    """ReLU, written so that it is integrated."""

    def forward(self, x):
        return torch.clamp(x, min=0)


NETWORKS = {  # modules that are integrated -> an oracle's dual
    "tanh": (nn.Tanh, recursion.panel_dual(np.tanh, lambda x: 1 / np.cosh(x) ** 2, step=0.05)),
    "clamp": (Clamp, recursion.leaky_relu_dual(0.0)),
}


def network(activation, head):
    layers = [ntkit.nn.Conv1d(2, 8, 3, padding=1, w_std=W, b_std=B), activation()]
    if head == "mean":
        return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), ntkit.nn.Linear(8, 1, W, B))
    return nn.Sequential(*layers, nn.Flatten(), ntkit.nn.Linear(8 * 4, 1, W, B))


def textbook(x1, x2, dual, head):
    """(nngp, ntk, and the bounds of their errors for a bound of 1 of the activation's moments)."""

    def over_positions(k):
        return k.mean(axis=(2, 3)) if head == "mean" else np.trace(k, axis1=2, axis2=3) / k.shape[2]

    field = convolutional.affine(convolutional.window(convolutional.data(x1, x2), 3, padding=1), W, B)
    q1, q2 = (np.diagonal(k, axis1=1, axis2=2) for k in (field.k11, field.k22))
    q1, q2 = q1[:, None, :, None], q2[None, :, None, :]
    after, slope = dual(*np.broadcast_arrays(q1, q2), field.k12)
    (one, one_slope), (two, two_slope) = dual(q1, q1, q1 * (1 - 1e-15)), dual(q2, q2, q2 * (1 - 1e-15))
    size, slope_size = np.sqrt(one * two), np.sqrt(one_slope * two_slope)
    nngp, t = W**2 * over_positions(after) + B**2, W**2 * over_positions(slope * field.t12)
    bound = W**2 * over_positions(size)
    return nngp, nngp + t, bound, bound + W**2 * over_positions(slope_size * np.abs(field.t12))


@pytest.mark.parametrize("head", ["mean", "flatten"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_convolutional_network_is_within_what_its_plan_says(name, head):
    activation, dual = NETWORKS[name]
    rng = np.random.default_rng(0)
    x1 = rng.standard_normal((3, 2, 4))
    x2 = np.concatenate([x1[:1] + 1e-3 * rng.standard_normal((1, 2, 4)), -x1[1:2] + 1e-3, x1[2:] + 1])
    nngp, ntk, nngp_bound, ntk_bound = textbook(x1, x2, dual, head)
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-8):
        kernel = ntkit.InfiniteKernel(network(activation, head), tolerance=tolerance)
        assert f"quadrature: E[σ(u)σ(v)] to {tolerance:g} of √(E[σ(u)²] E[σ(v)²])" in str(kernel.plan((3, 2, 4)))
        found = kernel(x1, x2)
        assert np.all(np.abs(found.nngp - nngp) <= tolerance * nngp_bound)
        assert np.all(np.abs(found.ntk - ntk) <= tolerance * ntk_bound)
    assert np.max(np.abs(kernel(x1, x2).nngp - nngp)) > 0, "the oracle is another computation"
