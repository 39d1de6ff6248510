"""The duals of activations from outside, whose formulas `ntkit.infinite.register_activation` has been given.

The formulas are found by what was registered, a class or a function, so that a kernel can be compared and pickled by
its name. They are tried on symbols before they are used, for the compiled engine records them, and what they give is
checked whenever they are: tensors of one number an entry, the same at every call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from numbers import Number, Real
from typing import Any

import torch
from torch import Tensor

from ntkit.architecture.specs import Registered
from ntkit.errors import InvalidInput, NtkitError, UnsupportedLayer
from ntkit.infinite.dual import elementary
from ntkit.infinite.dual.base import ClosedForm, Formula
from ntkit.infinite.dual.symbols import Recording, Symbol, recorded


@dataclass(frozen=True)
class Formulas:
    """What a user gives; each takes the activation's constants after its own arguments.

    Args:
        variance: q -> E[σ(u)²].
        mean: q -> E[σ(u)].
        distance: (q1, q2, D) -> E[(σ(u) − σ(v))²].
        derivative: (q1, q2, D) -> E[σ'(u) σ'(v)].
        scale_derivative: (q1, q2, D) -> E[uσ'(u) vσ'(v)], or None.
        check: q -> None, raises where the moments do not exist; or None.
    """

    variance: Formula
    mean: Formula
    distance: Formula
    derivative: Formula
    scale_derivative: Formula | None = None
    check: Formula | None = None


FORMULAS: dict[Any, Formulas] = {}  # class or function -> its formulas


def closed_form(spec: Registered, tolerance: float) -> ClosedForm:
    """The dual of a registered activation with its constants.

    Raises:
        UnsupportedLayer: it is not registered here, as in a process that has read a kernel from a file.
        InvalidInput: a formula cannot be recorded.
    """
    if spec.function not in FORMULAS:
        raise UnsupportedLayer(
            f"{spec.name} has no formulas here; import the file that calls register_activation for it first"
        )
    return _recordable(spec)


@lru_cache(maxsize=256)
def _recordable(spec: Registered) -> ClosedForm:
    given = FORMULAS[spec.function]
    formulas = {name: getattr(given, name) for name in ("variance", "mean", "distance", "derivative")}
    if given.scale_derivative is not None:
        formulas["scale_derivative"] = given.scale_derivative
    checked = {name: partial(_checked, f"the formula {name} of {spec.name}", f) for name, f in formulas.items()}
    form = ClosedForm.of(replace(given, **checked), *spec.constants)
    for name in ("distance", "derivative", "scale_derivative"):
        formula = getattr(form, name)
        if formula is not None and _recorded(formula) != _recorded(formula):
            raise _is_random(f"the formula {name} of {spec.name}")
    return form


def _recorded(formula: Formula) -> tuple[Any, ...]:
    """What a formula does with symbols, as data that compare."""
    recording = Recording()
    result = formula(*(recording.variable(argument) for argument in ("q1", "q2", "d")))
    return *recording.written, result.index if isinstance(result, Symbol) else result


def _checked(who: str, formula: Formula, *args: Any) -> Any:
    """The formula's result: a symbol or a number where it is recorded, else a tensor of its arguments' shape.

    Raises:
        InvalidInput: it fails, gives something else, or other moments each time.
    """
    if recorded(*args) is not None:
        symbols = "symbols, to be recorded for the compiled engine,"
        result = _called(f"{who} is given {symbols}", formula, args, _WRITTEN)
        if not isinstance(result, Symbol) and not _is_number(result):
            raise InvalidInput(
                f"{who} must give one finite number for a pair, but of {symbols} it makes {_told(result)}; {_WRITTEN}"
            )
        return result
    result = _of_tensors(who, formula, args)
    # what is asked of pairs was recorded twice; variance and mean, once a sample, are asked twice
    if sum(isinstance(a, Tensor) for a in args) == 1:
        again = _of_tensors(who, formula, args)
        if not torch.allclose(result.detach(), again.detach(), rtol=0, atol=0, equal_nan=True):
            raise _is_random(who)
    return result


def _of_tensors(who: str, formula: Formula, args: tuple[Any, ...]) -> Tensor:
    tensors = [a for a in args if isinstance(a, Tensor)]
    shape = torch.broadcast_shapes(*(a.shape for a in tensors))
    result = _called(f"{who} is given tensors of shape {tuple(shape)}", formula, args, _ENTRIES)
    if _is_number(result):
        return torch.full(shape, result, dtype=tensors[0].dtype, device=tensors[0].device)
    if not _fits(result, shape):
        raise InvalidInput(
            f"{who} must give a finite number, or a tensor of real numbers of its arguments' shape {tuple(shape)}, got "
            f"{_told(result)}; {_ENTRIES}"
        )
    return result if result.shape == shape else result.expand(shape).contiguous()


_WRITTEN = (
    "write it over + - * /, whole powers, > and <, and the functions of ntkit.infinite.dual.elementary: "
    + ", ".join(elementary.NAMES)
)
_ENTRIES = "return one number for every entry of the arguments"


def _called(who: str, formula: Formula, args: tuple[Any, ...], remedy: str) -> Any:
    try:
        return formula(*args)
    except NtkitError:
        raise
    except Exception as error:  # a formula from outside may raise anything
        raise InvalidInput(f"{who} and fails: {error}; {remedy}") from error


def _is_number(result: Any) -> bool:
    return isinstance(result, Real) and not isinstance(result, bool) and math.isfinite(result)


def _fits(result: Any, shape: torch.Size) -> bool:
    """Whether a result is a tensor of real numbers that stands for one at every entry."""
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.ndim > len(shape):
        return False
    return all(n in (1, wanted) for n, wanted in zip(reversed(result.shape), reversed(shape), strict=False))


def _told(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)} and dtype {result.dtype}"
    return repr(result) if isinstance(result, (Number, str)) else type(result).__name__


def _is_random(who: str) -> InvalidInput:
    return InvalidInput(
        f"{who} must give the same whenever it is given the same, and gives another result the second time; take out "
        "what is random, or what it keeps from call to call"
    )
