"""A module run with other tensors in the places of its parameters and buffers.

torch.func.functional_call does so by names; where a module has two names it puts a tensor in, then the tensor over
itself, and leaves it there (torch 2.13). Here every place is known by its module, and visited once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor, nn

# held while what a model holds is read: else a thread would take for the model's own what another has put in
undisturbed = RLock()


@contextmanager
def substituted(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While it lasts, parameters and buffers of a module are other tensors, wherever they are tied or aliased.

    Args:
        model: left as it was, whatever it does meanwhile.
        tensors: by name, any name of each.
    """
    with undisturbed:
        own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        instead = {id(own[name]): tensor for name, tensor in tensors.items()}
        places: list[tuple[Any, str, Tensor]] = [
            (held, key, tensor)
            for module in model.modules()  # each once
            for held in (module._parameters, module._buffers)
            for key, tensor in held.items()
            if tensor is not None and id(tensor) in instead
        ]
        try:
            for held, key, tensor in places:
                held[key] = instead[id(tensor)]
            yield
        finally:
            for held, key, tensor in places:
                held[key] = tensor
