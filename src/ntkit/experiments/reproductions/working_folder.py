"""A folder beside the output in which finished parts survive an interruption, for one run at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ntkit.errors import InvalidInput


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits of SHA-256 over arrays (dtype, shape and bytes) and what JSON can hold.

    Example:
        >>> digest({"n": 1}) == digest({"n": 1}), digest({"n": 1}) == digest({"n": 2})
        (True, False)
    """
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype.str}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:12]


@contextmanager
def working_folder(out: Path, key: str) -> Iterator[Path]:
    """The folder `.NAME.work-KEY` beside `out`; it stays when the block ends with an error, and goes when it does not.

    Args:
        out: the output folder NAME.
        key: a digest of all that the work depends on.

    Raises:
        InvalidInput: the folder cannot be made, or another run is working in it.
    """
    target = out.expanduser().absolute()
    folder = target.parent / f".{target.name}.work-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"the working folder {str(folder)!r} cannot be made ({error.strerror}); give another place with --out"
        ) from error
    with _locked(folder / "lock"):
        try:
            yield folder
        except BaseException as error:
            if any(folder.rglob("*.done")):
                error.add_note(f"what was computed is kept in {folder}; the same command goes on from there")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the file `path`; the operating system lets go of it when the process ends, however it ends."""
    if sys.platform == "win32":  # without these locks; two runs would write equal numbers into the same files
        yield
        return
    import fcntl

    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInput(
                f"another run is working in {str(path.parent)!r}; wait for it, or give another place with --out"
            ) from error
        yield
