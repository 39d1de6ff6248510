"""Functions and modules from outside that act on each entry alone, as users declare them in their own files.

A module is one function, compared by all that it holds. Where formulas of its own are registered (`infinite`), its use
becomes the spec `Registered`, which names the class or function and its constants.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, cast

from torch import Tensor, fx, nn

from ntkit.architecture.expressions import VARIABLE, Expression
from ntkit.architecture.lowering import CALLS, MODULES, SPECS, ElementwiseOp
from ntkit.architecture.specs import Registered
from ntkit.errors import InvalidInput


def register_elementwise(target: type[nn.Module] | Callable[..., Tensor]) -> Any:
    """Declare a module class without parameters, or a function, to act on each entry alone; usable as a decorator.

    Only needed for what cannot be traced (a branch on values, an op that ntkit does not know): a function written
    with the usual torch operations is recognised by itself. Its dual is found by quadrature.

    Args:
        target: the class, or a module-level function of one tensor and, after it, constants.

    Returns:
        The class; of a Python function what is to be called in its place, which forward records as one operation.

    Raises:
        InvalidInput: neither a module class nor a function.

    Example:
        >>> from ntkit.architecture.lowering import elementwise_op
        >>> @register_elementwise
        ... class Bump(nn.Module):
        ...     def forward(self, x):
        ...         return torch.special.i0e(x)
        >>> print(elementwise_op(Bump()).from_module(Bump()))
        Bump(x)
    """
    if isinstance(target, type) and issubclass(target, nn.Module):
        MODULES[target] = _ModuleOp("", (target,))
        return target
    if not inspect.isroutine(target):
        raise InvalidInput(f"register_elementwise takes a torch.nn.Module class or a function, got {target!r}")
    function = _one_operation(target) if inspect.isfunction(target) else target
    CALLS[target] = CALLS[function] = ElementwiseOp(function, (), (function,), _constants_of(target))
    return function


def register_with_formulas(target: Any, constants: Sequence[str]) -> Any:
    """The same for a class or function that has formulas: its uses become `Registered` specs.

    Args:
        target: as in `register_elementwise`.
        constants: names of the attributes of a module that its formulas take; of a function its own parameters count.

    Returns:
        What `register_elementwise` returns.
    """
    target = register_elementwise(target)
    if isinstance(target, type):
        MODULES[target] = _ModuleOp("", (target,), told=tuple(constants))
        SPECS[target] = partial(_spec_of_module, names=tuple(constants))
    else:
        SPECS[target] = lambda use: Registered(target, use.args[1:])
    return target


def _spec_of_module(use: Expression, names: tuple[str, ...]) -> Registered:
    module = cast(_ModuleFunction, use.op).module
    return Registered(type(module), tuple(getattr(module, name) for name in names))


def parameters_after_x(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's constants, which follow its argument x."""
    return tuple(name for name, _ in _constants_of(function))


def _constants_of(function: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    try:
        _, *others = inspect.signature(function).parameters.values()
    except ValueError:  # torch's own functions do not tell
        return ()
    return tuple((p.name, p.default) for p in others if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))


def _one_operation(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, which torch.fx records as one operation in place of what it does inside."""

    @wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Any:
        recorded = next((a for a in (*args, *kwargs.values()) if isinstance(a, fx.Proxy)), None)
        if recorded is None:
            return function(*args, **kwargs)
        return recorded.tracer.create_proxy("call_function", operation, args, kwargs)

    return operation


@dataclass(frozen=True)
class _ModuleOp(ElementwiseOp):
    """A module class from outside: the module itself is the function.

    Args:
        told: names of the attributes that its formulas take; None where it has no formulas.
    """

    told: tuple[str, ...] | None = None

    def from_module(self, module: nn.Module) -> Expression:
        """The module as a function.

        Raises:
            InvalidInput: it has formulas, and holds something that these are not told of.
        """
        if self.told is not None:
            _require_all_told(module, self.told)
        return Expression(_ModuleFunction(module), (VARIABLE,))


def _require_all_told(module: nn.Module, names: tuple[str, ...]) -> None:
    """The function of a module is known to its formulas by the named attributes alone."""
    who = type(module).__name__
    for name, value in (vars(module) | module._modules).items():
        if name not in (*names, *_OWN, "inplace"):
            raise InvalidInput(
                f"{who} holds {name}={value!r}, of which its formulas are not told; name it in constants= of "
                "register_activation, and let the formulas take it as an argument"
            )
    for name in names:
        value = getattr(module, name, None)
        if not isinstance(value, (int, float, str)):
            raise InvalidInput(f"the constant {name!r} of {who} must be an attribute that is a number, got {value!r}")


class _ModuleFunction:
    """A module without parameters as a function, compared by its class, its attributes and its submodules."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.__name__ = type(module).__name__

    @property
    def target(self) -> type[nn.Module]:
        """What was registered."""
        return type(self.module)

    def _key(self) -> tuple[Any, ...]:
        return tuple(
            (path, type(module), tuple((k, _comparable(v)) for k, v in sorted(vars(module).items()) if k not in _OWN))
            for path, module in self.module.named_modules()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ModuleFunction) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __call__(self, x: Tensor) -> Tensor:
        return self.module(x)


_OWN = frozenset(vars(nn.Module()))  # torch's bookkeeping


def _comparable(value: Any) -> Any:
    """A hashable stand-in that is equal for equal attributes; what cannot be compared is equal to itself alone."""
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), tuple(value.flatten().tolist()))
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(map(_comparable, value)))
    return value if isinstance(value, Hashable) else (type(value), id(value))
