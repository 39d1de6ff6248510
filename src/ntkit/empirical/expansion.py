"""A model expanded in its parameters, f(θ₀) + J(θ − θ₀) + …: a module that is trained as the model would be.

Derivatives along θ − θ₀ are taken by nested forward mode, so that one pass gives all terms and no Jacobian is formed;
order 1 falls back on reverse mode twice where an operation has no forward-mode derivative.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from ntkit._arrays import check_finite
from ntkit.empirical.directional import users_functions
from ntkit.empirical.expansion_operations import AsAutogradDoes, differentiable_operations
from ntkit.empirical.independence import require_eval_layers
from ntkit.empirical.network import derivatives, require_module
from ntkit.empirical.substitution import substituted
from ntkit.errors import InvalidInput

Point = dict[str, Tensor]  # values of parameters by name; a tied parameter once
Terms = tuple[tuple[Tensor, ...], ...]  # of each order, of each leaf of the output


class Expansion(nn.Module):
    """Σ_k Dᵏf(θ₀)[θ − θ₀, …] / k! up to an order; see `linearize` and `taylor_expand`.

    Its parameters θ, buffers and submodules are those of a copy of the model, under the same names. The point θ₀ moves
    with `.to()`, is copied and pickled with the module, and is not in its `state_dict`, which is the model's.

    Args:
        model: the model f; it is copied.
        order: of the highest term.
        params0: θ₀; None means the model's parameters now.
    """

    _model: nn.Module
    _point: Point

    def __init__(self, model: nn.Module, order: int, params0: Mapping[str, Tensor] | None):
        super().__init__()
        with derivatives():  # a copy made in inference mode could not be trained
            copied = _copied(model)
            own = dict(copied.named_parameters())
            self._point = {name: p.detach().clone() for name, p in own.items()} | _given_point(copied, params0)
        self.order = order
        self.training = copied.training
        self.__dict__["_model"] = copied  # no submodule: the same dicts hold its parts, so that they keep their names
        for part in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[part] = copied.__dict__[part]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The expansion at θ of what the model gives for the same arguments.

        Raises:
            InvalidInput: the model has active dropout or a batch norm in training mode, gives something else than
                floating point tensors, or has an operation without the derivatives that are needed.
        """
        require_eval_layers(self._model)  # else f would be another function of θ in every call
        recorded = torch.is_grad_enabled()
        with derivatives(), differentiable_operations(self._model):
            if not recorded:
                args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            call = _Call(self._model, self._point, args, kwargs)
            terms = self._terms(call, self._steps(recorded))
            leaves = [_summed(of_leaf) for of_leaf in zip(*terms, strict=True)]
        assert call.form is not None
        return tree_unflatten(leaves if recorded else [leaf.detach() for leaf in leaves], call.form)

    def extra_repr(self) -> str:
        """The model's class and the order."""
        return f"{type(self._model).__name__}, order={self.order}"

    def train(self, mode: bool = True) -> Expansion:
        """As of any module; the copy of the model follows."""
        self._model.train(mode)
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Expansion:
        self._model._apply(fn, recurse)
        self._point = {name: fn(p) for name, p in self._point.items()}
        return self

    def _steps(self, recorded: bool) -> Point:
        """θ − θ₀ of the parameters that may move or have moved: others cost nothing."""
        own = {name: p if recorded else p.detach() for name, p in self.named_parameters()}
        wanted = {name for name, p in self.named_parameters() if p.requires_grad}
        return {
            name: p - self._point[name] for name, p in own.items() if name in wanted or _differ(p, self._point[name])
        }

    def _terms(self, call: _Call, steps: Point) -> Terms:
        if not steps:
            return (call({}),)
        point = {name: self._point[name] for name in steps}
        try:
            found = _by_forward_mode(partial(call, forward_mode=True), self.order, steps)(point)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # also NotImplementedError; an operation has no derivative, or the model fails
            start = call({})  # what is wrong with the model itself is its own error
            try:
                if self.order == 1:
                    return start, _by_reverse_mode(call, point, steps)
            except RuntimeError as second:
                error = second if _missing(error) is None else error
            raise _no_derivative(error, self.order, call, point) from error
        if self.order > 1:
            _require_torchs_own(call, point, self.order)
        return found


