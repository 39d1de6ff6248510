"""The arrays of one repetition: drawn once from its seed, read by every contestant from the same npz file.

Imports numpy alone, for it runs in every contestant's environment.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from peers.rows import B_STD, EmpiricalRow, ExactRow, Row

# Where a unit's input is as small as float32 rounding, rounding decides ReLU's derivative: two right programs may then
# differ by that unit's whole share of the kernel, up to 1%. Inputs of size 1 summed over a thousand units err by 1e-6.
KINK_MARGIN = 1e-5


def draw(row: Row, seed: int) -> dict[str, np.ndarray]:
    """The arrays of one repetition, float32: samples "x" (n, *shape), for empirical rows also "W0", "b0", "W1", …

    Weights W (out, in) have variance 2/in, so that signals keep their size with depth. Samples at which a ReLU unit's
    input is within `KINK_MARGIN` of zero are drawn again.
    """
    rng = np.random.default_rng(seed)
    if isinstance(row, ExactRow):
        return {"x": rng.standard_normal((row.n, *row.shape), dtype=np.float32)}
    assert isinstance(row, EmpiricalRow), f"no arrays are known for rows of the kind {row.kind!r}"
    x = rng.standard_normal((row.n, row.d), dtype=np.float32)
    weights: dict[str, np.ndarray] = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(row.widths)):
        scale = np.float32((2 / fan_in) ** 0.5)
        weights[f"W{layer}"] = scale * rng.standard_normal((fan_out, fan_in), dtype=np.float32)
        weights[f"b{layer}"] = np.float32(B_STD) * rng.standard_normal(fan_out, dtype=np.float32)
    doubtful = np.arange(row.n)
    while (doubtful := doubtful[nearest_kink(x[doubtful], weights, row.depth) < KINK_MARGIN]).size:
        x[doubtful] = rng.standard_normal((doubtful.size, row.d), dtype=np.float32)
    return {"x": x, **weights}


def nearest_kink(x: np.ndarray, weights: dict[str, np.ndarray], depth: int) -> np.ndarray:
    """min |z| over all hidden units' inputs z of each sample, (n,), in float64."""
    signal, nearest = x.astype(np.float64), np.full(len(x), np.inf)
    for layer in range(depth):
        z = signal @ weights[f"W{layer}"].T.astype(np.float64) + weights[f"b{layer}"]
        nearest = np.minimum(nearest, np.abs(z).min(axis=1))
        signal = np.maximum(z, 0)
    return nearest


def write_inputs(row: Row, seed: int, path: Path) -> Path:
    """Draw the arrays of `seed` into the npz file that every contestant reads."""
    np.savez(path, **draw(row, seed))  # pyright: ignore[reportArgumentType]
    return path


def read_inputs(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file of `write_inputs`."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
