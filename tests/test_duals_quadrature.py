"""Duals by quadrature against oracles in the plane: their tolerance, close pairs, kinks, what cannot be integrated."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import ntkit
from dual_cases import Q1, Q2, S, assert_relative, moments, sides, spec_of
from ntkit.architecture import VARIABLE, Expression, specs
from ntkit.architecture.closed_forms import activation_of
from ntkit.architecture.lowering import MODULES
from ntkit.errors import InvalidInput, ToleranceNotReached
from ntkit.infinite.dual import Series, dual
from ntkit.infinite.dual.kinks import breakpoints
from oracles import recursion as oracle

SMOOTH = {  # module -> (function, slope), written again with numpy
    "tanh": (nn.Tanh(), np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "sigmoid": (nn.Sigmoid(), special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "silu": (nn.SiLU(), lambda x: x * special.expit(x), lambda x: special.expit(x) * (1 + x * special.expit(-x))),
    "softplus": (nn.Softplus(), lambda x: np.logaddexp(0, x), special.expit),
    "softplus with beta": (
        nn.Softplus(2.0, 50.0),
        lambda x: np.logaddexp(0, 2 * x) / 2,
        lambda x: special.expit(2 * x),
    ),
    "logsigmoid": (nn.LogSigmoid(), special.log_expit, lambda x: special.expit(-x)),
    "tanhshrink": (nn.Tanhshrink(), lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2),
    "gelu tanh": (nn.GELU("tanh"), None, None),
    "mish": (nn.Mish(), None, None),
}
KINKED = {
    "elu": (
        nn.ELU(1.3),
        lambda x: np.where(x > 0, x, 1.3 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 1.3 * np.exp(np.minimum(x, 0))),
        [0.0],
    ),
    "celu": (
        nn.CELU(2.0),
        lambda x: np.where(x > 0, x, 2 * np.expm1(np.minimum(x, 0) / 2)),
        lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0) / 2)),
        [0.0],
    ),
    "selu": (nn.SELU(), None, None, [0.0]),
    "hardtanh": (nn.Hardtanh(-0.5, 2.0), lambda x: np.clip(x, -0.5, 2), lambda x: (x > -0.5) & (x < 2), [-0.5, 2.0]),
    "relu6": (nn.ReLU6(), lambda x: np.clip(x, 0, 6), lambda x: (x > 0) & (x < 6), [0.0, 6.0]),
    "hardsigmoid": (nn.Hardsigmoid(), None, None, [-3.0, 3.0]),  # torch multiplies by a float32 1/6
    "hardswish": (
        nn.Hardswish(),
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, x > 0),
        [-3.0, 3.0],
    ),
    "softsign": (nn.Softsign(), lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2, [0.0]),
    "softshrink": (
        nn.Softshrink(0.7),
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.7, 0),
        lambda x: np.abs(x) > 0.7,
        [-0.7, 0.7],
    ),
    "hardshrink": (
        nn.Hardshrink(0.7),
        lambda x: np.where(np.abs(x) > 0.7, x, 0),
        lambda x: np.abs(x) > 0.7,
        [-0.7, 0.7],
    ),
    "threshold": (nn.Threshold(0.4, -1.0), lambda x: np.where(x > 0.4, x, -1), lambda x: x > 0.4, [0.4]),
}
FEW = slice(0, 5)


def by_torch(module):
    """Function and slope of a module through torch itself: for formulas that are not worth writing twice."""

    def function(x):
        return module(torch.from_numpy(np.asarray(x))).numpy()

    def slope(x):
        leaf = torch.from_numpy(np.array(x)).requires_grad_(True)
        return torch.autograd.grad(module(leaf).sum(), leaf)[0].numpy()

    return function, slope


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_meet_their_tolerance(name):
    module, function, slope = SMOOTH[name]
    function, slope = (function, slope) if function else by_torch(module)
    plane = oracle.panel_dual(function, slope, step=0.03)
    expected, expected_slope = plane(Q1[FEW], Q2[FEW], S[FEW])
    covariance, slopes, variance, mean = moments(
        spec_of(module), Q1[FEW], Q2[FEW], (Q1 + Q2 - 2 * S)[FEW], tolerance=1e-11
    )
    (one, one_slope), (two, two_slope) = plane(Q1[FEW], Q1[FEW], Q1[FEW]), plane(Q2[FEW], Q2[FEW], Q2[FEW])
    assert_relative(covariance, expected, np.sqrt(one * two), 1e-11)
    assert_relative(slopes, expected_slope, np.sqrt(one_slope * two_slope), 1e-11)
    np.testing.assert_allclose(variance, one, rtol=1e-12)
    g, weight = on_a_line(np.linspace(-9, 9, 73))
    np.testing.assert_allclose(mean, function(np.sqrt(Q1[FEW])[:, None] * g) @ weight, rtol=1e-11, atol=1e-14)


def on_a_line(edges):
    """Nodes, and weights times the standard normal density, on the panels between edges."""
    t, w = np.polynomial.legendre.leggauss(30)
    g = (edges[:-1, None] + np.diff(edges)[:, None] * (t + 1) / 2).ravel()
    return g, (np.diff(edges)[:, None] * w / 2).ravel() * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("name", KINKED)
def test_kinked_activations_meet_their_tolerance(name):
    module, function, slope, kinks = KINKED[name]
    function, slope = (function, slope) if function else by_torch(module)
    expected, expected_slope = oracle.kinked_dual(function, slope, kinks)(Q1[FEW], Q2[FEW], S[FEW])
    activation, d = spec_of(module), (Q1 + Q2 - 2 * S)[FEW]
    covariance, slopes, variance, mean = moments(activation, Q1[FEW], Q2[FEW], d, tolerance=1e-9)
    one, two = moments(activation, Q1[FEW], Q1[FEW], 0 * d), moments(activation, Q2[FEW], Q2[FEW], 0 * d)
    assert_relative(covariance, expected, np.sqrt(one[0] * two[0]), 1e-9)
    assert_relative(slopes, expected_slope, np.sqrt(one[1] * two[1]), 1e-9)
    for r, second, first in zip(np.sqrt(Q1[FEW]), variance, mean, strict=True):
        g, weight = on_a_line(np.union1d(np.linspace(-9, 9, 37), np.array(kinks) / r))
        assert second == pytest.approx((function(r * g) ** 2 * weight).sum(), rel=1e-10)
        assert first == pytest.approx((function(r * g) * weight).sum(), rel=1e-10, abs=1e-13)


CLOSED_FORMS = (
    "Abs", "ABReLU", "Cos", "Erf", "Gaussian", "Hermite", "Monomial", "Polynomial", "RectifiedMonomial", "Sign", "Sin",
)  # fmt: skip


def test_every_module_of_the_table_is_tested_here():
    tested = {type(case[0]) for table in (SMOOTH, KINKED) for case in table.values()}
    closed = {nn.ReLU, nn.LeakyReLU, nn.GELU} | {getattr(ntkit.nn, name) for name in CLOSED_FORMS}
    own = {module for module in MODULES if module.__module__.startswith(("torch.", "ntkit."))}  # not those of users
    own = {module for module in own if hasattr(sys.modules[module.__module__], module.__qualname__)}  # nor of examples
    assert own <= tested | closed


@pytest.mark.parametrize("module", [nn.Tanh(), nn.SiLU(), nn.ELU(), nn.Hardtanh(), nn.ReLU6()])
@pytest.mark.parametrize("coarse", [1e-4, 1e-6, 1e-8])
def test_a_coarser_tolerance_is_met_and_not_the_finest(module, coarse):
    n = 40
    q1, q2 = np.linspace(0.2, 6, n), np.linspace(3, 0.4, n)
    c = np.concatenate([np.cos(np.geomspace(1e-6, 1, n // 2)), -np.cos(np.geomspace(1e-3, 1, n // 2))])
    d = (np.sqrt(q1) - np.sqrt(q2)) ** 2 + 2 * (1 - c) * np.sqrt(q1 * q2)
    rough, fine = (moments(spec_of(module), q1, q2, d, tolerance=t) for t in (coarse, 1e-12))
    two = moments(spec_of(module), q2, q2, 0 * d, tolerance=1e-12)
    one = moments(spec_of(module), q1, q1, 0 * d, tolerance=1e-12)
    assert_relative(rough[0], fine[0], np.sqrt(one[0] * two[0]), coarse)
    assert_relative(rough[1], fine[1], np.sqrt(one[1] * two[1]), coarse)


@pytest.mark.parametrize("angle", [1e-2, 1e-3, 1e-4, 1e-6])
def test_close_pairs_of_a_kinked_function_equal_the_closed_form(angle):
    """max(x, 0) written as a clamp is integrated; relu has a formula."""
    clamp = activation_of(Expression("clamp", (VARIABLE, 0.0, None)))
    assert isinstance(clamp, specs.Elementwise)
    q1, q2 = np.array([1.7, 1.7]), np.array([1.7, 1.6])
    d = (np.sqrt(q1) - np.sqrt(q2)) ** 2 + 4 * np.sin(angle / 2) ** 2 * np.sqrt(q1 * q2)
    results = []
    for activation in (clamp, specs.LeakyReLU(0.0)):
        rule, one, two = sides(activation, q1, q2, 1e-9)
        results.append(rule.pairs(one, two, torch.from_numpy(d), True))
    got, expected = results
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("expression", "kinks"),
    [
        (Expression("hardtanh", (VARIABLE, -0.3, 1.7)), [-0.3, 1.7]),
        (Expression("relu", (Expression("sub", (VARIABLE, 1 / 3)),)), [1 / 3]),
        (Expression("tanh", (VARIABLE,)), []),
        (Expression("abs", (Expression("sin", (VARIABLE, 1.0, 1.0, 0.0)),)), [-math.pi, 0.0, math.pi]),
    ],
)
def test_kinks_are_found_where_they_are(expression, kinks):
    torch.testing.assert_close(
        breakpoints(expression, 5.0).kinks, torch.tensor(kinks, dtype=torch.float64), rtol=0, atol=1e-12
    )


def _of(op, *args):
    return activation_of(Expression(op, args))


@pytest.mark.parametrize(
    ("activation", "text"),
    [
        (_of("exp", Expression("pow", (VARIABLE, 2))), "grows too fast"),
        (_of("exp", Expression("mul", (0.26, Expression("pow", (VARIABLE, 2))))), "grows too fast"),
        (
            _of("div", 1.0, VARIABLE),
            "activation div.1.0, x. has a pole near x = 0, as far as pre-activations up to .* tell",
        ),
        (_of("pow", VARIABLE, -1), "activation pow.x, -1. has a pole near x = 0"),
        (
            _of("pow", Expression("abs", (VARIABLE,)), 0.5),
            "the slope of the activation pow.abs.x., 0.5. has a pole near x = 0",
        ),
        (specs.Gaussian(1.0, 0.25), "infinite moments for pre-activations of variance >= 1, and 1.5 arrives"),
        (specs.Monomial(700), "a polynomial of degree 700 overflows torch.float64"),
    ],
)
def test_moments_that_do_not_exist_are_invalid(activation, text):
    with pytest.raises(InvalidInput, match=text):
        dual(activation, 1e-8).samples(torch.tensor([0.5, 1.5], dtype=torch.float64))


def test_what_quadrature_cannot_resolve_says_so():
    wild = _of("sin", Expression("div", (1.0, VARIABLE)), 1.0, 1.0, 0.0)
    with pytest.raises(ToleranceNotReached, match=r"more than 256 places that are not smooth"):
        dual(wild, 1e-8).samples(torch.ones(1, dtype=torch.float64))
    with pytest.raises(ToleranceNotReached, match=r"tolerance must be at least 1e-13"):
        Series(Expression("tanh", (VARIABLE,)), 1e-15).samples(torch.ones(1, dtype=torch.float64))
