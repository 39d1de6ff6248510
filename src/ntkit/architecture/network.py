"""A traced network: nodes in the order in which they are computed."""

from __future__ import annotations

from dataclasses import dataclass

from ntkit.architecture.specs import Linear, Spec


@dataclass(frozen=True)
class Node:
    """One operation: what it is, which earlier nodes it reads, and where in the model it stands."""

    spec: Spec
    inputs: tuple[int, ...]
    path: str


@dataclass(frozen=True)
class Network:
    """Nodes in computing order; node 0 is the input.

    Args:
        nodes: the operations.
        output: index of the node that the model returns.
    """

    nodes: tuple[Node, ...]
    output: int

    @property
    def linear_paths(self) -> tuple[str, ...]:
        """Paths of the linear layers, in order."""
        return tuple(node.path for node in self.nodes if isinstance(node.spec, Linear))

    def __str__(self) -> str:
        rows = [
            f"{i:3d}  {node.path or '(model)':24s} {node.spec} <- {node.inputs}" for i, node in enumerate(self.nodes)
        ]
        return "\n".join(rows)
