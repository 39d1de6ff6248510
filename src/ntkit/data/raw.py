"""What a loader hands over: arrays as they are stored, and labels as class numbers with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from ntkit.data.dataset import Task, check_finite
from ntkit.errors import DataError

# A column of whole numbers with at most this many different ones is read as classes.
MOST_CLASSES = 20


@dataclass(frozen=True, eq=False)
class Part:
    """Samples and their targets, before any choice is made: pixels may still be bytes."""

    x: Shaped[np.ndarray, "n ..."]
    y: Int[np.ndarray, "n"] | Float[np.ndarray, "n o"]


@dataclass(frozen=True, eq=False)
class RawData:
    """One data set as stored. `test` is None where the source has no split of its own."""

    train: Part
    test: Part | None
    classes: tuple[str, ...]
    source: str
    task: Task
    pixel_max: int | None = None  # what is scaled to 1: 255 for bytes
    stands_in: bool = False  # for files that were not found


def reads_as_classes(values: Float[np.ndarray, "n"]) -> bool:
    """The rule for a numeric target that states no task.

    It is read as classes where all values are whole numbers, at most `MOST_CLASSES` of them different, and
    each occurs twice on average.
    """
    if not (values == np.floor(values)).all():
        return False
    n_values = len(np.unique(values))
    return n_values <= MOST_CLASSES and _occur_twice(n_values, len(values))


def _occur_twice(n_values: int, n: int) -> bool:
    return 2 * n_values <= max(n, 4)  # a file of two or three samples may still name two classes


def number_classes(
    parts: Sequence[Shaped[np.ndarray, "_"]], what: str
) -> tuple[list[Int[np.ndarray, "_"]], tuple[str, ...]]:
    """Label values as numbers 0 … C−1 in sorted order of the values of the first (training) part, with names.

    Raises:
        DataError: a later part has a class the first lacks, or nearly every sample has a class of its own.
    """
    values = np.unique(parts[0])
    if not _occur_twice(len(values), len(parts[0])):
        raise DataError(
            f"{what} has {len(values)} different values in {len(parts[0])} samples, too many to be classes; "
            "where it is a quantity to predict, load it with task='regression'"
        )
    numbers = []
    for part in parts:
        place = np.minimum(np.searchsorted(values, part), len(values) - 1)
        unknown = np.flatnonzero(values[place] != part)
        if unknown.size:
            raise DataError(
                f"every class of the test part must occur in {what}, which lacks {part[unknown[0]]}, the "
                f"class of test sample {unknown[0]}; leave such samples out"
            )
        numbers.append(place.astype(np.int64))
    return numbers, tuple(_class_name(value) for value in values)


def _class_name(value: object) -> str:
    if isinstance(value, np.floating):
        return f"{value:g}"
    return str(value)


def real_targets(y: Shaped[np.ndarray, "..."], what: str) -> Float[np.ndarray, "n o"]:
    """Numbers to predict as (n, o) float64, checked to be finite."""
    if y.dtype.kind not in "fiub":
        raise DataError(f"{what} must be numbers for regression, got dtype {y.dtype}; use task='classification'")
    if y.ndim not in (1, 2):
        raise DataError(f"{what} must have shape (n,) or (n, targets), got {y.shape}")
    targets = y.reshape(len(y), -1).astype(np.float64)
    check_finite(targets, what)
    return targets
