"""Everything a study depends on, as frozen data that is written with its result."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
import scipy
import torch

import ntkit
from ntkit.errors import InvalidInput

MOST_TRAIN, MOST_TEST = 500, 1000  # samples of a study that states no number


@dataclass(frozen=True)
class StudyConfig:
    """The choices of one study.

    Args:
        n_train: training samples; None for as many as there are, up to 500.
        n_test: test samples; None for as many as there are, up to 1,000.
        classes: classes to keep; None for all.
        steps: of gradient descent.
        rate: learning rate in units of the largest stable one, predicted or found, whichever is less; between 0 and 1.
        preprocessing: named steps of `ntkit.data`.
        shuffle_labels: whether labels are permuted, which leaves nothing to learn.
        w_std: scale of an mlp's hidden layers.
        b_std: scale of an mlp's biases.
        seed: of data, network and shuffling.
        exact: whether the exact kernel is used.
    """

    n_train: int | None = None
    n_test: int | None = None
    classes: tuple[int | str, ...] | None = None
    steps: int = 1000
    rate: float = 0.5
    preprocessing: tuple[str, ...] = ()
    shuffle_labels: bool = False
    w_std: float = math.sqrt(2)
    b_std: float = 0.1
    seed: int = 0
    exact: bool = True

    def __post_init__(self) -> None:
        for name, least in (("n_train", 2), ("n_test", 1), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name in ("n_train", "n_test"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidInput(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not 0 < self.rate < 1:
            raise InvalidInput(
                f"rate must lie between 0 and 1 (it is a share of the largest stable learning rate), got {self.rate!r}"
            )
        for name in ("w_std", "b_std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInput(f"{name} must be a finite number >= 0, got {value!r}")

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


def _installed(name: str) -> str | None:
    """A library's version without loading it; None where it cannot be told, which must not end a finished run."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions and machine, for results.json."""
    return {
        "ntkit": ntkit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": _installed("numba"),  # the compiled engine, and what makes machine code of it
        "llvmlite": _installed("llvmlite"),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
    }
