"""The model rows' networks in JAX, channels last: functions of {name: array} and samples."""

# pyright: reportMissingImports=false
# (read in its contestant's own environment)

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from peers.rows import ModelRow

Arrays = Mapping[str, jax.Array]
STATISTICS = ("running_mean", "running_var")


def convolution(p: Arrays, name: str, x: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    around = ((padding, padding), (padding, padding))  # "SAME" would pad the second side alone where the stride is 2
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x, p[f"{name}.weight"], (stride, stride), around, dimension_numbers=layout)
    return out + p[f"{name}.bias"] if f"{name}.bias" in p else out


def norm(p: Arrays, statistics: Arrays, name: str, x: jax.Array) -> jax.Array:
    """Batch normalisation in evaluation mode, as torch has it."""
    mean, variance = (statistics[f"{name}.{kind}"] for kind in STATISTICS)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(p: Arrays, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def cnn(p: Arrays, statistics: Arrays, x: jax.Array) -> jax.Array:
    for name in ("0", "2", "4"):
        x = jax.nn.relu(convolution(p, name, x))
    return linear(p, "7", x.reshape(len(x), -1))


def resnet18(p: Arrays, statistics: Arrays, x: jax.Array) -> jax.Array:
    def normed(name: str, prefix: str, x: jax.Array, stride: int, padding: int) -> jax.Array:
        return norm(p, statistics, f"{prefix}norm_{name}", convolution(p, f"{prefix}{name}", x, stride, padding))

    x = jax.nn.relu(normed("stem", "", x, 1, 1))
    for block in range(8):
        prefix = f"blocks.{block}."
        changes = f"{prefix}skip.weight" in p
        out = jax.nn.relu(normed("one", prefix, x, 2 if changes else 1, 1))
        out = normed("two", prefix, out, 1, 1)
        x = jax.nn.relu(out + (normed("skip", prefix, x, 2, 0) if changes else x))
    return linear(p, "last", x.mean((1, 2)))


NETWORKS = {"cnn": cnn, "resnet18": resnet18}


def stage(row: ModelRow, arrays: Mapping[str, np.ndarray]) -> tuple[jax.Array, Arrays, Arrays]:
    """Samples, parameters and statistics as the functions above take them: convolutions (h, w, in, out), (in, out)."""
    x = _contiguous(np.moveaxis(arrays["x"], 1, -1))
    weights = {name: _weight(row, name, array) for name, array in arrays.items() if name != "x"}
    statistics = {name: array for name, array in weights.items() if name.endswith(STATISTICS)}
    parameters = {name: array for name, array in weights.items() if name not in statistics}
    return jax.block_until_ready((x, parameters, statistics))


def _weight(row: ModelRow, name: str, array: np.ndarray) -> jax.Array:
    if array.ndim == 4:
        return _contiguous(array.transpose(2, 3, 1, 0))
    if array.ndim == 2 and row.network == "cnn":  # torch flattens channels first
        pixels = tuple(side - 6 for side in row.shape[1:])
        array = np.moveaxis(array.reshape(len(array), row.width, *pixels), 1, -1).reshape(len(array), -1)
    return _contiguous(array.T)


def _contiguous(array: np.ndarray) -> jax.Array:
    return jnp.asarray(np.ascontiguousarray(array))
