"""Every broken, foreign or unsafe file is a clear error."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest

from data_files import idx_bytes, two_blobs, write_cifar, write_mnist
from ntkit import _memory
from ntkit.data import load
from ntkit.errors import DataError, MemoryLimitExceeded

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)


@pytest.fixture
def as_plain_user():
    """Root may read everything, so root becomes nobody where the test calls what this gives."""
    was_root = os.geteuid() == 0
    yield lambda: os.seteuid(65534) if was_root else None
    if was_root:
        os.seteuid(0)


def idx_header(*shape: int, type_byte: int = 8) -> bytes:
    return bytes((0, 0, type_byte, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


IDX_CASES = {
    "empty": (b"", "beginning 00000803, got an empty file"),
    "text": (b"hello world", "IDX file of unsigned bytes with 3 axes, beginning 00000803, got 68656c6c"),
    "labels for images": (idx_bytes(np.zeros(4, np.uint8)), "beginning 00000803, got 00000801"),
    "other type": (idx_header(2, 2, 2, type_byte=0x0D) + bytes(32), "got 00000d03"),
    "short header": (idx_header(2, 2, 2)[:9], "ends inside its header"),
    "no images": (idx_header(0, 4, 4), "is empty: its header says 0×4×4"),
    "too short": (idx_header(40, 4, 4) + bytes(639), "cannot hold the 640 bytes|only 639"),
    "too long": (idx_header(40, 4, 4) + bytes(641), r"promises 640 bytes \(40×4×4\) and holds more"),
    "a lie": (idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(99), "cannot hold the"),
    "packed, short": (gzip.compress(idx_header(40, 4, 4) + bytes(600)), "holds only 600"),
    "packed, a lie": (gzip.compress(idx_header(2**31, 28, 28)), "cannot hold the 1,683,627,180,032"),
    "not gzip after all": (b"\x1f\x8b" + bytes(50), "broken or truncated gzip"),
    "other number": (
        idx_bytes(np.zeros((7, 4, 4), np.uint8)),
        "holds 7 images and .* 40 labels; they do not",
    ),
}


@pytest.mark.parametrize("case", IDX_CASES)
def test_broken_idx(tmp_path, case):
    content, message = IDX_CASES[case]
    write_mnist(tmp_path)
    (tmp_path / IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("mnist", data_dir=tmp_path)


def test_idx_cut_off_inside_the_gzip_stream(tmp_path):
    write_mnist(tmp_path, packed=True)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is a broken or truncated gzip file"):
        load("mnist", data_dir=tmp_path)


def test_idx_label_out_of_range(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / LABELS).write_bytes(idx_bytes(np.array([0] * 39 + [12], np.uint8)))
    with pytest.raises(DataError, match=r"must hold labels 0 … 9, got 12 at index 39"):
        load("mnist", data_dir=tmp_path)


def test_idx_larger_than_memory(tmp_path, monkeypatch, unchecked):
    write_mnist(tmp_path)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 100)
    with pytest.raises(MemoryLimitExceeded, match=r"reading .*needs 1\.25 KiB, but 100 B is free"):
        load("mnist", data_dir=tmp_path)


def test_one_missing_file_is_named_with_the_folders(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / LABELS).unlink()
    with pytest.raises(DataError) as caught:
        load("mnist", data_dir=tmp_path)
    assert str(caught.value) == (
        f"mnist needs the files {LABELS}[.gz]; looked in {tmp_path / 'mnist'} and {tmp_path} (data_dir) and "
        "did not find them; put them there, or name another folder"
    )


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_no_folder_named(name):
    with pytest.raises(DataError, match=r"no folder was named; put .* into a folder and name it by data_dir"):
        load(name)


def test_the_data_folder_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"data_dir must name a folder .* which is not there"):
        load("mnist", data_dir=tmp_path / "none")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"NTKIT_DATA must name a folder .* which is a file"):
        load("cifar10")
    assert len(load("digits").x_train)  # which needs no folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3073 * 2 - 1), r"records of 3,073 bytes .* got 6,145 bytes, 3,072 past the last whole record"),
        (b"", "got 0 bytes"),
        (bytes([11]) + bytes(3072), "must hold labels 0 … 9, got 11 in record 0"),
    ],
)
def test_broken_cifar(tmp_path, content, message):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("cifar10", data_dir=tmp_path)


def test_cifar_without_its_test_file(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"cifar10 needs the files data_batch_1\.bin … .*test_batch\.bin; looked"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("form", ["npz", "csv"])
def test_path_missing_or_a_folder(tmp_path, form):
    with pytest.raises(DataError, match=r"a data file is wanted at .*none, but there is none"):
        load(f"{form}:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="is a folder, and a file is wanted"):
        load(f"{form}:{tmp_path}")
    with pytest.raises(DataError, match=f"{form}: must be followed by a path"):
        load(f"{form}:")


def test_a_file_without_permission(tmp_path, as_plain_user):
    path = tmp_path / "a.csv"
    path.write_text("1,2\n")
    path.chmod(0)
    as_plain_user()
    with pytest.raises(DataError, match="may not be read by this user; change its permissions"):
        load(f"csv:{path}")


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


X, Y = two_blobs(20)
NPZ_CASES = {
    "lacks y": (
        {"X": X},
        r"must hold the arrays x_train, y_train, x_test, y_test or X, y or x, y; it holds X",
    ),
    "lengths": ({"X": X, "y": Y[:-1]}, r"needs one label, got x of shape \(20, 3\) and y of .*19"),
    "strings": ({"X": X.astype(str), "y": Y}, "must be real numbers, got dtype <U"),
    "complex": ({"X": X * 1j, "y": Y}, "must be real numbers, got dtype complex128"),
    "one axis": ({"X": X[:, 0], "y": Y}, r"\(samples, features …\), got \(20,\); use x.reshape"),
    "empty": ({"X": X[:0], "y": Y[:0]}, r"is empty: its shape is \(0, 3\)"),
    "nan": (
        {"X": np.where(np.arange(60).reshape(20, 3) == 7, np.nan, X), "y": Y},
        r"^X of .*a.npz must be finite, got 1 value.* NaN or infinite, the first at sample 2, position \(1\)",
    ),
    "infinite test target": (
        {"x_train": X, "y_train": X[:, 0], "x_test": X, "y_test": np.where(np.arange(20) == 9, np.inf, X[:, 0])},
        r"^y_test of .*a.npz must be finite, got 1 value.* the first at sample 9",
    ),
    "nan target": ({"X": X, "y": np.where(np.arange(20) == 7, np.nan, Y)}, "^y of .*1 value.*first at sample 7"),
    "one-hot": ({"X": X, "y": np.eye(2, dtype=int)[Y]}, "one class label a sample, got shape .*argmax"),
    "quantity": ({"X": X, "y": np.arange(20)}, "20 different values in 20 samples, too many to be classes"),
    "one class": ({"X": X, "y": Y * 0}, "needs at least 2 classes"),
    "complex y": ({"X": X, "y": Y * 1j}, "class labels or real targets, got dtype complex128"),
    "channels last": (
        {"X": np.zeros((20, 8, 8, 3), np.uint8), "y": Y},
        "like channels last; save x.transpose",
    ),
    "unknown class": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
        "must occur in y_train of .*, which lacks 2, the class of test sample 1",
    ),
    "other width": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y},
        "must agree in everything",
    ),
    "half a split": ({"x_train": X, "y_train": Y}, "must hold the arrays"),
}


@pytest.mark.parametrize("case", NPZ_CASES)
def test_unfit_npz(tmp_path, unchecked, case):
    arrays, message = NPZ_CASES[case]
    with pytest.raises(DataError, match=message):
        load(save(tmp_path / "a.npz", **arrays))


def test_npz_with_a_pickle_is_refused_before_it_is_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.savez(tmp_path / "a.npz", X=np.array([Trap(), None], dtype=object), y=Y[:2])
    with pytest.raises(DataError, match=r"X of .* is an array of Python objects, which is a pickle"):
        load(f"npz:{tmp_path / 'a.npz'}")
    assert not (tmp_path / "sprung").exists()


def test_text_or_half_an_npz(tmp_path):
    (tmp_path / "a.npz").write_text("not an archive at all")
    with pytest.raises(DataError, match=r"must be an npz file .* begins b'not an a'"):
        load(f"npz:{tmp_path / 'a.npz'}")
    save(tmp_path / "b.npz", X=X, y=Y)
    content = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cut off before its end"):
        load(f"npz:{tmp_path / 'b.npz'}")
    np.save(tmp_path / "c.npy", X)
    with pytest.raises(DataError, match="NUMPY"):
        load(f"npz:{tmp_path / 'c.npy'}")


def test_npz_with_damaged_values(tmp_path):
    save(tmp_path / "a.npz", X=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[300] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"is a broken npz file .*CRC"):
        load(f"npz:{tmp_path / 'a.npz'}")


def write_npz(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_an_npz_header_that_promises_more_than_there_is(tmp_path):
    honest = npy_bytes(X)
    lie = honest.replace(b"(20, 3), }", b"(99, 3), }")
    write_npz(tmp_path / "a.npz", X=lie, y=npy_bytes(Y))
    with pytest.raises(DataError, match=r"promises 2,376 bytes \(shape \(99, 3\), float64\) .* holds 480"):
        load(f"npz:{tmp_path / 'a.npz'}")


def test_a_zip_bomb_and_an_honest_file_too_large(tmp_path, monkeypatch, unchecked):
    write_npz(tmp_path / "bomb.npz", X=npy_bytes(np.zeros((100_000, 3))), y=npy_bytes(np.arange(100_000) % 2))
    save(tmp_path / "large.npz", X=X, y=Y)
    for module in ("ntkit.data.arrays_file", "ntkit._memory"):
        monkeypatch.setattr(f"{module}.available_bytes", lambda: 500)
    with pytest.raises(DataError, match=r"to 3\.05 MiB and 500 B is free; this looks like a zip bomb"):
        load(f"npz:{tmp_path / 'bomb.npz'}")
    with pytest.raises(MemoryLimitExceeded, match=r"reading .*large.npz needs"):
        load(f"npz:{tmp_path / 'large.npz'}")


CSV_CASES = {
    "empty": ("", "is empty: at least one line of numbers"),
    "blank": ("\n\n  \n", "is empty"),
    "header only": ("a,b,c\n", "is empty"),
    "ragged": ("1,2,3\n4,5\n", "^line 2 of .* must have 3 cells as the first line has, got 2"),
    "ragged later": ("a,b\n1,2\n\n3,4,5\n", r"line 4 .* as the first line \(taken as a header, .*\) has, got 3"),
    "nan": ("a,b,c\n1,2,3\n4,nan,6\n", r"line 3, column 2 \('b'\) of .* must be finite, got nan; 1 cell"),
    "inf": ("1,2,3\n-inf,2,6\n", "line 2, column 1 of .* must be finite, got -inf"),
    "word": ("1,2,3\n4,x,6\n", "line 2, column 2 of .* must be a number, got 'x'; fill missing values in"),
    "hole": ("1,2,3\n4,,6\n", "line 2, column 2 of .* must be a number, got nothing"),
    "underscore": ("1,2,3\n4,1_000,6\n", "must be a number, got '1_000'"),
    "no target": ("1,2,3\n4,5,\n", "line 2, column 3 of .* must be the target, got nothing"),
    "target nan": ("1,2,3.5\n4,5,nan\n", "line 2, column 3 of .* must be finite, got nan; drop the line"),
    "mixed target": (
        "1,2,3\n4,5,?\n6,7,8\n",
        r"line 2, column 3 of .* must be a number as other .*, got '\?'",
    ),
    "one column": ("1\n2\n", "at least two columns, features and last the target, got one column$"),
    "semicolons": ("1;2;3\n", "separate them by commas, not by ';'"),
    "not text": (b"1,2\n\xff\xfe,3\n", "must be UTF-8 text"),
    "huge cell": ("1," + "9" * 200_000 + "\n", "is not a csv file: field larger than field limit"),
    "numbered header": (
        "0,1,kind\n5,6,cat\n7,8,dog\n9,6,cat\n4,3,dog\n",
        "line 1, column 3 of .* is 'kind', which no other",
    ),
    "endless line": ("1," * 9_000_000, "has a line of more than 16,777,216 characters"),
    "one sample": ("1,2,0.5\n", "has 1 samples for both parts"),
}


@pytest.mark.parametrize("case", CSV_CASES)
def test_broken_csv(tmp_path, case):
    content, message = CSV_CASES[case]
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load(f"csv:{path}")


def test_csv_cut_off_inside_the_gzip_stream(tmp_path):
    text = "".join(f"{a},{b},0.5\n" for a, b in np.random.default_rng(0).standard_normal((500, 2)))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode())[:-500])
    with pytest.raises(DataError, match="broken or truncated gzip"):
        load(f"csv:{tmp_path / 'a.csv.gz'}")


def test_csv_words_cannot_be_regressed(tmp_path):
    (tmp_path / "a.csv").write_text("1,cat\n2,dog\n3,cat\n4,dog\n")
    with pytest.raises(DataError, match=r"line 1, column 2 of .* must be a number for regression, got 'cat'"):
        load(f"csv:{tmp_path / 'a.csv'}", task="regression")


def test_csv_larger_than_memory(tmp_path, monkeypatch, unchecked):
    (tmp_path / "a.csv").write_text("1,2,0.5\n" * 10_000)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryLimitExceeded, match="on past line 10,000 needs"):
        load(f"csv:{tmp_path / 'a.csv'}")


def test_two_entries_of_one_name_cannot_dodge_the_checks(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X", b"no array")
        archive.writestr("X.npy", npy_bytes(X))
        archive.writestr("y.npy", npy_bytes(Y))
    assert load(f"npz:{tmp_path / 'a.npz'}").input_shape == (3,)
