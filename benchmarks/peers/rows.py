"""What is computed: one `Row` is one kernel. Rows know no library, for they are read in every environment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

# Initial scales of the exact rows: weight variance 2 keeps ReLU layers at their critical point, and the small bias
# makes sure that the contestants' biases mean the same.
W_STD, B_STD = 2**0.5, 0.1


@dataclass(frozen=True)
class Row:
    """One kernel to compute, of a fully connected network d – depth × width – n_outputs.

    Args:
        name: what `--rows` selects by.
        kind: "exact" (infinite width, NTK parameterisation) or "empirical" (finite, plain linear layers).
        n: samples.
        activation: "relu", "erf" or "gelu".
        depth: hidden layers.
        outputs: "trace" (n, n), the sum over outputs, or "full" (n, n, O, O).
        n_outputs: outputs O.
        width: units of a hidden layer; has no meaning in an exact row.
        d: features of a sample.
        repetitions: timed turns of each contestant.
        tolerance: largest |a − b| / max|b| at which two float32 results count as the same.
    """

    name: str
    kind: Literal["exact", "empirical"]
    n: int
    activation: str = "relu"
    depth: int = 3
    outputs: Literal["trace", "full"] = "trace"
    n_outputs: int = 1
    width: int = 1024
    d: int = 784
    repetitions: int = 7
    tolerance: float = 1e-3

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every layer, input and output included."""
        return (self.d, *[self.width] * self.depth, self.n_outputs)

    def quick(self) -> Row:
        """The same row, small: to see that everything works, not to learn a time."""
        return replace(self, n=min(self.n, 12), d=32, width=48, repetitions=2)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


ROWS = (
    *(Row(f"exact-{a}-{n}", "exact", n, a) for n in (1000, 4000) for a in ("relu", "erf", "gelu")),
    Row("mlp-trace-200", "empirical", 200),
    Row("mlp-full-30", "empirical", 30, outputs="full", n_outputs=10, repetitions=5),
)
