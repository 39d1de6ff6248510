"""Finding and opening files: where to look, gzip or plain, and what to say where one cannot be read."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from ntkit.errors import DataError

# A DEFLATE stream cannot grow by more than this factor: at most 258 bytes from 2 bits (RFC 1951, zlib's tech.
# note).
DEFLATE_LIMIT = 1032
Bytes = BufferedReader | gzip.GzipFile
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class DataFolder:
    """The folder that holds data sets, and who named it ("data_dir" or "NTKIT_DATA")."""

    path: Path
    named_by: str

    def places(self, subfolder: str, others: Iterable[str] = ()) -> list[Path]:
        """Where a set may lie: its own subfolder, or this folder unless it bears the name of another set."""
        own = self.path / subfolder
        return [own] if self.path.name in others else [own, self.path]


def data_folder(data_dir: str | os.PathLike[str] | None) -> DataFolder | None:
    """The folder named by `data_dir`, else by the environment variable NTKIT_DATA; None where neither does.

    Raises:
        DataError: what was named is not a folder.
    """
    if data_dir is not None:
        folder = DataFolder(Path(data_dir).expanduser(), "data_dir")
    elif os.environ.get("NTKIT_DATA"):
        folder = DataFolder(Path(os.environ["NTKIT_DATA"]).expanduser(), "NTKIT_DATA")
    else:
        return None
    if not folder.path.is_dir():
        raise DataError(
            f"{folder.named_by} must name a folder with data files, got {folder.path}, which is "
            f"{'a file' if folder.path.exists() else 'not there'}; name the folder that holds mnist/ and the "
            "like"
        )
    return folder


def missing(name: str, wanted: Iterable[str], folder: DataFolder | None, places: Iterable[Path] = ()) -> DataError:
    """The error for a set whose files were not found: which names were looked for, and where."""
    files = ", ".join(wanted)
    if folder is None:
        return DataError(
            f"{name} is read from files, and no folder was named; put {files} into a folder and name it by "
            "data_dir (--data-dir on the command line) or the environment variable NTKIT_DATA"
        )
    return DataError(
        f"{name} needs the files {files}; looked in {' and '.join(map(str, places))} ({folder.named_by}) and "
        "did not find them; put them there, or name another folder"
    )


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The bytes of a file, unpacked where they are gzip (told by content, not by name).

    Raises:
        DataError: the file is missing, a folder, not readable, or a broken gzip stream; also while it is
        read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a broken or truncated gzip file ({error}); fetch or pack it again") from error
    except FileNotFoundError as error:
        raise DataError(f"a data file is wanted at {path}, but there is none; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, and a file is wanted; name a file in it") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read by this user; change its permissions") from error
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror or error}") from error


def largest_content(path: Path, stream: Bytes) -> int:
    """An upper bound of the bytes `stream`, opened from `path`, can yield: what a header must not exceed."""
    return path.stat().st_size * (DEFLATE_LIMIT if isinstance(stream, gzip.GzipFile) else 1)
