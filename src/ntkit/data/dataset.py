"""`Dataset`: training and test arrays that have passed every check, with where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from ntkit._arrays import Array, like
from ntkit.errors import DataError, InvalidInput

Task = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples, their labels or targets, and where they really came from.

    Args:
        name: the name or `npz:`/`csv:` form it was loaded by.
        x_train: (n, ...) inputs, float32 or float64: images (n, c, h, w) in [0, 1], tables (n, d).
        y_train: (n,) int64 class numbers 0 … C−1, or (n, o) real targets for regression.
        x_test: (m, ...) inputs of the same shape and dtype.
        y_test: as `y_train`.
        classes: the names of the C classes; empty for regression.
        source: one sentence saying where the data came from.
        task: "classification" or "regression".
        steps: names of the preprocessing steps applied, in order.
        notes: what a reader should know of those steps, such as directions that whitening dropped.
        stands_in: whether shipped samples stand in for files that were not found; `source` says so.

    Raises:
        DataError: a wrong type or shape, an empty part, values that are not finite (located), inputs and
            targets of different lengths, or labels out of range.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(2), np.array([0, 1])
        >>> Dataset("pair", x, y, x, y, ("a", "b"), "Made by hand.", "classification").input_shape
        (2,)
    """

    name: str
    x_train: Float[np.ndarray, "n ..."]
    y_train: Int[np.ndarray, "n"] | Float[np.ndarray, "n o"]
    x_test: Float[np.ndarray, "m ..."]
    y_test: Int[np.ndarray, "m"] | Float[np.ndarray, "m o"]
    classes: tuple[str, ...]
    source: str
    task: Task
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stands_in: bool = False

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            _check_inputs(x, f"x_{part} of {self.name}")
            if self.task == "classification":
                _check_labels(y, len(self.classes), f"y_{part} of {self.name}")
            else:
                _check_targets(y, f"y_{part} of {self.name}")
            if len(x) != len(y):
                raise DataError(
                    f"every sample of {self.name} needs one target, got {len(x)} rows in x_{part} "
                    f"and {len(y)} in y_{part}"
                )
        _check_alike(self.x_train, self.x_test, f"x_train and x_test of {self.name}")
        if self.task == "regression":
            _check_alike(self.y_train, self.y_test, f"y_train and y_test of {self.name}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (c, h, w) for images, (d,) for tables."""
        return self.x_train.shape[1:]

    @property
    def n_outputs(self) -> int:
        """The width o a network needs: the number of classes, or of real targets."""
        return len(self.classes) if self.task == "classification" else self.y_train.shape[1]

    def targets(self, centered: bool = False) -> tuple[Float[np.ndarray, "n o"], Float[np.ndarray, "m o"]]:
        """What a network is trained towards under squared loss: (y_train, y_test) in the dtype of the inputs.

        Args:
            centered: for classes, one-hot rows minus 1/C; for regression, the training mean subtracted from
            both.

        Returns:
            (n, o) and (m, o) arrays.

        Example:
            >>> from ntkit.data import load
            >>> load("digits", n_train=10, n_test=5).targets()[0].shape
            (10, 10)
        """
        if self.task == "classification":
            pair = [np.asarray(one_hot(y, len(self.classes), centered)) for y in (self.y_train, self.y_test)]
        else:
            mean = self.y_train.mean(axis=0) if centered else 0.0
            pair = [self.y_train - mean, self.y_test - mean]
        return pair[0].astype(self.x_train.dtype), pair[1].astype(self.x_train.dtype)


def one_hot(labels: Int[Array, "n"], n_classes: int, centered: bool = False) -> Float[Array, "n c"]:
    """Class numbers as rows: Y_ic = 1 if c = labels_i, else 0; centred, Y_ic − 1/C, whose rows sum to 0.

    Args:
        labels: (n,) integers 0 … C−1, torch or numpy.
        n_classes: C.
        centered: subtract 1/C.

    Returns:
        (n, C) float64 array of the kind given.

    Raises:
        InvalidInput: labels that are not whole numbers from 0 to C−1.

    Example:
        >>> import numpy as np
        >>> one_hot(np.array([1, 0]), 2, centered=True)
        array([[-0.5,  0.5],
               [ 0.5, -0.5]])
    """
    numbers = torch.as_tensor(labels)
    if numbers.dtype.is_floating_point or numbers.dtype.is_complex or numbers.dtype == torch.bool:
        raise InvalidInput(f"labels must be integers, got {numbers.dtype}; convert them with .astype(np.int64)")
    if numbers.ndim != 1:
        raise InvalidInput(f"labels must have shape (n,), got {tuple(numbers.shape)}; flatten them")
    if n_classes < 1:
        raise InvalidInput(f"n_classes must be at least 1, got {n_classes}")
    numbers = numbers.long()
    outside = torch.nonzero((numbers < 0) | (numbers >= n_classes)).flatten()
    if len(outside):
        first = int(outside[0])
        raise InvalidInput(
            f"labels must lie in 0 … {n_classes - 1}, got {int(numbers[first])} at index {first}; "
            "number the classes from 0 or raise n_classes"
        )
    rows = torch.nn.functional.one_hot(numbers, n_classes).to(torch.float64)
    return like(rows - 1 / n_classes if centered else rows, labels)


def _check_inputs(x: np.ndarray, what: str) -> None:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
        kind = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"{what} must be a float32 or float64 array, got {kind}; convert it with np.asarray(x, float)")
    if x.ndim < 2:
        raise DataError(f"{what} must have shape (samples, features …), got {x.shape}; use x.reshape(len(x), -1)")
    if x.size == 0:
        raise DataError(f"{what} is empty: its shape is {x.shape}; at least one sample and one feature are needed")
    check_finite(x, what)


def _check_labels(y: np.ndarray, n_classes: int, what: str) -> None:
    if not isinstance(y, np.ndarray) or y.dtype != np.int64 or y.ndim != 1:
        raise DataError(f"{what} must be int64 class numbers of shape (n,), got {_describe(y)}")
    if n_classes < 2:
        raise DataError(f"{what} needs at least 2 classes to tell apart, got {n_classes}")
    outside = np.flatnonzero((y < 0) | (y >= n_classes))
    if outside.size:
        raise DataError(
            f"{what} must lie in 0 … {n_classes - 1}, one number a class, got {y[outside[0]]} at sample {outside[0]}"
        )


def _check_targets(y: np.ndarray, what: str) -> None:
    if not isinstance(y, np.ndarray) or y.dtype not in (np.float32, np.float64) or y.ndim != 2:
        raise DataError(f"{what} must be a float array of shape (n, targets), got {_describe(y)}")
    if y.size == 0:
        raise DataError(f"{what} is empty: its shape is {y.shape}")
    check_finite(y, what)


def _check_alike(train: np.ndarray, test: np.ndarray, what: str) -> None:
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            f"{what} must agree in everything but the number of samples, got {_describe(train)} and {_describe(test)}"
        )


def check_finite(x: Float[np.ndarray, "..."], what: str) -> None:
    """Raise `DataError` that counts the values that are NaN or infinite and names the first one's place."""
    finite = np.isfinite(x)
    if not finite.all():
        sample, *feature = (int(i) for i in np.argwhere(~finite)[0])
        place = ", ".join(map(str, feature))
        raise DataError(
            f"{what} must be finite, got {finite.size - int(finite.sum())} value(s) that are NaN or "
            f"infinite, the first at sample {sample}, position ({place}); remove or repair them"
        )


def _describe(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} of shape {array.shape}"
    return type(array).__name__
