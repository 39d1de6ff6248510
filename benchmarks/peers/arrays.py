"""The arrays of one repetition: drawn once from its seed, read by every contestant from the same npz file.

Imports numpy alone, for it runs in every contestant's environment.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from peers.models import affine_layers
from peers.rows import B_STD, EmpiricalRow, ExactRow, ModelRow, Row

# Where a unit's input is as small as float32 rounding, rounding decides ReLU's derivative: two right programs may then
# differ by that unit's whole share of the kernel, up to 1%. Inputs of size 1 summed over a thousand units err by 1e-6.
KINK_MARGIN = 1e-5


def draw(row: Row, seed: int) -> dict[str, np.ndarray]:
    """The arrays of one repetition, float32: samples "x" (n, *shape), for empirical rows also "W0", "b0", "W1", …,
    for model rows the weights under the names of `peers.models`, GPT-2's apart, which torch draws from "seed".

    Weights W (out, in) have variance 2/in, so that signals keep their size with depth. Samples at which a ReLU unit's
    input is within `KINK_MARGIN` of zero are drawn again.
    """
    rng = np.random.default_rng(seed)
    if isinstance(row, ExactRow):
        return {"x": rng.standard_normal((row.n, *row.shape), dtype=np.float32)}
    if isinstance(row, ModelRow):
        return _draw_tokens(row, rng, seed) if row.network == "gpt2" else _draw_images(row, rng)
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


def _draw_images(row: ModelRow, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples "x", and the weights of the row's layers under their names, norms' statistics included.

    A million ReLU units leave no sample far from all kinks. But a unit is here one pixel of one channel, whose share
    of the kernel is too small for the tolerance to see.
    """
    arrays = {"x": rng.standard_normal((row.n, *row.shape), dtype=np.float32)}
    for layer in affine_layers(row):
        scale = np.float32((2 / layer.fan_in) ** 0.5)
        after = layer.channels[1]
        arrays[f"{layer.name}.weight"] = scale * rng.standard_normal(layer.shape, dtype=np.float32)
        if layer.norm is None:
            arrays[f"{layer.name}.bias"] = np.float32(B_STD) * rng.standard_normal(after, dtype=np.float32)
            continue
        for name, centre in (("weight", 1), ("bias", 0), ("running_mean", 0)):
            values = np.float32(centre) + np.float32(B_STD) * rng.standard_normal(after, dtype=np.float32)
            arrays[f"{layer.norm}.{name}"] = values
        arrays[f"{layer.norm}.running_var"] = rng.uniform(0.5, 2, after).astype(np.float32)
    return arrays


def _draw_tokens(row: ModelRow, rng: np.random.Generator, seed: int) -> dict[str, np.ndarray]:
    """Tokens "x", the "vector" that makes one output of the logits, and the "seed" of the many weights."""
    vector = rng.standard_normal(row.vocabulary, dtype=np.float32) / np.float32(row.vocabulary**0.5)
    return {"x": rng.integers(0, row.vocabulary, (row.n, *row.shape)), "vector": vector, "seed": np.array(seed)}


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
