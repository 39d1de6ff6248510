"""Closed-form duals as machine code: a formula's recording becomes a loop over pairs, called by its address.

The loop works on a strip, four rows of one array of `STRIP` numbers each: r1 = √q1, r2 = √q2, D, T. It writes D after
the activation over D, and T times the derivative's covariance over T. Rows at fixed distances let the compiler see that
they do not overlap, so the loop vectorises. Roots come in because square roots and divisions are what binds: of the two
samples' roots, taken once, √(q1 q2) and (√q1 − √q2)² are a product and a difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import types

from ntkit.infinite import program as ops
from ntkit.infinite.compiled import cache
from ntkit.infinite.compiled.elementary import elementary
from ntkit.infinite.dual import ClosedForm
from ntkit.infinite.dual.symbols import Recording, Symbol

AddressOf = Callable[[int, bool, str], int]  # (register of a dual, with derivative, dtype) -> address of its loop

STRIP = 1024  # numbers in a row; four rows in float32 fill a third of a first-level cache

_MANY = 100  # operations: so many fill the registers with two numbers at once

_BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/", "greater": ">", "less": "<", "and": "&"}


def loop_source(dual: ClosedForm, derivative: bool, scale: bool = False) -> str:
    """Python source of the loop, constants and all, with the free names left free."""
    recording = Recording()
    q1, q2, d = (recording.variable(name) for name in ("q1", "q2", "d"))
    results = [("after", dual.distance(q1, q2, d))]
    if derivative:
        results.append(("slope", dual.derivative(q1, q2, d)))
    if scale and dual.scale_derivative is not None:
        results.append(("scale", dual.scale_derivative(q1, q2, d)))
    written = [("r1", "strip[i]"), ("r2", f"strip[i + {STRIP}]")]
    written += [(f"t{k}", _expression(recording, *operation)) for k, operation in enumerate(recording.operations)]
    written += [(name, _operand(result)) for name, result in results]
    written.append((f"strip[i + {2 * STRIP}]", "after"))
    if derivative:
        more = " + scale" if scale else ""
        written.append((f"strip[i + {3 * STRIP}]", f"strip[i + {3 * STRIP}] * slope{more}"))
    # several numbers' steps alternate, for each waits for the one before: a fifth faster (division and root wait long)
    chains = 4 if len(recording.operations) < _MANY else 2
    lines = ["def strip_loop(pointer, n):", f"    strip = carray(pointer, ({4 * STRIP},))"]
    lines += [f"    if n == {STRIP}:", f"        for i in range({STRIP // chains}):"]
    lines += [
        f"            {_at(target, k * STRIP // chains, k)} = {_at(value, k * STRIP // chains, k)}"
        for target, value in written
        for k in range(chains)
    ]
    lines += ["    else:", "        for i in range(n):"]
    lines += [f"            {target} = {value}" for target, value in written]
    return "\n".join(lines) + "\n"


def _at(text: str, shift: int, chain: int) -> str:
    """The same for number i + shift, with variables of its own."""
    text = re.sub(r"\b(t\d+|r1|r2|after|slope|scale)\b", rf"\1_{chain}", text)
    return re.sub(r"\[i(?: \+ (\d+))?\]", lambda found: f"[i + {int(found[1] or 0) + shift}]", text)


def _operand(operand: Any) -> str:
    return f"t{operand.index}" if isinstance(operand, Symbol) else f"number({float(operand)!r})"


def _expression(recording: Recording, name: str, operands: tuple[Any, ...]) -> str:
    arguments = tuple(
        recording.operations[o.index][0].removeprefix("argument ") if isinstance(o, Symbol) else None for o in operands
    )
    known = {  # what the roots give directly
        ("argument q1",): "r1 * r1",
        ("argument q2",): "r2 * r2",
        ("argument d",): f"strip[i + {2 * STRIP}]",
        ("sqrt", "q1"): "r1",
        ("sqrt", "q2"): "r2",
        ("geometric_mean", "q1", "q2"): "r1 * r2",
        ("squared_gap", "q1", "q2"): "(r1 - r2) * (r1 - r2)",
        ("sub", "q1", "q2"): "(r1 - r2) * (r1 + r2)",
    }
    if (name, *arguments) in known:
        return known[name, *arguments]
    written = [_operand(o) for o in operands]
    if name in _BINARY:
        return f" {_BINARY[name]} ".join(written)
    if name == "neg":
        return f"-{written[0]}"
    return f"{name}({', '.join(written)})"


@lru_cache(maxsize=256)
def strip_loop(source: str, dtype: str) -> Any:
    """The compiled loop: `.address` takes (pointer to the strip, numbers in use)."""
    number = np.float32 if dtype == "float32" else np.float64
    kind = types.float32 if dtype == "float32" else types.float64
    scope: dict[str, Any] = {"carray": numba.carray, "number": number, "inf": float("inf"), **elementary(dtype)}
    signature = types.void(types.CPointer(kind), types.intp)
    return cache.callback(source, "strip_loop", scope, signature, fastmath={"contract"}, error_model="numpy")


def loops_of(program: ops.Program, duals: Mapping[int, ClosedForm]) -> AddressOf:
    """Where the compiled loops of a program's duals lie, {register: dual}."""

    def address(register: int, derivative: bool, dtype: str) -> int:
        op = program.instructions[register]
        scale = derivative and isinstance(op, ops.Dual) and op.scale is not None
        return strip_loop(loop_source(duals[register], derivative, scale), dtype).address

    return address
