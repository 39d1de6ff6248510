"""What a kernel costs: which contraction is cheaper, how many samples fit, and the plan a person can read.

Two exact contractions for a layer with rows a (t, d) and output gradients g (t, o, q), over pairs of samples:
"gram" multiplies factors position by position, t²(d + o'q) a pair; "gradient" first forms the per-sample
gradients (o, q, d), then multiplies them, o'qd a pair. o' is o² for "full" outputs and o otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ntkit._memory import human_bytes
from ntkit.empirical.contraction import Outputs
from ntkit.errors import MemoryLimitExceeded

Contraction: TypeAlias = Literal["gram", "gradient"]

_TILE_ROWS = 512  # samples of a tile of pairs: large products, yet k(x, x) saves near half
_TILE_NUMBERS = (
    1024  # samples times outputs of a tile where all pairs of outputs are wanted, whose products are so large
)


@dataclass(frozen=True)
class LayerSizes:
    """t positions, columns of the input factor by parameter, q columns of the output factor."""

    t: int
    columns: dict[str, int]
    q: int
    only: Contraction | None = None  # the one contraction there is

    @property
    def d(self) -> int:
        """Columns of the input factor."""
        return sum(self.columns.values())

    def of(self, parameter: str) -> LayerSizes:
        """One parameter's part."""
        return replace(self, columns={parameter: self.columns[parameter]})


@dataclass(frozen=True)
class Work:
    """`block` samples' derivatives of `chunk` outputs are held at once, `tile`² pairs of them multiplied.

    They pass through the network `batch` at a time. With a `slab`, factors are held, and multiplied while the kernel
    is, so many numbers at a time; `later`, those of one group of parameters after the other, all samples having passed
    at once.
    """

    block: int
    chunk: int
    tile: int
    batch: int
    slab: int = 0
    later: bool = False

    def at_most(self, samples: int, outputs: Outputs) -> Work:
        """The same for so many samples, and with tiles of which symmetry saves half."""
        most = max(1, _TILE_NUMBERS // self.chunk) if outputs == "full" else _TILE_ROWS
        block = min(self.block, samples)
        return Work(block, self.chunk, min(self.tile, block, most), min(self.batch, block), self.slab, self.later)


def largest_tile(budget: int, pair_bytes: int) -> int:
    """Samples of both sides whose products take a quarter of the budget."""
    return math.isqrt(max(0, budget) // (4 * max(1, pair_bytes)))


@dataclass(frozen=True)
class ParameterPlan:
    """One parameter: its route ("layer", "generic", or "unused" for one that reaches no output) and costs."""

    name: str
    shape: tuple[int, ...]
    route: Literal["layer", "generic", "unused"]
    contraction: Literal["gram", "gradient", "jacobian", "none"]
    flops: int  # of the contraction; the passes through the network come on top
    block: int  # samples whose derivatives are held at once
    bytes: int  # of those derivatives

    def cells(self) -> tuple[str, ...]:
        """The parameter's line in the table."""
        shape = "×".join(map(str, self.shape)) or "scalar"
        cost = (f"{self.flops / 1e9:.3g}", str(self.block), human_bytes(float(self.bytes)))
        return (self.name, shape, self.route, self.contraction, *cost)


@dataclass(frozen=True)
class Plan:
    """How a kernel of `samples` inputs will be computed; prints as a table."""

    samples: int
    outputs: Outputs
    n_outputs: int
    parameters: tuple[ParameterPlan, ...]
    result_bytes: int

    @property
    def flops(self) -> int:
        """Of all contractions."""
        return sum(parameter.flops for parameter in self.parameters)

    def __str__(self) -> str:
        head = ("parameter", "shape", "route", "contraction", "GFLOP", "block", "memory")
        rows = [head, *(p.cells() for p in self.parameters)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        title = (
            f'NTK of {self.samples} samples, {self.n_outputs} output(s), outputs="{self.outputs}": '
            f"{self.flops / 1e9:.3g} GFLOP, result {human_bytes(float(self.result_bytes))}"
        )
        return "\n".join([title, *lines])


def output_pairs(o: int, outputs: Outputs) -> int:
    """Products of output gradients a pair of samples needs: o² for "full", else o."""
    return o * o if outputs == "full" else o


def contraction_flops(kind: Contraction, size: LayerSizes, o: int, outputs: Outputs, samples: int, pairs: int) -> int:
    """Multiplications and additions of a layer's contraction, forming per-sample gradients included."""
    t, d, q = size.t, size.d, size.q
    o_pairs = output_pairs(o, outputs)
    if kind == "gram":
        return 2 * pairs * t * t * (d + o_pairs * q)
    return 2 * samples * o * t * q * d + 2 * pairs * o_pairs * q * d


def cheaper_contraction(size: LayerSizes, o: int, outputs: Outputs, samples: int, pairs: int) -> Contraction:
    """The one place where a layer's contraction is chosen: fewer operations wins."""
    if size.only is not None:
        return size.only
    gram = contraction_flops("gram", size, o, outputs, samples, pairs)
    return "gram" if gram <= contraction_flops("gradient", size, o, outputs, samples, pairs) else "gradient"


def layer_numbers(kind: Contraction, size: LayerSizes, o: int) -> int:
    """How many numbers one sample's derivatives of `o` outputs are."""
    return size.t * (size.d + o * size.q) if kind == "gram" else o * size.q * size.d


def pair_numbers(kind: Contraction, size: LayerSizes, o: int, outputs: Outputs) -> int:
    """How many numbers are needed at once to multiply one pair of samples, their product included."""
    columns = o if outputs == "full" else 1
    held = size.t * size.t * (1 + columns) if kind == "gram" else 0
    return held + 3 * result_numbers(o, outputs)


def result_numbers(o: int, outputs: Outputs) -> int:
    """Kernel entries a pair of samples has."""
    return {"full": o * o, "diagonal": o, "trace": 1, "mean": 1}[outputs]


def cut(
    samples: int,
    o: int,
    sample_bytes: Callable[[int], int],
    pair_bytes: Callable[[int], int],
    budget: int,
    outputs: Outputs,
) -> Work:
    """The largest blocks that fit: three quarters of the budget for derivatives, one for products of pairs.

    Args:
        samples: of the larger side.
        o: number of outputs.
        sample_bytes: for a number of outputs at once, what one sample needs (both sides of the kernel
            counted).
        pair_bytes: the same for one pair of samples.
        budget: bytes.
        outputs: which pairs of outputs.

    Raises:
        MemoryLimitExceeded: not even one output of one pair of samples fits.
    """
    for chunk in halvings(o):
        block = 3 * budget // (4 * max(1, sample_bytes(chunk)))
        tile = largest_tile(budget, pair_bytes(chunk))
        if block >= 1 and tile >= 1:
            return Work(block, chunk, tile, block).at_most(samples, outputs)
    raise too_little(max(4 * sample_bytes(1) // 3, 4 * pair_bytes(1)), budget)


def halvings(o: int) -> Iterator[int]:
    """How many of o outputs may be worked on at once: all, half of them, …, one."""
    while o > 1:
        yield o
        o = (o + 1) // 2
    yield 1


def too_little(needed: int, budget: int) -> MemoryLimitExceeded:
    """The error that not one output of one sample fits in the bytes left for working."""
    return MemoryLimitExceeded(
        f"the derivatives of one output at one sample need {human_bytes(float(needed))} of working memory, "
        f"but {human_bytes(float(max(0, budget)))} are left beside the result; raise memory_limit, or select "
        "fewer parameters with parameters=[...]"
    )
