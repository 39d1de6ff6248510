"""How near a time is to the machine's own limit.

Empirical rows: the arithmetic of the matrix products that the contraction by layer cannot do without, at the speed at
which this machine multiplied matrices in the same run. With n samples, O outputs and layers of widths w₀ … w_L:

    forward          Σ_l 2 n w_{l−1} w_l
    backward         Σ_{l=2}^{L−1} 2 n O w_{l−1} w_l       (the last layer's own gradient is the identity)
    Gram of inputs   Σ_l n² w_{l−1}                        (half of 2 n² w, for it is symmetric)
    Gram of grads    Σ_{l<L} (n O)² w_l, "full", or n² O w_l, "trace"

Reference: Novak, Sohl-Dickstein & Schoenholz 2022, section 3.2 (structured derivatives).

Exact rows do little arithmetic of one known kind, so their time is given per entry of the (n, n) result and hidden
layer; symmetric halves count as delivered entries, so that contestants with and without symmetry compare.
"""

from __future__ import annotations

from itertools import pairwise

from peers.rows import Row


def required_flops(row: Row) -> int:
    """Floating-point operations of the matrix products that an empirical row needs."""
    n, outputs, widths = row.n, row.n_outputs, row.widths
    layers = list(pairwise(widths))
    forward = sum(2 * n * a * b for a, b in layers)
    backward = sum(2 * n * outputs * a * b for a, b in layers[1:-1])
    inputs_gram = sum(n**2 * a for a, _ in layers)
    pairs = (n * outputs) ** 2 if row.outputs == "full" else n**2 * outputs
    return forward + backward + inputs_gram + sum(pairs * b for _, b in layers[:-1])


def limit_note(row: Row, seconds: float, peak_gflops: float | None) -> str:
    """One phrase: the share of the matrix-multiplication limit, or the time of an entry and hidden layer."""
    if row.kind == "exact":
        return f"{nanoseconds_per_entry(row, seconds):.2f} ns an entry·layer"
    if peak_gflops is None:
        return "limit not measured"
    return f"{share_of_limit(row, seconds, peak_gflops):.0%} of GEMM limit"


def nanoseconds_per_entry(row: Row, seconds: float) -> float:
    """Nanoseconds of an exact row per entry of its (n, n) result and hidden layer."""
    return seconds * 1e9 / (row.n**2 * row.depth)


def share_of_limit(row: Row, seconds: float, peak_gflops: float) -> float:
    """Time of the required products at peak speed over the time taken, in [0, 1] but for noise of the peak."""
    return required_flops(row) / (peak_gflops * 1e9) / seconds
