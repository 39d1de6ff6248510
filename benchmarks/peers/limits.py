"""How near a time is to the machine's own limit.

Empirical rows: the arithmetic of the matrix products that the contraction by layer cannot do without, at the speed at
which this machine multiplied matrices in the same run. With n samples, O outputs and layers of widths w₀ … w_L:

    forward          Σ_l 2 n w_{l−1} w_l
    backward         Σ_{l=2}^{L−1} 2 n O w_{l−1} w_l       (the last layer's own gradient is the identity)
    Gram of inputs   Σ_l n² w_{l−1}                        (half of 2 n² w, for it is symmetric)
    Gram of grads    Σ_{l<L} (n O)² w_l, "full", or n² O w_l, "trace"

Whole models: the same for each layer of `peers.models`, with p positions a sample, a the fan-in, b channels behind it,
and P = O² pairs of outputs, "full", or O, "trace": forward 2 n p a b; backward 2 n O p a b, of the layers between the
first and the last; and the cheaper of two contractions,

    position by position          n² p² (a + P b)          (the last layer's gradient is the identity: n² a)
    as per-sample gradients       2 n O p a b + n² P a b

Normalisations, biases, embeddings, attention's own products and GPT-2's head are not counted: less than what is needed.

Reference: Novak, Sohl-Dickstein & Schoenholz 2022, section 3.2 (structured derivatives).

Exact rows: the time on all cores over the covariance entries that there are: pairs of samples i ≤ j, times pixels or
pairs of pixels (`peers.networks.entries_per_pair`), summed over hidden layers. Who computes both halves of a symmetric
kernel is measured by the same entries. The least time of an entry, `entry_limit`, is that of the loops that it passes
through: their instructions, counted from the assembly, at the highest rates that `peers.speeds` saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from peers.models import Affine, affine_layers
from peers.networks import entries_per_pair
from peers.rows import EmpiricalRow, ExactRow, ModelRow, Row

if TYPE_CHECKING:
    from peers.instructions import Loop
    from peers.speeds import Speeds


@dataclass(frozen=True)
class Machine:
    """What times are held against.

    Args:
        threads: cores that every contestant may use.
        gemm: fastest float32 matrix product seen, GFLOP/s; None where it was not measured.
    """

    threads: int
    gemm: float | None = None


def required_flops(row: EmpiricalRow | ModelRow) -> int:
    """Floating-point operations of the matrix products that an empirical kernel needs."""
    if isinstance(row, ModelRow):
        return sum(_layer_flops(layer, row) for layer in affine_layers(row))
    n, outputs, widths = row.n, row.n_outputs, row.widths
    layers = list(pairwise(widths))
    forward = sum(2 * n * a * b for a, b in layers)
    backward = sum(2 * n * outputs * a * b for a, b in layers[1:-1])
    inputs_gram = sum(n**2 * a for a, _ in layers)
    pairs = (n * outputs) ** 2 if row.outputs == "full" else n**2 * outputs
    return forward + backward + inputs_gram + sum(pairs * b for _, b in layers[:-1])


def _layer_flops(layer: Affine, row: ModelRow) -> int:
    """Forward, backward and the cheaper contraction of one layer."""
    n, outputs, positions = row.n, row.n_outputs, layer.positions
    before, after = layer.fan_in, layer.channels[1]
    forward = 2 * n * positions * before * after
    if layer.last:
        return forward + n**2 * before
    pairs = outputs**2 if row.outputs == "full" else outputs
    by_position = n**2 * positions**2 * (before + pairs * after)
    by_gradient = outputs * forward + n**2 * pairs * before * after
    return forward + (0 if layer.first else outputs * forward) + min(by_position, by_gradient)


def limit_note(row: Row, seconds: float, machine: Machine) -> str:
    """One phrase: the share of the matrix-multiplication limit, or the time of an entry and hidden layer."""
    match row:
        case ExactRow():
            return f"{nanoseconds_per_entry(row, seconds, machine.threads):.3g} ns an entry·layer·core"
        case EmpiricalRow() | ModelRow() if machine.gemm is not None:
            return f"{share_of_limit(row, seconds, machine.gemm):.0%} of GEMM limit"
    return "limit not measured"


def entries(row: ExactRow) -> int:
    """Covariance entries of all hidden layers together, each pair of samples once."""
    return row.n * (row.n + 1) // 2 * entries_per_pair(row.network, row.shape)


def nanoseconds_per_entry(row: ExactRow, seconds: float, threads: int) -> float:
    """Nanoseconds that one core takes for one covariance entry of one hidden layer."""
    return seconds * threads * 1e9 / entries(row)


def share_of_limit(row: EmpiricalRow | ModelRow, seconds: float, gemm: float) -> float:
    """Time of the required products at peak speed over the time taken, in [0, 1] but for noise of the peak."""
    return required_flops(row) / (gemm * 1e9) / seconds


def unit_seconds(loop: Loop, speeds: Speeds) -> Mapping[str, float]:
    """{unit: seconds that one core's unit is busy in one iteration of a loop}; the units work side by side."""
    counts = loop.counts
    return {
        "vector instructions": loop.vector_work / speeds.vector,
        "multiplier": (counts.get("fma", 0) + counts.get("mul", 0)) / speeds.multiply,
        "divider": counts.get("div", 0) / speeds.divide + counts.get("sqrt", 0) / speeds.sqrt,
        "loads": loop.reads / speeds.load,
        "stores": loop.writes / speeds.store,
    }


def entry_limit(loops: Iterable[tuple[Loop, float]], speeds: Speeds, bytes_moved: float = 0.0) -> tuple[str, float]:
    """The unit that binds, and the least seconds that one entry can take on one core.

    Args:
        loops: every loop that an entry passes through, and how many iterations are an entry's part.
        speeds: measured rates.
        bytes_moved: to and from memory, not cache, for one entry; a core has its part of the bandwidth.
    """
    busy = Counter({"memory": bytes_moved * speeds.threads / speeds.bandwidth})
    for loop, iterations in loops:
        busy.update({unit: seconds * iterations for unit, seconds in unit_seconds(loop, speeds).items()})
    return max(busy.items(), key=lambda unit: unit[1])
