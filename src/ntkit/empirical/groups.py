"""Parameters with a rule, and their derivatives from one pass: what shares output gradients stays together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ntkit.empirical.contraction import Factored, Jacobian, Pending, Tied, Tokens
from ntkit.empirical.costs import Contraction, LayerSizes
from ntkit.empirical.graph import Part, Reassign, Use, are_apart, no_gradient
from ntkit.empirical.rules import Matrix, Product, Table, Vector, rule_in_use, rule_of

Order = tuple[bool, ...]  # of each use whether rows are sample by sample, else position by position; one for all alike


@dataclass(frozen=True)
class Group:
    """Parameters, or parts of them, that are read by the same operations with the same rows g.

    Args:
        members: (name, which part of it is read) each.
        order: that of rows.
        share: the part of the kernel that they belong to.
    """

    members: tuple[tuple[str, Part], ...]
    order: Order
    share: str

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(name for name, _ in self.members)


Site = Sequence[Use]  # one operation's uses of all members of a group


def order_of(firsts: Sequence[bool]) -> Order:
    """The order of all uses of a parameter from that of each."""
    return tuple(firsts[:1] if len(set(firsts)) == 1 else firsts)


def order_at(order: Order, k: int) -> bool:
    """Whether the rows of a parameter's k-th use are sample by sample."""
    return order[k if len(order) > 1 else 0]


def has_rules(uses: Sequence[Use]) -> bool:
    """Whether all uses of a parameter have rules, and their derivatives can be added up."""
    rules = [rule for use in uses if (rule := rule_of(use)) is not None]
    if _are_tied(uses):
        return True
    if not uses or len(rules) < len(uses) or not are_apart([use.part for use in uses]):
        return False
    kinds = {(use.part, type(rule).assembled, use.views, use.shape) for rule, use in zip(rules, uses, strict=True)}
    return len(kinds) == len({use.part for use in uses})


def _are_tied(uses: Sequence[Use]) -> bool:
    """Whether a parameter is read as a table, and turned as the matrix of a linear map, and in no other way."""
    tables = [use for use in uses if isinstance(rule_of(use), Table)]
    matrices = [use for use in uses if isinstance(rule_of(use), Product)]
    if not tables or not matrices or len(tables) + len(matrices) < len(uses):
        return False
    return not any(use.path for use in tables) and all(_is_turned(use) for use in matrices)


def _is_turned(use: Use) -> bool:
    steps = [node for node, _ in use.path if node.name() not in ("ToCopyBackward0", "MulBackward0")]
    if len(steps) != 1:
        return False
    (node,) = steps
    return node.name() == "TBackward0" or (
        node.name() == "PermuteBackward0" and [d % 2 for d in node._saved_dims] == [1, 0]
    )


def grouped(
    uses: Mapping[str, Sequence[Use]], orders: Mapping[str, Order], part_of: Mapping[str, str]
) -> dict[Group, list[Site]]:
    """The groups of the parameters named in `orders`, with the operations that read them.

    Args:
        uses: of each parameter.
        orders: of its rows.
        part_of: the part of the kernel that it belongs to.

    Raises:
        Reassign: a parameter is not used, or in a way that has no rule.
    """
    lost = [name for name, order in orders.items() if not has_rules(uses[name]) or 1 < len(order) != len(uses[name])]
    if lost:
        raise Reassign(lost)
    found: dict[Any, list[list[Use]]] = {}  # what they share -> of each member its uses
    for name, order in orders.items():
        parts: dict[Part, list[tuple[Use, bool]]] = {}
        for k, use in enumerate(uses[name]):
            parts.setdefault(use.part, []).append((use, order_at(order, k)))
        for part, own in parts.items():
            key = order_of([first for _, first in own])
            rules = [rule_in_use(use) for use, _ in own]
            shared = tuple(
                (use.node, rule.shares) for (use, _), rule in zip(own, rules, strict=True) if isinstance(rule, Matrix)
            )
            place = (part_of[name], key)
            if _are_tied([use for use, _ in own]):
                shared = ()
            found.setdefault((shared, *place) if shared else (name, part, *place), []).append([use for use, _ in own])
    return {
        Group(tuple((own[0].parameter, own[0].part) for own in members), order, share): list(zip(*members, strict=True))
        for (*_, share, order), members in found.items()
    }


@torch.no_grad()
def derivatives_of(
    group: Group,
    sites: Sequence[Site],
    gradients: Mapping[Any, Tensor],
    n: int,
    o: int,
    kind: Contraction,
    pending: bool = False,
) -> Factored | Jacobian | Tokens | Tied:
    """The derivatives of o outputs at n samples.

    Args:
        group: the parameters.
        sites: the operations that read them.
        gradients: of operations' outputs, (o, …), by operation.
        n: samples.
        o: outputs.
        kind: whether factors are multiplied.
        pending: whether that is done only while the kernel is.

    Raises:
        Reassign: an operation saw something else than the samples.
    """
    rule = rule_in_use(sites[0][0])
    if any(math.prod(site[0].node._input_metadata[0].shape) == 0 for site in sites):  # a layer without samples
        raise Reassign(group.names)
    rights = [_summable(_right(group, k, site, gradients[site[0].node], n)) for k, site in enumerate(sites)]
    if isinstance(rule, Vector):
        return Jacobian(torch.stack([rows.sum(1) for rows in rights]).sum(0))
    if _are_tied([site[0] for site in sites]):
        return _tied(group, sites, rights, n)
    g = _side_by_side(rights, 1)
    if isinstance(rule, Table):
        tokens = [_rows(rule_in_use(site[0]).tokens(site[0].node), n, group, k) for k, site in enumerate(sites)]
        return Tokens(_side_by_side(tokens, 1), g)
    lefts = [[_summable(_left(group, k, use, n)) for use in site] for k, site in enumerate(sites)]
    numbers: list[float] = []
    if len(sites) == 1 and lefts[0][0].dim() == 3:  # columns of one number each need not be written out
        numbers = [float(left.flatten()[0]) for left in lefts[0] if _is_one_number(left)]
        columns = [left for left in lefts[0] if not _is_one_number(left)]
        lefts, numbers = ([columns], numbers) if columns else (lefts, [])
    a = _side_by_side([_side_by_side(of_site, -1) for of_site in lefts], 1)
    if a.dim() == 4:  # groups of channels
        gradient = torch.einsum("ntogq,ntgd->nogqd", g, a)
        return Jacobian(gradient.reshape(n, o, -1))
    factors = Factored(a, g, math.hypot(*numbers))
    if kind == "gram":
        return factors
    return Pending(a, g, factors.constant) if pending else factors.felt().multiplied()


