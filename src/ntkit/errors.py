"""Every error ntkit raises on purpose. Each message says what was wanted, what came, and the remedy."""

from __future__ import annotations

__all__ = [
    "ContractViolation",
    "DataError",
    "InvalidInput",
    "MemoryLimitExceeded",
    "MissingDependency",
    "MissingScale",
    "NtkitError",
    "ToleranceNotReached",
    "UnsupportedLayer",
]


class NtkitError(Exception):
    """The family: `except ntkit.errors.NtkitError` catches every error below."""


class InvalidInput(NtkitError, ValueError):
    """An argument has the wrong type, shape, dtype or values (NaN, infinity, out of range)."""


class UnsupportedLayer(NtkitError, TypeError):
    """A part of a network has no rule, or its infinite-width limit does not exist; the message names its path."""


class MissingScale(NtkitError, ValueError):
    """A plain torch layer states no initial scale and none was given."""


class MemoryLimitExceeded(NtkitError, MemoryError):
    """A result or a needed intermediate would not fit in memory; said before anything is allocated."""


class DataError(NtkitError, ValueError):
    """A data set is unknown, broken, unsafe to read, or not of the needed form."""


class ToleranceNotReached(NtkitError, ArithmeticError):
    """A quadrature, a series or an iteration cannot reach the accuracy asked for."""


class ContractViolation(NtkitError, AssertionError):
    """A rule lacks a property that every rule has; `ntkit.testing` says which, what was wanted and what came."""


class MissingDependency(NtkitError, ImportError):
    """An optional library is needed; the message names the extra that brings it."""
