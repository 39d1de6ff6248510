"""Recognises activations that have a closed form, however they are written: `x**3 + 2 * x`, `torch.relu(x)**2`, ….

Nothing is fitted: an expression is taken apart by its operations, or it is not recognised.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import polynomial

from ntkit.architecture.expressions import VARIABLE, Expression, Operand, Variable, split_offset
from ntkit.architecture.lowering import SPECS
from ntkit.architecture.specs import (
    GELU,
    ABReLU,
    Activation,
    Cos,
    Elementwise,
    Erf,
    Exp,
    Gaussian,
    Hermite,
    LeakyReLU,
    Monomial,
    Polynomial,
    RectifiedMonomial,
    Shifted,
    Sign,
    Sin,
)

_HIGHEST_DEGREE = 20  # of sums of powers: the formula has as many terms as the square of half the degree


def activation_of(expression: Expression) -> Activation:
    """The spec of an elementwise function: a closed form, also one that is shifted, or quadrature."""
    whole = _closed_form(expression)
    if whole is not None:
        return whole
    function, offset = split_offset(expression)
    part = _closed_form(function) if isinstance(function, Expression) and offset else None
    return Elementwise(expression) if part is None else Shifted(part, offset)


def _closed_form(expression: Expression) -> Activation | None:
    if not isinstance(expression.op, str):
        return _from_outside(expression)
    return _named(expression) or _piecewise_linear(expression) or _rectified(expression) or _polynomial(expression)


def _from_outside(expression: Expression) -> Activation | None:
    """A function of x itself that was registered with formulas."""
    own = SPECS.get(getattr(expression.op, "target", expression.op))
    return own(expression) if own is not None and expression.args[0] == VARIABLE else None


def _named(expression: Expression) -> Activation | None:
    """One operation on x itself."""
    variable, *constants = expression.args
    if variable != VARIABLE:
        return None
    match expression.op, constants:
        case "erf", []:
            return Erf()
        case "gelu", ["none"]:
            return GELU()
        case "sin", [int() | float() as a, int() | float() as b, int() | float() as c]:
            return Sin(float(a), float(b), float(c))
        case "cos", [int() | float() as a, int() | float() as b, int() | float() as c]:
            return Cos(float(a), float(b), float(c))
        case "exp", []:
            return Exp()
        case "sign", []:
            return Sign()
        case "gaussian", [int() | float() as a, int() | float() as b]:
            return Gaussian(float(a), float(b))
        case "hermite", [int() as n] if n <= _HIGHEST_DEGREE:
            return Hermite(n)
        case "pow", [n] if (degree := _degree(n)) is not None:
            return Monomial(degree)
        case _:
            return None


def _degree(constant: Operand) -> int | None:
    """A whole number from 0 on, or None."""
    if isinstance(constant, (int, float)) and float(constant).is_integer() and constant >= 0:
        return int(constant)
    return None


def _piecewise_linear(expression: Expression) -> Activation | None:
    slopes = _slopes(expression)
    if slopes is None:
        return None
    return LeakyReLU(slopes[0]) if slopes[1] == 1.0 else ABReLU(*slopes)


def _slopes(operand: Operand) -> tuple[float, float] | None:
    """(slope below 0, slope above 0) of a function that is linear on either side of 0, where it is 0."""
    if operand == VARIABLE:
        return 1.0, 1.0
    if not isinstance(operand, Expression):
        return None
    constants = [arg for arg in operand.args if not isinstance(arg, (Expression, Variable))]
    slopes = [_slopes(arg) for arg in operand.args if isinstance(arg, (Expression, Variable))]
    if None in slopes:
        return None
    match operand.op, slopes, constants:
        case "relu", [(a, b)], []:
            return min(a, 0.0), max(b, 0.0)
        case "abs", [(a, b)], []:
            return -abs(a), abs(b)
        case "leaky_relu", [(a, b)], [int() | float() as slope]:
            return a * (1.0 if a <= 0 else slope), b * (1.0 if b >= 0 else slope)
        case "mul", [(a, b)], [int() | float() as factor]:
            return factor * a, factor * b
        case "div", [(a, b)], [int() | float() as divisor] if operand.args[1] == divisor:
            return a / divisor, b / divisor
        case "add", [(a, b), (c, d)], []:
            return a + c, b + d
        case "sub", [(a, b), (c, d)], []:
            return a - c, b - d
        case "maximum", [(a, b), (c, d)], []:
            return min(a, c), max(b, d)
        case "minimum", [(a, b), (c, d)], []:
            return max(a, c), min(b, d)
        case _:
            return None


def _rectified(expression: Expression) -> Activation | None:
    """max(x, 0)ⁿ."""
    if expression.op != "pow" or _slopes(expression.args[0]) != (0.0, 1.0):
        return None
    degree = _degree(expression.args[1])
    return RectifiedMonomial(degree) if degree else None


def _polynomial(expression: Expression) -> Activation | None:
    coefficients = _coefficients(expression)
    if coefficients is None:
        return None
    *lower, highest = coefficients
    if highest == 1.0 and not any(lower):
        return Monomial(len(lower))
    return Polynomial(coefficients)


def _coefficients(operand: Operand) -> tuple[float, ...] | None:
    """c_0, c_1, … of a polynomial of a degree that is not too high."""
    if operand == VARIABLE:
        return 0.0, 1.0
    if isinstance(operand, (int, float)) and not isinstance(operand, bool):
        return (float(operand),)
    if not isinstance(operand, Expression) or operand.op not in ("add", "sub", "mul", "div", "pow"):
        return None
    one, two = (_coefficients(arg) for arg in operand.args)
    if one is None or two is None or len(one) + len(two) > _HIGHEST_DEGREE + 2:
        return None
    match operand.op:
        case "add":
            found = polynomial.polyadd(one, two)
        case "sub":
            found = polynomial.polysub(one, two)
        case "mul":
            found = polynomial.polymul(one, two)
        case "div" if len(two) == 1:
            found = np.divide(one, two)
        case "pow" if len(two) == 1 and (n := _degree(two[0])) is not None and n * (len(one) - 1) <= _HIGHEST_DEGREE:
            found = polynomial.polypow(one, n)
        case _:
            return None
    return tuple(map(float, polynomial.polytrim(found))) if np.isfinite(found).all() else None
