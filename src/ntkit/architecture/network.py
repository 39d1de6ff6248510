"""A traced network: nodes in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ntkit.architecture.specs import Input, Spec, Weighted

Structure = Literal["tensor", "tuple", "list"] | tuple[Any, ...]


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
        outputs: index of the node of each tensor that the model returns.
        structure: how the model returns them: one "tensor", a "tuple", a "list", or the keys of a dict.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    structure: Structure = "tensor"

    @property
    def weighted_paths(self) -> tuple[str, ...]:
        """Paths of the linear and convolution layers, in order."""
        return tuple(node.path for node in self.nodes if isinstance(node.spec, Weighted))

    @property
    def takes_mask(self) -> bool:
        """Whether a layer reads which tokens are there."""
        return any(node.spec.reads_mask for node in self.nodes)

    @property
    def takes_tokens(self) -> bool:
        """Whether the data are whole numbers."""
        return isinstance(self.nodes[0].spec, Input) and self.nodes[0].spec.holds_tokens

    @property
    def output_paths(self) -> tuple[str, ...]:
        """Where in the model each output is computed."""
        return tuple(self.nodes[output].path for output in self.outputs)

    def arrange(self, results: Sequence[Any]) -> Any:
        """One result for each output, in the structure in which the model returns them."""
        if isinstance(self.structure, tuple):
            return dict(zip(self.structure, results, strict=True))
        if self.structure == "tensor":
            (result,) = results
            return result
        return tuple(results) if self.structure == "tuple" else list(results)

    def __str__(self) -> str:
        rows = [
            f"{i:3d}  {node.path or '(model)':24s} {node.spec} <- {node.inputs}" for i, node in enumerate(self.nodes)
        ]
        return "\n".join(rows)
