"""What a publication says, as a number to compare a measured one with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ntkit.errors import InvalidInput
from ntkit.report import Table
from ntkit.report.wording import number

Relation = Literal["equal", "above", "at most"]
_SIGNS = {"equal": "", "above": "> ", "at most": "≤ "}
HEADER = ("claim", "expected", "measured", "tolerance", "holds", "refuted by", "control", "source")


@dataclass(frozen=True)
class Control:
    """What must not satisfy a claim: shuffled labels, a wrong formula, an untrained network.

    Args:
        name: what it is.
        measured: what came out of it, where the claim has its own measurement.

    Raises:
        InvalidInput: the number is not finite.
    """

    name: str
    measured: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.measured):
            raise InvalidInput(f"measured of the control {self.name!r} must be a finite number, got {self.measured}")


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
        control: what must fail the claim, or it says nothing.

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
    control: Control | None = None

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
        return self._agrees(self.measured)

    @property
    def control_fails(self) -> bool | None:
        """Whether the control fails the claim, as it must; None where there is none."""
        return None if self.control is None else not self._agrees(self.control.measured)

    @property
    def refuted_by(self) -> str:
        """The measurements that would contradict the claim.

        Example:
            >>> Claim("c", "s", expected=40.0, measured=41.0, tolerance=2.0, unit="%").refuted_by
            'below 38% or above 42%'
        """
        low, high = (f"{number(self.expected + s * self.tolerance, 4)}{self.unit}" for s in (-1, 1))
        if self.relation == "equal":
            return f"below {low} or above {high}" if self.tolerance else f"anything but {low}"
        return f"{low} or less" if self.relation == "above" else f"more than {high}"

    def _agrees(self, measured: float) -> bool:
        difference = measured - self.expected
        if self.relation == "above":
            return difference > -self.tolerance
        return (abs(difference) if self.relation == "equal" else difference) <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        names = ("claim", "source", "relation", "expected", "measured", "tolerance", "unit", "holds", "refuted_by")
        control = None if self.control is None else asdict(self.control) | {"fails": self.control_fails}
        return {name: getattr(self, name) for name in names} | {"control": control}

    def as_row(self) -> tuple[str, ...]:
        """Cells under `HEADER`, for people."""
        return (
            self.claim,
            _SIGNS[self.relation] + self._written(self.expected),
            self._written(self.measured),
            f"{number(self.tolerance)}{self.unit}" if self.tolerance else "–",
            "yes" if self.holds else "NO",
            self.refuted_by,
            self._control(),
            self.source,
        )

    def _control(self) -> str:
        if self.control is None:
            return "–"
        fails = "fails" if self.control_fails else "DOES NOT FAIL"
        return f"{self.control.name}: {self._written(self.control.measured)}, {fails}"

    def _written(self, value: float) -> str:
        return f"{number(value, 4)}{self.unit}"


def claims_table(claims: Iterable[Claim]) -> Table:
    """All claims, for the page and the terminal."""
    return Table(HEADER, tuple(claim.as_row() for claim in claims))


def verdict(claims: tuple[Claim, ...]) -> str:
    """How many hold, and how many controls fail as they must, in a sentence or two.

    Example:
        >>> claim = Claim("a", "b", 1.0, 1.0, 0.0)
        >>> verdict((claim, claim))
        'All 2 claims hold.'
    """
    failed = [claim.claim for claim in claims if not claim.holds]
    if failed:
        text = f"{len(claims) - len(failed)} of {len(claims)} claims hold; not: {'; '.join(failed)}."
    else:
        text = f"All {len(claims)} claims hold." if len(claims) > 1 else "The claim holds."
    controls = [claim for claim in claims if claim.control is not None]
    if not controls:
        return text
    passing = [claim.claim for claim in controls if not claim.control_fails]
    fail = len(controls) - len(passing)
    if passing:
        return f"{text} {fail} of {len(controls)} controls fail; not that of: {'; '.join(passing)}."
    return f"{text} " + (f"All {fail} controls fail, as they must." if fail > 1 else "Its control fails, as it must.")
