"""Names of data sets and the loaders behind them; `load` is the one door.

Adding a set that has a name is adding a line to `_NAMED`; adding a file format is adding a line to `_FORMS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import cast, get_args

from ntkit.data.arrays_file import read_npz
from ntkit.data.cifar import find_cifar, read_cifar10
from ntkit.data.dataset import Dataset, Task
from ntkit.data.files import DataFolder, data_folder
from ntkit.data.idx import CLASSES, STEMS, find_idx, read_image_set
from ntkit.data.raw import RawData
from ntkit.data.samples import read_digits, read_shipped_mnist
from ntkit.data.selection import select
from ntkit.data.tables import read_csv
from ntkit.errors import DataError, InvalidInput


def _mnist(folder: DataFolder | None) -> RawData:
    """The files where there are any, or where `data_dir` says they must be; else the shipped digits."""
    if folder is None:
        return read_shipped_mnist("no folder with the MNIST files was given")
    if not find_idx(folder, "mnist") and folder.named_by != "data_dir":
        return read_shipped_mnist(f"the folder {folder.path} ({folder.named_by}) holds no MNIST files")
    return read_image_set(folder, "mnist")


_NAMED: dict[str, Callable[[DataFolder | None], RawData]] = {
    "digits": lambda folder: read_digits(),
    "mnist": _mnist,
    "fashion-mnist": lambda folder: read_image_set(folder, "fashion-mnist"),
    "cifar10": read_cifar10,
}
_NEED_NO_FOLDER = ("digits",)
_FORMS: dict[str, Callable[[Path, Task | None], RawData]] = {"npz": read_npz, "csv": read_csv}

KNOWN_SETS = (*_NAMED, *(f"{form}:PATH" for form in _FORMS))


def load(
    spec: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    classes: Sequence[int | str] | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set by name or from a file, checked, split and subsampled.

    The split is the files' own where they have one, else 80/20 by the seed, in proportion to the classes. The
    same seed gives the same samples; a smaller `n_train` a part of a larger one; the test part does not
    depend on `n_train` where both fit into their parts.

    Args:
        spec: `digits`, `mnist`, `fashion-mnist`, `cifar10`, `npz:PATH` or `csv:PATH`; the last two may end in
            `?task=regression` or `?task=classification`.
        data_dir: folder with the files, or with the subfolders mnist/, fashion-mnist/, cifar-10-batches-bin/;
            by default the environment variable NTKIT_DATA.
        n_train: how many training samples, as even over the classes as the data allow; default all.
        n_test: the same for the test part.
        max_train: where `n_train` is not given, an upper bound: as many as there are, up to this many.
        max_test: the same for the test part.
        classes: the classes to keep, by name or number; they are renumbered 0 … C−1 in the order given.
        task: what the target of an npz or csv file is, where its own rule would say otherwise.
        seed: whole number ≥ 0.

    Returns:
        Images (n, c, h, w) scaled to [0, 1], tables (n, d); float64, or float32 where an npz file has it.

    Raises:
        DataError: unknown name, missing or broken files, too few samples, no such class.
        InvalidInput: `n_train`, `n_test`, `seed` or `task` is no possible value.
        MissingDependency: the library that ships the samples is not installed.
        MemoryLimitExceeded: the samples would not fit.

    Example:
        >>> data = load("digits", n_train=100, n_test=50, classes=[3, 8])
        >>> data.x_train.shape, data.classes
        ((100, 1, 8, 8), ('3', '8'))
    """
    sizes = {"n_train": n_train, "n_test": n_test, "max_train": max_train, "max_test": max_test}
    for name, value, least in (*((name, size, 1) for name, size in sizes.items()), ("seed", seed, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InvalidInput(f"{name} must be a whole number of at least {least}, got {value!r}")
    raw = _read(spec, data_dir, task)
    return select(raw, spec, **sizes, classes=classes, seed=seed)


def sets_in(data_dir: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the sets whose files are complete in `data_dir`, by default in NTKIT_DATA.

    Raises:
        DataError: what was named is not a folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     sets_in(empty)
        ()
    """
    folder = data_folder(data_dir)
    if folder is None:
        return ()
    found = [name for name in CLASSES if len(find_idx(folder, name)) == len(STEMS)]
    train, test = find_cifar(folder)
    return tuple([*found, "cifar10"] if train and test else found)


def _read(spec: str, data_dir: str | os.PathLike[str] | None, task: Task | None) -> RawData:
    form, colon, location = spec.partition(":")
    if colon and form in _FORMS:
        path, stated = _options(location)
        if not path:
            raise DataError(f"{form}: must be followed by a path, got {spec!r}; write {form}:FILE.{form}")
        if task and stated and task != stated:
            raise InvalidInput(f"the task is stated twice, {stated!r} in {spec!r} and task={task!r}; state it once")
        return _FORMS[form](Path(path).expanduser(), _task(task or stated))
    if spec not in _NAMED:
        raise _unknown(spec)
    raw = _NAMED[spec](None if spec in _NEED_NO_FOLDER else data_folder(data_dir))
    if task not in (None, raw.task):
        raise InvalidInput(f"{spec} is a {raw.task} data set, got task={task!r}; leave task out")
    return raw


def _options(location: str) -> tuple[str, str | None]:
    """`PATH?task=T` as (PATH, T). A `?` that begins no option belongs to the path."""
    path, mark, task = location.rpartition("?task=")
    return (path, task) if mark else (location, None)


def _task(task: str | None) -> Task | None:
    if task is not None and task not in get_args(Task):
        raise InvalidInput(f"task must be one of {', '.join(get_args(Task))}, got {task!r}")
    return cast("Task | None", task)


def _unknown(spec: str) -> DataError:
    wanted = spec.lower().replace("_", "-")
    close = get_close_matches(wanted, _NAMED, n=1)
    endings = {".npz": "npz", ".csv": "csv", ".csv.gz": "csv"}
    form = next((form for ending, form in endings.items() if wanted.endswith(ending)), None)
    hint = f"; did you mean {form}:{spec}?" if form else f"; did you mean {close[0]!r}?" if close else ""
    return DataError(f"there is no data set {spec!r}; known are {', '.join(KNOWN_SETS)}{hint}")
