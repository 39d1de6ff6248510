"""Worker: neural-tangents, jitted: `stax` for exact rows, structured derivatives for empirical ones.

Its conventions: inputs enter as x·x'/d and Dense in NTK parameterisation, as here; `trace_axes` divides by the number
of outputs, where here the sum is meant.
"""

# pyright: reportMissingImports=false
# (this worker runs in its peer's own environment)

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from neural_tangents import stax

from peers import jax_models
from peers.networks import Step, Steps, parse
from peers.protocol import Task, serve
from peers.rows import B_STD, W_STD, EmpiricalRow, ExactRow, ModelRow, Row

LAYERS = {
    "dense": lambda: stax.Dense(1, W_STD, B_STD),
    "conv": lambda: stax.Conv(1, (3, 3), (1, 1), "SAME", W_STD, B_STD),
    "token": lambda: stax.Dense(1, W_STD, B_STD),
    "attend": lambda: stax.GlobalSelfAttention(1, 1, 1, 1, W_value_std=W_STD, b_std=B_STD),
    "relu": stax.Relu,
    "erf": stax.Erf,
    "gelu": stax.Gelu,
    "pool": lambda: stax.AvgPool((2, 2), (2, 2)),
    "gap": stax.GlobalAvgPool,
    "flatten": stax.Flatten,
}


def network(steps: Steps) -> Any:
    """The steps in a row, as stax has it: (init, apply, kernel)."""
    return stax.serial(*(layer(step) for step in steps))


def layer(step: Step) -> Any:
    if isinstance(step, tuple):
        return stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), network(step)), stax.FanInSum())
    return LAYERS[step]()


class Exact:
    def __init__(self, row: ExactRow):
        _, _, kernel_fn = network(parse(row.network))
        self.kernel = jax.jit(lambda x: kernel_fn(x, None, "ntk"))

    def stage(self, arrays: dict[str, np.ndarray]) -> jax.Array:
        x = arrays["x"]
        # channels are last, as stax has them
        return jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim > 2 else x).block_until_ready()

    def compute(self, inputs: jax.Array) -> jax.Array:
        return self.kernel(inputs).block_until_ready()

    def to_numpy(self, result: jax.Array) -> np.ndarray:
        return np.asarray(result)


class Empirical:
    def __init__(self, row: EmpiricalRow):
        def mlp(parameters: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
            for weight, bias in parameters[:-1]:
                x = jax.nn.relu(x @ weight + bias)
            weight, bias = parameters[-1]
            return x @ weight + bias

        self.layers, self.factor = row.depth + 1, row.n_outputs if row.outputs == "trace" else 1
        kernel_fn = structured(mlp, row)
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


def structured(apply: Any, row: EmpiricalRow | ModelRow) -> Any:
    """The kernel function of apply(parameters, x), by the fastest of the library's three ways on these networks."""
    return nt.empirical_ntk_fn(
        apply,
        trace_axes=(-1,) if row.outputs == "trace" else (),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )


class Model(Empirical):
    def __init__(self, row: ModelRow):
        apply = jax_models.NETWORKS[row.network]
        self.row, self.factor = row, row.n_outputs if row.outputs == "trace" else 1

        def kernel(x: jax.Array, parameters: Any, statistics: Any) -> jax.Array:
            return structured(lambda p, samples: apply(p, statistics, samples), row)(x, None, parameters)

        self.kernel = jax.jit(kernel)

    def stage(self, arrays: dict[str, np.ndarray]) -> Any:
        return jax_models.stage(self.row, arrays)


def prepare(row: Row) -> Task:
    match row:
        case ExactRow():
            return Exact(row)
        case EmpiricalRow():
            return Empirical(row)
        case ModelRow():
            return Model(row)
    raise NotImplementedError(f"neural-tangents has no rows of the kind {row.kind!r}")


if __name__ == "__main__":
    serve(prepare, ("neural-tangents", "jax", "jaxlib"))
