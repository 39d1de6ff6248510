"""Activations with a closed form are recognised however they are written, and nothing else is."""

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.architecture import VARIABLE, Expression, specs, trace
from ntkit.architecture.expressions import apply_expression, split_argument, split_factor, split_offset
from ntkit.architecture.lowering import elementwise_op
from ntkit.errors import InvalidInput
from ntkit.infinite.dual import dual


class Written(nn.Module):
    """An activation between two layers."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = linear(5), linear(64, 1), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def read(function):
    """What stands between the two layers: factors and activations, in order."""
    specs_of = [node.spec for node in trace(Written(function)).nodes if not isinstance(node.spec, specs.Weighted)]
    return [s.coefficients[0] if isinstance(s, specs.LinearCombination) else s for s in specs_of[1:]]


RELU, ERF = specs.LeakyReLU(0.0), specs.Erf()
WRITTEN = {
    "0.5 erf(x/2.4) + 0.5": (lambda h: 0.5 * torch.erf(h / 2.4) + 0.5, [1 / 2.4, specs.Shifted(ERF, 1.0), 0.5]),
    "1 - erf(x)": (lambda h: 1 - torch.erf(h), [specs.Shifted(ERF, -1.0), -1.0]),
    "(erf(x) - 1)/2 + 1": (lambda h: (torch.erf(h) - 1) / 2 + 1, [specs.Shifted(ERF, 1.0), 0.5]),
    "relu(x) - 0.4": (lambda h: torch.relu(h) - 0.4, [specs.Shifted(RELU, -0.4)]),
    "cos(x) + 1": (lambda h: h.cos() + 1, [specs.Shifted(specs.Cos(), 1.0)]),
    "exp(2x) - 1": (lambda h: torch.exp(2 * h) - 1, [2.0, specs.Shifted(specs.Exp(), -1.0)]),
    "2 relu(x) - 0.5 relu(-x)": (lambda h: 2 * torch.relu(h) - 0.5 * torch.relu(-h), [specs.ABReLU(0.5, 2.0)]),
    "x + |x|": (lambda h: h + h.abs(), [specs.ABReLU(0.0, 2.0)]),
    "max(x, 0.2x)": (lambda h: torch.maximum(h, 0.2 * h), [specs.LeakyReLU(0.2)]),
    "min(x, 2x)": (lambda h: torch.minimum(h, 2 * h), [specs.LeakyReLU(2.0)]),
    "leaky_relu(-|x|)": (lambda h: nn.functional.leaky_relu(-h.abs(), 0.3), [specs.ABReLU(0.3, -0.3)]),
    "x/2 - relu(x)": (lambda h: h / 2 - torch.relu(h), [specs.ABReLU(0.5, -0.5)]),
    "relu(x)^2": (lambda h: torch.relu(h) ** 2, [specs.RectifiedMonomial(2)]),
    "relu(3x)^3": (lambda h: torch.relu(3 * h) ** 3, [3.0, specs.RectifiedMonomial(3)]),
    "square(relu(x))/2": (lambda h: torch.square(torch.relu(h)) / 2, [specs.RectifiedMonomial(2), 0.5]),
    "x^3 + 2x": (lambda h: h**3 + 2 * h, [specs.Polynomial((0.0, 2.0, 0.0, 1.0))]),
    "(x + 1)^2": (lambda h: (h + 1) ** 2, [specs.Polynomial((1.0, 2.0, 1.0))]),
    "x x": (lambda h: h * h, [specs.Monomial(2)]),
    "x (x - 1)/4": (lambda h: h * (h - 1) / 4, [specs.Polynomial((0.0, -1.0, 1.0)), 0.25]),
    "2x + 1": (lambda h: 2 * h + 1, [specs.Polynomial((0.5, 1.0)), 2.0]),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_with_torch_is_recognised(name):
    function, expected = WRITTEN[name]
    assert read(function) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.relu(h + 1),  # its kink is not at 0
        lambda h: h * torch.relu(h) + 1,
        lambda h: torch.relu(h) ** 1.5,
        lambda h: h**21 + h,
        lambda h: 1 / h**2,
        lambda h: torch.tanh(h) + 1,
        lambda h: torch.clamp(h, min=0),
    ],
)
def test_what_only_resembles_a_closed_form_is_integrated(function):
    assert any(isinstance(spec, specs.Elementwise) for spec in read(function))


MODULES = {
    "Erf": (ntkit.nn.Erf(0.5, 0.4, 0.5), [0.4, specs.Shifted(ERF, 1.0), 0.5]),
    "plain Erf": (ntkit.nn.Erf(), [ERF]),
    "ABReLU": (ntkit.nn.ABReLU(-0.5, 2.0), [specs.ABReLU(-0.5, 2.0)]),
    "ABReLU as ReLU": (ntkit.nn.ABReLU(0.0, 1.0), [RELU]),
    "RectifiedMonomial": (ntkit.nn.RectifiedMonomial(2), [specs.RectifiedMonomial(2)]),
    "RectifiedMonomial as ReLU": (ntkit.nn.RectifiedMonomial(1), [specs.RectifiedMonomial(1)]),
    "Polynomial": (ntkit.nn.Polynomial([1.0, 0.5, 0.0, 2.0]), [specs.Polynomial((1.0, 0.5, 0.0, 2.0))]),
    "constant Polynomial": (ntkit.nn.Polynomial([3.0]), [specs.Monomial(0), 3.0]),
    "Polynomial as Monomial": (ntkit.nn.Polynomial([0.0, 0.0, 1.0]), [specs.Monomial(2)]),
    "Hermite": (ntkit.nn.Hermite(3), [specs.Hermite(3)]),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_read_as_their_closed_forms(name):
    module, expected = MODULES[name]
    assert read(module) == expected


@pytest.mark.parametrize("name", MODULES)
def test_modules_compute_what_they_are_read_as(name):
    module, _ = MODULES[name]
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    op = elementwise_op(module)
    assert op is not None
    torch.testing.assert_close(apply_expression(op.from_module(module), x), module(x), rtol=1e-13, atol=1e-13)


POLYNOMIALS = {n: np.polynomial.hermite_e.HermiteE.basis(n) for n in range(8)}


@pytest.mark.parametrize("n", POLYNOMIALS)
def test_hermite_polynomials_are_numpy_s_over_the_root_of_the_factorial(n):
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    expected = POLYNOMIALS[n](x.numpy()) / np.sqrt(float(np.prod(np.arange(1.0, n + 1))))
    np.testing.assert_allclose(ntkit.nn.Hermite(n)(x).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_hermite_polynomials_of_unit_variance_give_powers_of_the_correlation(n, engine):
    layer = ntkit.nn.Linear(5, 64, 1.0)
    model = nn.Sequential(layer, nn.LayerNorm(64, 0.0, elementwise_affine=False), ntkit.nn.Hermite(n))
    kernel, x = ntkit.InfiniteKernel(nn.Sequential(model, ntkit.nn.Linear(64, 1, 1.0))), data(4, 5)
    rows = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(kernel.nngp(x, engine=engine), (rows @ rows.T) ** n, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", WRITTEN)
def test_both_engines_and_quadrature_agree_on_what_is_recognised(name):
    """The same function behind a harmless clamp has no closed form, and is integrated."""
    function, _ = WRITTEN[name]
    x = 0.5 * data(4, 5)
    closed, integrated = (
        ntkit.InfiniteKernel(Written(f), tolerance=1e-10)
        for f in (function, lambda h: function(torch.clamp(h, -1e9, 1e9)))
    )
    assert "numba" in str(closed.plan((4, 5)))
    assert "torch" in str(integrated.plan((4, 5)))
    expected = integrated(x)
    for engine in ("numba", "torch"):
        found = closed(x, engine=engine)
        torch.testing.assert_close(found.nngp, expected.nngp, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.ntk, expected.ntk, rtol=1e-8, atol=1e-9)


def test_expressions_come_apart_into_factor_offset_and_argument():
    tanh = Expression("tanh", (Expression("mul", (2.0, VARIABLE)),))
    shifted = Expression("sub", (1.0, Expression("mul", (4.0, tanh))))
    factor, rest = split_factor(shifted)
    assert (factor, rest) == (-4.0, Expression("add", (tanh, -0.25)))
    assert split_offset(rest) == (tanh, -0.25)
    inner, function = split_argument(rest)
    assert (inner, function) == (2.0, Expression("add", (Expression("tanh", (VARIABLE,)), -0.25)))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(factor * apply_expression(function, inner * x), 1 - 4 * torch.tanh(2 * x))


def test_a_factor_of_zero_or_nearly_so_stays_where_it_is():
    for factor in (0.0, 1e-200):
        expression = Expression("add", (Expression("mul", (factor, Expression("tanh", (VARIABLE,)))), 1.0))
        assert split_factor(expression) == (1.0, expression)


@pytest.mark.parametrize("offset", [-1.0, 0.0, 1e-8, 3.0])
@pytest.mark.parametrize("q", [0.0, 1e-20, 1e-6, 1.0])
def test_second_moments_of_shifted_functions_do_not_cancel(q, offset):
    """exp(x) − 1 for small x is x: its second moment is q, not the rounding of 1 − 2 + 1."""
    found = dual(specs.Shifted(specs.Exp(), offset), 1e-8).samples(torch.tensor([q], dtype=torch.float64))
    spread = np.exp(q) * np.expm1(q)
    mean = np.expm1(q / 2) if offset == -1 else np.exp(q / 2) + offset
    assert float(found.variance) == pytest.approx(spread + mean**2, rel=1e-14)
    assert float(found.variance) >= 0


def test_activations_that_overflow_say_so():
    with pytest.raises(InvalidInput, match=r"RectifiedMonomial\(4\) overflows torch.float64 .* use a lower degree"):
        ntkit.InfiniteKernel(Written(ntkit.nn.RectifiedMonomial(4)))(1e50 * data(2, 5))
    with pytest.raises(InvalidInput, match=r"a polynomial of degree 7 overflows torch.float64 for .*; use a lower"):
        ntkit.InfiniteKernel(Written(ntkit.nn.Hermite(7)))(1e50 * data(2, 5))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ntkit.nn.RectifiedMonomial(0), r"RectifiedMonomial: .* integer >= 1, got 0; for a step write \(1 \+"),
        (lambda: ntkit.nn.Hermite(-1), r"Hermite: the degree n must be an integer >= 0, got -1"),
        (lambda: ntkit.nn.Polynomial([]), r"Polynomial: wanted at least one coefficient, got none"),
        (lambda: ntkit.nn.Polynomial([1.0, float("nan")]), r"wanted a number of finite square for c_1, got nan"),
        (lambda: ntkit.nn.ABReLU(1.0, float("inf")), r"ABReLU: wanted a number of finite square for b, got inf"),
        (lambda: ntkit.nn.Erf(b=1e200), r"Erf: wanted a number of finite square for b, got 1e\+200"),
    ],
)
def test_constants_are_checked(make, text):
    with pytest.raises(InvalidInput, match=text):
        make()


@pytest.mark.parametrize(
    "function",
    [
        ntkit.nn.ABReLU(-0.5, 2.0),
        ntkit.nn.Hermite(3),
        ntkit.nn.Erf(0.5, 0.4, 0.5),
        lambda h: torch.relu(h) ** 3 - 1,
        lambda h: h**3 + 2 * h,
    ],
)
def test_gradients_in_the_inputs(function):
    kernel, x, y = ntkit.InfiniteKernel(Written(function)), data(2, 5).requires_grad_(), data(2, 5, seed=1)
    assert torch.autograd.gradcheck(lambda v: kernel.ntk(v, y), (x,))
    assert torch.autograd.gradcheck(lambda v: kernel.diagonal(v).ntk, (x,))


def test_polynomials_have_gradients_at_zero():
    kernel = ntkit.InfiniteKernel(
        nn.Sequential(ntkit.nn.Linear(2, 64, 1.0), ntkit.nn.Polynomial([0.0, 1.0, 0.5]), ntkit.nn.Linear(64, 1, 1.0))
    )
    x, y = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True), data(1, 2)
    kernel.nngp(x, y).sum().backward()
    torch.testing.assert_close(x.grad, y / 2)  # of x·y/2: E[uv] = s, and E[u²v²] has slope 0 at u = 0


@pytest.mark.parametrize(
    "activation",
    [
        nn.GELU(),
        ntkit.nn.ABReLU(-0.5, 2.0),
        ntkit.nn.Erf(0.5, 0.4, 0.5),
        ntkit.nn.Hermite(3),
        ntkit.nn.Polynomial([0.3, -0.7, 0.2, 0.1]),
        ntkit.nn.RectifiedMonomial(2),
    ],
)
def test_both_engines_agree_behind_a_trained_normalisation(activation):
    kernel = ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.LayerNorm(64, 0.1), activation, linear(64, 1)))
    frozen = nn.Sequential(linear(5), nn.LayerNorm(64, 0.1).requires_grad_(False), activation, linear(64, 1))
    x = data(4, 5)
    compiled, found = (kernel.ntk(x, engine=engine) for engine in ("numba", "torch"))
    torch.testing.assert_close(compiled, found, rtol=1e-11, atol=1e-12)
    assert (found - ntkit.InfiniteKernel(frozen).ntk(x)).abs().max() > 0.1
