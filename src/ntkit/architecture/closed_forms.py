"""Recognises activations that have a closed form, however they are written: `x**3 + 2 * x`, `torch.relu(x)**2`, ….

Nothing is fitted: an expression is taken apart by its operations, or it is not recognised.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import polynomial

from ntkit.architecture.expressions import VARIABLE, Expression, Operand, Variable, split_offset
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
    return _named(expression) or _piecewise_linear(expression) or _rectified(expression) or _polynomial(expression)


def _named(expression: Expression) -> Activation | None:
    """One operation on x itself."""
    variable, *constants = expression.args
    if variable != VARIABLE or any(isinstance(c, Expression) or c == VARIABLE for c in constants):
        return None
    match expression.op:
        case "erf":
            return Erf()
        case "gelu" if constants == ["none"]:
            return GELU()
        case "sin":
            return Sin(*map(float, constants))
        case "cos":
            return Cos(*map(float, constants))
        case "exp":
            return Exp()
        case "sign":
            return Sign()
        case "gaussian":
            return Gaussian(*map(float, constants))
        case "hermite":
            return Hermite(int(constants[0]))
        case "pow" if _is_degree(constants[0]):
            return Monomial(int(constants[0]))
        case _:
            return None


def _is_degree(constant: Operand) -> bool:
    return isinstance(constant, (int, float)) and float(constant).is_integer() and constant >= 0


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
    base, *exponent = expression.args
    if expression.op != "pow" or not isinstance(base, Expression) or not _is_degree(exponent[0]) or exponent[0] < 1:
        return None
    return RectifiedMonomial(int(exponent[0])) if _slopes(base) == (0.0, 1.0) else None


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
        case "pow" if len(two) == 1 and _is_degree(two[0]) and two[0] * (len(one) - 1) <= _HIGHEST_DEGREE:
            found = polynomial.polypow(one, int(two[0]))
        case _:
            return None
    return tuple(map(float, polynomial.polytrim(found))) if np.isfinite(found).all() else None