class _Call:
    """The model's outputs for given arguments as a function of some parameters; the others are at θ₀.

    Args:
        model: the model.
        point: θ₀.
        args: its arguments.
        kwargs: and those by name.
    """

    form: TreeSpec | None = None  # of the outputs, once they are known

    def __init__(self, model: nn.Module, point: Point, args: Any, kwargs: Any):
        self.model, self.point, self.arguments = model, point, (args, kwargs)

    def __call__(self, moved: Point, forward_mode: bool = False) -> tuple[Tensor, ...]:
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        args, kwargs = tree_map_only(Tensor, Tensor.clone, self.arguments)  # for models that work in place
        chance = torch.get_rng_state()
        with AsAutogradDoes(forward_mode), substituted(self.model, {**self.point, **moved, **buffers}):
            out = self.model(*args, **kwargs)
        if not torch.equal(chance, torch.get_rng_state()):
            torch.set_rng_state(chance)
            raise InvalidInput(
                "the model must be the same function in every call to be expanded, but it draws random numbers "
                "(dropout, noise); call model.eval() first, or leave them out"
            )
        leaves, self.form = tree_flatten(out)
        for leaf in leaves:
            if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
                got = f"a tensor of {leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__
                raise InvalidInput(
                    "the model must give floating point tensors, alone or in tuples, lists and dicts, to be expanded, "
                    f"got {got} among its outputs; wrap it in a module that gives only what depends on parameters"
                )
        return tuple(leaves)


def _by_forward_mode(call: Callable[[Point], tuple[Tensor, ...]], order: int, steps: Point) -> Callable[[Point], Terms]:
    """The function that gives f, Df[Δ], …, Dᵏf[Δ, …, Δ] at a point."""
    if order == 0:
        return lambda point: (call(point),)
    lower = _by_forward_mode(call, order - 1, steps)

    def terms(point: Point) -> Terms:
        found: Any = torch.func.jvp(lower, (point,), (steps,))
        return (*found[0], found[1][-1])

    return terms


def _by_reverse_mode(call: _Call, point: Point, steps: Point) -> tuple[Tensor, ...]:
    """J Δ as the derivative along v of ⟨Jᵀ v, Δ⟩, which is linear in v."""
    standins = {name: p.detach().requires_grad_() for name, p in point.items()}
    outs = call(standins)
    reached = [out for out in outs if out.requires_grad]
    weights = [torch.zeros_like(out, requires_grad=True) for out in reached]
    pulled = torch.autograd.grad(reached, list(standins.values()), weights, create_graph=True, allow_unused=True)
    rows = {name: g for name, g in zip(standins, pulled, strict=True) if g is not None}

    def push(steps: Point) -> Sequence[Tensor | None]:
        products = [(g * steps[name]).sum() for name, g in rows.items() if g.requires_grad]
        if not products:
            return [None] * len(weights)
        return torch.autograd.grad(products, weights, create_graph=True, allow_unused=True)

    _require_transposed(push, reached, {name: standins[name] for name in rows})
    found = iter(push(steps))
    moved = [next(found) if out.requires_grad else None for out in outs]
    return tuple(torch.zeros_like(out) if t is None else t for t, out in zip(moved, outs, strict=True))


def _require_transposed(push: Callable[[Point], Any], outs: Sequence[Tensor], standins: Point) -> None:
    """Raise RuntimeError unless ⟨v, J δ⟩ = ⟨Jᵀ v, δ⟩: a backward outside of autograd loses its part without a word."""
    generator = torch.Generator().manual_seed(0)
    random = [
        torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) for t in (*outs, *standins.values())
    ]
    v, steps = random[: len(outs)], dict(zip(standins, random[len(outs) :], strict=True))
    pulled = torch.autograd.grad(outs, list(standins.values()), v, retain_graph=True)
    parts = [g * step for g, step in zip(pulled, steps.values(), strict=True)]
    forth = sum(float((t * w).detach().sum()) for t, w in zip(push(steps), v, strict=True) if t is not None)
    size = sum(float(part.norm()) for part in parts)
    if (
        abs(forth - sum(float(part.sum()) for part in parts))
        > (1e-8 if outs[0].dtype == torch.float64 else 1e-2) * size
    ):
        raise RuntimeError("its backward cannot be differentiated")


