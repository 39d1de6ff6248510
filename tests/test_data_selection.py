"""Which samples are chosen: disjoint, repeatable, nested, even over the classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import two_blobs, write_mnist
from ntkit import _memory
from ntkit.data import load
from ntkit.data.selection import even_order
from ntkit.errors import DataError, InvalidInput, MemoryLimitExceeded

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@given(labels=LABELS, seed=st.integers(0, 100), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_prefix_is_as_even_as_the_classes_allow(labels, seed, data):
    order = even_order(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    n = data.draw(st.integers(1, len(labels)))
    total, chosen = np.bincount(labels, minlength=5), np.bincount(labels[order[:n]], minlength=5)
    open_classes = chosen[chosen < total]
    if open_classes.size:  # a class that could give more has at most one sample fewer than any other
        assert chosen.max() - open_classes.min() <= 1


@given(labels=LABELS, seed=st.integers(0, 100), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_prefix_of_the_split_is_in_proportion(labels, seed, data):
    order = even_order(labels, np.random.default_rng(seed), proportional=True)
    n = data.draw(st.integers(0, len(labels)))
    total, chosen = np.bincount(labels), np.bincount(labels[order[:n]], minlength=labels.max() + 1)
    assert (np.abs(chosen - n * total / len(labels)) <= len(total) / 2 + 1).all()
    assert sorted(order) == list(range(len(labels)))


def rows(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


@pytest.fixture
def table(tmp_path):
    x, y = two_blobs(100)
    np.savez(tmp_path / "a.npz", X=x, y=y)
    return f"npz:{tmp_path / 'a.npz'}"


def test_train_and_test_never_overlap_and_lose_nothing(table):
    for seed in range(5):
        data = load(table, seed=seed)
        assert (len(data.x_train), len(data.x_test)) == (80, 20)
        assert len(rows(data.x_train) | rows(data.x_test)) == 100
        assert list(np.bincount(data.y_test)) == [10, 10]


@pytest.mark.parametrize(("n_train", "n_test"), [(90, 10), (5, 90), (99, 1), (95, None), (None, 60)])
def test_the_split_moves_where_the_sizes_need_it(table, n_train, n_test):
    data = load(table, n_train=n_train, n_test=n_test)
    assert len(data.x_train) == (n_train or 40)
    assert len(data.x_test) == (n_test or 5)
    assert not rows(data.x_train) & rows(data.x_test)


def test_seeds_repeat_and_differ(table):
    first, again, other = (load(table, n_train=30, seed=seed) for seed in (4, 4, 0))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert rows(first.x_train) != rows(other.x_train)
    assert rows(first.x_test) != rows(other.x_test)


def test_subsets_are_nested_and_the_test_part_stays(table):
    small, large = load(table, n_train=20, n_test=7), load(table, n_train=40, n_test=15)
    np.testing.assert_array_equal(small.x_train, large.x_train[:20])
    np.testing.assert_array_equal(small.x_test, large.x_test[:7])


def test_labels_stay_with_their_images(tmp_path):
    x_train, y_train, *_ = write_mnist(tmp_path)
    label_of = {(image / 255).tobytes(): label for image, label in zip(x_train, y_train, strict=True)}
    data = load("mnist", data_dir=tmp_path, n_train=25, classes=[7, 2, 5, 9, 0, 1, 3])
    assert data.classes == ("7", "2", "5", "9", "0", "1", "3")
    for image, label in zip(data.x_train, data.y_train, strict=True):
        assert data.classes[label] == str(label_of[image.tobytes()])
    counts = np.bincount(data.y_train)
    assert counts.max() - counts.min() <= 1


def test_all_samples_keep_the_order_of_the_file(tmp_path):
    x_train, *_ = write_mnist(tmp_path)
    np.testing.assert_array_equal(load("mnist", data_dir=tmp_path, seed=3).x_train[:, 0], x_train / 255)


def test_classes_by_name_where_names_are_numbers(tmp_path):
    x, y = two_blobs(40)
    np.savez(tmp_path / "a.npz", X=x, y=np.where(np.arange(40) % 4 == 3, 5, y + 1))
    assert load(f"npz:{tmp_path / 'a.npz'}", classes=[5, 1]).classes == ("5", "1")
    with pytest.raises(DataError, match="has no class 0; its classes are 1, 2, 5"):
        load(f"npz:{tmp_path / 'a.npz'}", classes=[0, 1])


def test_regression_is_split_too(tmp_path):
    x, _ = two_blobs(30)
    np.savez(tmp_path / "a.npz", X=x, y=x.sum(axis=1))
    data = load(f"npz:{tmp_path / 'a.npz'}", n_train=10, n_test=4)
    assert data.y_train.shape == (10, 1)
    np.testing.assert_allclose(data.y_train[:, 0], data.x_train.sum(axis=1), rtol=1e-12)
    with pytest.raises(DataError, match="classes can be chosen only where there are classes"):
        load(f"npz:{tmp_path / 'a.npz'}", classes=[0, 1])


def test_more_than_there_is(table, tmp_path):
    with pytest.raises(DataError, match="has 100 samples for both parts, got n_train=60 and n_test=41"):
        load(table, n_train=60, n_test=41)
    with pytest.raises(DataError, match="has 100 samples for both parts, got n_train=100 and n_test=None"):
        load(table, n_train=100)
    write_mnist(tmp_path)
    with pytest.raises(DataError, match="there are 40 training samples of mnist, got a request for 41; ask"):
        load("mnist", data_dir=tmp_path, n_train=41)
    with pytest.raises(DataError, match="there are 4 test samples of mnist, got a request for 5"):
        load("mnist", data_dir=tmp_path, n_test=5, classes=[1, 2])


def test_classes_that_cannot_be(table):
    with pytest.raises(DataError, match="has no class 2; its classes are 0, 1"):
        load(table, classes=[0, 2])
    with pytest.raises(DataError, match=r"can be chosen once, got \[1, 1\]"):
        load(table, classes=[1, 1])
    with pytest.raises(DataError, match=r"at least 2 classes .* are needed, got \[1\]"):
        load(table, classes=[1])
    with pytest.raises(InvalidInput, match="must be a list of names or numbers, got the string '01'"):
        load(table, classes="01")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "n_train must be a whole number of at least 1, got 0"),
        ({"n_test": -1}, "n_test must be a whole number of at least 1, got -1"),
        ({"n_train": 2.5}, r"n_train must be a whole number of at least 1, got 2\.5"),
        ({"n_train": True}, "n_train must be a whole number of at least 1, got True"),
        ({"seed": -3}, "seed must be a whole number of at least 0, got -3"),
    ],
)
def test_impossible_numbers(unchecked, arguments, message):
    with pytest.raises(InvalidInput, match=message):
        load("digits", **arguments)


def test_too_large_for_memory_as_floats(tmp_path, monkeypatch, unchecked):
    write_mnist(tmp_path)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 3000)  # enough for bytes, not for floats
    with pytest.raises(MemoryLimitExceeded, match=r"the training part of mnist needs .* lower n_train"):
        load("mnist", data_dir=tmp_path)
    assert load("mnist", data_dir=tmp_path, n_train=10, n_test=5).x_train.shape == (10, 1, 4, 4)
