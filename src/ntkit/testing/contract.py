"""The properties of one rule as they are checked, and the error for the first that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ntkit.errors import ContractViolation


class Contract:
    """What has been checked of one rule.

    Args:
        who: the rule, as errors name it.
    """

    def __init__(self, who: str):
        self.who = who
        self.held: list[str] = []

    def close(
        self,
        name: str,
        got: Tensor,
        wanted: Tensor,
        allowed: Tensor,
        remedy: str,
        where: Callable[[tuple[int, ...]], str] | None = None,
    ) -> None:
        """Every entry is within its allowed error.

        Args:
            name: the property.
            got: values of the rule.
            wanted: values as they should be.
            allowed: largest errors.
            remedy: what to look at.
            where: index of an entry -> its name in the error.

        Raises:
            ContractViolation: one is not; the message has the entry that is furthest off.
        """
        excess = torch.nan_to_num((got - wanted).abs() - allowed, nan=torch.inf)
        if got.numel() and float(excess.max()) > 0:
            index = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
            at = "entry " + str(index) if where is None else where(index)
            self.fail(
                name,
                f"wanted {float(wanted[index]):.12g}, got {float(got[index]):.12g} at {at} (allowed error "
                f"{float(allowed.expand_as(excess)[index]):.2g})",
                remedy,
            )
        self.hold(name)

    def positive(self, name: str, matrix: Tensor, slack: float, remedy: str) -> None:
        """A symmetric matrix has no negative eigenvalue, up to `slack` times its largest diagonal entry.

        Raises:
            ContractViolation: it has one.
        """
        least = float(torch.linalg.eigvalsh(matrix)[0])
        floor = -slack * float(matrix.diagonal().abs().max())
        if not least >= floor:
            self.fail(name, f"wanted eigenvalues >= {floor:.2g}, got {least:.6g} (of {len(matrix)} samples)", remedy)
        self.hold(name)

    def hold(self, name: str) -> None:
        """Notes that a property holds."""
        if name not in self.held:
            self.held.append(name)

    def fail(self, name: str, numbers: str, remedy: str) -> None:
        """Raises the violation of a property."""
        raise ContractViolation(f"{self.who} breaks the property '{name}': {numbers}; {remedy}")

    def result(self) -> tuple[str, ...]:
        """Names of the properties that were checked and hold."""
        return tuple(self.held)


def pairs_named(q1: Sequence[float], q2: Sequence[float], rho: Sequence[float]) -> Callable[[tuple[int, ...]], str]:
    """Names pairs in errors."""
    return lambda i: f"q1={q1[i[0]]:.6g}, q2={q2[i[0]]:.6g}, correlation 1 - {1 - rho[i[0]]:.3g}"
