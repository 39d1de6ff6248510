"""Which recorded tensors share memory, so that an in-place operation changes what all of them hold.

A permutation or `view` shares the memory of its source for certain; `reshape`, `flatten` and `contiguous` copy where
the memory is not in order, which a record does not say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx


@dataclass(eq=False)
class _Block:
    """Tensors that may share memory, in groups that do for certain."""

    groups: list[list[fx.Node]] = field(default_factory=list)


class Memory:
    """The sharing among the tensors recorded so far."""

    def __init__(self) -> None:
        self._blocks: dict[fx.Node, _Block] = {}
        self._seen: set[fx.Node] = set()

    def pass_by(self, node: fx.Node) -> None:
        """Note that the record has come to `node`."""
        self._seen.add(node)

    def own(self, node: fx.Node) -> None:
        """`node` has memory of its own."""
        self._blocks[node] = _Block([[node]])

    def share(self, node: fx.Node, source: fx.Node, *, for_certain: bool = True) -> None:
        """`node` shows the memory of `source`."""
        block = self._blocks[source]
        if for_certain:
            self._group(source).append(node)
        else:
            block.groups.append([node])
        self._blocks[node] = block

    def views(self, node: fx.Node) -> list[fx.Node]:
        """Tensors that show the memory of `node` for certain, itself among them."""
        return list(self._group(node))

    def doubtful(self, node: fx.Node) -> list[fx.Node]:
        """Tensors that may share the memory of `node` or may not."""
        return [n for group in self._blocks[node].groups if node not in group for n in group]

    def is_read_later(self, node: fx.Node) -> bool:
        """Whether an operation that the record has not come to yet reads `node`."""
        return any(user not in self._seen for user in node.users)

    def _group(self, node: fx.Node) -> list[fx.Node]:
        return next(group for group in self._blocks[node].groups if node in group)
