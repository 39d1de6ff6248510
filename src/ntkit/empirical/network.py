"""A model as a pure function of its parameters and inputs: what both routes differentiate.

Derivatives are taken at detached stand-ins of the parameters (sharing their memory), swapped in for the time
of a call, so that the model's own parameters, `.grad` fields, `requires_grad` flags and buffers stay as they
were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ntkit._arrays import check_finite
from ntkit._products import fast_products
from ntkit.empirical.inputs import admit, batch_size, map_leaves
from ntkit.empirical.projection import Projection
from ntkit.empirical.substitution import substituted, undisturbed
from ntkit.errors import InvalidInput


class Network:
    """f(θ, x) of a model as it is now, θ the selected parameters.

    Args:
        model: the model.
        parameters: names or glob patterns; None selects all that require grad.
        forward: f(model, x) -> (n, o) in place of calling the model.
        projection: what of the outputs is wanted.
        groups: names or patterns of the parameters of each part of the kernel, in place of `parameters`.
        low_precision: whether bfloat16 will do.

    Raises:
        InvalidInput: nothing to select, a pattern without match, a parameter in two groups, or parameters of several
            dtypes or devices.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: str | Sequence[str] | None,
        forward: Callable[[nn.Module, Any], Tensor] | None,
        *,
        projection: Projection | None = None,
        groups: Mapping[str, str | Sequence[str]] | None = None,
        low_precision: bool = False,
    ):
        require_module(model)
        require_callable(forward)
        self.model = model
        self.own = _own(model)  # a tied parameter once, under its first name
        self.part_of = _parts(model, parameters, groups)  # the part of the kernel that a parameter belongs to
        self.selected = [name for name in self.own if name in self.part_of]
        self.dtype, self.device = _one_kind(self.own, low_precision)
        self.low_precision = low_precision
        self.result_dtype = torch.float32 if self.dtype == torch.bfloat16 else self.dtype  # that products are summed in
        self.standins = {name: _standin(p).requires_grad_(name in self.selected) for name, p in self.own.items()}
        embeds = any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules())
        self.embeds = embeds or forward is not None  # integers make sense: who writes forward knows what they mean
        self._forward, self._projection = forward, projection

    def admit(self, x: Any, name: str) -> Any:
        """A caller's samples as tensors of the model's kind; `name` is what errors call them.

        Raises:
            InvalidInput: see `inputs.admit`.
        """
        return admit(x, name, self.dtype, self.device, self.embeds)

    def edges(self, names: Sequence[str]) -> list[GradientEdge]:
        """Where stand-ins enter the autograd graph."""
        return [get_gradient_edge(self.standins[name]) for name in names]

    def __call__(self, x: Any) -> Float[Tensor, "n o"]:
        """The outputs of a batch, with a graph to the stand-ins; (n,) is one output, more axes are flattened.

        Raises:
            InvalidInput: the model gives something else, or values that are not finite.
        """
        out = self._evaluate(self.standins, x)
        n = batch_size(x)
        if not isinstance(out, Tensor):
            raise InvalidInput(
                f"the model must give one tensor, got {type(out).__name__}; "
                "say what counts as its output with forward=lambda model, x: ..."
            )
        if out.dtype != self.dtype and self.is_cast:
            out = out.to(self.dtype)
        if out.dtype != self.dtype:
            raise InvalidInput(
                f"the model must compute in its parameters' dtype {self.dtype}, got an output "
                f"of {out.dtype}; leave out autocast and casts"
            )
        if out.dim() == 0 or out.shape[0] != n or out.numel() == 0:
            raise InvalidInput(
                f"the model must give one row a sample, (n, outputs) with n = {n}, got shape "
                f"{tuple(out.shape)}; inputs and outputs are batched on axis 0, anything else goes through forward="
            )
        check_finite(out.detach(), "the model's output")
        return out.reshape(n, -1)

    @property
    def is_cast(self) -> bool:
        """Whether torch computes in lower precision than the parameters have, as its user asked by autocast."""
        return self.low_precision and torch.is_autocast_enabled(self.device.type)

    @property
    def tolerance(self) -> float:
        """What rounding may do to a gradient, relative to its norm."""
        low = self.is_cast or self.dtype == torch.bfloat16
        return 3e-2 if low else {torch.float32: 1e-4, torch.float64: 1e-9}[self.dtype]

    def of_sample(self, parameters: dict[str, Tensor], sample: Any) -> Float[Tensor, " o"]:
        """f(θ, x) of one sample without batch axis, pure, for torch.func; θ may be some of the selected."""
        batch = map_leaves(lambda leaf: leaf.unsqueeze(0), sample)
        fixed = {name: p.detach() for name, p in self.standins.items() if name not in parameters}
        return self._evaluate({**fixed, **parameters}, batch).reshape(-1)

    def _evaluate(self, parameters: dict[str, Tensor], x: Any) -> Any:
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        with fast_products(next(iter(parameters.values()))), substituted(self.model, {**parameters, **buffers}):
            return self._outputs_of(x)

    def _outputs_of(self, x: Any) -> Any:
        if self._projection is None:
            return self._called(x)
        samples, labels = x if self._projection.labelled else (x, None)
        out = self._called(samples)
        if not isinstance(out, Tensor) or out.dim() == 0 or len(out) != batch_size(samples) or out.numel() == 0:
            return out  # whoever called says what is wrong
        return self._projection.of(out.reshape(len(out), -1), labels)

    def _called(self, x: Any) -> Any:
        if self._forward is not None:
            return self._forward(self.model, x)
        if isinstance(x, tuple):
            return self.model(*x)
        return self.model(**x) if isinstance(x, dict) else self.model(x)