@torch.no_grad()
def sizes_of(group: Group, sites: Sequence[Site], n: int) -> LayerSizes:
    """How large they are a sample."""
    first = sites[0]
    rule = rule_in_use(first[0])
    shapes = [
        rule_in_use(site[0]).flat_right(site[0].node, no_gradient(site[0].node, 1), site[0].shape).shape
        for site in sites
    ]
    if _are_tied([site[0] for site in sites]):
        d, vocabulary = min(shape[2] for shape in shapes), max(shape[2] for shape in shapes)
        t = max(shape[1] for shape in shapes) // n * max(1, len(sites) - 1)
        return LayerSizes(t, {first[0].parameter: d}, vocabulary + d, "gram")
    q = math.prod(shapes[0][2:])
    if isinstance(rule, Vector):
        return LayerSizes(1, {first[0].parameter: 1}, q, "gradient")
    t = sum(shape[1] for shape in shapes) // n
    if isinstance(rule, Table):
        return LayerSizes(t, {first[0].parameter: 1}, q, "gram")
    columns = {use.parameter: rule_in_use(use).flat_left(use.node).shape[-1] for use in first}
    return LayerSizes(t, columns, q, "gradient" if len(shapes[0]) == 4 else None)


@torch.no_grad()
def are_attributed(
    group: Group,
    sites: Sequence[Site],
    alike: Mapping[Any, Tensor],
    weighted: Mapping[Any, Tensor],
    weights: Tensor,
    tolerance: float,
) -> bool:
    """Whether rows are those of the samples that they are taken for.

    Args:
        group: the parameters.
        sites: the operations that read them.
        alike: gradients of a sum over the batch, (1, …), by operation.
        weighted: of the same with a weight for each sample.
        weights: the weights.
        tolerance: what rounding does to one of them.
    """
    n = len(weights)
    for k, site in enumerate(sites):
        one, two = (_right(group, k, site, gradients[site[0].node], n) for gradients in (alike, weighted))
        expected = one * weights.view(n, *[1] * (one.dim() - 1))
        if float((two - expected).norm()) > tolerance * len(one) ** 0.5 * float(one.norm()):
            return False
    return True


def by_sample(rows: Shaped[Tensor, "r *_"], n: int, samples_first: bool) -> Shaped[Tensor, "n t *_"] | None:
    """Rows of each sample; None where they are not as many for each."""
    if rows.shape[0] % n:
        return None
    return rows.unflatten(0, (n, -1)) if samples_first else rows.unflatten(0, (-1, n)).transpose(0, 1)


def _rows(rows: Shaped[Tensor, "r *_"], n: int, group: Group, k: int, leading: int = 1) -> Shaped[Tensor, "n t *_"]:
    samples_first = order_at(group.order, k)
    if leading == 2 and samples_first and len(rows) == n:
        return rows
    found = by_sample(rows.flatten(0, leading - 1), n, samples_first)
    if found is None:
        raise Reassign(group.names)
    return found


def _left(group: Group, k: int, use: Use, n: int) -> Float[Tensor, "n t *groups d"]:
    rule = rule_in_use(use)
    left = _rows(rule.left(use.node).detach(), n, group, k, rule.leading)
    return left if use.scale == 1 else use.scale * left


def _right(group: Group, k: int, site: Site, g: Float[Tensor, "o *out"], n: int) -> Float[Tensor, "n t o *_"]:
    rule = rule_in_use(site[0])
    rows = rule.right(site[0].node, g, site[0].shape).detach().movedim(0, rule.leading)
    rows = _rows(rows, n, group, k, rule.leading)
    scale = 1.0 if isinstance(rule, Matrix) else site[0].scale  # of matrices it is the rows a that carry it
    return rows if scale == 1 else scale * rows


def _tied(group: Group, sites: Sequence[Site], rights: Sequence[Tensor], n: int) -> Tied:
    tokens, of_tokens, inputs, of_outputs = [], [], [], []
    for k, ((use, *_), right) in enumerate(zip(sites, rights, strict=True)):
        if isinstance(rule_in_use(use), Table):
            tokens.append(_rows(rule_in_use(use).tokens(use.node), n, group, k))
            of_tokens.append(right)
        else:
            inputs.append(_summable(_left(group, k, use, n)))
            of_outputs.append(right)
    table = Tokens(_side_by_side(tokens, 1), _side_by_side(of_tokens, 1))
    return Tied(table, Factored(_side_by_side(inputs, 1), _side_by_side(of_outputs, 1)))


def _summable(rows: Tensor) -> Tensor:
    """Rows in a precision that sums of many keep."""
    return rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows


def _is_one_number(left: Tensor) -> bool:
    return left.shape[-1] == 1 and not any(left.stride()[:-1])


def _side_by_side(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
