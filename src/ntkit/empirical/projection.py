"""What of a model's outputs the kernel is taken of: all, one, directions among them, or that of each sample's class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import Array, check_finite
from ntkit.errors import InvalidInput

Project: TypeAlias = "int | Array | Literal['labels'] | None"


class Projection(ABC):
    """A linear map of the outputs, that knows no parameters."""

    @abstractmethod
    def of(self, out: Float[Tensor, "n o"], labels: Tensor | None) -> Float[Tensor, "n k"]:
        """The outputs that the kernel is taken of."""

    labelled = False  # whether samples come with the numbers of their classes


@dataclass(frozen=True)
class Single(Projection):
    """One output."""

    index: int

    def of(self, out: Tensor, labels: Tensor | None) -> Tensor:
        """See `Projection`. A product, as an index would not be known to keep samples at their places."""
        o = out.shape[1]
        if not -o <= self.index < o:
            raise InvalidInput(f"project must be an output from 0 to {o - 1}, got {self.index}")
        return out @ torch.eye(o, dtype=out.dtype, device=out.device)[:, [self.index]]


@dataclass(frozen=True, eq=False)
class Directions(Projection):
    """f(x) V."""

    matrix: Float[Tensor, "o k"]

    def of(self, out: Tensor, labels: Tensor | None) -> Tensor:
        """See `Projection`."""
        if out.shape[1] != len(self.matrix):
            raise InvalidInput(
                f"project must have one row an output, ({out.shape[1]}, k), got shape {tuple(self.matrix.shape)}"
            )
        return out @ self.matrix.to(out)


class OwnClass(Projection):
    """f_y(x) of samples (x, y)."""

    labelled = True

    def of(self, out: Tensor, labels: Tensor | None) -> Tensor:
        """See `Projection`."""
        assert labels is not None
        o = out.shape[1]
        hidden = torch._C._functorch.is_functorch_wrapped_tensor(labels)  # pyright: ignore[reportAttributeAccessIssue]
        if not hidden and bool(((labels < 0) | (labels >= o)).any()):
            raise InvalidInput(
                f"labels must be numbers of the model's outputs, 0 to {o - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}"
            )
        mine = labels[:, None] == torch.arange(o, device=out.device)
        return (out * mine.to(out.dtype)).sum(1, keepdim=True)


def read_projection(project: Any) -> Projection | None:
    """A `Projection` from what a caller may write.

    Raises:
        InvalidInput: it is something else.
    """
    if project is None:
        return None
    if isinstance(project, str):
        if project == "labels":
            return OwnClass()
    elif isinstance(project, (int, np.integer)) and not isinstance(project, bool):
        return Single(int(project))
    elif isinstance(project, (Tensor, np.ndarray)):
        matrix = torch.as_tensor(project).detach().clone()
        if matrix.dim() == 1:
            matrix = matrix[:, None]
        if not matrix.is_floating_point() or matrix.dim() != 2 or 0 in matrix.shape:
            raise InvalidInput(
                f"project must be a floating-point matrix (outputs, k), got {matrix.dtype} of shape "
                f"{tuple(project.shape)}; for an output per sample give project='labels' and samples (x, y)"
            )
        check_finite(matrix, "project")
        return Directions(matrix)
    raise InvalidInput(
        f"project must be the number of an output, a matrix (outputs, k), 'labels' or None, got {project!r}"
    )


def split_labels(x: Any, name: str) -> tuple[Any, Tensor]:
    """The samples and the numbers of their classes.

    Raises:
        InvalidInput: it is no such pair.
    """
    if not (isinstance(x, tuple) and len(x) == 2):
        raise InvalidInput(
            f"{name} must be a pair (samples, labels), as project='labels' asks for, got {type(x).__name__}"
        )
    labels = torch.as_tensor(x[1]) if isinstance(x[1], (Tensor, np.ndarray)) else None
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    if labels is None or labels.dim() != 1 or labels.dtype not in kinds:
        got = type(x[1]).__name__ if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise InvalidInput(f"{name}[1] must be whole numbers (n,), one class a sample, got {got}")
    return x[0], labels.long()