def _summed(terms: Sequence[Tensor]) -> Tensor:
    """Σ_k term_k / k!."""
    total = terms[0]
    for k, term in enumerate(terms[1:], start=1):
        total = total + (term if k == 1 else term / math.factorial(k))
    return total


def _differ(p: Tensor, q: Tensor) -> bool:
    """Whether values differ, or are hidden by a transformation of torch.func."""
    hidden = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
    return hidden(p) or not torch.equal(p, q)


def _missing(error: Exception) -> str | None:
    """The operation that torch says to have no forward-mode derivative."""
    found = re.search(r"forward AD with (\S+)", str(error))
    return found.group(1) if found else None


def _functions_called(call: _Call, point: Point) -> list[str]:
    """The autograd.Functions by which outputs depend on the parameters."""
    return users_functions(call({name: p.detach().requires_grad_() for name, p in point.items()}))


def _require_torchs_own(call: _Call, point: Point, order: int) -> None:
    """Raise `InvalidInput` for an autograd.Function: torch takes no derivative of what its jvp computes."""
    own = _functions_called(call, point)
    if own:
        raise InvalidInput(
            f"an expansion of order {order} needs derivatives of derivatives, which torch gets wrong through an "
            f"autograd.Function with a jvp, but the model calls {', '.join(own)}; compute it by torch's operations, or "
            "take order 1"
        )


def _no_derivative(error: Exception, order: int, call: _Call, point: Point) -> InvalidInput:
    operation = _missing(error)
    if operation is None:
        operation = ", ".join(_functions_called(call, point))
    remedy = "compute it by other operations, or give an autograd.Function setup_context and jvp"
    remedy += " or a backward that can be differentiated" if order == 1 else ", or take order 1"
    first = str(error).strip().split("\n")[0]
    return InvalidInput(
        f"an expansion of order {order} needs forward-mode derivatives of every operation, but "
        f"{operation or 'an operation of the model'} has none ({first}); {remedy}"
    )


def _copied(model: nn.Module) -> nn.Module:
    require_module(model)
    shapeless = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if shapeless:
        raise InvalidInput(f"parameter {shapeless[0]!r} has no shape yet; run the model once on a batch")
    if next(model.parameters(), None) is None:
        raise InvalidInput(f"the model must have parameters to be expanded in, got {type(model).__name__} with none")
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(
            f"the model must be copyable, as its expansion is a module of its own, but copy.deepcopy fails: {error}"
        ) from error


def _given_point(model: nn.Module, params0: Mapping[str, Tensor] | None) -> Point:
    """θ₀ under the parameters' first names, copied, once it is known to fit."""
    if params0 is None:
        return {}
    if not isinstance(params0, Mapping):
        raise InvalidInput(
            f"params0 must be a mapping from names to tensors, got {type(params0).__name__}; "
            "take dict(model.named_parameters())"
        )
    own, first = dict(model.named_parameters()), {id(p): name for name, p in model.named_parameters()}
    names = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}  # aliases of tied ones
    unknown = [name for name in params0 if name not in names]
    missing = [name for name in own if name not in {names.get(given) for given in params0}]
    if unknown or missing:
        raise InvalidInput(
            f"params0 must have the model's parameters {', '.join(own)}, got "
            + " and ".join(
                f"{what} {', '.join(map(str, which))}"
                for what, which in (("also", unknown), ("nothing for", missing))
                if which
            )
            + "; take dict(model.named_parameters()) of the model at that point"
        )
    point = {}
    for name, value in params0.items():
        p = own[names[name]]
        _check_value(name, value, p)
        if names[name] in point and not torch.equal(value, point[names[name]]):
            raise InvalidInput(f"params0 must agree where parameters are tied, {name!r} differs from {names[name]!r}")
        point[names[name]] = value.detach().clone()
    return point


