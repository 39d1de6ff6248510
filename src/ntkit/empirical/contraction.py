"""Products of derivatives: blocks of the kernel from what the routes give.

Σ over parameters of ∂f_o(x)/∂θ · ∂f_o'(x')/∂θ, from explicit rows (Jacobian) or, for a layer with
∂f/∂W = Σ_t g_t ⊗ a_t, from its factors: Σ_{t,s} ⟨a_t, a'_s⟩ ⟨g_t, g'_s⟩, where no array has the parameters'
size. Every function takes leading batch axes, written *b; t and s are positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ntkit._products import products_of_columns, products_of_rows

Outputs: TypeAlias = Literal["full", "diagonal", "trace", "mean"]

_NARROW = 64  # columns: products of fewer are slow


@dataclass(frozen=True)
class Jacobian:
    """Explicit derivatives, j[n, o] = ∂f_o(x_n)/∂θ."""

    j: Float[Tensor, "*b n o p"]

    def rows(self, samples: slice) -> Jacobian:
        """Those of some samples."""
        return Jacobian(self.j[samples])

    def apart(self) -> Jacobian:
        """Each sample as its own batch of one."""
        return Jacobian(self.j.unsqueeze(1))


class Slab(NamedTuple):
    """A part of a matrix's per-sample gradients: of which outputs, rows and columns."""

    outs: slice
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Factored:
    """Derivatives of a layer kept in factors: ∂f_o(x_n)/∂W = Σ_t g[n, t, o] ⊗ a[n, t].

    Args:
        a: rows of the layer's input.
        g: rows of the gradients of its output.
        constant: one more column of `a`, the same for all rows: that of a bias.
    """

    a: Float[Tensor, "*b n t d"]
    g: Float[Tensor, "*b n t o q"]
    constant: float = 0.0

    def rows(self, samples: slice) -> Factored:
        """Those of some samples."""
        return replace(self, a=self.a[samples], g=self.g[samples])

    def apart(self) -> Factored:
        """Each sample as its own batch of one."""
        return replace(self, a=self.a.unsqueeze(1), g=self.g.unsqueeze(1))

    def felt(self) -> Factored:
        """Only positions whose outputs the network's depend on: before a last token that is read there are many."""
        if self.g.shape[1] == 1 or bool(self.g[0, :, 0].any(-1).all()):
            return self
        felt = torch.count_nonzero(self.g, dim=[k for k in range(self.g.dim()) if k != 1]) > 0
        if bool(felt.all()) or not bool(felt.any()):
            return self
        return replace(self, a=self.a[:, felt], g=self.g[:, felt])

    def multiplied(self) -> Jacobian:
        """The per-sample gradients, q·d numbers an output: cheaper than factors where positions are many."""
        return self.slab(Slab(*(slice(0, size) for size in (*self.g.shape[2:], self.columns))))

    @property
    def columns(self) -> int:
        """Those of the matrix, that of a bias included."""
        return self.a.shape[-1] + (1 if self.constant else 0)

    def slab(self, part: Slab, room: Tensor | None = None) -> Jacobian:
        """A part of the per-sample gradients, in `room` where it is given."""
        g, a = self.g[:, :, part.outs, part.rows], self.a[..., part.columns]
        n, o, q = g.shape[0], *g.shape[2:]
        width = part.columns.stop - part.columns.start
        size = n * o * q * width
        slab = (g.new_empty(size) if room is None else room[:size]).view(n, o * q, width)
        products_of_columns(g, a, out=slab[..., : a.shape[-1]])
        if width > a.shape[-1]:  # the last column is the constant's
            slab[..., -1] = self.constant * g.sum(1).reshape(n, o * q)
        return Jacobian(slab.view(n, o, q * width))

    def gram(self, other: Factored) -> Float[Tensor, "*b n t m s"]:
        """⟨a_t, a'_s⟩ of all positions."""
        product = products_of_rows(self.a.flatten(-3, -2), other.a.flatten(-3, -2), self.constant * other.constant)
        return product.unflatten(-1, (-1, other.a.shape[-2])).unflatten(-3, (-1, self.a.shape[-2]))


