"""What the numbers of a run depend on, so that nothing is joined that does not belong together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ntkit.empirical.inputs import leaves
from ntkit.errors import InvalidInput

_NEAR = 1e-3  # outputs of one network may differ by rounding, between machines and numbers of threads


@dataclass(frozen=True)
class Identity:
    """The configuration of a run; draws of equal identities are draws of one distribution, numbered alike.

    Args:
        seed: from which every draw's own is derived.
        which: "both", "nngp" or "ntk".
        x1: digest of the samples.
        x2: digest of the other samples; "" where there are none.
        parameters: digest of the parameters' names, shapes, dtypes, and which of them are trained.
        outputs: a few outputs of the first network drawn, which tell scales, activations and all the rest.
    """

    seed: int
    which: str
    x1: str
    x2: str
    parameters: str
    outputs: tuple[float, ...]

    def require_equal(self, wanted: Identity, where: str) -> None:
        """Raise `InvalidInput` that says in what draws computed earlier differ from those wanted now.

        Args:
            wanted: the identity of the run that is asked for.
            where: the earlier draws come from.
        """
        for name in ("seed", "which"):
            mine, other = getattr(self, name), getattr(wanted, name)
            if mine != other:
                raise InvalidInput(
                    f"{where} holds draws with {name}={mine!r}, but {name}={other!r} is asked for; pass "
                    f"{name}={mine!r}, or start anew without {where}"
                )
        samples = [name for name in ("x1", "x2") if getattr(self, name) != getattr(wanted, name)]
        if samples:
            self._refuse(where, f"other samples {' and '.join(samples)}", "pass the same samples")
        if self.parameters != wanted.parameters:
            self._refuse(where, "networks with other parameters", "pass the same builder")
        mine, other = (np.array(identity.outputs) for identity in (self, wanted))
        if mine.shape != other.shape or np.abs(mine - other).max() > _NEAR * np.abs(other).max():
            self._refuse(
                where, "networks that give other outputs at the same seed", "pass the same builder and forward"
            )

    @staticmethod
    def _refuse(where: str, what: str, remedy: str) -> None:
        raise InvalidInput(f"{where} holds draws for {what}; {remedy}, or start anew without {where}")


def kinds_of(which: str) -> tuple[str, ...]:
    """The kernels that `which` names."""
    return ("nngp", "ntk") if which == "both" else (which,)


def digest_of_samples(x: Any) -> str:
    """SHA-256 of admitted samples: how they are arranged, dtypes, shapes and values."""
    sha = hashlib.sha256()
    for name, leaf in leaves(x, "x"):
        sha.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}".encode())
        sha.update(np.ascontiguousarray(leaf.cpu().numpy()).data)
    return sha.hexdigest()


def digest_of_parameters(model: nn.Module) -> str:
    """SHA-256 of names, shapes, dtypes and `requires_grad` of all parameters, but not of their values."""
    told = [(name, tuple(p.shape), str(p.dtype), p.requires_grad) for name, p in model.named_parameters()]
    return hashlib.sha256(repr(told).encode()).hexdigest()
