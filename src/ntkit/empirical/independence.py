"""Samples must be treated independently, else k(x, x') would depend on the other samples of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ntkit.empirical.inputs import take
from ntkit.empirical.network import Network
from ntkit.errors import InvalidInput


def require_eval_layers(model: nn.Module) -> None:
    """Raise `InvalidInput` for a layer that is in training mode and then random or mixing samples."""
    for path, module in model.named_modules():
        mixes = isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        )
        draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0
        if mixes or draws:
            why = "its statistics mix the samples of a batch" if mixes else "it draws random numbers"
            raise InvalidInput(
                f"samples must be treated independently, but with {path or 'the model'} ({type(module).__name__}) "
                f"in training mode {why}; call model.eval() first"
            )


def check_alone(network: Network, probe: Any) -> int:
    """Raise `InvalidInput` unless the first sample keeps its output when alone.

    Args:
        network: the model.
        probe: a few samples.

    Returns:
        The bytes autograd saves of one sample's forward pass, parameters not counted.
    """
    try:
        together = network(probe).detach()
        alone, saved_bytes = _alone(network, take(probe, slice(0, 1)))
    except InvalidInput:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise InvalidInput(f"the model cannot be run on samples of this form: {error}") from error
    bound = 1e-3 if network.dtype == torch.float32 else 1e-7
    scale = float(together.abs().max())
    if alone.shape[1] != together.shape[1] or not torch.allclose(
        alone[0], together[0], rtol=0, atol=bound * scale
    ):
        raise InvalidInput(
            "samples must be treated independently, but the model gives the first sample another output alone than "
            "in a batch (batch statistics, dropout or other randomness); call model.eval() first"
        )
    return saved_bytes


def _alone(network: Network, sample: Any) -> tuple[Tensor, int]:
    saved: dict[int, int] = {}
    own = {p.data_ptr() for p in network.standins.values()}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with saved_tensors_hooks(count, lambda tensor: tensor):
        out = network(sample).detach()
    return out, sum(saved.values())
