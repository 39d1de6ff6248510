"""What a kernel of given sizes costs: said before it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ntkit._memory import human_bytes
from ntkit.infinite.dual import ClosedForm, Series, dual
from ntkit.infinite.dual import Dual as DualMoments
from ntkit.infinite.placement import Placement
from ntkit.infinite.program import Dual, Program


@dataclass(frozen=True)
class Plan:
    """What a kernel of a given size costs.

    Args:
        n: samples on the first side.
        m: samples on the second side.
        symmetric: whether only half of the pairs are computed.
        covariances: (grid, what is carried for each pair) of every grid of the network, in order.
        entries: covariances that are computed, over all layers and pairs.
        memory: bytes of the results and of what is held beside them.
        engine: what executes the program.
        duals: (path, how) of every activation: in closed form, which leaves float64's rounding, or by quadrature with
            the bound on its error.
    """

    n: int
    m: int
    symmetric: bool
    covariances: tuple[tuple[str, str], ...]
    entries: int
    memory: int
    engine: str
    duals: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        rows = [
            f"{self.n} x {self.m} pairs{', half of them by symmetry' if self.symmetric else ''}",
            *(f"carries    {grid}: {what}" for grid, what in self.covariances),
            f"work       {self.entries:.3g} covariances",
            f"memory     {human_bytes(self.memory)}",
            f"engine     {self.engine}",
            *(f"dual       {path}: {how}" for path, how in self.duals),
        ]
        return "\n".join(rows)


def covariances(placement: Placement) -> tuple[tuple[str, str], ...]:
    """(grid, which pairs of its positions are needed), each once, in the order of the network."""
    found: dict[tuple[str, str], None] = {}
    for i, grid in enumerate(placement.grids):
        need = placement.offsets[i]
        if need is None:
            continue
        if placement.positions(i) == 1:
            found["vectors", "one number"] = None
            continue
        every = all(bool(mask.all()) for mask in need)
        some = " x ".join(f"{int(mask.sum())} of {len(mask)}" for mask in need)
        what = "equal positions" if placement.is_diagonal(i) else "all pairs" if every else f"offsets {some}"
        found["x".join(map(str, grid)) + " positions", what] = None
    return tuple(found)


def duals_of(program: Program, tolerance: float) -> tuple[tuple[str, str], ...]:
    """(path, how its moments are found) of every activation of the program."""
    return tuple(
        (op.path, f"{op.activation.name}, {_how(dual(op.activation, tolerance))}")
        for op in program.instructions
        if isinstance(op, Dual)
    )


def _how(found: DualMoments) -> str:
    if isinstance(found, ClosedForm):
        return "closed form"
    if isinstance(found, Series):
        return f"quadrature: E[σ(u)σ(v)] to {found.error:g} of √(E[σ(u)²] E[σ(v)²]), and so for σ'"
    return type(found).__name__


def entries_per_pair(placement: Placement) -> int:
    """Covariances of a pair of samples, over all instructions."""
    total = 0
    for i, grid in enumerate(placement.grids):
        need = placement.offsets[i]
        if need is not None:
            pairs = 1
            for n, mask in zip(grid, need, strict=True):
                offsets = abs(mask.nonzero()[0] - (n - 1))
                pairs *= int((n - offsets).sum())
            total += pairs
    return total