def _check_value(name: str, value: Any, p: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InvalidInput(f"params0[{name!r}] must be a torch tensor, got {type(value).__name__}")
    if (value.shape, value.dtype, value.device) != (p.shape, p.dtype, p.device):
        raise InvalidInput(
            f"params0[{name!r}] must be like the model's parameter, shape {tuple(p.shape)} {p.dtype} on {p.device}, "
            f"got shape {tuple(value.shape)} {value.dtype} on {value.device}; convert it with value.to(parameter)"
        )
    check_finite(value.detach(), f"params0[{name!r}]")


def linearize(model: nn.Module, params0: Mapping[str, Tensor] | None = None) -> Expansion:
    """The model to first order in its parameters, f(θ₀, x) + J(x)(θ − θ₀): a module trained as the model would be.

    Its tangent kernel is that of the model at θ₀, whatever θ is, so training it is kernel regression with the empirical
    kernel. One call is one pass in forward mode, without the Jacobian; gradients in θ and in x are exact.

    Args:
        model: the model f; it is copied. What it takes, the expansion takes. Outputs may be tuples, lists or dicts of
            floating point tensors. Frozen parameters stay frozen, buffers are kept.
        params0: θ₀, name -> tensor; default the model's parameters now, copied.

    Returns:
        A module whose parameters θ have the model's names and start at the model's values.
        Its `state_dict` is the model's, without θ₀, which is copied and pickled with the module.

    Raises:
        InvalidInput: no module, one without parameters or that cannot be copied, or params0 that do not fit it; in a
            call, active dropout or batch norm in training mode (f would be another function each time), or an
            operation without derivatives.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> linear, x = linearize(model), torch.ones(4, 2)
        >>> torch.equal(linear(x), model(x))
        True
        >>> _ = linear.load_state_dict({name: 2 * p for name, p in model.state_dict().items()})
        >>> linear(x).shape
        torch.Size([4, 1])

    Reference: Lee et al. 2019, section 2.2; Jacot, Gabriel & Hongler 2018.
    """
    return Expansion(model, 1, params0)


def taylor_expand(model: nn.Module, order: int, params0: Mapping[str, Tensor] | None = None) -> Expansion:
    """The model to any order in its parameters, Σ_k Dᵏf(θ₀, x)[θ − θ₀, …, θ − θ₀] / k!, as a trainable module.

    By nested forward mode: a call costs about 2^order passes. Order 2 is f + J Δ + ½ Δᵀ H Δ with Δ = θ − θ₀, whose
    kernel moves while it is trained, as that of wide networks does in the leading order of 1/width.

    Args:
        model: the model f, as for `linearize`.
        order: of the highest term, ≥ 1; 1 is `linearize`.
        params0: θ₀, name -> tensor; default the model's parameters now, copied.

    Returns:
        A module whose parameters θ have the model's names and start at the model's values.

    Raises:
        InvalidInput: an order that is no whole number ≥ 1; else as for `linearize`. Orders above 1 need forward-mode
            derivatives of every operation.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> square = torch.nn.Sequential(model, torch.nn.Linear(1, 1))  # of degree 2 in its parameters
        >>> expanded, x = taylor_expand(square, 2), torch.ones(4, 2)
        >>> moved = {name: p + 1 for name, p in square.state_dict().items()}
        >>> _ = expanded.load_state_dict(moved), square.load_state_dict(moved)
        >>> torch.allclose(expanded(x), square(x), atol=1e-5)
        True

    Reference: Bai & Lee 2020; Huang & Yau 2020; the quadratic models of Zhu et al. 2022.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise InvalidInput(f"order must be a whole number, 1 or more, got {order!r}; 1 is the linearized model")
    return Expansion(model, order, params0)
