"""Which torch module, function or method means which elementwise operation: one entry an operation.

An entry lists the constants that follow x, with torch's defaults; a module gives them as attributes of the same name,
a call by position or keyword. So nn.ReLU(), F.relu(x), torch.relu(x) and x.relu() become the same data.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntkit.nn
from ntkit.architecture.expressions import VARIABLE, Expression, plus, times
from ntkit.architecture.specs import Activation

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class ElementwiseOp:
    """How one elementwise operation may be written.

    Args:
        op: its name in `expressions.OPERATIONS`, or a function from outside.
        modules: module classes that compute it.
        calls: functions, and names of tensor methods, that compute it.
        constants: (name, default) of each constant after x.
    """

    op: str | Callable[..., Tensor]
    modules: tuple[type[nn.Module], ...] = ()
    calls: tuple[Callable[..., Any] | str, ...] = ()
    constants: tuple[tuple[str, Any], ...] = field(default=())

    def from_module(self, module: nn.Module) -> Expression:
        """The operation with the constants that the module holds."""
        values = (getattr(module, name, default) for name, default in self.constants)
        return Expression(self.op, (VARIABLE, *values))

    def bind_constants(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """Constants of a call, defaults filled in; None where an argument is unknown."""
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        names = [name for name, _ in self.constants]
        if len(args) > len(names) or not set(kwargs) <= set(names):
            return None
        given = dict(zip(names, args, strict=False)) | kwargs
        values = tuple(given.get(name, default) for name, default in self.constants)
        return None if _REQUIRED in values else values


@dataclass(frozen=True)
class Formula(ElementwiseOp):
    """A module that several operations on x spell out.

    Args:
        formula: the module -> what it computes.
    """

    formula: Callable[[Any], Expression] = field(kw_only=True)

    def from_module(self, module: nn.Module) -> Expression:
        """The formula with the constants that the module holds."""
        return self.formula(module)


def _erf(module: ntkit.nn.Erf) -> Expression:
    written = plus(times(module.a, Expression("erf", (times(module.b, VARIABLE),))), module.c)
    assert isinstance(written, Expression)
    return written


def _ab_relu(module: ntkit.nn.ABReLU) -> Expression:
    above, below = (Expression("relu", (times(sign, VARIABLE),)) for sign in (1.0, -1.0))
    return Expression("sub", (times(module.b, above), times(module.a, below)))


def _rectified_monomial(module: ntkit.nn.RectifiedMonomial) -> Expression:
    return Expression("pow", (Expression("relu", (VARIABLE,)), module.n))


def _polynomial(module: ntkit.nn.Polynomial) -> Expression:
    *lower, highest = module.coefficients
    total = highest if lower else Expression("mul", (highest, Expression("pow", (VARIABLE, 0))))
    for c in reversed(lower):
        total = plus(Expression("mul", (total, VARIABLE)), c)
    assert isinstance(total, Expression)
    return total


_TABLE = [
    ElementwiseOp("relu", (nn.ReLU,), (F.relu, torch.relu, "relu")),
    ElementwiseOp("leaky_relu", (nn.LeakyReLU,), (F.leaky_relu,), (("negative_slope", 0.01),)),
    ElementwiseOp("abs", (ntkit.nn.Abs,), (torch.abs, torch.absolute, abs, operator.abs, "abs", "absolute")),
    ElementwiseOp("erf", (), (torch.erf, torch.special.erf, "erf")),
    ElementwiseOp("gelu", (nn.GELU,), (F.gelu,), (("approximate", "none"),)),
    ElementwiseOp("sin", (ntkit.nn.Sin,), (torch.sin, "sin"), (("a", 1.0), ("b", 1.0), ("c", 0.0))),
    ElementwiseOp("cos", (ntkit.nn.Cos,), (torch.cos, "cos"), (("a", 1.0), ("b", 1.0), ("c", 0.0))),
    ElementwiseOp("sign", (ntkit.nn.Sign,), (torch.sign, torch.sgn, "sign", "sgn")),
    ElementwiseOp("gaussian", (ntkit.nn.Gaussian,), (), (("a", 1.0), ("b", -1.0))),
    ElementwiseOp("hermite", (ntkit.nn.Hermite,), (), (("n", _REQUIRED),)),
    ElementwiseOp("pow", (ntkit.nn.Monomial,), (), (("n", _REQUIRED),)),
    ElementwiseOp(
        "pow", (), (torch.pow, pow, operator.pow, operator.ipow, "pow", "__pow__"), (("exponent", _REQUIRED),)
    ),
    ElementwiseOp("pow", (), (torch.square, "square"), (("exponent", 2),)),
    ElementwiseOp("mul", (), (operator.neg, torch.neg, "neg", "negative"), (("factor", -1.0),)),
    ElementwiseOp("tanh", (nn.Tanh,), (F.tanh, torch.tanh, "tanh")),
    ElementwiseOp("sigmoid", (nn.Sigmoid,), (F.sigmoid, torch.sigmoid, "sigmoid")),
    ElementwiseOp("silu", (nn.SiLU,), (F.silu,)),
    ElementwiseOp("softplus", (nn.Softplus,), (F.softplus,), (("beta", 1.0), ("threshold", 20.0))),
    ElementwiseOp("mish", (nn.Mish,), (F.mish,)),
    ElementwiseOp("elu", (nn.ELU,), (F.elu,), (("alpha", 1.0),)),
    ElementwiseOp("selu", (nn.SELU,), (F.selu, torch.selu)),
    ElementwiseOp("celu", (nn.CELU,), (F.celu, torch.celu), (("alpha", 1.0),)),
    ElementwiseOp("hardtanh", (nn.Hardtanh,), (F.hardtanh,), (("min_val", -1.0), ("max_val", 1.0))),
    ElementwiseOp("relu6", (nn.ReLU6,), (F.relu6,)),
    ElementwiseOp("hardsigmoid", (nn.Hardsigmoid,), (F.hardsigmoid,)),
    ElementwiseOp("hardswish", (nn.Hardswish,), (F.hardswish,)),
    ElementwiseOp("softsign", (nn.Softsign,), (F.softsign,)),
    ElementwiseOp("softshrink", (nn.Softshrink,), (F.softshrink,), (("lambd", 0.5),)),
    ElementwiseOp("hardshrink", (nn.Hardshrink,), (F.hardshrink, torch.hardshrink), (("lambd", 0.5),)),
    ElementwiseOp("tanhshrink", (nn.Tanhshrink,), (F.tanhshrink,)),
    ElementwiseOp("threshold", (nn.Threshold,), (F.threshold,), (("threshold", _REQUIRED), ("value", _REQUIRED))),
    ElementwiseOp("logsigmoid", (nn.LogSigmoid,), (F.logsigmoid,)),
    ElementwiseOp("clamp", (), (torch.clamp, torch.clip, "clamp", "clip"), (("min", None), ("max", None))),
    ElementwiseOp("exp", (), (torch.exp, "exp")),
    Formula("", (ntkit.nn.Erf,), formula=_erf),
    Formula("", (ntkit.nn.ABReLU,), formula=_ab_relu),
    Formula("", (ntkit.nn.RectifiedMonomial,), formula=_rectified_monomial),
    Formula("", (ntkit.nn.Polynomial,), formula=_polynomial),
    ElementwiseOp("sinh", (), (torch.sinh, "sinh")),
    ElementwiseOp("atan", (), (torch.atan, torch.arctan, "atan", "arctan")),
]

MODULES: dict[type[nn.Module], ElementwiseOp] = {module: op for op in _TABLE for module in op.modules}
CALLS: dict[Callable[..., Any] | str, ElementwiseOp] = {call: op for op in _TABLE for call in op.calls}

# two operands: elementwise where both are functions of one variable
BINARY: dict[Callable[..., Any] | str, str] = {
    call: name
    for name, calls in {
        "add": (operator.add, operator.iadd, torch.add, "add"),
        "sub": (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "subtract"),
        "mul": (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "multiply"),
        "div": (operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "divide"),
        "maximum": (torch.maximum, torch.max, "maximum"),
        "minimum": (torch.minimum, torch.min, "minimum"),
    }.items()
    for call in calls
}


# functions and module classes from outside that have formulas -> the spec of a use of them
SPECS: dict[Any, Callable[[Expression], Activation]] = {}


def elementwise_op(module: nn.Module) -> ElementwiseOp | None:
    """The operation a module computes, or None. Subclasses do not inherit it: their forward may differ."""
    return MODULES.get(type(module))
