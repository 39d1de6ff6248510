"""A folder that is written whole or not at all.

Everything goes into a temporary folder beside it, which takes the name only when it is complete. So an interruption or
an error leaves no half-written file, and an earlier result stays until the new one is there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ntkit.errors import InvalidInput

MARK = "results.json"  # a folder with this file is an earlier result and may be replaced


@contextmanager
def result_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into; it becomes `out` when the block ends without an error.

    Args:
        out: the folder wanted; it must not exist, or be empty, or hold an earlier result.

    Raises:
        InvalidInput: `out` holds something else, or cannot be written.
    """
    target = Path(out).expanduser().absolute()
    _check_target(target)
    existed = next(p for p in target.parents if p.exists())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise InvalidInput(
            f"the output folder {str(out)!r} cannot be written ({error.strerror}); give another one with --out"
        ) from error
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.chmod(0o755)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(target.parent, existed)
        raise


def _check_target(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InvalidInput(f"the output folder {str(target)!r} is a file; give another one with --out")
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).is_file():
        raise InvalidInput(
            f"the output folder {str(target)!r} holds other files, and only an earlier result may be replaced; "
            "give another one with --out"
        )
    if target.is_dir() and not os.access(target, os.W_OK):
        raise InvalidInput(f"the output folder {str(target)!r} cannot be written; give another one with --out")


def _remove_empty(folder: Path, stop: Path) -> None:
    """Folders that were made for a result that did not come."""
    while folder != stop and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def write_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """arrays.npz, without pickles and with no time in it, so equal arrays give equal bytes."""
    np.savez_compressed(folder / "arrays.npz", **arrays)  # pyright: ignore[reportArgumentType]


def write_json(folder: Path, findings: dict[str, Any]) -> None:
    """results.json; a number that is not finite is an error, not a file that other programs cannot read."""
    (folder / MARK).write_text(json.dumps(findings, indent=2, allow_nan=False) + "\n")
