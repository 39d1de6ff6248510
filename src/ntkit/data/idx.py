"""MNIST and Fashion-MNIST: the IDX format.

A file is: two zero bytes, one type byte (0x08: unsigned byte), one byte giving the number of axes, each
axis's length as a big-endian uint32, then the values, last axis fastest.
Reference: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits (its file-format section).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ntkit._memory import require_bytes
from ntkit.data.files import DataFolder, largest_content, missing, opened
from ntkit.data.raw import Part, RawData
from ntkit.errors import DataError

_UNSIGNED_BYTE = 0x08
STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# data set -> (title, class names); the set's subfolder bears its name
CLASSES = {
    "mnist": ("MNIST", tuple("0123456789")),
    "fashion-mnist": (
        "Fashion-MNIST",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
}


def find_idx(folder: DataFolder, name: str) -> dict[str, Path]:
    """The files of set `name` that exist in the first place that has any: {stem: path}."""
    for place in _places(folder, name):
        found = {stem: path for stem in STEMS for path in _spellings(place, stem)[::-1] if path.is_file()}
        if found:
            return found
    return {}


def read_image_set(folder: DataFolder | None, name: str) -> RawData:
    """MNIST or Fashion-MNIST, the four IDX files of `name` in `folder`.

    Raises:
        DataError: files are missing, broken, or do not belong together.
    """
    found = find_idx(folder, name) if folder else {}
    if folder is None or len(found) < len(STEMS):
        lacking = [f"{stem}[.gz]" for stem in STEMS if stem not in found]
        raise missing(name, lacking, folder, _places(folder, name) if folder else ())
    title, classes = CLASSES[name]
    parts = [_read_part(found[images], found[labels], len(classes)) for images, labels in (STEMS[:2], STEMS[2:])]
    train, test = parts
    return RawData(
        train,
        test,
        classes,
        f"{title} from the IDX files in {found[STEMS[0]].parent}: {len(train.x):,} training and "
        f"{len(test.x):,} "
        "test images.",
        "classification",
        pixel_max=255,
    )


def read_idx(path: Path, n_axes: int) -> UInt8[np.ndarray, "..."]:
    """One IDX file of unsigned bytes.

    Raises:
        DataError: another magic number, another number of axes, or a content that is not what the header
        says.
        MemoryLimitExceeded: the array would not fit.
    """
    with opened(path) as stream:
        magic = stream.read(4)
        wanted = bytes((0, 0, _UNSIGNED_BYTE, n_axes))
        if magic != wanted:
            raise DataError(
                f"{path} must be an IDX file of unsigned bytes with {n_axes} axes, beginning {wanted.hex()}, "
                f"got {magic.hex() or 'an empty file'}; is it another file?"
            )
        header = stream.read(4 * n_axes)
        if len(header) < 4 * n_axes:
            raise DataError(f"{path} ends inside its header; fetch it again")
        shape = tuple(int(length) for length in np.frombuffer(header, ">u4"))
        size, text = math.prod(shape), "×".join(map(str, shape))
        if size == 0:
            raise DataError(f"{path} is empty: its header says {text}")
        if size > largest_content(path, stream):
            raise DataError(f"{path} cannot hold the {size:,} bytes ({text}) its header promises; fetch it again")
        require_bytes(2 * size, f"reading {path} ({text})", "use a smaller data set")
        content = stream.read(size + 1)
    if len(content) != size:
        kind = "more" if len(content) > size else f"only {len(content):,}"
        raise DataError(f"{path} promises {size:,} bytes ({text}) and holds {kind}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_part(image_file: Path, label_file: Path, n_classes: int) -> Part:
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{image_file} holds {len(images)} images and {label_file} {len(labels)} labels; they do not "
            "belong together"
        )
    if labels.max() >= n_classes:
        where = int(np.argmax(labels >= n_classes))
        raise DataError(f"{label_file} must hold labels 0 … {n_classes - 1}, got {labels[where]} at index {where}")
    return Part(images[:, None], labels.astype(np.int64))


def _places(folder: DataFolder, name: str) -> list[Path]:
    return folder.places(name, others=set(CLASSES) - {name})


def _spellings(place: Path, stem: str) -> list[Path]:
    """A stem as files are named: plain or gzipped, with `-idx3` or `.idx3`; the first is preferred."""
    stems = (stem, stem.replace("-idx", ".idx"))
    return [place / f"{name}{ending}" for name in stems for ending in ("", ".gz")]
