"""CIFAR-10, binary version.

A file is records of 3,073 bytes: the label, then 32×32 red, green and blue values, rows first.
Reference: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, and the data set's
page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ntkit._memory import require_bytes
from ntkit.data.files import DataFolder, missing, opened
from ntkit.data.raw import Part, RawData
from ntkit.errors import DataError

SUBFOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_IMAGE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def find_cifar(folder: DataFolder) -> tuple[list[Path], Path | None]:
    """The training files and the test file that exist, in the first place that has any."""
    for place in folder.places(SUBFOLDER):
        train = [place / name for name in TRAIN_FILES if (place / name).is_file()]
        test = place / TEST_FILE if (place / TEST_FILE).is_file() else None
        if train or test:
            return train, test
    return [], None


def read_cifar10(folder: DataFolder | None) -> RawData:
    """CIFAR-10 from as many of the five training files as `folder` has, and the test file.

    Raises:
        DataError: no training file or no test file, or a broken one.
    """
    train_files, test_file = find_cifar(folder) if folder else ([], None)
    if folder is None or not train_files or test_file is None:
        wanted = f"{TRAIN_FILES[0]} … {TRAIN_FILES[-1]} (at least one)", TEST_FILE
        raise missing("cifar10", wanted, folder, folder.places(SUBFOLDER) if folder else ())
    parts = [_read_records(path) for path in train_files]
    train = Part(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
    test = _read_records(test_file)
    files = ", ".join(path.name for path in train_files)
    return RawData(
        train,
        test,
        CLASSES,
        f"CIFAR-10, binary version, from {train_files[0].parent.name}/: {len(train.x):,} training images ({files}) "
        "and "
        f"{len(test.x):,} test images.",
        "classification",
        pixel_max=255,
    )


def _read_records(path: Path) -> Part:
    with opened(path) as stream:
        size = path.stat().st_size
        require_bytes(2 * size, f"reading {path}", "use a smaller data set")
        content = stream.read(size)
    if not content or len(content) % _RECORD:
        raise DataError(
            f"{path} must hold records of {_RECORD:,} bytes (CIFAR-10, binary version), got {len(content):,} "
            f"bytes, {len(content) % _RECORD:,} past the last whole record; fetch it again, or is it the "
            "Python version?"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        where = int(np.argmax(labels >= len(CLASSES)))
        raise DataError(f"{path} must hold labels 0 … {len(CLASSES) - 1}, got {labels[where]} in record {where}")
    return Part(records[:, 1:].reshape(-1, *_IMAGE), labels)
