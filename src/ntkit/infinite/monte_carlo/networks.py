"""Independent random networks from a builder, each from a seed of its own.

Draw k of seed s uses the numbers of torch's generators seeded with SeedSequence(s, k), so it is the same network
whatever was drawn before. (torch's CPU generator takes 32 bits of a seed: among N draws about N²/2³³ pairs are alike,
one in a hundred runs of 10,000 draws.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ntkit.empirical.inputs import leaves
from ntkit.errors import InvalidInput

Builder = Callable[[], nn.Module]


@dataclass(frozen=True)
class Networks:
    """The random networks that a builder gives.

    Args:
        builder: gives a new network with numbers of torch's global generators.
        seed: of the whole run.
        dtype: that networks are converted to; None leaves them as they are.
        device: that they are moved to; None leaves them where they are.
    """

    builder: Builder
    seed: int
    dtype: torch.dtype | None
    device: torch.device | None

    def draw(self, index: int) -> nn.Module:
        """Network `index`, in the dtype and on the device of the data."""
        return self._moved(self._built(index))

    def first(self) -> nn.Module:
        """Network 0, once the builder is known to give new, random and reproducible networks.

        Raises:
            InvalidInput: it does not; the message says in what.
        """
        first, again, other = self._built(0), self._built(0), self._built(1)
        _require_new(first, again)
        if not _equal(first, again):
            raise InvalidInput(
                "builder must give the same network whenever torch's global generator has the same seed, but two calls "
                "with one seed gave different parameters; draw them from torch's global generator (not from numpy, "
                "random or a torch.Generator of its own), and keep nothing from call to call"
            )
        if _equal(first, other):
            raise InvalidInput(
                "builder must draw random parameters, but with two different seeds of torch's global generator all "
                "parameters and buffers are the same; leave out torch.manual_seed and load_state_dict in it, or take "
                "ntkit.empirical_ntk, the kernel of one network"
            )
        return self._moved(first)

    def _built(self, index: int) -> nn.Module:
        words = np.random.SeedSequence(self.seed, spawn_key=(index,)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))
        model = self.builder()
        if not isinstance(model, nn.Module):
            raise InvalidInput(
                f"builder must return a torch.nn.Module, got {type(model).__name__}; pass a function without arguments "
                "that makes a new network"
            )
        lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
        if lazy:
            raise InvalidInput(
                f"builder must return a network whose parameters have shapes, got {lazy[0]!r} without; run the network "
                "once on a batch before it is returned"
            )
        return model

    def _moved(self, model: nn.Module) -> nn.Module:
        return model.to(device=self.device, dtype=self.dtype)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _equal(one: nn.Module, two: nn.Module) -> bool:
    first, second = _state(one), _state(two)
    return first.keys() == second.keys() and all(_same_values(first[name], second[name]) for name in first)


def _same_values(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is refused later, by name


def _require_new(first: nn.Module, again: nn.Module) -> None:
    if first is again:
        raise InvalidInput(
            "builder must return a new network every time, got the same module twice; make the network inside builder"
        )
    memory = {p.untyped_storage().data_ptr() for p in first.parameters() if p.numel()}
    shared = [n for n, p in again.named_parameters() if p.numel() and p.untyped_storage().data_ptr() in memory]
    if shared:
        raise InvalidInput(
            f"builder must return networks that share nothing, but {shared[0]!r} of one lies in the memory of another; "
            "make every layer inside builder, and copy.deepcopy what is the same in all"
        )


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leaves torch's generators, on the CPU and on CUDA devices, as they were before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        if not devices:  # where CUDA starts later, it starts from the caller's seed and not from the last draw's
            torch.cuda.manual_seed_all(torch.initial_seed())


def kind_of_data(x: Any) -> tuple[torch.dtype | None, torch.device | None]:
    """The dtype and device that networks take from samples; None where they say nothing, as integers of numpy do."""
    found = [leaf for _, leaf in leaves(x, "x1")]
    named = [str(getattr(leaf, "dtype", None)).removeprefix("torch.") for leaf in found]
    dtypes = [getattr(torch, name) for name in named if name in ("float32", "float64")]
    devices = [leaf.device for leaf in found if isinstance(leaf, Tensor)]
    return next(iter(dtypes), None), next(iter(devices), None)
