"""Where a model reads its parameters: operations of the autograd graph of its outputs.

Modules do not matter here: a functional call, a tied weight, an attention layer's packed projection and a layer of the
user's own are all operations that autograd has recorded, with what they keep for their backward pass. Between a
parameter and the operation that reads it there may be views, parts and numbers as factors: its *path*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_VIEWS = {
    "AliasBackward0", "CloneBackward0", "PermuteBackward0", "ReshapeAliasBackward0", "SqueezeBackward0",
    "SqueezeBackward1", "TBackward0", "ToCopyBackward0", "TransposeBackward0", "UnsafeViewBackward0",
    "UnsqueezeBackward0", "ViewBackward0",
}  # fmt: skip
# of operations that take parts, what says which part: outputs of one of them never overlap
_PARTS: dict[str, Sequence[str]] = {
    "SelectBackward0": ("_saved_dim", "_saved_index"),
    "SliceBackward0": ("_saved_dim", "_saved_start", "_saved_end", "_saved_step"),
    "SplitBackward0": ("_saved_dim", "_saved_split_size"),
    "SplitWithSizesBackward0": ("_saved_dim", "_saved_split_sizes"),
    "UnbindBackward0": ("_saved_dim",),
}
# operations that leave each sample's numbers at its place in the batch, whatever the numbers and the batch are
_PLAIN = {
    *(f"{name}Backward0" for name in (
        "Abs", "AdaptiveAvgPool1D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "Add", "Addmm", "Alias", "AvgPool2D",
        "AvgPool3D", "Clone", "ConstantPadNd", "Convolution", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "Hardtanh",
        "LeakyRelu", "LogSigmoid", "LogSoftmax", "MaxPool2DWithIndices", "Mish", "MkldnnConvolution", "Mm", "Mul",
        "NativeBatchNorm", "NativeGroupNorm", "NativeLayerNorm", "Neg", "Pow", "PreluKernel", "Relu", "ReshapeAlias",
        "Rsqrt", "Sigmoid", "Silu", "Sin", "Softmax", "Softplus", "Sqrt", "Sub", "T", "Tanh", "ToCopy", "UnsafeView",
        "View",
    )),
    "CudnnBatchNormBackward0", "MeanBackward1", "SumBackward1", "struct torch::autograd::AccumulateGrad",
    "torch::autograd::AccumulateGrad",
}  # fmt: skip
_DISJOINT = {"SplitBackward0", "SplitWithSizesBackward0", "UnbindBackward0"}

Part = tuple[Any, ...]


class Reassign(Exception):  # no error of the caller: the engine starts again without rules for the names
    """Parameters behaved on a later block otherwise than on the samples they were proved on."""

    def __init__(self, names: Sequence[str]):
        super().__init__(", ".join(names))
        self.names = frozenset(names)


class Stale(Exception):  # no error of the caller either
    """The model took another way than when its routes were found."""


@dataclass(frozen=True, eq=False)
class Use:
    """One place where an operation reads a parameter.

    Args:
        parameter: its name.
        node: the operation.
        slot: which of its arguments it is.
        shape: of the argument.
        path: (operation, which of its outputs) from the argument back to the parameter.
    """

    parameter: str
    node: Any
    slot: int
    shape: tuple[int, ...]
    path: tuple[tuple[Any, int], ...]

    @cached_property
    def scale(self) -> float:
        """The numbers as factors on the path, multiplied."""
        scale = 1.0
        for node, _ in self.path:
            scale *= _factor(node) or 1.0
        return scale

    @cached_property
    def part(self) -> Part:
        """Which part of the parameter is read; () for all of it."""
        found = []
        for node, number in self.path:
            if node.name() in _PARTS:
                found.append((node.name(), number, *(_plain(getattr(node, name)) for name in _PARTS[node.name()])))
            elif node.name() == "EmbeddingBackward0":
                found.append((node.name(), number, tuple(node._saved_indices.flatten().tolist())))
        return tuple(found)

    @property
    def views(self) -> tuple[str, ...]:
        """The operations of the path by name."""
        return tuple(node.name() for node, _ in self.path)

    def pulled_back(self, gradient: Tensor) -> Tensor:
        """The gradient of the parameter from that of the argument: the path's own backward passes."""
        for node, number in self.path:
            outputs: list[Tensor | None] = [None] * len(node._input_metadata)
            outputs[number] = gradient
            found = node(*outputs)
            gradient = found[0] if isinstance(found, tuple) else found
        return gradient


