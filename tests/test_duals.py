"""Dual activations against textbook formulas, mpmath and quadrature over the plane."""

import math
import sys

import mpmath
import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import ntkit
from ntkit.architecture import VARIABLE, Expression, specs
from ntkit.architecture.lowering import MODULES, activation_of, elementwise_op
from ntkit.errors import InvalidInput, ToleranceNotReached, UnsupportedLayer
from ntkit.infinite.dual import Series, dual, register
from ntkit.infinite.dual.kinks import breakpoints
from oracles import recursion as oracle

# variances of the two sides and correlations: equal and unequal, small and large, of either sign
Q1 = np.array([1.7, 0.3, 4.0, 1.0, 0.05, 2.0, 9.0])
Q2 = np.array([0.9, 0.3, 0.5, 1.0, 2.50, 2.0, 7.0])
C = np.array([0.6, -0.4, 0.0, 0.95, -0.9, 0.2, 0.7])
S = C * np.sqrt(Q1 * Q2)


def sides(activation, q1, q2, tolerance=1e-8):
    """The dual, and the samples of both sides of pairs in line."""
    rule = dual(activation, tolerance)
    both = rule.samples(torch.as_tensor(np.concatenate([q1, q2]), dtype=torch.float64))
    return rule, both[: len(q1)], both[len(q1) :]


def moments(activation, q1, q2, d, tolerance=1e-10):
    """(E[σσ'], E[σ̇σ̇'], E[σ(u)²], E[σ(u)]) of pairs in line."""
    rule, one, two = sides(activation, q1, q2, tolerance)
    distance, slope = rule.pairs(one, two, torch.as_tensor(d, dtype=torch.float64), True)
    covariance = (one.variance + two.variance - distance) / 2
    return covariance.numpy(), slope.numpy(), one.variance.numpy(), one.mean.numpy()


def assert_relative(got, expected, scale, rtol):
    assert np.max(np.abs(got - expected) / scale) < rtol


# ---- closed forms ------------------------------------------------------------------------------------------------

