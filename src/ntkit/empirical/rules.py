"""What is known of each operation that reads a parameter: its derivative from what autograd has kept, by rows.

For a matrix argument the derivative is Σ_t g_t ⊗ a_t: `left` gives the rows a, from the operation's input, and `right`
the rows g, from the gradient of its output. For a vector that scales or shifts it is Σ_t g_t, rows of which `right`
gives whole. For a table of embeddings a_t has a single 1, at the token's number.

Rows come one operation's leading axes flattened, so that samples are their first part or their last; the proof finds
out which. Gradients come with an axis of outputs in front. Adding an operation is one registration here; that it is
right is proved on the model's own samples each time it is used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ntkit.empirical.graph import Use


@dataclass(frozen=True)
class Rule(ABC):
    """How one argument of an operation gets its gradient.

    Args:
        slot: which argument.
    """

    slot: int
    leading: ClassVar[int] = 1  # axes that rows come in: 2 where an operation's batch stands apart from its positions

    @abstractmethod
    def right(self, node: Any, g: Float[Tensor, "o *out"], shape: tuple[int, ...]) -> Float[Tensor, "o r *_"]:
        """Rows from the gradients of the operation's output; `shape` is the argument's."""

    def flat_right(self, node: Any, g: Float[Tensor, "o *out"], shape: tuple[int, ...]) -> Float[Tensor, "o r *_"]:
        """The same in one axis."""
        return self.right(node, g, shape).flatten(1, self.leading)

    @abstractmethod
    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The argument's gradient from rows, left (r, …) and right (r, …): what the proof compares."""


class Matrix(Rule):
    """Σ_t g_t ⊗ a_t; for grouped convolutions of each group, an axis behind the rows'."""

    shares: ClassVar[str] = "rows"  # arguments of one operation with the same rows g have the same name here

    @abstractmethod
    def left(self, node: Any) -> Float[Tensor, "r *groups d"]:
        """Rows a from the operation's input, scales included."""

    def flat_left(self, node: Any) -> Float[Tensor, "r *groups d"]:
        """The same in one axis."""
        return self.left(node).flatten(0, self.leading - 1)


class Table(Rule):
    """Rows of an embedding: g_t is added to the row of token t."""

    @abstractmethod
    def tokens(self, node: Any) -> Int[Tensor, "r"]:
        """The numbers of the tokens."""


class Vector(Rule):
    """Σ_t g_t: rows as wide as the argument."""

    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The sum of rows."""
        return right.sum(0).reshape(shape)


_RULES: dict[tuple[str, int], Rule] = {}


Made = TypeVar("Made", bound=Rule)


def register(operation: str, *slots: int) -> Callable[[type[Made]], type[Made]]:
    """Registers a rule for arguments of an operation, by the name of its node in autograd's graph."""

    def add(rule: type[Made]) -> type[Made]:
        for slot in slots:
            _RULES[operation, slot] = rule(slot)
        return rule

    return add


def rule_of(use: Use) -> Rule | None:
    """The rule of a use, where it has one."""
    rule = _RULES.get((use.node.name(), use.slot))
    if use.node.name() == "ConvolutionBackward0" and use.node._saved_transposed:
        rule = _TRANSPOSED.get(use.slot)
    return rule


def rule_in_use(use: Use) -> Any:
    """The rule of a use that is known to have one."""
    rule = rule_of(use)
    assert rule is not None
    return rule


def _column(node: Any, sizes: tuple[int, ...], value: float) -> Float[Tensor, "*sizes 1"]:
    """One number, seen as often as asked, in the kind of an operation's output."""
    like = node._input_metadata[0]
    return torch.tensor(value, dtype=like.dtype, device=like.device).expand(*sizes, 1)


# ---- products of matrices --------------------------------------------------------------------------------------------


