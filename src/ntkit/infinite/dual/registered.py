"""The duals of activations from outside, whose formulas `ntkit.infinite.register_activation` has been given.

The formulas are found by what was registered, a class or a function, so that a kernel can be compared and pickled by
its name. They are tried on symbols before they are used: the compiled engine records them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ntkit.architecture.specs import Registered
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.infinite.dual import elementary
from ntkit.infinite.dual.base import ClosedForm, Formula
from ntkit.infinite.dual.symbols import Recording


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
    form = ClosedForm.of(FORMULAS[spec.function], *spec.constants)
    for name in ("distance", "derivative", "scale_derivative"):
        formula = getattr(form, name)
        if formula is None:
            continue
        recording = Recording()
        try:
            formula(*(recording.variable(argument) for argument in ("q1", "q2", "d")))
        except (TypeError, AttributeError) as error:
            raise InvalidInput(
                f"the formula {name} of {spec.name} is given symbols, to be recorded for the compiled engine, and "
                f"fails: {error}; write it over + - * /, whole powers, > and <, and the functions of "
                f"ntkit.infinite.dual.elementary: {', '.join(elementary.NAMES)}"
            ) from error
    return form
