"""The contract of duals: ntkit's own keep it, and each property is missed by a dual that is broken in just that way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntkit
from ntkit.errors import ContractViolation, InvalidInput, UnsupportedLayer
from ntkit.infinite.dual.elementary import exp, sqrt, where
from ntkit.testing import check_activation
from outside_rules import Snake, snake, snake_formulas, snake_of

ALWAYS = ("equal samples", "second moment", "mean", "distance", "derivative", "symmetry", "definiteness", "extremes")

# ---- ntkit's own activations keep it ---------------------------------------------------------------------------------

CLOSED = {"snake as a function": snake_of}
MORE_CLOSED = {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "sin": ntkit.nn.Sin(1.3, 0.7, 0.4),
    "sign": ntkit.nn.Sign(),
    "with factors": lambda x: 2 * torch.sin(3 * x),
    "snake": Snake(0.7),
    "leaky relu": nn.LeakyReLU(0.2),
    "abs": ntkit.nn.Abs(),
    "erf": ntkit.nn.Erf(),
    "cos": ntkit.nn.Cos(0.6, 1.4, -0.8),
    "exp": torch.exp,
    "gaussian": ntkit.nn.Gaussian(1.2, -0.5),
    "monomial": ntkit.nn.Monomial(3),
    "even monomial": ntkit.nn.Monomial(2),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_keep_the_contract(name):
    assert check_activation(CLOSED[name]) == (*ALWAYS, "engines", "gradients")


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_CLOSED)
def test_more_closed_forms_keep_the_contract(name):
    assert check_activation(MORE_CLOSED[name]) == (*ALWAYS, "engines", "gradients")


def test_smooth_functions_by_quadrature_keep_it_but_have_one_engine():
    assert check_activation(nn.Tanh()) == (*ALWAYS, "gradients")


def test_of_kinked_functions_by_quadrature_gradients_are_refused():
    assert check_activation(nn.ELU()) == ALWAYS


@pytest.mark.slow
@pytest.mark.parametrize("module", [nn.SiLU(), nn.Hardtanh(), nn.Softplus(), nn.Mish(), nn.SELU(), nn.ReLU6()])
def test_more_functions_by_quadrature_keep_it(module):
    assert check_activation(module)[: len(ALWAYS)] == ALWAYS


# ---- broken duals ----------------------------------------------------------------------------------------------------


def naive(b: float) -> Any:
    """The distance as a difference of moments, which cancels."""

    def second(q):
        return q + (1 - 2 * exp(-b * b * q / 2) + (1 + exp(-2 * b * b * q)) / 2) / b**2

    def distance(_, q1, q2, d):
        apart, together = exp(-b * b * d / 2), exp(-b * b * (q1 + q2 - d / 2))
        both = 1 - exp(-b * b * q1 / 2) - exp(-b * b * q2 / 2) + (apart + together) / 2
        return second(q1) + second(q2) - 2 * ((q1 + q2 - d) / 2 + both / b**2)

    return distance


MILLIONTH = 1 + 1e-6
BROKEN = {
    "a second moment off by a millionth": ("second moment", {"variance": lambda f, q: f * MILLIONTH}),
    "a mean off by a millionth": ("mean", {"mean": lambda f, q: f * MILLIONTH}),
    "a distance off by a millionth": ("distance", {"distance": lambda f, q1, q2, d: f * MILLIONTH}),
    "a distance that cancels": ("distance", {"distance": naive(1.3)}),
    "a derivative off by a millionth": ("derivative", {"derivative": lambda f, q1, q2, d: f * MILLIONTH}),
    "the wrong factor of the derivative": ("derivative", {"derivative": lambda f, q1, q2, d: 2 * f}),
    "a distance of equal samples": ("equal samples", {"distance": lambda f, q1, q2, d: f + 1e-30}),
    "a distance that knows which is first": (
        "symmetry",
        {"distance": lambda f, q1, q2, d: f * (1 + 3e-8 * (q1 - q2) / (q1 + q2))},
    ),
    "a derivative that knows which is first": (
        "symmetry",
        {"derivative": lambda f, q1, q2, d: f * (1 + 3e-8 * (q1 - q2) / (q1 + q2))},
    ),
    "a derivative too small for equal samples": (
        "definiteness",
        {"derivative": lambda f, q1, q2, d: f * where(d > 0, 1.0, 1 - 5e-8)},
    ),
    "0/0 at variance 0": ("extremes", {"derivative": lambda f, q1, q2, d: f * sqrt(q1) / sqrt(q1)}),
    "overflow at large variances": ("extremes", {"variance": lambda f, q: f * exp(q) / exp(q)}),
    "a mean above the second moment at large variances": (
        "extremes",
        {"mean": lambda f, q: f + where(q > 100, 1.0, 0.0) * q},
    ),
    "another formula for symbols": (
        "engines",
        {"distance": lambda f, q1, q2, d: f if isinstance(d, Tensor) else f * MILLIONTH},
    ),
    "a slope that is no number": ("gradients", {"distance": lambda f, q1, q2, d: f * where(d > 0, d / d, 1.0)}),
    "a gradient that is cut": (
        "gradients",
        {"distance": lambda f, q1, q2, d: f.detach() if isinstance(f, Tensor) else f},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_dual_is_told_what_is_broken(name):
    broken, changes = BROKEN[name]
    with pytest.raises(ContractViolation, match=rf"Snake.1.3. breaks the property '{broken}': wanted .*, got "):
        check_activation(snake(snake_formulas(**changes))())


def test_a_violation_has_the_numbers_and_is_an_assertion_error():
    wrong = snake(snake_formulas(mean=lambda f, q: f + 1))(1.0)
    with pytest.raises(AssertionError, match=r"'mean': wanted 0.0487705754993, got 1.0487705755 at q=0.1"):
        check_activation(wrong)


def test_moments_that_a_check_refuses_may_overflow():
    def check(q, b):
        if bool((q > 300).any()):
            raise InvalidInput(f"variances up to 300, got {float(q.max())}")

    formulas = snake_formulas(variance=lambda f, q: f * exp(q) / exp(q))
    assert "extremes" in check_activation(snake({**formulas, "check": check})())


@pytest.mark.parametrize("activation", [3, None, nn.ReLU])
def test_what_is_no_function_is_refused(unchecked, activation):
    with pytest.raises(
        InvalidInput, match=r"check_activation takes a module or a function, got .*; of a class give an"
    ):
        check_activation(activation)


@pytest.mark.parametrize("rtol", ["a", -1.0, 0.0, 2.0, float("nan"), None])
def test_a_relative_error_is_a_number_between_0_and_1(unchecked, rtol):
    with pytest.raises(InvalidInput, match=rf"rtol must be a number between 0 and 1, such as 1e-7, got {rtol!r}"):
        check_activation(nn.ReLU(), rtol=rtol)


def test_what_is_not_one_activation_is_refused():
    with pytest.raises(InvalidInput, match=r"takes one activation, and Linear.* is read as Linear; give a module or"):
        check_activation(ntkit.nn.Linear(3, 3))
    with pytest.raises(InvalidInput, match=r"takes one activation, and Identity.* is read as nothing"):
        check_activation(nn.Identity())
    with pytest.raises(UnsupportedLayer, match=r"Softmax.* has no rule"):
        check_activation(nn.Softmax(-1))