CLOSED = {
    "relu": (specs.LeakyReLU(0.0), oracle.leaky_relu_dual(0.0)),
    "leaky relu": (specs.LeakyReLU(0.3), oracle.leaky_relu_dual(0.3)),
    "abs": (specs.LeakyReLU(-1.0), oracle.leaky_relu_dual(-1.0)),
    "erf": (specs.Erf(), oracle.erf_dual),
    "sin": (specs.Sin(1.3, 0.7, 0.0), oracle.sine_dual(1.3, 0.7, 0.0)),
    "sin with phase": (specs.Sin(1.3, 0.7, 0.4), oracle.sine_dual(1.3, 0.7, 0.4)),
    "cos": (specs.Cos(1.3, 0.7, 0.0), oracle.cosine_dual(1.3, 0.7, 0.0)),
    "cos with phase": (specs.Cos(0.6, 1.4, -0.8), oracle.cosine_dual(0.6, 1.4, -0.8)),
    "gaussian": (specs.Gaussian(1.3, -0.7), oracle.gaussian_dual(1.3, -0.7)),
    "growing gaussian": (specs.Gaussian(1.3, 0.02), oracle.gaussian_dual(1.3, 0.02)),
    "sign": (specs.Sign(), oracle.sign_dual),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_the_textbook_covariances(name):
    activation, textbook = CLOSED[name]
    covariance, slope, variance, _ = moments(activation, Q1, Q2, Q1 + Q2 - 2 * S)
    expected, expected_slope = textbook(Q1, Q2, S)
    assert_relative(covariance, expected, np.sqrt(textbook(Q1, Q1, Q1)[0] * textbook(Q2, Q2, Q2)[0]), 1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, textbook(Q1, Q1, Q1)[0], rtol=1e-12)


@pytest.mark.parametrize("degree", range(7))
def test_monomials_equal_gauss_hermite_which_is_exact_for_them(degree):
    slope = (lambda x: degree * x ** (degree - 1)) if degree else np.zeros_like
    plane = oracle.gauss_hermite_dual(lambda x: x**degree, slope, nodes=20)
    covariance, slopes, variance, mean = moments(specs.Monomial(degree), Q1, Q2, Q1 + Q2 - 2 * S)
    expected, expected_slope = plane(Q1, Q2, S)
    # the distance is relative to the larger of the two second moments
    (one, one_slope), (two, two_slope) = plane(Q1, Q1, Q1), plane(Q2, Q2, Q2)
    assert_relative(covariance, expected, np.maximum(one, two), 1e-13)
    assert_relative(slopes, expected_slope, np.sqrt(one_slope * two_slope) + 1e-300, 1e-12)
    np.testing.assert_allclose(variance, plane(Q1, Q1, Q1)[0], rtol=1e-11)
    g, w = np.polynomial.hermite_e.hermegauss(20)
    np.testing.assert_allclose(mean, (np.sqrt(Q1)[:, None] * g) ** degree @ w / math.sqrt(2 * math.pi), atol=1e-10)


def test_exponentials_equal_log_normal_moments():
    covariance, slope, variance, mean = moments(specs.Exp(), Q1, Q2, Q1 + Q2 - 2 * S)
    expected = np.exp((Q1 + Q2) / 2 + S)
    assert_relative(covariance, expected, np.exp(2 * np.maximum(Q1, Q2)), 1e-13)  # of the larger second moment
    np.testing.assert_allclose(slope, expected, rtol=1e-12)
    np.testing.assert_allclose(variance, np.exp(2 * Q1), rtol=1e-12)
    np.testing.assert_allclose(mean, np.exp(Q1 / 2), rtol=1e-12)
    near, *_ = sides(specs.Exp(), [1.0], [1.0])
    d = torch.tensor([1e-16], dtype=torch.float64)
    assert float(near.distance(torch.ones(1).double(), torch.ones(1).double(), d)) == pytest.approx(math.e**2 * 1e-16)
    with pytest.raises(InvalidInput, match="Exp overflows float64 for pre-activations of variance above 350, and 400"):
        sides(specs.Exp(), [400.0], [1.0])


def test_gelu_equals_quadrature_over_the_plane():
    covariance, slope, variance, _ = moments(specs.GELU(), Q1, Q2, Q1 + Q2 - 2 * S)
    plane = oracle.panel_dual(oracle.gelu, oracle.gelu_slope)
    expected, expected_slope = plane(Q1, Q2, S)
    np.testing.assert_allclose(covariance, expected, rtol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(variance, plane(Q1, Q1, Q1)[0], rtol=1e-12)


def _gelu_products(q, s):
    """(E[σσ'], E[σ̇σ̇']) as at the head of gelu.py, for one variance q and the covariance s."""
    delta = (1 + q) ** 2 - s**2
    i, j = 2 / mpmath.pi * mpmath.asin(s / (1 + q)), 2 / mpmath.pi / mpmath.sqrt(delta)
    product = s + s * i + j * (q**2 + s**2 * (1 - q**2) / (1 + q) ** 2)
    return product / 4, (1 + i + j * s * (2 / (1 + q) + 1 / delta)) / 4


@pytest.mark.parametrize("angle", [1e-9, 1e-7, 1e-4, 0.01, 1.0, 3.0])
def test_gelu_keeps_six_digits_up_to_the_variance_that_it_takes(angle):
    q = 9.9e6
    d = 4 * q * math.sin(angle / 2) ** 2
    rule, one, two = sides(specs.GELU(), [q], [q])
    distance, slope = rule.pairs(one, two, torch.tensor([d], dtype=torch.float64), True)
    with mpmath.workdps(60):
        v = mpmath.mpf(q)
        s = v - mpmath.mpf(d) / 2
        near, far = _gelu_products(v, v), _gelu_products(v, s)
        expected = float(2 * (near[0] - far[0])), float(far[1])
    assert float(distance) == pytest.approx(expected[0], rel=1e-6)
    assert float(slope) == pytest.approx(expected[1], rel=1e-6)
    with pytest.raises(InvalidInput, match=r"GELU keeps six digits .* <= 1e.07, and 1e.20 arrives; scale the inputs"):
        rule.samples(torch.tensor([1.0, 1e20], dtype=torch.float64))


@pytest.mark.parametrize(
    "activation",
    [
        specs.LeakyReLU(0.0),
        specs.LeakyReLU(0.3),
        specs.GELU(),
        specs.Cos(1.0, 0.7, 0.3),
        specs.Sin(1.0, 2.0, 0.5),
        specs.Gaussian(),
        specs.Erf(),
        specs.Sign(),
        specs.Monomial(2),
    ],
)
def test_means_equal_an_integral_over_the_line(activation):
    functions = {
        specs.LeakyReLU: lambda x, a: np.where(x > 0, x, a * x),
        specs.GELU: oracle.gelu,
        specs.Cos: lambda x, a, b, c: a * np.cos(b * x + c),
        specs.Sin: lambda x, a, b, c: a * np.sin(b * x + c),
        specs.Gaussian: lambda x, a, b: a * np.exp(b * x * x),
        specs.Erf: special.erf,
        specs.Sign: np.sign,
        specs.Monomial: lambda x, n: x**n,
    }
    t, w = np.polynomial.legendre.leggauss(40)
    g = (np.arange(-10, 10)[:, None] + (t + 1) / 2).ravel()
    weight = np.tile(w / 2, 20) * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    values = functions[type(activation)](np.sqrt(Q1)[:, None] * g, *vars(activation).values())
    *_, mean = moments(activation, Q1, Q2, Q1 + Q2 - 2 * S)
    np.testing.assert_allclose(mean, values @ weight, rtol=1e-11, atol=1e-13)


# ---- nearly equal pairs: the distance keeps its relative accuracy --------------------------------------------------

MP = {
    "relu": specs.LeakyReLU(0.0),
    "erf": specs.Erf(),
    "gelu": specs.GELU(),
    "sin": specs.Sin(),
    "cos": specs.Cos(),
    "gaussian": specs.Gaussian(),
    "cube": specs.Monomial(3),
    "sign": specs.Sign(),
}
NEAR = [  # standard deviations, angle, and the accuracy that the rounding of q = r² leaves
    ("1.3", "0.7", "0.9", 1e-14),
    ("1.3", "1.3", "1e-4", 1e-12),
    ("1.3", "1.3", "1e-8", 1e-12),
    ("20", "20", "1e-8", 1e-12),
    ("1e-3", "1e-3", "1e-4", 1e-11),
    ("1.3", "1.3001", "1e-5", 1e-10),
    ("1.3", "1.30000001", "1e-8", 5e-8),
    ("1.3", "0.7", "3.1415", 1e-11),
]


@pytest.mark.parametrize("name", MP)
@pytest.mark.parametrize(("r1", "r2", "angle", "rtol"), NEAR)
def test_distances_of_near_duplicates_equal_sixty_digits(name, r1, r2, angle, rtol):
    with mpmath.workdps(60):
        a, b, theta = map(mpmath.mpf, (r1, r2, angle))
        q1, q2, d = (np.array([float(v)]) for v in (a * a, b * b, a * a + b * b - 2 * a * b * mpmath.cos(theta)))
    rule, one, two = sides(MP[name], q1, q2)
    got, _ = rule.pairs(one, two, torch.from_numpy(d), False)
    expected = oracle.mp_distance(name, r1, r2, angle)
    assert abs(float((mpmath.mpf(float(got)) - expected) / expected)) < rtol


@pytest.mark.parametrize("activation", [*MP.values(), activation_of(Expression("tanh", (VARIABLE,)))])
def test_antipodes_identities_and_zeros_give_no_nan_and_exact_zeros(activation):
    q1 = np.array([1.0, 1.0, 0.0, 0.0, 2.0, 1e-12])
    q2 = np.array([1.0, 1.0, 0.0, 1.5, 0.0, 1e12])
    d = np.array([0.0, 4.0, 0.0, 1.5, 2.0, 1e12])
    largest = 1e3 if isinstance(activation, specs.Elementwise) else 1e7 if activation == specs.GELU() else 1e12
    q2, d = np.minimum(q2, largest), np.minimum(d, largest)
    rule, one, two = sides(activation, q1, q2)
    distance, slope = rule.pairs(one, two, torch.from_numpy(d), True)
    assert torch.isfinite(distance).all()
    assert torch.isfinite(slope).all()
    assert distance[0] == 0
    assert distance[2] == 0
    torch.testing.assert_close(
        distance[1], 2 * (one.variance[1] + one.variance[1]) - _even_part(activation), rtol=1e-10, atol=1e-12
    )


def _even_part(activation):
    """2 E[(σu)² + σu σ(−u)] at variance 1: what the distance of antipodes lacks to that of an odd function."""
    g, w = np.polynomial.legendre.leggauss(200)
    g, w = 9 * g, 9 * w * np.exp(-((9 * g) ** 2) / 2) / math.sqrt(2 * math.pi)
    function = {
        specs.LeakyReLU: lambda x: np.maximum(x, 0),
        specs.Erf: special.erf,
        specs.GELU: oracle.gelu,
        specs.Sin: np.sin,
        specs.Cos: np.cos,
        specs.Gaussian: lambda x: np.exp(-x * x),
        specs.Monomial: lambda x: x**3,
        specs.Sign: np.sign,
        specs.Elementwise: np.tanh,
    }[type(activation)]
    half = g > 0  # each kinked function is smooth on either side
    f, mirrored = function(g), function(-g)
    return torch.tensor(
        2 * ((f * f + f * mirrored) * w)[half].sum() + 2 * ((f * f + f * mirrored) * w)[~half].sum(),
        dtype=torch.float64,
    )


# ---- quadrature --------------------------------------------------------------------------------------------------

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


def spec_of(module):
    return activation_of(elementwise_op(module).from_module(module))


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
    covariance, slopes, variance, _ = moments(
        spec_of(module), Q1[FEW], Q2[FEW], (Q1 + Q2 - 2 * S)[FEW], tolerance=1e-11
    )
    (one, one_slope), (two, two_slope) = plane(Q1[FEW], Q1[FEW], Q1[FEW]), plane(Q2[FEW], Q2[FEW], Q2[FEW])
    assert_relative(covariance, expected, np.sqrt(one * two), 1e-11)
    assert_relative(slopes, expected_slope, np.sqrt(one_slope * two_slope), 1e-11)
    np.testing.assert_allclose(variance, one, rtol=1e-12)


@pytest.mark.parametrize("name", KINKED)
def test_kinked_activations_meet_their_tolerance(name):
    module, function, slope, kinks = KINKED[name]
    function, slope = (function, slope) if function else by_torch(module)
    expected, expected_slope = oracle.kinked_dual(function, slope, kinks)(Q1[FEW], Q2[FEW], S[FEW])
    activation, d = spec_of(module), (Q1 + Q2 - 2 * S)[FEW]
    covariance, slopes, variance, _ = moments(activation, Q1[FEW], Q2[FEW], d, tolerance=1e-9)
    one, two = moments(activation, Q1[FEW], Q1[FEW], 0 * d), moments(activation, Q2[FEW], Q2[FEW], 0 * d)
    assert_relative(covariance, expected, np.sqrt(one[0] * two[0]), 1e-9)
    assert_relative(slopes, expected_slope, np.sqrt(one[1] * two[1]), 1e-9)
    t, w = np.polynomial.legendre.leggauss(30)
    for r, got in zip(np.sqrt(Q1[FEW]), variance, strict=True):
        edges = np.union1d(np.linspace(-9, 9, 37), np.array(kinks) / r)
        g = (edges[:-1, None] + np.diff(edges)[:, None] * (t + 1) / 2).ravel()
        weight = (np.diff(edges)[:, None] * w / 2).ravel() * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
        assert got == pytest.approx((function(r * g) ** 2 * weight).sum(), rel=1e-10)


def test_every_module_of_the_table_is_tested_here():
    tested = {type(case[0]) for table in (SMOOTH, KINKED) for case in table.values()}
    closed = {nn.ReLU, nn.LeakyReLU, nn.GELU} | {
        getattr(ntkit.nn, n) for n in ("Abs", "Erf", "Sin", "Cos", "Sign", "Gaussian")
    }
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
        breakpoints(expression, 5.0), torch.tensor(kinks, dtype=torch.float64), rtol=0, atol=1e-12
    )


def _of(op, *args):
    return activation_of(Expression(op, args))


@pytest.mark.parametrize(
    ("activation", "text"),
    [
        (_of("exp", Expression("pow", (VARIABLE, 2))), "grows too fast"),
        (_of("exp", Expression("mul", (0.26, Expression("pow", (VARIABLE, 2))))), "grows too fast"),
        (_of("div", 1.0, VARIABLE), "activation div.1.0, x. has a pole near x = 0"),
        (_of("pow", VARIABLE, -1), "activation pow.x, -1. has a pole near x = 0"),
        (
            _of("pow", Expression("abs", (VARIABLE,)), 0.5),
            "the slope of the activation pow.abs.x., 0.5. has a pole near x = 0",
        ),
        (specs.Gaussian(1.0, 0.25), "infinite moments for pre-activations of variance >= 1, and 1.5 arrives"),
        (specs.Monomial(700), "Monomial.700. overflows torch.float64"),
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


def test_a_new_activation_needs_one_registration():
    class Unknown(specs.Activation):
        pass

    with pytest.raises(UnsupportedLayer, match=r"has no dual activation; register one with"):
        dual(Unknown(), 1e-8)
    register(Unknown)(lambda spec, tolerance: dual(specs.Erf(), tolerance))
    assert dual(Unknown(), 1e-8).samples(torch.ones(1)).variance > 0
