"""Worker: neural-tangents, jitted: `stax` for exact rows, structured derivatives for empirical ones.

Its conventions: inputs enter as x·x'/d and Dense in NTK parameterisation, as here; `trace_axes` divides by the number
of outputs, where here the sum is meant.
"""

# pyright: reportMissingImports=false
# (this worker runs in its peer's own environment)

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from neural_tangents import stax

from peers.protocol import Task, serve
from peers.rows import B_STD, W_STD, Row

LIMITS = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}
FUNCTIONS = {"relu": jax.nn.relu}


class Exact:
    def __init__(self, row: Row):
        layers: list[Any] = []
        for _, fan_out in pairwise((row.d, *[1] * row.depth, 1)):  # hidden widths do not enter the limit
            layers += [stax.Dense(fan_out, W_STD, B_STD), LIMITS[row.activation]()]
        _, _, kernel_fn = stax.serial(*layers[:-1])
        self.kernel = jax.jit(lambda x: kernel_fn(x, None, "ntk"))

    def stage(self, arrays: dict[str, np.ndarray]) -> jax.Array:
        return jnp.asarray(arrays["x"]).block_until_ready()

    def compute(self, inputs: jax.Array) -> jax.Array:
        return self.kernel(inputs).block_until_ready()

    def to_numpy(self, result: jax.Array) -> np.ndarray:
        return np.asarray(result)


class Empirical:
    def __init__(self, row: Row):
        activation = FUNCTIONS[row.activation]

        def network(parameters: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
            for weight, bias in parameters[:-1]:
                x = activation(x @ weight + bias)
            weight, bias = parameters[-1]
            return x @ weight + bias

        trace = row.outputs == "trace"
        self.layers, self.factor = row.depth + 1, row.n_outputs if trace else 1
        kernel_fn = nt.empirical_ntk_fn(
            network,
            trace_axes=(-1,) if trace else (),
            vmap_axes=0,
            implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
        )
        self.kernel = jax.jit(lambda x, parameters: kernel_fn(x, None, parameters))

    def stage(self, arrays: dict[str, np.ndarray]) -> Any:
        # weights lie as (in, out), as stax has them: transposing inside would cost it its structure rules
        parameters = [
            (jnp.asarray(np.ascontiguousarray(arrays[f"W{i}"].T)), jnp.asarray(arrays[f"b{i}"]))
            for i in range(self.layers)
        ]
        return jax.block_until_ready((jnp.asarray(arrays["x"]), parameters))

    def compute(self, inputs: Any) -> jax.Array:
        return self.kernel(*inputs).block_until_ready()

    def to_numpy(self, result: jax.Array) -> np.ndarray:
        return np.asarray(result) * np.float32(self.factor)


def prepare(row: Row) -> Task:
    return Exact(row) if row.kind == "exact" else Empirical(row)


if __name__ == "__main__":
    serve(prepare, ("neural-tangents", "jax", "jaxlib"))
