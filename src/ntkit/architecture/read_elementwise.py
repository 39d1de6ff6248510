"""Reads elementwise functions, and binary operations between a tensor and itself, a number, or another tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ntkit.architecture.expressions import VARIABLE, Expression, Operand
from ntkit.architecture.layout import Size
from ntkit.architecture.lowering import BINARY, CALLS, elementwise_op
from ntkit.architecture.probe import require_elementwise
from ntkit.architecture.reader import Reader
from ntkit.architecture.recorded import REMEDY, Call, InPlace, Value
from ntkit.architecture.specs import LinearCombination, Product
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.nn.scale import is_finite_scale


def read_module(reader: Reader, call: Call) -> Value | InPlace:
    """A module that acts on each entry alone."""
    module = call.module
    assert module is not None
    op = elementwise_op(module)
    assert op is not None
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        raise UnsupportedLayer(f"{call.who} has parameters, and no rule for them")
    return _apply(call, op.from_module(module), bool(getattr(module, "inplace", False)))


def read_function(reader: Reader, call: Call) -> Value | InPlace:
    """A function or method that acts on each entry alone."""
    op = CALLS[call.name]
    constants = op.bind_constants(call.args[1:], {k: v for k, v in call.kwargs.items() if k != "input"})
    if constants is None or any(isinstance(c, (Value, Size)) for c in constants):
        raise call.unknown_arguments()
    in_place = call.is_in_place or bool(call.kwargs.get("inplace", False))
    return _apply(call, Expression(op.op, (VARIABLE, *constants)), in_place)


def _apply(call: Call, function: Expression, in_place: bool) -> Value | InPlace:
    if not isinstance(function.op, str):
        require_elementwise(function, call.who)
    value = replace(call.x, expression=_substitute(function, call.x.expression), path=call.path)
    return InPlace(value) if in_place else value


def _substitute(function: Expression, inner: Operand) -> Expression:
    """`function` of `inner` in place of the variable."""

    def put(arg: Operand) -> Operand:
        return inner if arg == VARIABLE else _substitute(arg, inner) if isinstance(arg, Expression) else arg

    return Expression(function.op, tuple(map(put, function.args)))


def read_binary(reader: Reader, call: Call) -> Value | InPlace | Size:
    """x + y and its like, where x or y may be a number."""
    op = BINARY[call.name]
    left, right = call.args
    if op == "mul" and all(isinstance(side, (Size, int)) for side in (left, right)):
        return _as_size(left) * _as_size(right)
    alpha = call.kwargs.get("alpha", 1)
    if set(call.kwargs) - {"alpha"} or not isinstance(alpha, (int, float)):
        raise call.unknown_arguments()
    if not is_finite_scale(alpha):
        raise InvalidInput(f"{call.who} has alpha={alpha!r}; use a finite number, of finite square")
    value = _combine(reader, op, left, right, float(alpha), call)
    return InPlace(value) if call.is_in_place and isinstance(left, Value) else value


def _combine(reader: Reader, op: str, left: Any, right: Any, alpha: float, call: Call) -> Value:
    for side in (left, right):
        if not isinstance(side, (Value, int, float)) or isinstance(side, bool):
            raise UnsupportedLayer(f"{call.who} combines a tensor with {side!r}, which has no rule; {REMEDY}")
        if not isinstance(side, Value) and not is_finite_scale(side):
            raise InvalidInput(f"{call.who} combines a tensor with {side!r}; use a finite number, of finite square")
    if op == "div" and not isinstance(right, Value) and right == 0:
        raise InvalidInput(f"{call.who} divides a tensor by {right!r}; use a number other than 0")
    if isinstance(left, Value) and isinstance(right, Value):
        if left.base == right.base and reader.layout(left) == reader.layout(right):
            scaled = right.expression if alpha == 1.0 else Expression("mul", (right.expression, alpha))
            return replace(left, expression=Expression(op, (left.expression, scaled)), path=call.path)
        if op not in ("add", "sub", "mul"):
            raise UnsupportedLayer(f"{call.who} combines two different tensors by '{op}', which has no rule; {REMEDY}")
        spec = Product() if op == "mul" else LinearCombination((1.0, alpha if op == "add" else -alpha))
        return _together(reader, left, right, spec, call)
    if op in ("maximum", "minimum"):  # torch.max(x, 0) is a reduction over axis 0 and no comparison with 0
        raise UnsupportedLayer(f"{call.who} reduces over an axis, which has no rule; {REMEDY}")
    value = left if isinstance(left, Value) else right
    operands = [v.expression if isinstance(v, Value) else float(v) for v in (left, right)]
    if alpha != 1.0:
        operands[1] = Expression("mul", (operands[1], alpha)) if isinstance(right, Value) else alpha * float(right)
    return replace(value, expression=Expression(op, tuple(operands)), path=call.path)


def _together(reader: Reader, left: Value, right: Value, spec: LinearCombination | Product, call: Call) -> Value:
    """The sum or the product of two tensors of one shape."""
    verb = "multiplies" if isinstance(spec, Product) else "adds"
    features = reader.layout(left).channels or reader.layout(right).channels
    if features is not None:
        for side in (left, right):
            reader.require_channels(side, features, f"{call.who} {verb} tensors of one shape, of {features} features")
    left, right = reader.on_one_grid([left, right], call)
    inputs = (reader.settle(left), reader.settle(right))
    index = reader.add(spec, inputs, call.path)
    return Value(index, reader.layout(left))


def _as_size(size: Size | int) -> Size:
    return size if isinstance(size, Size) else Size((), size)