def _own(model: nn.Module, every_name: bool = False) -> dict[str, nn.Parameter]:
    """A model's parameters, a tied one under its first name alone or under every one."""
    with undisturbed:
        return dict(model.named_parameters(remove_duplicate=not every_name))


def _standin(p: Tensor) -> Tensor:
    """A parameter's values outside of its graph; what was made in inference mode can have no derivatives."""
    return p.detach().clone() if p.is_inference() else p.detach()


@contextmanager
def derivatives() -> Iterator[None]:
    """Derivatives are recorded, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def require_module(model: Any) -> None:
    """Raise `InvalidInput` unless a caller's `model` is one."""
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}")


def require_callable(forward: Any) -> None:
    """Raise `InvalidInput` unless a caller's `forward` is a function, or None."""
    if forward is not None and not callable(forward):
        raise InvalidInput(f"forward must be a function of the model and x, got {type(forward).__name__}")


def check_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> None:
    """Raise `InvalidInput` for what a `Network` would raise it for."""
    select_parameters(model, patterns)
    _one_kind(_own(model), low_precision=True)


def select_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> list[str]:
    """The names of the parameters that enter the kernel, in the model's order.

    A name or pattern counts whether or not the parameter requires grad; an alias of a tied parameter selects
    it. What is a name is no pattern, whatever characters it has.
    """
    own = _own(model)
    if not own:
        raise InvalidInput(f"the model must have parameters, got {type(model).__name__} with none")
    if patterns is None:
        selected = [name for name, p in own.items() if p.requires_grad]
        if not selected:
            raise InvalidInput(
                f"the model must have a parameter that requires grad, all {len(own)} are frozen; "
                "select some by name with parameters=[...]"
            )
        return selected
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, Collection) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InvalidInput(f"parameters must be names or glob patterns, such as ['head.*'], got {patterns!r}")
    if not patterns:
        raise InvalidInput("parameters must name at least one parameter, got an empty list; None selects all")
    aliases = _own(model, every_name=True).items()
    chosen: set[int] = set()
    for pattern in patterns:
        named = {id(p) for name, p in aliases if name == pattern}
        matches = named or {id(p) for name, p in aliases if fnmatchcase(name, pattern)}
        if not matches:
            raise InvalidInput(f"parameters: {pattern!r} matches none of the model's parameters, {', '.join(own)}")
        chosen |= matches
    return [name for name, p in own.items() if id(p) in chosen]


def _parts(
    model: nn.Module, patterns: str | Sequence[str] | None, groups: Mapping[str, str | Sequence[str]] | None
) -> dict[str, str]:
    """The part of the kernel that each selected parameter belongs to."""
    if groups is None:
        return dict.fromkeys(select_parameters(model, patterns), "")
    if not isinstance(groups, Mapping):
        raise InvalidInput(f"groups must be a mapping such as {{'head': 'head.*'}}, got {type(groups).__name__}")
    if not groups:
        raise InvalidInput("groups must name at least one group of parameters, got none; None gives one a layer")
    part_of: dict[str, str] = {}
    for part, own in groups.items():
        for name in select_parameters(model, own):
            if name in part_of:
                raise InvalidInput(
                    f"groups must have no parameter in common, but {name!r} is in {part_of[name]!r} and {part!r}"
                )
            part_of[name] = part
    return part_of


def _one_kind(parameters: dict[str, nn.Parameter], low_precision: bool) -> tuple[torch.dtype, torch.device]:
    shapeless = [name for name, p in parameters.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if shapeless:
        raise InvalidInput(f"parameter {shapeless[0]!r} has no shape yet; run the model once on a batch")
    kinds = {(p.dtype, p.device) for p in parameters.values()}
    if len(kinds) > 1:
        raise InvalidInput(
            "all parameters must have one dtype and be on one device, got "
            + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        )
    dtype, device = next(iter(kinds))
    if dtype not in (torch.float32, torch.float64, *([torch.bfloat16] if low_precision else [])):
        kinds_known = "float32, float64 or bfloat16" if low_precision else "float32 or float64"
        raise InvalidInput(f"the model must be {kinds_known}, got {dtype}; convert it with model.float()")
    return dtype, device
