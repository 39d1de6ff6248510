"""`Dataset` refuses what is not a data set; `one_hot` and `targets`."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from data_files import two_blobs
from ntkit.data import Dataset, one_hot
from ntkit.errors import DataError, InvalidInput

X, Y = two_blobs(8)
GOOD = Dataset("made", X[:6], Y[:6], X[6:], Y[6:], ("a", "b"), "Made in a test.", "classification")
REAL = Dataset("made", X[:6], X[:6, :2], X[6:], X[6:, :2], (), "Made in a test.", "regression")


def with_value(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


BAD = {
    "integers": ({"x_train": X[:6].astype(int)}, "must be a float32 or float64 array, got dtype int64"),
    "a list": ({"x_test": X[6:].tolist()}, "x_test of made must be a float32 or float64 array, got list"),
    "one axis": (
        {"x_train": X[:6, 0]},
        r"x_train of made must have shape \(samples, features …\), got \(6,\)",
    ),
    "empty": ({"x_test": X[:0]}, r"x_test of made is empty: its shape is \(0, 3\)"),
    "nan": (
        {"x_train": with_value(X[:6], (4, 1), np.nan)},
        r"1 value.*the first at sample 4, position \(1\)",
    ),
    "lengths": ({"y_train": Y[:5]}, "needs one target, got 6 rows in x_train and 5 in y_train"),
    "range": ({"y_test": Y[6:] + 1}, "y_test of made must lie in 0 … 1, .*, got 2 at sample 1"),
    "negative": ({"y_test": Y[6:] - 1}, "must lie in 0 … 1, one number a class, got -1 at sample 0"),
    "float labels": ({"y_test": Y[6:] * 1.0}, r"int64 class numbers .* got float64 of shape \(2,\)"),
    "one class": ({"classes": ("a",)}, "needs at least 2 classes to tell apart, got 1"),
    "widths": ({"x_test": X[6:, :2]}, r"must agree in .* shape \(6, 3\) and float64 of shape \(2, 2\)"),
    "precisions": ({"x_test": X[6:].astype("f4")}, "must agree in everything but the number of samples"),
    "regression labels": (
        {"task": "regression"},
        r"float array of shape \(n, targets\), got int64 of shape \(6,\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_a_data_set(unchecked, case):
    change, message = BAD[case]
    with pytest.raises(DataError, match=message):
        replace(GOOD, **change)


def test_regression_targets_are_checked(unchecked):
    with pytest.raises(DataError, match=r"y_train of made must be finite, .* sample 2, position \(1\)"):
        replace(REAL, y_train=with_value(REAL.y_train, (2, 1), np.inf))
    with pytest.raises(DataError, match="y_train and y_test of made must agree"):
        replace(REAL, y_test=REAL.y_test[:, :1])
    with pytest.raises(DataError, match="y_train of made is empty"):
        replace(REAL, y_train=REAL.y_train[:, :0])


def test_a_data_set_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        GOOD.name = "other"


def test_targets():
    train, test = GOOD.targets(centered=True)
    np.testing.assert_array_equal(train, np.eye(2)[Y[:6]] - 0.5)
    np.testing.assert_array_equal(test, np.eye(2)[Y[6:]] - 0.5)
    assert GOOD.n_outputs == 2
    train, test = REAL.targets(centered=True)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(test, X[6:, :2] - X[:6, :2].mean(axis=0))
    np.testing.assert_array_equal(REAL.targets()[0], X[:6, :2])
    single = replace(GOOD, x_train=X[:6].astype("f4"), x_test=X[6:].astype("f4"))
    assert single.targets()[0].dtype == np.float32
    assert REAL.n_outputs == 2


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_one_hot_keeps_the_kind(kind):
    labels = kind([2, 0, 1])
    rows = one_hot(labels, 3)
    assert type(rows) is type(labels)
    np.testing.assert_array_equal(rows, np.eye(3)[[2, 0, 1]])
    np.testing.assert_allclose(one_hot(labels, 3, centered=True).sum(1), 0, atol=1e-15)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), "labels must lie in 0 … 2, got 3 at index 1"),
        (np.array([-1, 0]), "labels must lie in 0 … 2, got -1 at index 0"),
        (np.array([0.0, 1.0]), "labels must be integers, got torch.float64"),
        (np.array([[0, 1]]), r"labels must have shape \(n,\), got \(1, 2\)"),
    ],
)
def test_one_hot_errors(unchecked, labels, message):
    with pytest.raises(InvalidInput, match=message):
        one_hot(labels, 3)


def test_one_hot_of_no_classes(unchecked):
    with pytest.raises(InvalidInput, match="n_classes must be at least 1, got 0"):
        one_hot(np.array([0]), 0)
