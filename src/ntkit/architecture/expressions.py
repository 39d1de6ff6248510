"""An elementwise function of one variable as data: a tree of operations and constants.

Trees can be compared, hashed and pickled, so the same activation is the same data whether it was written as a module,
a function, a method or by hand (`x * torch.sigmoid(x)`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ntkit.nn.scale import is_finite_scale

Constant = int | float | str | bool | None


@dataclass(frozen=True)
class Variable:
    """The function's argument x."""

    def __str__(self) -> str:
        return "x"


VARIABLE = Variable()


@dataclass(frozen=True)
class Expression:
    """`op` applied to sub-expressions and constants.

    Args:
        op: a name in `OPERATIONS`, or a module-level function from outside that acts elementwise.
        args: operands; at least one contains the variable.
    """

    op: str | Callable[..., Tensor]
    args: tuple[Operand, ...]

    def __str__(self) -> str:
        name = self.op if isinstance(self.op, str) else getattr(self.op, "__name__", str(self.op))
        return f"{name}({', '.join(map(str, self.args))})"


Operand = Expression | Variable | Constant


def _sine(x: Tensor, a: float, b: float, c: float) -> Tensor:
    return a * torch.sin(b * x + c)


def _cosine(x: Tensor, a: float, b: float, c: float) -> Tensor:
    return a * torch.cos(b * x + c)


def _gaussian(x: Tensor, a: float, b: float) -> Tensor:
    return a * torch.exp(b * x**2)


def _hermite(x: Tensor, n: int) -> Tensor:
    before, now = torch.zeros_like(x), torch.ones_like(x)
    for k in range(n):  # h_{k+1} = (x h_k − √k h_{k−1})/√(k+1)
        before, now = now, (x * now - k**0.5 * before) / (k + 1) ** 0.5
    return now


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return F.gelu(x, approximate=approximate)


# name -> function of (x, constants …); binary ones take the variable on either side
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "add": operator.add,
    "atan": torch.atan,
    "celu": F.celu,
    "clamp": torch.clamp,
    "cos": _cosine,
    "div": operator.truediv,
    "elu": F.elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "gaussian": _gaussian,
    "gelu": _gelu,
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "hermite": _hermite,
    "leaky_relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mish": F.mish,
    "mul": operator.mul,
    "pow": operator.pow,
    "relu": torch.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": _sine,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "sub": operator.sub,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "threshold": F.threshold,
}


def apply_expression(expression: Operand, x: Tensor) -> Tensor:
    """The expression's value at every entry of `x`; differentiable wherever torch's functions are.

    Args:
        expression: the function.
        x: any shape.

    Returns:
        A tensor like `x`.

    Example:
        >>> square = Expression("mul", (VARIABLE, VARIABLE))
        >>> apply_expression(square, torch.tensor([3.0]))
        tensor([9.])
    """
    if isinstance(expression, Variable):
        return x
    if not isinstance(expression, Expression):
        raise TypeError(f"the constant {expression!r} is no function of x")
    function = OPERATIONS[expression.op] if isinstance(expression.op, str) else expression.op
    operands = [apply_expression(arg, x) if isinstance(arg, (Expression, Variable)) else arg for arg in expression.args]
    return function(*operands)


def times(factor: float, expression: Operand) -> Operand:
    """factor · expression, without a factor of 1."""
    return expression if factor == 1.0 else Expression("mul", (factor, expression))


def plus(expression: Operand, offset: float) -> Operand:
    """expression + offset, without an offset of 0."""
    return expression if offset == 0.0 else Expression("add", (expression, offset))


def split_factor(expression: Operand) -> tuple[float, Operand]:
    """(c, e) with expression = c · e, taking out constant factors, also of σ + constant, and sums of multiples."""
    if isinstance(expression, Expression) and expression.op in ("mul", "div", "add", "sub"):
        left, right = expression.args
        if expression.op == "mul" and _is_number(left):
            factor, rest = split_factor(right)
            return float(left) * factor, rest  # pyright: ignore[reportArgumentType]
        if expression.op in ("mul", "div") and _is_number(right):
            factor, rest = split_factor(left)
            number = float(right)  # pyright: ignore[reportArgumentType]
            return (factor * number if expression.op == "mul" else factor / number), rest
        function, offset = split_offset(expression)
        if offset:
            factor, rest = split_factor(function)
            within = factor != 1.0 and is_finite_scale(factor) and factor != 0 and is_finite_scale(offset / factor)
            return (factor, plus(rest, offset / factor)) if within else (1.0, expression)
        if expression.op in ("add", "sub") and not (_is_number(left) or _is_number(right)):
            (a, first), (b, second) = split_factor(left), split_factor(right)
            if first == second:
                return (a + b if expression.op == "add" else a - b), first
    return 1.0, expression


def split_offset(expression: Operand) -> tuple[Operand, float]:
    """(e, c) with expression = e + c, taking out constants that are added."""
    if isinstance(expression, Expression) and expression.op in ("add", "sub"):
        left, right = expression.args
        if _is_number(right):
            function, offset = split_offset(left)
            number = float(right)  # pyright: ignore[reportArgumentType]
            return function, offset + (number if expression.op == "add" else -number)
        if _is_number(left):
            function, offset = split_offset(right)
            number = float(left)  # pyright: ignore[reportArgumentType]
            if expression.op == "add":
                return function, number + offset
            return times(-1.0, function), number - offset
    return expression, 0.0


def split_argument(expression: Expression) -> tuple[float, Expression]:
    """(c, σ) with expression = σ(c x), so that σ(c h) keeps the closed form of σ; c = 1 where nothing is taken out."""
    operands = [arg for arg in expression.args if isinstance(arg, (Expression, Variable))]
    if len(operands) != 1:
        return 1.0, expression
    outer, rest = split_factor(operands[0])
    if isinstance(rest, Expression):
        factor, rest = split_argument(rest)
        if factor == 1.0:
            return 1.0, expression
    else:
        factor, outer = outer, 1.0
    inner = times(outer, rest)
    return factor, Expression(expression.op, tuple(arg if _is_constant(arg) else inner for arg in expression.args))


def _is_constant(operand: Operand) -> bool:
    return not isinstance(operand, (Expression, Variable))


def _is_number(operand: Operand) -> bool:
    return isinstance(operand, (int, float)) and not isinstance(operand, bool)
