"""Batches as a model takes them: a tensor, or tuples and dicts of tensors, every leaf batched on axis 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ntkit._arrays import Array, check_finite, to_tensor
from ntkit.errors import InvalidInput

Inputs: TypeAlias = Array | tuple | dict  # tuples and dicts may nest


def leaves(x: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every leaf with the name an error gives it: ("x[0]['ids']", tensor)."""
    if isinstance(x, (tuple, dict)):
        for key, part in x.items() if isinstance(x, dict) else enumerate(x):
            yield from leaves(part, f"{name}[{key!r}]")
    else:
        yield name, x


def map_leaves(function: Callable[..., Any], x: Any, *others: Any) -> Any:
    """The structure of `x` with `function` applied to its leaves, and to the leaves of `others` there."""
    if isinstance(x, tuple):
        parts = [map_leaves(function, *parts) for parts in zip(x, *others, strict=True)]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)  # named tuples keep their names
    if isinstance(x, dict):
        return {key: map_leaves(function, part, *(other[key] for other in others)) for key, part in x.items()}
    return function(x, *others)


def take(x: Any, rows: slice | list[int]) -> Any:
    """The samples `rows`, copied: a model that works in place must not reach the caller's data."""
    return map_leaves(lambda leaf: leaf[rows].clone(), x)


FEW = 4  # samples that a model is examined on


def a_few(x: Any, at_most: int = FEW) -> Any:
    """Some of the samples from all over the batch, the first and the last among them."""
    return take(x, spread(batch_size(x), at_most))


def spread(n: int, at_most: int) -> list[int]:
    """Some of n places, the last among them, and the first if they are two or more."""
    count = min(n, at_most)
    return [n - 1] if count == 1 else [i * (n - 1) // (count - 1) for i in range(count)]


def join(x1: Any, x2: Any) -> Any:
    """The samples of both batches, one after the other."""
    return map_leaves(lambda a, b: torch.cat([a, b]), x1, x2)


def first_leaf(x: Any) -> Any:
    """The first leaf, whose kind (torch or numpy) a result takes."""
    return next(leaf for _, leaf in leaves(x, "x"))


def batch_size(x: Any) -> int:
    """The number of samples."""
    return first_leaf(x).shape[0]


def admit(x: Any, name: str, dtype: torch.dtype, device: torch.device, embeds: bool) -> Any:
    """`x` with tensors as leaves, once it is known to be finite, batched and of the model's dtype and device.

    Args:
        x: what the caller gave.
        name: what an error calls it.
        dtype: of the model.
        device: of the model; numpy arrays are brought there, tensors must be there.
        embeds: whether integers make sense: the model has an embedding, or a forward of its user's.

    Raises:
        InvalidInput: any leaf is otherwise, or the leaves disagree on the number of samples, or there are
            none.
    """
    for leaf_name, leaf in leaves(x, name):
        _admit_leaf(leaf, leaf_name, dtype, device, embeds)
    require_one_size(x, name)
    return map_leaves(lambda leaf: _as_tensor(leaf).detach().to(device), x)


def require_one_size(x: Any, name: str) -> None:
    """Raise `InvalidInput` unless all leaves hold the same number of samples, and at least one."""
    sizes = {leaf_name: leaf.shape[0] for leaf_name, leaf in leaves(x, name)}
    if not sizes:
        raise InvalidInput(f"{name} must hold at least one array, got an empty {type(x).__name__}")
    if len(set(sizes.values())) > 1:
        raise InvalidInput(f"every leaf of {name} must hold the same number of samples on axis 0, got {sizes}")
    if 0 in sizes.values():
        raise InvalidInput(f"{name} must hold at least one sample, got an empty batch")


def _as_tensor(leaf: Any) -> Tensor:
    """A numpy leaf as a tensor; memory that torch cannot view, reversed, read-only or of other order, is copied."""
    if isinstance(leaf, np.ndarray):
        safe = leaf.flags.writeable and all(stride >= 0 for stride in leaf.strides) and leaf.dtype.isnative
        return torch.from_numpy(leaf if safe else leaf.astype(leaf.dtype.newbyteorder("=")))
    return leaf


def _admit_leaf(leaf: Any, name: str, dtype: torch.dtype, device: torch.device, embeds: bool) -> Tensor:
    if not isinstance(leaf, (Tensor, np.ndarray)):
        raise InvalidInput(
            f"{name} must be a torch tensor or numpy array, or a tuple or dict of them, got {type(leaf).__name__}"
        )
    if isinstance(leaf, Tensor) and leaf.is_nested:
        raise InvalidInput(f"{name} must be a dense tensor, got a nested one; pad its samples to one size")
    if leaf.ndim == 0:
        raise InvalidInput(f"{name} must be batched on axis 0, got a single number; add an axis with x[None]")
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biuf":
        raise InvalidInput(f"{name} must be numeric, got dtype {leaf.dtype}")
    tensor = _as_tensor(leaf)
    if tensor.is_floating_point() or tensor.is_complex():
        if tensor.dtype == dtype == torch.bfloat16:  # which numpy does not have
            check_finite(tensor, name)
        else:
            tensor = to_tensor(leaf, name)
        if tensor.dtype != dtype:
            raise InvalidInput(
                f"{name} must have the model's dtype {dtype}, got {tensor.dtype}; "
                "convert it, or the model with model.to(x.dtype)"
            )
    elif not embeds and tensor.dtype != torch.bool:  # a mask says which tokens are there
        raise InvalidInput(
            f"{name} must be floating point, got {tensor.dtype}: only a model with an nn.Embedding, or a "
            f"forward= of your own, takes integers; convert it to {dtype}"
        )
    if isinstance(leaf, Tensor) and leaf.device != device:
        raise InvalidInput(
            f"{name} must be on the model's device {device}, got {leaf.device}; move it with x.to(device)"
        )
    return tensor


def require_alike(x1: Any, x2: Any) -> None:
    """Raise `InvalidInput` unless both batches have the same structure, trailing shapes and dtypes."""
    first = {name: (tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in leaves(x1, "x")}
    second = {name: (tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in leaves(x2, "x")}
    if first != second:
        raise InvalidInput(
            f"x1 and x2 must agree in everything but the number of samples, got samples {_describe(first)} "
            f"and {_describe(second)}"
        )


def _describe(samples: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"{name[1:]} {shape} {dtype}".strip() for name, (shape, dtype) in samples.items())
