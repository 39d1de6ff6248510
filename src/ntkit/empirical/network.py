"""A model as a pure function of its parameters and inputs: what both routes differentiate.

Derivatives are taken at detached stand-ins of the parameters (sharing their memory), swapped in for the time
of a call, so that the model's own parameters, `.grad` fields, `requires_grad` flags and buffers stay as they
were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ntkit._arrays import check_finite
from ntkit._products import fast_products
from ntkit.empirical.inputs import batch_size, map_leaves
from ntkit.empirical.projection import Projection
from ntkit.errors import InvalidInput


class _Call(nn.Module):
    """The model behind one argument, whatever form its inputs have."""

    def __init__(
        self, model: nn.Module, forward: Callable[[nn.Module, Any], Tensor] | None, projection: Projection | None
    ):
        super().__init__()
        self.model = model
        self.function = forward
        self.projection = projection

    def forward(self, x: Any) -> Any:
        if self.projection is None:
            return self._outputs(x)
        samples, labels = x if self.projection.labelled else (x, None)
        out = self._outputs(samples)
        if not isinstance(out, Tensor) or out.dim() == 0 or len(out) != batch_size(samples) or out.numel() == 0:
            return out  # whoever called says what is wrong
        return self.projection.of(out.reshape(len(out), -1), labels)

    def _outputs(self, x: Any) -> Any:
        if self.function is not None:
            return self.function(self.model, x)
        if isinstance(x, tuple):
            return self.model(*x)
        return self.model(**x) if isinstance(x, dict) else self.model(x)


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
        self.model = model
        self.own = dict(model.named_parameters())  # a tied parameter once, under its first name
        self.part_of = _parts(model, parameters, groups)  # the part of the kernel that a parameter belongs to
        self.selected = [name for name in self.own if name in self.part_of]
        self.dtype, self.device = _one_kind(self.own, low_precision)
        self.low_precision = low_precision
        self.result_dtype = torch.float32 if self.dtype == torch.bfloat16 else self.dtype  # that products are summed in
        self.standins = {name: p.detach().requires_grad_(name in self.selected) for name, p in self.own.items()}
        embeds = any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules())
        self.embeds = embeds or forward is not None  # integers make sense: who writes forward knows what they mean
        self._call = _Call(model, forward, projection)

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
        buffers = {f"model.{name}": b.clone() for name, b in self.model.named_buffers()}
        swapped = {f"model.{name}": p for name, p in parameters.items()}
        with fast_products(next(iter(parameters.values()))):
            return torch.func.functional_call(self._call, {**swapped, **buffers}, (x,))


@contextmanager
def derivatives() -> Iterator[None]:
    """Derivatives are recorded, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def check_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> None:
    """Raise `InvalidInput` for what a `Network` would raise it for."""
    select_parameters(model, patterns)
    _one_kind(dict(model.named_parameters()), low_precision=True)


def select_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> list[str]:
    """The names of the parameters that enter the kernel, in the model's order.

    A name or pattern counts whether or not the parameter requires grad; an alias of a tied parameter selects
    it.
    """
    own = dict(model.named_parameters())
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
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise InvalidInput("parameters must name at least one parameter, got an empty list; None selects all")
    aliases = list(model.named_parameters(remove_duplicate=False))
    chosen: set[int] = set()
    for pattern in patterns:
        matches = {id(p) for name, p in aliases if fnmatchcase(name, pattern)}
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
