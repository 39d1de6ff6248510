"""Activations and layers that users declare in their own files: `register_activation` and `register_layer`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from torch import nn

from ntkit.architecture import dispatch, outside
from ntkit.architecture.read_outside import LAYERS
from ntkit.architecture.specs import Layer
from ntkit.errors import InvalidInput
from ntkit.infinite.dual.base import Formula
from ntkit.infinite.dual.registered import FORMULAS, Formulas
from ntkit.infinite.rules.base import Builder, rule
from ntkit.infinite.rules.values import Value

LayerRule = TypeVar("LayerRule", bound=Callable[[Any, list[Value], Builder], Value])

_ARGUMENTS = {
    "variance": ("q",),
    "mean": ("q",),
    "distance": ("q1", "q2", "d"),
    "derivative": ("q1", "q2", "d"),
    "scale_derivative": ("q1", "q2", "d"),
    "check": ("q",),
}
_NEEDED = ("variance", "mean", "distance", "derivative")


def register_activation(
    target: Any = None,
    *,
    variance: Formula | None = None,
    mean: Formula | None = None,
    distance: Formula | None = None,
    derivative: Formula | None = None,
    scale_derivative: Formula | None = None,
    check: Formula | None = None,
    constants: Sequence[str] = (),
) -> Any:
    """Declare a module class without parameters, or a function, to be an activation; usable as a decorator.

    Without formulas its dual is found by quadrature; then it is needed only for what cannot be traced (a branch on
    values, an operation ntkit does not know). With the four formulas its kernel is in closed form in both engines. For
    Gaussian u, v of variances q1, q2 and squared distance d = E[(u − v)²]:

        variance    q -> E[σ(u)²]                       mean        q -> E[σ(u)]
        distance    (q1, q2, d) -> E[(σ(u) − σ(v))²]    derivative  (q1, q2, d) -> E[σ'(u) σ'(v)]

    `distance` and those after it are recorded as machine code: they are written over arithmetic, whole powers,
    comparisons and the functions of `ntkit.infinite.dual.elementary`. `ntkit.testing.check_activation` tests them.

    Args:
        target: the class or the function; a function takes x and, after it, constants.
        variance: second moment after the activation.
        mean: mean after it.
        distance: squared distance after it, in a form that does not cancel for close u and v.
        derivative: covariance of the slopes.
        scale_derivative: (q1, q2, d) -> E[uσ'(u) vσ'(v)]; needed behind a normalisation layer whose scale trains.
        check: q -> None, raises an error where the moments do not exist for such variances.
        constants: names of the attributes of the module that the formulas take as further arguments. A function's
            constants are its own parameters after x.

    Returns:
        The class; of a Python function what is to be called in its place, which forward records as one operation.

    Raises:
        InvalidInput: no class or function, one that has a rule, or formulas that are missing or take other arguments.

    Example:
        >>> import ntkit
        >>> @register_activation(
        ...     variance=lambda q: 3 * q**2,
        ...     mean=lambda q: q,
        ...     distance=lambda q1, q2, d: 2 * (q1 - q2) ** 2 + (2 * (q1 + q2) - d) * d,
        ...     derivative=lambda q1, q2, d: 2 * (q1 + q2 - d),
        ... )
        ... def square(x):
        ...     return x * x
        >>> ntkit.testing.check_activation(square)[:2]
        ('equal samples', 'second moment')

    Reference: Daniely, Frostig & Singer 2016 for dual activations.
    """
    given = {
        "variance": variance,
        "mean": mean,
        "distance": distance,
        "derivative": derivative,
        "scale_derivative": scale_derivative,
        "check": check,
    }
    formulas = {name: formula for name, formula in given.items() if formula is not None}
    if target is None:  # called with formulas alone, as a decorator
        return lambda decorated: register_activation(decorated, **formulas, constants=constants)
    if not (inspect.isroutine(target) or (isinstance(target, type) and issubclass(target, nn.Module))):
        raise InvalidInput(f"register_activation takes a torch.nn.Module class or a function, got {target!r}")
    _require_new(target)
    if isinstance(constants, str) or not isinstance(constants, Sequence):
        raise InvalidInput(f"constants= must be a tuple of names of attributes, as in ('b',), got {constants!r}")
    if formulas:
        return _with_formulas(target, formulas, constants)
    if constants:
        raise InvalidInput(f"constants={tuple(constants)} are for formulas, and none are given; leave them out")
    return outside.register_elementwise(cast(Any, target))


def _with_formulas(target: Any, formulas: dict[str, Formula], constants: Sequence[str]) -> Any:
    """What `register_activation` returns where there are formulas."""
    is_class = isinstance(target, type)
    if constants and not is_class:
        raise InvalidInput("constants= names attributes of modules; of a function its parameters after x count")
    names = tuple(constants) if is_class else outside.parameters_after_x(target)
    _check_formulas(target.__name__, formulas, names)
    registered = outside.register_with_formulas(target, names)
    FORMULAS[registered] = Formulas(**formulas)
    return registered


def _check_formulas(who: str, formulas: dict[str, Formula], constants: tuple[str, ...]) -> None:
    missing = [name for name in _NEEDED if name not in formulas]
    if missing:
        raise InvalidInput(
            f"{who} is given {', '.join(formulas)} but not {', '.join(missing)}; give all of {', '.join(_NEEDED)}, or "
            "none to have them found by quadrature"
        )
    for name, formula in formulas.items():
        wanted = (*_ARGUMENTS[name], *constants)
        _require_function(f"the formula {name} of {who}", formula, wanted)


def _require_function(who: str, function: Any, arguments: tuple[str, ...]) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{who} must be a function of ({', '.join(arguments)}), got {function!r}: {error}") from None


def register_layer(
    module: type[nn.Module], spec: type[Layer], *, read: Callable[[Any], Layer]
) -> Callable[[LayerRule], LayerRule]:
    """Decorator: the rule that it stands on says what modules of a class do to a kernel.

    The class is not looked into: `read` turns a module into a spec, a frozen dataclass of all that its kernel depends
    on, and the rule (spec, inputs, builder) -> value turns the spec into instructions of `ntkit.infinite.program`. All
    parameters and buffers of the module count as the layer's own, so the rule must say what each adds to the tangent
    kernel, and `read` must look at their `requires_grad`. `ntkit.testing.check_layer` tests both.

    Args:
        module: the class, exactly; subclasses do not inherit it.
        spec: the type of spec that is read, a frozen dataclass that derives from `ntkit.infinite.Layer`.
        read: module -> spec.

    Returns:
        The decorator, which returns the rule as it is.

    Raises:
        InvalidInput: no such types or functions, or the class or the spec is known to ntkit already.

    Example:
        >>> import dataclasses
        >>> from ntkit.infinite import InfiniteKernel, Layer, register_layer
        >>> from ntkit.infinite.rules.values import add
        >>> class Twice(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> @dataclasses.dataclass(frozen=True)
        ... class Doubled(Layer):
        ...     pass
        >>> @register_layer(Twice, Doubled, read=lambda module: Doubled(channel_axis=None))
        ... def twice(spec, inputs, builder):
        ...     return add(inputs, (2.0,))
        >>> import ntkit, torch
        >>> kernel = InfiniteKernel(nn.Sequential(ntkit.nn.Linear(3, 8), Twice(), ntkit.nn.Linear(8, 1)))
        >>> round(float(kernel.nngp(torch.eye(3))[0, 0]), 6)
        1.333333
    """
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise InvalidInput(f"register_layer takes a torch.nn.Module class, got {module!r}")
    if not (isinstance(spec, type) and issubclass(spec, Layer) and spec is not Layer):
        raise InvalidInput(
            f"the spec of {module.__name__} must be a frozen dataclass that derives from ntkit.infinite.Layer, got "
            f"{spec!r}"
        )
    if not getattr(spec, "__dataclass_params__", None) or "__dataclass_params__" not in vars(spec):
        raise InvalidInput(f"{spec.__name__} must be decorated with @dataclass(frozen=True), so that specs compare")
    _require_function(f"read= of {module.__name__}", read, ("module",))
    _require_new(module)

    def decorate(layer_rule: LayerRule) -> LayerRule:
        _require_function(f"the rule of {spec.__name__}", layer_rule, ("spec", "inputs", "builder"))
        if rule.registry.get(spec, layer_rule) is not layer_rule:
            raise InvalidInput(f"{spec.__name__} has another rule already; derive a spec of its own for {layer_rule!r}")
        LAYERS[module] = read
        rule.register(spec)(layer_rule)
        return layer_rule

    return decorate


def _require_new(target: Any) -> None:
    """What is registered has one meaning for good; kernels that were made with it are compared by its name."""
    if target in FORMULAS or target in LAYERS or dispatch.is_known(target):
        raise InvalidInput(
            f"{target.__name__} has a rule already, ntkit's own or a registered one; make a class or function of your "
            "own"
        )
