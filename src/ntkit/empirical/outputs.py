"""The outputs f(x) of a network, block by block, with the checks of its tangent kernel."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._memory import free_bytes
from ntkit.empirical.independence import require_eval_layers, require_same, run_alone, running_the_model
from ntkit.empirical.inputs import batch_size, take
from ntkit.empirical.network import Network, derivatives


def outputs(network: Network, x: Any, memory_limit: int | None = None) -> Float[Tensor, "n o"]:
    """f(x) of every sample, without gradients.

    Args:
        network: the model.
        x: admitted samples.
        memory_limit: bytes for what layers hold of a block of samples; None for half of what is free.

    Raises:
        InvalidInput: the model mixes samples, draws random numbers, cannot be run on these samples, or gives no finite
            tensor of one row a sample.
    """
    require_eval_layers(network.model)
    with running_the_model():
        with derivatives():
            alone, bytes_each = run_alone(network, take(x, slice(0, 1)))
        block = max(1, (memory_limit or free_bytes(network.device) // 2) // max(bytes_each, 1))
        with torch.no_grad():
            parts = [network(take(x, slice(i, i + block))) for i in range(0, batch_size(x), block)]
    require_same(alone, parts[0])
    return torch.cat(parts)
