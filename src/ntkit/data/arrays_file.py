"""npz files: arrays x_train, y_train, x_test, y_test, or X and y (x and y), read without pickle.

Every array's header is compared with what the archive holds before anything is allocated, because numpy
allocates what a header promises.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ntkit._memory import available_bytes, human_bytes, require_bytes
from ntkit.data.dataset import Task, check_finite
from ntkit.data.files import Bytes, opened
from ntkit.data.raw import Part, RawData, number_classes, reads_as_classes, real_targets
from ntkit.errors import DataError

_LAYOUTS = (("x_train", "y_train", "x_test", "y_test"), ("X", "y"), ("x", "y"))
_BOMB_RATIO = 100  # real data seldom packs better than 1:20
_CHANNELS = (1, 3, 4)
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)


def read_npz(path: Path, task: Task | None = None) -> RawData:
    """A data set from one npz file. Bytes with three axes or more are pixels; other numbers stay as they are.

    Labels that are integers, booleans or strings are classes; floats are classes by the rule of
    `raw.reads_as_classes`, else targets. `task` overrides both.

    Raises:
        DataError: no npz file, broken, with pickles, lacking an array, or of an unfit type or shape.
        MemoryLimitExceeded: the arrays would not fit.
    """
    with opened(path) as stream:
        if not zipfile.is_zipfile(stream):
            stream.seek(0)
            raise DataError(
                f"{path} must be an npz file (a zip of npy arrays, np.savez), got a file that begins "
                f"{stream.read(8)!r}, or one cut off before its end; write it again with np.savez"
            )
        stream.seek(0)
        try:
            arrays = _read_arrays(stream, path)
        except DataError:
            raise
        except _BROKEN as error:
            raise DataError(f"{path} is a broken npz file ({error}); write it again with np.savez") from error
    return _interpret(arrays[::2], arrays[1::2], path, task)


def _read_arrays(stream: Bytes, path: Path) -> list[Shaped[np.ndarray, "..."]]:
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        keys = _layout(set(entries), path)
        _check_unpacked([entries[key] for key in keys], path)
        return [_read_array(archive, entries[key], f"{key} of {path}") for key in keys]


def _layout(present: set[str], path: Path) -> tuple[str, ...]:
    for keys in _LAYOUTS:
        if present.issuperset(keys):
            return keys
    raise DataError(
        f"{path} must hold the arrays {' or '.join(', '.join(keys) for keys in _LAYOUTS)}; it holds "
        f"{', '.join(sorted(present)) or 'none'}; rename them with np.savez"
    )


def _check_unpacked(entries: list[zipfile.ZipInfo], path: Path) -> None:
    unpacked, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    free = available_bytes()
    if unpacked > free and unpacked > _BOMB_RATIO * packed:
        raise DataError(
            f"{path} unpacks from {human_bytes(packed)} to {human_bytes(unpacked)} and {human_bytes(free)} "
            "is free; this looks like a zip bomb, so it is not read"
        )
    require_bytes(2 * unpacked, f"reading {path}", "save fewer samples")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> Shaped[np.ndarray, "..."]:
    """One array of finite values; pickles and shapes that the archive cannot fill are refused before they are read."""
    if entry.flag_bits & 1:
        raise DataError(f"{what} is encrypted; save it without a password")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        form = np.lib.format
        read_header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise DataError(
                f"{what} is an array of Python objects, which is a pickle and could run code when read; save "
                "plain numbers, such as x.astype(float)"
            )
        content = math.prod(shape) * dtype.itemsize
        if content != entry.file_size - file.tell():
            raise DataError(
                f"{what} promises {content:,} bytes (shape {shape}, {dtype}) and the archive holds "
                f"{entry.file_size - file.tell():,}; write it again with np.savez"
            )
    with archive.open(entry) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.kind == "f" and array.ndim:
        check_finite(array, what)  # before samples are drawn, so that the place named is the file's
    return array


def _interpret(
    xs: list[Shaped[np.ndarray, "..."]], ys: list[Shaped[np.ndarray, "..."]], path: Path, task: Task | None
) -> RawData:
    """Inputs and targets of the training part, and of the test part if there is one, checked and encoded."""
    suffixes = ("_train", "_test") if len(xs) == 2 else ("",)
    inputs = [_inputs(x, f"x{suffix} of {path}") for x, suffix in zip(xs, suffixes, strict=True)]
    for x, y, suffix in zip(inputs, ys, suffixes, strict=True):
        if y.ndim == 0 or len(x) != len(y):
            raise DataError(
                f"every sample of {path} needs one label, got x{suffix} of shape {x.shape} and y{suffix} of "
                f"shape {y.shape}; save as many labels as samples"
            )
    columns = [y[:, 0] if y.shape[1:] == (1,) else y for y in ys]
    task, targets, classes = _targets(columns, [f"y{suffix} of {path}" for suffix in suffixes], task)
    parts = [Part(x, y) for x, y in zip(inputs, targets, strict=True)]
    counts = [f"{len(x):,}" for x in inputs]
    samples = f"{counts[0]} training and {counts[1]} test samples" if len(parts) == 2 else f"{counts[0]} samples"
    return RawData(
        parts[0],
        parts[1] if len(parts) == 2 else None,
        classes,
        f"{samples} from the npz file {path}.",
        task,
        pixel_max=255 if all(x.dtype == np.uint8 and x.ndim > 2 for x in inputs) else None,
    )


def _targets(
    ys: list[Shaped[np.ndarray, "..."]], names: list[str], task: Task | None
) -> tuple[Task, list[Shaped[np.ndarray, "..."]], tuple[str, ...]]:
    """The task, the targets as class numbers or (n, o) floats, and the names of the classes."""
    task = task or _task_of(ys[0], names[0])
    if task == "regression":
        return task, [real_targets(y, name) for y, name in zip(ys, names, strict=True)], ()
    for y, name in zip(ys, names, strict=True):
        _check_labels(y, name)
    numbers, classes = number_classes(ys, names[0])
    return task, numbers, classes


def _inputs(x: Shaped[np.ndarray, "..."], what: str) -> Shaped[np.ndarray, "n ..."]:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{what} must be real numbers, got dtype {x.dtype}; encode them as floats")
    if x.ndim < 2:
        raise DataError(f"{what} must have shape (samples, features …), got {x.shape}; use x.reshape(len(x), -1)")
    if x.size == 0:
        raise DataError(f"{what} is empty: its shape is {x.shape}")
    if x.dtype != np.uint8:
        return x
    if x.ndim == 3:
        return x[:, None]  # grey images (n, h, w)
    if x.ndim == 4 and x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
        raise DataError(
            f"{what} must be images of shape (n, channels, height, width), got {x.shape}, which looks like "
            "channels last; save x.transpose(0, 3, 1, 2)"
        )
    return x


def _task_of(y: Shaped[np.ndarray, "n ..."], what: str) -> Task:
    if y.dtype.kind in "iubUS":
        return "classification"
    if y.dtype.kind != "f":
        raise DataError(f"{what} must be class labels or real targets, got dtype {y.dtype}")
    return "classification" if y.ndim == 1 and reads_as_classes(y) else "regression"


def _check_labels(y: Shaped[np.ndarray, "n ..."], what: str) -> None:
    if y.ndim != 1:
        raise DataError(
            f"{what} must be one class label a sample, got shape {y.shape}; save y.argmax(axis=1) where rows "
            "are one-hot, or load it with task='regression'"
        )
    if y.dtype.kind not in "iubUSf":
        raise DataError(f"{what} must be class labels, got dtype {y.dtype}")