@register("AddmmBackward0", 2)
class Product(Matrix):
    """c + x W with the argument W: torch's linear layers, with W a view of their weight."""

    source: ClassVar[str] = "_saved_mat1"

    def left(self, node: Any) -> Tensor:
        """x."""
        scale = float(getattr(node, "_saved_alpha", 1))
        return getattr(node, self.source) if scale == 1 else scale * getattr(node, self.source)

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The gradient of x W."""
        return g

    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        """xᵀ g."""
        assert left is not None
        return (left.mT @ right).reshape(shape)


@register("MmBackward0", 1)
class _MM(Product):
    """x W."""

    source: ClassVar[str] = "_saved_self"


@register("BmmBackward0", 1)
class _BMM(Matrix):
    """x W of every entry of a batch that is no axis of samples: einsum's products, heads of attention."""

    def left(self, node: Any) -> Tensor:
        x = node._saved_self
        return x[0] if len(x) == 1 else x.transpose(0, 1)

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        return g[:, 0] if g.shape[1] == 1 else g.transpose(1, 2)

    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        assert left is not None
        return torch.einsum("r...d,r...q->...dq", left, right).reshape(shape)


@register("AddmmBackward0", 0)
class _AddMMBias(Product):
    """The vector c of c + x W: a is 1."""

    def left(self, node: Any) -> Tensor:
        return _column(node, (node._input_metadata[0].shape[0],), float(node._saved_beta))


# ---- convolutions ----------------------------------------------------------------------------------------------------


def _windows(x: Tensor, kernel: tuple[int, ...], node: Any, axes: int) -> Float[Tensor, "n *out c *kernel"]:
    """Every window of a batch of images, positions first, then channels and taps; a view where nothing is padded."""
    padding, stride, dilation = (tuple(getattr(node, f"_saved_{name}")) for name in ("padding", "stride", "dilation"))
    if any(padding):
        x = F.pad(x, [size for p in reversed(padding) for size in (p, p)])
    for axis in range(axes):
        x = x.unfold(2 + axis, dilation[axis] * (kernel[axis] - 1) + 1, stride[axis])
    taps = tuple(slice(None, None, step) for step in dilation)
    x = x[(..., *taps)]
    return x.permute(0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))


class _Convolution(Matrix):
    """What the arguments of a convolution share.

    Rows stay as they lie in memory, positions innermost, which is how their products want them.
    """

    leading: ClassVar[int] = 2

    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        assert left is not None
        return torch.einsum("r...d,r...q->...qd", left, right).reshape(shape)

    @staticmethod
    def rows_of(g: Tensor, groups: int) -> Float[Tensor, "o n t *groups q"]:
        """Channels last, positions among the rows."""
        rows = g.flatten(3).transpose(2, 3)
        return rows if groups == 1 else rows.unflatten(-1, (groups, -1))


@register("ConvolutionBackward0", 1)
class _Weight(_Convolution):
    """y = W ∗ x: a window of the input a row."""

    def left(self, node: Any) -> Tensor:
        weight, x, groups = node._saved_weight, node._saved_input, node._saved_groups
        if x.dim() == 4:
            sizes = (node._saved_dilation, node._saved_padding, node._saved_stride)
            rows = F.unfold(x, tuple(weight.shape[2:]), *(tuple(size) for size in sizes)).transpose(1, 2)
        else:
            windows = _windows(x, tuple(weight.shape[2:]), node, x.dim() - 2)
            rows = windows.reshape(len(x), math.prod(windows.shape[1 : x.dim() - 1]), -1)
        return rows if groups == 1 else rows.unflatten(-1, (groups, -1))

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.rows_of(g, node._saved_groups)


@register("ConvolutionBackward0", 2)
class _Shift(_Weight):
    """The vector added to every position."""

    def left(self, node: Any) -> Tensor:
        groups, shape = node._saved_groups, node._input_metadata[0].shape
        rows = (shape[0], math.prod(shape[2:]))
        return _column(node, rows if groups == 1 else (*rows, groups), 1.0)


class _TransposedWeight(_Convolution):
    """y = W ∗ᵀ x: a position of the input a row, and a window of the output's gradient."""

    def left(self, node: Any) -> Tensor:
        x = node._saved_input
        return self.rows_of(x[None], node._saved_groups)[0]

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        o, axes = g.shape[0], g.dim() - 3
        windows = _windows(g.flatten(0, 1), shape[2:], node, axes)
        n = node._saved_input.shape[0]
        size = node._saved_input.shape[2:]
        windows = windows[(slice(None), *(slice(0, k) for k in size))]  # output_padding makes room for more
        rows = windows.reshape(o, n, math.prod(size), -1)
        return rows if node._saved_groups == 1 else rows.unflatten(-1, (node._saved_groups, -1))

    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        assert left is not None
        return torch.einsum("r...d,r...q->...dq", left, right).reshape(shape)


