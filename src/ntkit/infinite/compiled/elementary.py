"""The free names of dual activations as compiled functions of one number, for loops that the compiler vectorises.

The C library's functions do not vectorise. These are polynomials (polynomials.py) after the usual reductions of the
argument, good to one or two roundings of their number type, without branches.
"""

from __future__ import annotations

import inspect
import math
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types

from ntkit.infinite.compiled import polynomials
from ntkit.infinite.compiled.lanes import operation


@operation
def select(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y: both are computed, so that a loop over it vectorises."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return x(types.boolean, x, x), generate


@operation
def power_of_two(typing_context: Any, n: Any) -> Any:
    """2ⁿ for a whole number n held in a floating-point type, by writing the exponent's bits."""
    mantissa, bias = {types.float32: (23, 127), types.float64: (52, 1023)}[n]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(32 if n == types.float32 else 64)
        exponent = builder.add(builder.fptosi(args[0], integer), integer(bias))
        return builder.bitcast(builder.shl(exponent, integer(mantissa)), context.get_value_type(n))

    return n(n), generate


@operation
def nearest(typing_context: Any, x: Any) -> Any:
    """The nearest whole number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(x)
        function = builder.module.declare_intrinsic("llvm.rint", [kind])
        return builder.call(function, args)

    return x(x), generate


def _polynomial(coefficients: tuple[float, ...], number: Any) -> Any:
    """A compiled polynomial by Horner's rule, written out so that nothing is left to unroll."""
    names = {f"c{k}": number(c) for k, c in enumerate(coefficients)}
    body = f"c{len(coefficients) - 1}"
    for k in range(len(coefficients) - 2, -1, -1):
        body = f"({body}) * x + c{k}"
    scope: dict[str, Any] = names | {"__name__": __name__}  # a module that exists: kept code looks it up
    exec(f"def horner(x): return {body}", scope)
    return numba.njit(error_model="numpy", fastmath={"contract"}, inline="never")(scope["horner"])


def jit(function: Any) -> Any:
    """Compiles a function, without the type checks that tests put around it."""
    return numba.njit(error_model="numpy", fastmath={"contract"})(inspect.unwrap(function))


@lru_cache
def elementary(dtype: str) -> dict[str, Any]:
    """name -> compiled function, for "float32" or "float64"."""
    number = np.float32 if dtype == "float32" else np.float64
    arcsine, angle_ratio, lens, sine, exponential, exponential_minus_one = (
        _polynomial(getattr(polynomials, name)[dtype], number)
        for name in ("ARCSINE", "ANGLE", "LENS", "SINE", "EXP", "EXPM1")
    )
    zero, half, one, two = number(0), number(0.5), number(1), number(2)
    pi, right_angle = number(math.pi), number(math.pi / 2)
    per_ln2, per_pi = number(1 / math.log(2)), number(1 / math.pi)
    # ln 2 and π in two parts, the first with trailing zeros, so that n · part is exact
    bits = 12 if dtype == "float32" else 30
    ln2_high = number(math.floor(math.log(2) * 2**bits) / 2**bits)
    ln2_low = number(math.log(2) - float(ln2_high))
    pi_high = number(math.floor(math.pi * 2**bits) / 2**bits)
    pi_low = number(math.pi - float(pi_high) + (0.0 if dtype == "float32" else 1.2246467991473532e-16))
    lowest, highest = (number(-87), number(88)) if dtype == "float32" else (number(-708), number(709))
    square_root = math.sqrt

    @jit
    def sqrt(x):
        return square_root(x)

    @jit
    def geometric_mean(q1, q2):
        return square_root(q1 * q2)

    @jit
    def squared_gap(q1, q2):
        gap = square_root(q1) - square_root(q2)
        return gap * gap

    @jit
    def clip(x, low, high):
        x = select(x > low, x, low)
        return select(x < high, x, high)

    @jit
    def arcsin(x):
        size = select(x < zero, -x, x)
        large = size > half
        z = select(large, (one - size) * half, size * size)
        root = select(large, square_root(z), size)
        value = root * arcsine(z)
        value = select(large, right_angle - two * value, value)
        return select(x < zero, -value, value)

    @jit
    def angle(h):
        obtuse = h > half
        z = select(obtuse, one - h, h)
        theta = two * square_root(z) * angle_ratio(z)
        return select(obtuse, pi - theta, theta)

    @jit
    def sine_minus_theta_cosine(h):
        obtuse = h > half
        z = select(obtuse, one - h, h)
        value = z * square_root(z) * lens(z)
        return select(obtuse, value + pi * (one - two * z), value)

    @jit
    def reduced(x):
        """(n, r) with x = n ln 2 + r."""
        n = nearest(x * per_ln2)
        return n, (x - n * ln2_high) - n * ln2_low

    @jit
    def exp(x):
        n, r = reduced(clip(x, lowest, highest))
        value = exponential(r) * power_of_two(n)
        return select(x < lowest, zero, value)

    @jit
    def expm1(x):
        n, r = reduced(clip(x, lowest, highest))
        scale = power_of_two(n)
        return scale * (r * exponential_minus_one(r)) + (scale - one)

    @jit
    def sin(x):
        n = nearest(x * per_pi)
        r = (x - n * pi_high) - n * pi_low
        value = r * sine(r * r)
        odd = nearest(n * half) * two != n
        return select(odd, -value, value)

    functions = (sqrt, geometric_mean, squared_gap, clip, arcsin, angle, sine_minus_theta_cosine, exp, expm1, sin)
    return {f.py_func.__name__: f for f in functions} | {"where": select}
