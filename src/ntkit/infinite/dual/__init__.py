"""Dual activations: what an elementwise function does to a Gaussian pair. One family a file, formula and source on top.

Adding one: a module with `variance`, `mean`, `distance` and `derivative`, and a line here. From outside it is
`ntkit.infinite.register_activation`, whose formulas `registered.py` holds.
"""

from collections.abc import Callable
from typing import Any

from ntkit.architecture import specs
from ntkit.infinite.dual import (
    erf,
    exponential,
    gaussian,
    gelu,
    polynomial,
    rectified,
    registered,
    relu,
    shifted,
    sign,
    sine,
)
from ntkit.infinite.dual.base import ClosedForm, Dual, Samples, dual
from ntkit.infinite.dual.series import Series

__all__ = ["ClosedForm", "Dual", "Samples", "Series", "dual", "register"]


def register(
    activation: type[specs.Activation],
) -> Callable[[Callable[[Any, float], Dual]], Callable[[Any, float], Dual]]:
    """Decorator: the function (spec, tolerance) -> Dual makes the dual of this type of activation."""
    return dual.register(activation)


register(specs.LeakyReLU)(lambda spec, tolerance: ClosedForm.of(relu, spec.negative_slope, 1.0))
register(specs.ABReLU)(lambda spec, tolerance: ClosedForm.of(relu, spec.a, spec.b))
register(specs.Erf)(lambda spec, tolerance: ClosedForm.of(erf))
register(specs.GELU)(lambda spec, tolerance: ClosedForm.of(gelu))
register(specs.Sin)(lambda spec, tolerance: ClosedForm.of(sine, spec.a, spec.b, spec.c))
register(specs.Cos)(lambda spec, tolerance: ClosedForm.of(sine, spec.a, spec.b, spec.c + _QUARTER_TURN))
register(specs.Exp)(lambda spec, tolerance: ClosedForm.of(exponential))
register(specs.Sign)(lambda spec, tolerance: ClosedForm.of(sign))
register(specs.Gaussian)(lambda spec, tolerance: ClosedForm.of(gaussian, spec.a, spec.b))
register(specs.Monomial)(lambda spec, tolerance: _polynomial((0.0,) * spec.n + (1.0,)))
register(specs.Polynomial)(lambda spec, tolerance: _polynomial(spec.coefficients))
register(specs.Hermite)(lambda spec, tolerance: ClosedForm.of(polynomial, polynomial.rows_of_hermite(spec.n), 1.0))
register(specs.RectifiedMonomial)(lambda spec, tolerance: ClosedForm.of(rectified, spec.n))
register(specs.Shifted)(lambda spec, tolerance: _shifted(spec, tolerance))
register(specs.Registered)(registered.closed_form)
register(specs.Elementwise)(lambda spec, tolerance: Series(spec.expression, tolerance))

_QUARTER_TURN = 1.5707963267948966


def _polynomial(coefficients: tuple[float, ...]) -> ClosedForm:
    return ClosedForm.of(polynomial, polynomial.rows_of_powers(coefficients), 0.0)


def _shifted(spec: specs.Shifted, tolerance: float) -> ClosedForm:
    found = dual(spec.activation, tolerance)
    assert isinstance(found, ClosedForm), f"{spec.activation.name} has no closed form, so its shift has none"
    return shifted.with_offset(found, spec.offset)
