"""Dual activations against textbook formulas, mpmath and quadrature over the plane."""

import math

import mpmath
import numpy as np
import pytest
import torch

from dual_cases import FORMS, Q1, Q2, Form, S, assert_relative, moments, sides
from ntkit.architecture import VARIABLE, Expression, specs
from ntkit.architecture.closed_forms import activation_of
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.infinite.dual import dual, register
from oracles import recursion as oracle

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
    "ab relu": (specs.ABReLU(-0.6, 1.7), oracle.ab_relu_dual(-0.6, 1.7)),
    "identity": (specs.ABReLU(0.8, 0.8), oracle.ab_relu_dual(0.8, 0.8)),
    "rectified square": (specs.RectifiedMonomial(2), oracle.arc_cosine_dual(2)),
    "rectified cube": (specs.RectifiedMonomial(3), oracle.arc_cosine_dual(3)),
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


def plane_of(form, function, slope):
    """An oracle for (E[σσ], E[σ'σ']): exact for polynomials, by panels with edges at the kinks for all others."""
    if isinstance(form.activation, (specs.Monomial, specs.Polynomial, specs.Hermite)):
        return oracle.gauss_hermite_dual(function, slope, nodes=12)
    if form.kinks:
        return oracle.kinked_dual(function, slope, form.kinks)
    return oracle.panel_dual(function, slope, reach=12.0)


def on_the_line(form, q):
    """(E[σ(u)²], E[σ(u)]) by panels with an edge at 0."""
    t, w = np.polynomial.legendre.leggauss(40)
    g = (np.arange(-14, 14)[:, None] + (t + 1) / 2).ravel()
    weight = np.tile(w / 2, 28) * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    values = form.function(np.sqrt(q)[:, None] * g)
    return values**2 @ weight, values @ weight


@pytest.mark.parametrize("name", FORMS)
def test_every_moment_equals_an_integral(name):
    form, (q1, q2, s) = FORMS[name], (v[:5] for v in (Q1, Q2, S))
    rule, one, _ = sides(form.activation, q1, q2)
    d = torch.from_numpy(q1 + q2 - 2 * s)
    left, right = torch.from_numpy(q1), torch.from_numpy(q2)

    def in_the_plane(function, slope):
        return plane_of(form, function, slope)(q1, q2, s)

    product, slopes = in_the_plane(form.function, form.slope)
    _, scaled = in_the_plane(form.function, lambda x: x * form.slope(x))
    second, mean = on_the_line(form, q1)
    np.testing.assert_allclose(one.variance, second, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(one.mean, mean, rtol=1e-11, atol=1e-13)
    size = np.sqrt(second * on_the_line(form, q2)[0])
    found = (one.variance + rule.variance_of(right) - rule.distance(left, right, d)) / 2
    assert_relative(found.numpy(), product, size, 1e-10)
    np.testing.assert_allclose(rule.derivative(left, right, d), slopes, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(rule.scale_derivative(left, right, d), scaled, rtol=1e-10, atol=1e-10)


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
    "exp": specs.Exp(),
    "polynomial": specs.Polynomial((3.0, -2.0, 1.0, 4.0)),
    "hermite 4": specs.Hermite(4),
    "rectified square": specs.RectifiedMonomial(2),
    "rectified cube": specs.RectifiedMonomial(3),
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
    if name == "exp" and r1 == "20":
        r1 = r2 = "10"  # whose exponential overflows
    with mpmath.workdps(60):
        a, b, theta = map(mpmath.mpf, (r1, r2, angle))
        q1, q2, d = (np.array([float(v)]) for v in (a * a, b * b, a * a + b * b - 2 * a * b * mpmath.cos(theta)))
    rule, one, two = sides(MP[name], q1, q2)
    got, _ = rule.pairs(one, two, torch.from_numpy(d), False)
    expected = oracle.mp_distance(name, r1, r2, angle)
    assert abs(float((mpmath.mpf(float(got)) - expected) / expected)) < rtol


TANH = Form(activation_of(Expression("tanh", (VARIABLE,))), np.tanh, None)


@pytest.mark.parametrize("form", [*FORMS.values(), TANH], ids=[*FORMS, "tanh"])
def test_antipodes_identities_and_zeros_give_no_nan_and_exact_zeros(form):
    activation = form.activation
    q1 = np.array([1.0, 1.0, 0.0, 0.0, 2.0, 1e-12])
    q2 = np.array([1.0, 1.0, 0.0, 1.5, 0.0, 1e12])
    d = np.array([0.0, 4.0, 0.0, 1.5, 2.0, 1e12])
    largest = {specs.Elementwise: 1e3, specs.GELU: 1e7, specs.Exp: 100, specs.Shifted: 100}.get(type(activation), 1e12)
    q2, d = np.minimum(q2, largest), np.minimum(d, largest)
    rule, one, two = sides(activation, q1, q2)
    distance, slope = rule.pairs(one, two, torch.from_numpy(d), True)
    assert torch.isfinite(distance).all()
    assert torch.isfinite(slope).all()
    assert distance[0] == 0
    assert distance[2] == 0
    expected = 4 * float(one.variance[1]) - _even_part(form.function)
    assert float(distance[1]) == pytest.approx(expected, rel=1e-10, abs=1e-11)


def _even_part(function):
    """2 E[(σu)² + σu σ(−u)] at variance 1: what the distance of antipodes lacks to that of an odd function."""
    g, w = np.polynomial.legendre.leggauss(200)
    g, w = 6.5 * (g + 1), 6.5 * w * np.exp(-((6.5 * (g + 1)) ** 2) / 2) / math.sqrt(2 * math.pi)
    f, mirrored = function(g), function(-g)  # each kinked function is smooth on either side
    return float(2 * ((f**2 + 2 * f * mirrored + mirrored**2) * w).sum())


def test_a_new_activation_needs_one_registration():
    class Unknown(specs.Activation):
        pass

    with pytest.raises(UnsupportedLayer, match=r"has no dual activation; register one with"):
        dual(Unknown(), 1e-8)
    register(Unknown)(lambda spec, tolerance: dual(specs.Erf(), tolerance))
    assert dual(Unknown(), 1e-8).samples(torch.ones(1)).variance > 0
