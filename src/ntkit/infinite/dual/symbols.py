"""Formulas recorded as data, so that one formula serves both engines.

A formula written over +, −, ×, /, whole powers, comparisons and the free names of `elementary.py` computes with
tensors when given tensors. Given symbols it records itself: a list of operations without repetition, which the
compiled engine turns into machine code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Recording:
    """Operations in the order in which they are computed; equal ones are one.

    Args:
        operations: (name, operands); an operand is a number or the index of an earlier operation.
    """

    operations: list[tuple[str, tuple[Symbol | int | float, ...]]] = field(default_factory=list)
    _index: dict[tuple, int] = field(default_factory=dict)

    def variable(self, name: str) -> Symbol:
        """An argument of the formula."""
        return self.add("argument " + name, ())

    @property
    def written(self) -> tuple[Any, ...]:
        """The operations in order, symbols by their index, so that two recordings compare."""
        return tuple(self._index)

    def add(self, name: str, operands: tuple[Symbol | int | float, ...]) -> Symbol:
        """The symbol of an operation."""
        if any(not isinstance(o, Symbol) and o != o for o in operands):
            raise TypeError("a recorded formula cannot compute with nan")
        key = (name, *(("symbol", o.index) if isinstance(o, Symbol) else float(o) for o in operands))
        if key not in self._index:
            self._index[key] = len(self.operations)
            self.operations.append((name, operands))
        return Symbol(self, self._index[key])


@dataclass(frozen=True, eq=False)
class Symbol:
    """The result of one recorded operation."""

    recording: Recording
    index: int

    def _record(self, name: str, *operands: Symbol | int | float) -> Symbol:
        return self.recording.add(name, operands)

    def __add__(self, other: Symbol | int | float) -> Symbol:
        return self if not isinstance(other, Symbol) and other == 0 else self._record("add", self, other)

    def __radd__(self, other: int | float) -> Symbol:
        return self if other == 0 else self._record("add", other, self)

    def __sub__(self, other: Symbol | int | float) -> Symbol:
        return self if not isinstance(other, Symbol) and other == 0 else self._record("sub", self, other)

    def __rsub__(self, other: int | float) -> Symbol:
        return self._record("sub", other, self)

    def __mul__(self, other: Symbol | int | float) -> Symbol:
        return self if not isinstance(other, Symbol) and other == 1 else self._record("mul", self, other)

    def __rmul__(self, other: int | float) -> Symbol:
        return self if other == 1 else self._record("mul", other, self)

    def __truediv__(self, other: Symbol | int | float) -> Symbol:
        return self._record("div", self, other) if isinstance(other, Symbol) else self * (1.0 / other)

    def __rtruediv__(self, other: int | float) -> Symbol:
        return self._record("div", other, self)

    def __neg__(self) -> Symbol:
        return self._record("neg", self)

    def __pow__(self, exponent: int) -> Symbol | int | float:
        if int(exponent) != exponent or exponent < 0:
            raise TypeError(f"a recorded formula takes whole powers from 0, got {exponent!r}")
        result: Symbol | int | float = 1.0
        for digit in bin(int(exponent))[2:]:  # squares and products, highest digit first
            result = result * result
            result = result * self if digit == "1" else result
        return result

    def __gt__(self, other: Symbol | int | float) -> Symbol:
        return self._record("greater", self, other)

    def __lt__(self, other: Symbol | int | float) -> Symbol:
        return self._record("less", self, other)

    def __and__(self, other: Symbol) -> Symbol:
        return self._record("and", self, other)

    def __eq__(self, other: object) -> bool:
        raise TypeError("a recorded formula cannot ask whether numbers are equal; use > or < and where()")

    def __bool__(self) -> bool:
        raise TypeError("a recorded formula cannot branch on numbers; use where(condition, one, other)")


def recorded(*operands: object) -> Recording | None:
    """The recording that any of the operands belongs to."""
    return next((operand.recording for operand in operands if isinstance(operand, Symbol)), None)