class _TransposedShift(_Shift):
    """The vector added to every position, whose rows are not the weight's."""

    shares: ClassVar[str] = "shift"


_TRANSPOSED: dict[int, Rule] = {1: _TransposedWeight(1), 2: _TransposedShift(2)}


# ---- embeddings ------------------------------------------------------------------------------------------------------


@register("EmbeddingBackward0", 0)
class _Embedding(Table):
    """Rows by number; that of the padding has no gradient."""

    def tokens(self, node: Any) -> Tensor:
        return node._saved_indices.flatten()

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        rows = g.flatten(1, -2)
        padding = node._saved_padding_idx
        if padding < 0 or padding >= shape[0]:
            return rows
        return rows * (self.tokens(node) != padding)[:, None]

    def assembled(self, left: Tensor | None, right: Tensor, shape: tuple[int, ...]) -> Tensor:
        assert left is not None
        return right.new_zeros(shape).index_add_(0, left, right)


# ---- scales and shifts -----------------------------------------------------------------------------------------------


def _over(g: Float[Tensor, "o *out"], shape: tuple[int, ...]) -> Float[Tensor, "o r p"]:
    """Gradients by row: what an argument of this shape is repeated over become rows, in their order."""
    sizes = (1,) * (g.dim() - 1 - len(shape)) + tuple(shape)
    times = [whole // size for whole, size in zip(g.shape[1:], sizes, strict=True)]
    g = g.reshape(g.shape[0], *(k for pair in zip(times, sizes, strict=True) for k in pair))
    axes = range(len(sizes))
    rows = g.permute(0, *(1 + 2 * k for k in axes), *(2 + 2 * k for k in axes))
    return rows.reshape(g.shape[0], math.prod(times), math.prod(sizes))


@register("AddBackward0", 0, 1)
class _Added(Vector):
    """x + c, broadcast."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        alpha = float(node._saved_alpha) if self.slot == 1 else 1.0
        return _over(g if alpha == 1 else alpha * g, shape)


@register("SubBackward0", 0, 1)
class _Subtracted(Vector):
    """x − c, or c − x."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        return _over(-float(node._saved_alpha) * g if self.slot == 1 else g, shape)


@register("MulBackward0", 0, 1)
class _Multiplied(Vector):
    """x c, broadcast."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        return _over(g * (node._saved_other if self.slot == 0 else node._saved_self), shape)


@register("ExpandBackward0", 0)
@register("RepeatBackward0", 0)
class _Repeated(Vector):
    """c for every sample, as the first token of a sequence."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        return _over(g, shape)


@register("NativeLayerNormBackward0", 1, 2)
class _LayerNorm(Vector):
    """γ x̂ + β over the last axes."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.slot == 1:
            g = g * ((node._saved_input - node._saved_result1) * node._saved_result2)
        return _over(g, shape)


def _by_channel(g: Float[Tensor, "o n c *positions"]) -> Float[Tensor, "o n c"]:
    return g.flatten(3).sum(3) if g.dim() > 3 else g


@register("NativeGroupNormBackward0", 1, 2)
class _GroupNorm(Vector):
    """γ x̂ + β by channel, statistics of each sample's groups."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.slot == 1:
            x = node._saved_input
            mean, rate = (value[..., None] for value in (node._saved_result1, node._saved_result2))
            grouped = x.reshape(*node._saved_result1.shape, -1)
            g = g * ((grouped - mean) * rate).reshape(x.shape)
        return _by_channel(g)


@register("NativeBatchNormBackward0", 1, 2)
@register("CudnnBatchNormBackward0", 1, 2)
class _BatchNorm(Vector):
    """γ x̂ + β by channel, with running statistics."""

    def right(self, node: Any, g: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.slot == 1:
            x = node._saved_input
            sizes = (1, -1, *[1] * (x.dim() - 2))
            mean, variance = node._saved_running_mean.view(sizes), node._saved_running_var.view(sizes)
            g = g * ((x - mean) * (variance + _eps_of(node)).rsqrt())
        return _by_channel(g)


def _eps_of(node: Any) -> float:
    return float(node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon)
