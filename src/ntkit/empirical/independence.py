"""Samples must be treated independently, else k(x, x') would depend on the other samples of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ntkit.empirical.inputs import FEW, spread, take
from ntkit.empirical.network import Network
from ntkit.errors import InvalidInput


def require_eval_layers(model: nn.Module) -> None:
    """Raise `InvalidInput` for a layer that, in its present mode, is random or mixes samples."""
    for path, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        dropout = isinstance(module, nn.modules.dropout._DropoutNd)
        name = f"{path or 'the model'} ({type(module).__name__})"
        if batch_norm and not module.training and module.running_mean is None:
            raise InvalidInput(
                f"samples must be treated independently, but {name} keeps no running statistics and mixes the "
                "samples of a batch; build it with track_running_stats=True, or use another normalisation"
            )
        if module.training and (batch_norm or (dropout and module.p > 0)):
            why = "its statistics mix the samples of a batch" if batch_norm else "it draws random numbers"
            raise InvalidInput(
                f"samples must be treated independently, but with {name} in training mode {why}; "
                "call model.eval() first"
            )


def run_alone(network: Network, sample: Any) -> tuple[Float[Tensor, "1 o"], int]:
    """The outputs of one sample, and the bytes autograd saves of its forward pass, parameters not counted."""
    saved: dict[int, int] = {}
    own = {p.data_ptr() for p in network.standins.values()}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with saved_tensors_hooks(count, lambda tensor: tensor):
        out = network(sample).detach()
    return out, sum(saved.values())


def require_same(
    alone: Float[Tensor, "1 o"],
    together: Float[Tensor, "n _"],
    scale: Float[Tensor, "..."] | None = None,
    tolerance: float = 0.0,
) -> None:
    """Raise `InvalidInput` unless the first sample has the same output alone and in a batch.

    Args:
        alone: its outputs.
        together: the batch's, its own first.
        scale: what rounding is relative to; by default the batch's outputs.
        tolerance: what rounding may do where it does more than `together`'s precision says.
    """
    # products of other shapes round otherwise
    bound = max(tolerance, 1e-7 if together.dtype == torch.float64 else 1e-3)
    near = bound * float((together if scale is None else scale).abs().max())
    if alone.shape[1:] != together.shape[1:] or not torch.allclose(alone[0], together[0], rtol=0, atol=near):
        raise InvalidInput(
            "samples must be treated independently, but the model gives a sample another output alone than in a batch "
            "(batch statistics, dropout or other randomness, samples on another axis than the first); call "
            "model.eval() first, and let each row of the outputs depend on its own sample alone"
        )


def require_few_alone(network: Network, x: Any, together: Float[Tensor, "n _"]) -> None:
    """Raise `InvalidInput` unless some samples have the same outputs among themselves, turned round, as in a batch.

    Of more than a few samples it sees most of what mixes them, for the price of a few: positions, neighbours and
    whatever is taken over the batch are others.
    """
    n = len(together)
    rows = spread(n, min(FEW, n // 2))[::-1]
    if rows:
        with torch.no_grad():
            few = network(take(x, rows))
        for k, row in enumerate(rows):
            require_same(few[k : k + 1], together[row:], together, network.tolerance)


def require_alone(network: Network, x: Any, together: Float[Tensor, "n _"], first: int = 0) -> None:
    """Raise `InvalidInput` unless every sample, from `first` on, has the same outputs alone and in a batch."""
    with torch.no_grad():
        for s in range(first, len(together)):
            require_same(network(take(x, slice(s, s + 1))), together[s:], together, network.tolerance)


@contextmanager
def running_the_model() -> Iterator[None]:
    """What the model raises on samples it was not made for becomes an `InvalidInput`."""
    try:
        yield
    except InvalidInput:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError) as error:  # as of tokens that no table has
        raise InvalidInput(f"the model cannot be run on samples of this form: {error}") from error


@contextmanager
def differentiating() -> Iterator[None]:
    """What autograd cannot do with the model becomes an `InvalidInput`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        text = str(error)
        if "inplace operation" in text:
            remedy = "write h = h + 1 in place of h.add_(1) where autograd has kept h"
        elif "compiled" in text:
            remedy = "give the module as it was before torch.compile"
        else:
            remedy = "use operations that have derivatives"
        raise InvalidInput(
            f"the model must be differentiable by torch.autograd.grad, but: {text.splitlines()[0]}; {remedy}"
        ) from error