def find_uses(out: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, list[Use]]:
    """Every use of the parameters on a way to `out`, in the order of the calls; what is not reached has none."""
    paths = _Paths(parameters)
    found: dict[str, list[Use]] = {name: [] for name in parameters}
    tables = set()  # operations that read rows of a table for samples of their own, and what follows them
    seen, waiting = set(), [out.grad_fn] if out.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        for slot, (before, number) in enumerate(node.next_functions):
            if before is None:
                continue
            known = paths.to(before, number)
            if known is not None and _looks_up(known[1]) and not _repeats(node, before, number):
                known = None
                tables.add(before)
            if known is not None and (paths.to(node, 0) is None or node in tables):
                name, path = known
                found[name].append(Use(name, node, slot, _shape(before, number), path))
            if known is None and before not in seen:
                seen.add(before)
                waiting.append(before)
    for uses in found.values():
        uses.sort(key=lambda use: use.node._sequence_nr())
    return found


def structure(out: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Which operations outputs are made of, and how they hang together; equal for equal ways, whatever the batch."""
    names = {id(p): name for name, p in parameters.items()}
    numbers: dict[Any, int] = {}
    waiting = [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in numbers:
            numbers[node] = len(numbers)
            waiting.extend(before for before, _ in node.next_functions)
    return tuple(out.shape[1:]), *(
        (
            node.name(),
            _factor(node),
            names.get(id(node.variable)) if hasattr(node, "variable") else None,
            tuple((numbers.get(before), number) for before, number in node.next_functions),
        )
        for node in numbers
    )


def no_gradient(node: Any, o: int) -> Float[Tensor, "o *out"]:
    """The gradients of o outputs at an operation that none of them depends on; one number, seen everywhere."""
    metadata = node._input_metadata[0]
    return torch.zeros((), dtype=metadata.dtype, device=metadata.device).expand(o, *metadata.shape)


def is_plain(way: tuple[Any, ...]) -> bool:
    """Whether all operations of a structure leave each sample's numbers at its place, whatever they are."""
    return all(step[0] in _PLAIN for step in way[1:])


def are_apart(parts: Sequence[Part]) -> bool:
    """Whether different parts of one parameter have nothing in common."""
    kinds = {tuple((step[0], *step[2:]) for step in part) for part in parts}
    return len(set(parts)) == 1 or (
        len(kinds) == 1 and all(len(part) == 1 and part[0][0] in _DISJOINT for part in parts)
    )


class _Paths:
    """Ways from operations' outputs back to parameters, each found once."""

    def __init__(self, parameters: Mapping[str, Tensor]):
        self._names = {id(p): name for name, p in parameters.items()}
        self._known: dict[tuple[Any, int], tuple[str, tuple[tuple[Any, int], ...]] | None] = {}

    def to(self, node: Any, number: int) -> tuple[str, tuple[tuple[Any, int], ...]] | None:
        """The parameter that is all that an output of a node is made of, and how."""
        if (node, number) not in self._known:
            self._known[node, number] = self._found(node, number)
        return self._known[node, number]

    def _found(self, node: Any, number: int) -> tuple[str, tuple[tuple[Any, int], ...]] | None:
        if hasattr(node, "variable"):
            name = self._names.get(id(node.variable))
            return None if name is None else (name, ())
        name = node.name()
        if name not in _VIEWS and name not in _PARTS and _factor(node) is None and not _reads_once(node):
            return None
        before, first = node.next_functions[0]
        known = None if before is None else self.to(before, first)
        return None if known is None else (known[0], ((node, number), *known[1]))


def _reads_once(node: Any) -> bool:
    """Whether a node reads rows of a table, none of them twice: so positions are embedded."""
    if node.name() != "EmbeddingBackward0":
        return False
    rows = node._saved_indices.flatten()
    has_padding = 0 <= node._saved_padding_idx < node._saved_weight_sym_argsize_0
    return not has_padding and len(rows.unique()) == len(rows)


def _looks_up(path: Sequence[tuple[Any, int]]) -> bool:
    return any(node.name() == "EmbeddingBackward0" for node, _ in path)


def _repeats(node: Any, before: Any, number: int) -> bool:
    """Whether an operation repeats an argument, as for every sample."""
    return math.prod(node._input_metadata[0].shape) > math.prod(_shape(before, number))


def _factor(node: Any) -> float | None:
    """The number that a node multiplies by; None if it does something else."""
    if node.name() != "MulBackward0" or node.next_functions[1][0] is not None:
        return None
    other = node._saved_other
    return float(other) if other is not None and other.dim() == 0 else None


def _shape(node: Any, number: int) -> tuple[int, ...]:
    return tuple(node.variable.shape if hasattr(node, "variable") else node._input_metadata[number].shape)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value
