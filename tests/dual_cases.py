"""What the tests of dual activations share: pairs, closed forms as functions, and moments as any dual gives them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special

from ntkit.architecture import specs
from ntkit.architecture.closed_forms import activation_of
from ntkit.architecture.lowering import elementwise_op
from ntkit.infinite.dual import dual
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


def spec_of(module):
    """The activation that a module computes."""
    return activation_of(elementwise_op(module).from_module(module))


@dataclass(frozen=True)
class Form:
    """A closed form, and what it computes.

    Args:
        activation: the spec.
        function: σ, written again with numpy.
        slope: σ'.
        kinks: where σ is not smooth.
    """

    activation: specs.Activation
    function: Any
    slope: Any
    kinks: tuple[float, ...] = ()


def _power(n):
    return Form(specs.Monomial(n), lambda x: x**n, lambda x: n * x ** max(n - 1, 0))


def _rectified(n):
    return Form(
        specs.RectifiedMonomial(n), lambda x: np.maximum(x, 0) ** n, lambda x: n * np.maximum(x, 0) ** (n - 1), (0.0,)
    )


def _bent(activation, a, b):
    return Form(activation, lambda x: np.where(x > 0, b * x, a * x), lambda x: np.where(x > 0, b, a), (0.0,))


_ERF_SLOPE = 2 / math.sqrt(math.pi)
FORMS = {
    "relu": _bent(specs.LeakyReLU(0.0), 0.0, 1.0),
    "leaky relu": _bent(specs.LeakyReLU(0.3), 0.3, 1.0),
    "abs": _bent(specs.LeakyReLU(-1.0), -1.0, 1.0),
    "ab relu": _bent(specs.ABReLU(-0.6, 1.7), -0.6, 1.7),
    "shifted relu": Form(
        specs.Shifted(specs.LeakyReLU(0.0), -0.4), lambda x: np.maximum(x, 0) - 0.4, lambda x: 1.0 * (x > 0), (0.0,)
    ),
    "rectified square": _rectified(2),
    "rectified cube": _rectified(3),
    "rectified fifth power": _rectified(5),
    "sign": Form(specs.Sign(), np.sign, np.zeros_like, (0.0,)),
    "erf": Form(specs.Erf(), special.erf, lambda x: _ERF_SLOPE * np.exp(-x * x)),
    "shifted erf": Form(
        specs.Shifted(specs.Erf(), 1.0), lambda x: special.erf(x) + 1, lambda x: _ERF_SLOPE * np.exp(-x * x)
    ),
    "gelu": Form(specs.GELU(), oracle.gelu, oracle.gelu_slope),
    "sin": Form(
        specs.Sin(1.3, 0.7, 0.4), lambda x: 1.3 * np.sin(0.7 * x + 0.4), lambda x: 0.91 * np.cos(0.7 * x + 0.4)
    ),
    "cos": Form(
        specs.Cos(0.6, 1.4, -0.8), lambda x: 0.6 * np.cos(1.4 * x - 0.8), lambda x: -0.84 * np.sin(1.4 * x - 0.8)
    ),
    "gaussian": Form(
        specs.Gaussian(1.3, -0.7), lambda x: 1.3 * np.exp(-0.7 * x * x), lambda x: -1.82 * x * np.exp(-0.7 * x * x)
    ),
    "exp": Form(specs.Exp(), np.exp, np.exp),
    "shifted exp": Form(specs.Shifted(specs.Exp(), -1.0), np.expm1, np.exp),
    "constant": _power(0),
    "identity": _power(1),
    "square": _power(2),
    "cube": _power(3),
    "polynomial": Form(
        specs.Polynomial((3.0, -2.0, 1.0, 4.0)),
        lambda x: 3 - 2 * x + x**2 + 4 * x**3,
        lambda x: -2 + 2 * x + 12 * x**2,
    ),
    "hermite 3": Form(
        specs.Hermite(3), lambda x: (x**3 - 3 * x) / math.sqrt(6), lambda x: (3 * x**2 - 3) / math.sqrt(6)
    ),
    "hermite 4": Form(
        specs.Hermite(4),
        lambda x: (x**4 - 6 * x**2 + 3) / math.sqrt(24),
        lambda x: (4 * x**3 - 12 * x) / math.sqrt(24),
    ),
}