@dataclass(frozen=True)
class Pending(Factored):
    """Factors that are multiplied only while the kernel is: a slab of the per-sample gradients at a time."""

    def slabs(self, other: Pending, together: bool, numbers: int) -> Iterator[tuple[slice, Jacobian, Jacobian]]:
        """All slabs of both sides, with the outputs that they are of; each takes the place of the one before.

        Args:
            other: of the other side; the same object where it is this one.
            together: whether slabs have all outputs, or one after the other.
            numbers: how many a slab may have.
        """
        o, q = self.g.shape[-2:]
        outs = o if together else 1
        most = max(1, numbers // (outs * max(len(self.g), len(other.g))))  # of a sample and an output
        columns = min(self.columns, most, max(most // q, _NARROW))
        rows = min(q, max(1, most // columns))
        sides = [self] if other is self else [self, other]
        rooms = [side.g.new_empty(len(side.g) * outs * rows * columns) for side in sides]
        for part in itertools.product(_cuts(o, outs), _cuts(q, rows), _cuts(self.columns, columns)):
            slabs = [side.slab(Slab(*part), room) for side, room in zip(sides, rooms, strict=True)]
            yield part[0], slabs[0], slabs[-1]


def _cuts(size: int, width: int) -> list[slice]:
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


@dataclass(frozen=True)
class Tokens:
    """Derivatives of a table whose rows are read by number: g[n, t] belongs to row tokens[n, t]."""

    tokens: Int[Tensor, "*b n t"]
    g: Float[Tensor, "*b n t o q"]

    def rows(self, samples: slice) -> Tokens:
        """Those of some samples."""
        return Tokens(self.tokens[samples], self.g[samples])

    def apart(self) -> Tokens:
        """Each sample as its own batch of one."""
        return Tokens(self.tokens.unsqueeze(1), self.g.unsqueeze(1))

    def gram(self, other: Tokens) -> Float[Tensor, "*b n t m s"]:
        """1 where two positions hold the same token."""
        equal = self.tokens[..., :, :, None, None] == other.tokens[..., None, None, :, :]
        return equal.to(self.g)


@dataclass(frozen=True)
class Tied:
    """Derivatives of a table of embeddings that is a linear map too, as of tokens back from what became of them.

    ∂f_o(x_n)/∂T = Σ_t e(token_t) ⊗ g[n, t, o] + Σ_s r[n, s, o] ⊗ a[n, s].

    Args:
        table: tokens, and gradients g of their embeddings.
        matrix: inputs a of the linear map, and gradients r of its outputs, one number a row of the table.
    """

    table: Tokens
    matrix: Factored

    def rows(self, samples: slice) -> Tied:
        """Those of some samples."""
        return Tied(self.table.rows(samples), self.matrix.rows(samples))

    def apart(self) -> Tied:
        """Each sample as its own batch of one."""
        return Tied(self.table.apart(), self.matrix.apart())

    def felt(self) -> Tied:
        """Only positions of the linear map whose outputs the network's depend on."""
        return Tied(self.table, self.matrix.felt())


@dataclass(frozen=True)
class Later:
    """Derivatives that are made when they are needed, one group of parameters after the other."""

    make: Callable[[], Jacobian | Factored | Tokens | Tied]


Features: TypeAlias = Sequence[Any]  # Jacobian | Factored | Tokens | Tied | Later


def contract(first: Features, second: Features, outputs: Outputs) -> Tensor:
    """The kernel between two sets of samples: (*b, n, m, o, o) "full", (*b, n, m, o) "diagonal", (*b, n, m).

    Args:
        first: derivatives of the n samples, one entry a group of parameters.
        second: derivatives of the m samples, the same groups.
        outputs: which pairs of outputs; "mean" gives the trace here, its caller divides.
    """
    total: Tensor | None = None
    for one, two in zip(first, second, strict=True):
        if isinstance(one, Jacobian) and isinstance(two, Jacobian):
            part = _from_jacobians(one.j, two.j, outputs)
        elif isinstance(one, Tied) and isinstance(two, Tied):
            part = _from_tied(one, two, outputs)
        else:
            assert not isinstance(one, Jacobian | Pending)
            assert type(one) is type(two)  # both sides take the same route
            part = _from_factors(one, two, outputs)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def gathered(batches: Iterator[Features], places: Sequence[slice]) -> Features:
    """The derivatives of batches of samples as those of all, at their places."""
    every: list[Any] = []
    for place in places:
        features = next(batches)
        if not every:
            every = [_room_for(feature, places[-1].stop) for feature in features]
        for k, room in enumerate(every):
            _put(room, features[k], place)
        del features  # the next batch needs their memory
    return every


def _room_for(feature: Any, n: int) -> Any:
    """The same for n samples, to be filled."""
    parts = {}
    for field in fields(feature):
        value = getattr(feature, field.name)
        if isinstance(value, Tensor):
            value = value.new_empty(n, *value.shape[1:])
        elif is_dataclass(value):
            value = _room_for(value, n)
        parts[field.name] = value
    return type(feature)(**parts)


def _put(room: Any, feature: Any, place: slice) -> None:
    for field in fields(room):
        value = getattr(feature, field.name)
        if isinstance(value, Tensor):
            getattr(room, field.name)[place] = value
        elif is_dataclass(value):
            _put(getattr(room, field.name), value, place)


def mirrored(block: Tensor, outputs: Outputs) -> Tensor:
    """k(x', x) from k(x, x'): samples change places, and in "full" outputs do too."""
    block = block.transpose(0, 1)
    return block.transpose(2, 3) if outputs == "full" else block


def _from_jacobians(j1: Tensor, j2: Tensor, outputs: Outputs) -> Tensor:
    if outputs == "full":
        o1, o2 = j1.shape[-2], j2.shape[-2]
        product = products_of_rows(j1.flatten(-3, -2), j2.flatten(-3, -2))
        return product.unflatten(-1, (-1, o2)).unflatten(-3, (-1, o1)).transpose(-3, -2).contiguous()
    if outputs == "diagonal" and j1.shape[-2] > 1:
        return (j1.transpose(-3, -2) @ j2.transpose(-3, -2).mT).movedim(-3, -1).contiguous()
    product = products_of_rows(j1.flatten(-2), j2.flatten(-2))
    return product.unsqueeze(-1) if outputs == "diagonal" else product


def _from_tied(one: Tied, two: Tied, outputs: Outputs) -> Tensor:
    total = _from_factors(one.table, two.table, outputs)
    total += _from_factors(one.matrix, two.matrix, outputs)
    total += _across(one.table, two.matrix, outputs)
    mirror = _across(two.table, one.matrix, outputs)
    axes = 2 if outputs == "full" else 1 if outputs == "diagonal" else 0
    mirror = mirror.transpose(-2 - axes, -1 - axes)
    total += mirror.mT if outputs == "full" else mirror
    return total


def _across(table: Tokens, matrix: Factored, outputs: Outputs) -> Tensor:
    """Σ_{t,s} ⟨g[n, t, o], a[m, s]⟩ r[m, s, o', token[n, t]]: the table read here, the linear map there."""
    (n, t, o), (m, s) = table.g.shape[-4:-1], matrix.a.shape[-3:-1]
    product = products_of_rows(table.g.flatten(-4, -2), matrix.a.flatten(-3, -2))
    product = product.unflatten(-1, (m, s)).unflatten(-3, (n, t, o))
    tokens = table.tokens.flatten(-2)[..., None, None, None, :]
    there = torch.gather(matrix.g, -1, tokens.expand(*matrix.g.shape[:-1], n * t)).unflatten(-1, (n, t))
    form = {"full": "...ntoms,...mspnt->...nmop", "diagonal": "...ntoms,...msont->...nmo"}
    return torch.einsum(form.get(outputs, "...ntoms,...msont->...nm"), product, there)


def _from_factors(one: Any, two: Any, outputs: Outputs) -> Tensor:
    gram = one.gram(two)
    if outputs == "full" and one.g.shape[-3] == two.g.shape[-3] == 1:  # no positions: all outputs by one product
        o1, o2 = one.g.shape[-2], two.g.shape[-2]
        product = products_of_rows(one.g.flatten(-4, -2), two.g.flatten(-4, -2))
        product = product.unflatten(-1, (-1, o2)).unflatten(-3, (-1, o1)).transpose(-3, -2)
        return product.mul_(gram.squeeze(-1).squeeze(-2)[..., None, None])
    if outputs == "full":  # one output of the first side at a time against all of the second
        rows = [_position_sum(gram, one.g[..., o, :], two.g) for o in range(one.g.shape[-2])]
        return torch.stack(rows, dim=-2)
    if outputs == "diagonal":
        each = range(one.g.shape[-2])
        return torch.cat([_position_sum(gram, one.g[..., o, :], two.g[..., o : o + 1, :]) for o in each], dim=-1)
    return _position_sum(gram, one.g.flatten(-2), two.g.flatten(-2).unsqueeze(-2)).squeeze(-1)


def _position_sum(
    gram: Float[Tensor, "*b n t m s"], g1: Float[Tensor, "*b n t q"], g2: Float[Tensor, "*b m s k q"]
) -> Float[Tensor, "*b n m k"]:
    """Σ_{t,s} gram[n, t, m, s] ⟨g1[n, t], g2[m, s, k]⟩."""
    t, (s, k) = g1.shape[-2], g2.shape[-3:-1]
    product = products_of_rows(g1.flatten(-3, -2), g2.flatten(-4, -2))  # (*b, n·t, m·s·k)
    product = product.unflatten(-1, (-1, s, k)).unflatten(-4, (-1, t))
    product.mul_(gram.unsqueeze(-1))
    if t == s == 1:
        return product.squeeze(-2).squeeze(-3)
    return product.sum((-4, -2))
