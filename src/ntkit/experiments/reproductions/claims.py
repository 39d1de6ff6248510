"""What a publication says, as a number to compare a measured one with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ntkit.errors import InvalidInput
from ntkit.report import Table
from ntkit.report.wording import number

Relation = Literal["equal", "above", "at most"]
_SIGNS = {"equal": "", "above": "> ", "at most": "≤ "}
HEADER = ("claim", "expected", "measured", "tolerance", "holds", "source")


@dataclass(frozen=True)
class Claim:
    """A statement that a measurement can contradict.

    equal: |measured − expected| ≤ tolerance; above: measured > expected − tolerance; at most: measured ≤ expected +
    tolerance.

    Args:
        claim: the statement, in words.
        source: where it is made.
        expected: the number it gives.
        measured: what came out here.
        tolerance: by how much the two may differ.
        relation: how they are compared.
        unit: of the three numbers, such as "%".

    Raises:
        InvalidInput: a number is not finite, or the tolerance is negative.

    Example:
        >>> Claim("depth 3", "a paper", expected=40.9, measured=41.3, tolerance=1.0, unit="%").holds
        True
    """

    claim: str
    source: str
    expected: float
    measured: float
    tolerance: float
    relation: Relation = "equal"
    unit: str = ""

    def __post_init__(self) -> None:
        for name in ("expected", "measured", "tolerance"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise InvalidInput(f"{name} of the claim {self.claim!r} must be a finite number, got {value}")
        if self.tolerance < 0:
            raise InvalidInput(f"the tolerance of the claim {self.claim!r} must be at least 0, got {self.tolerance}")

    @property
    def holds(self) -> bool:
        """Whether the measurement agrees with the claim."""
        difference = self.measured - self.expected
        if self.relation == "above":
            return difference > -self.tolerance
        return (abs(difference) if self.relation == "equal" else difference) <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        names = ("claim", "source", "relation", "expected", "measured", "tolerance", "unit", "holds")
        return {name: getattr(self, name) for name in names}

    def as_row(self) -> tuple[str, ...]:
        """Cells under `HEADER`, for people."""
        expected, measured = (f"{number(x, 4)}{self.unit}" for x in (self.expected, self.measured))
        tolerance = f"{number(self.tolerance)}{self.unit}" if self.tolerance else "–"
        return (
            self.claim,
            _SIGNS[self.relation] + expected,
            measured,
            tolerance,
            "yes" if self.holds else "NO",
            self.source,
        )


def claims_table(claims: Iterable[Claim]) -> Table:
    """All claims, for the page and the terminal."""
    return Table(HEADER, tuple(claim.as_row() for claim in claims))


def verdict(claims: tuple[Claim, ...]) -> str:
    """How many hold, in one sentence.

    Example:
        >>> claim = Claim("a", "b", 1.0, 1.0, 0.0)
        >>> verdict((claim, claim))
        'All 2 claims hold.'
    """
    failed = [claim.claim for claim in claims if not claim.holds]
    if not failed:
        return f"All {len(claims)} claims hold." if len(claims) > 1 else "The claim holds."
    return f"{len(claims) - len(failed)} of {len(claims)} claims hold; not: {'; '.join(failed)}."
