"""Which samples are used: classes kept, a seeded split where the source has none, and balanced subsets.

Samples are put into a seeded order of which every prefix is as even over the classes as the data allow; n
samples are its first n. So a smaller subset is part of a larger one of the same seed, and the test part does
not depend on n_train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, Shaped

from ntkit._memory import require_bytes
from ntkit.data.dataset import Dataset
from ntkit.data.raw import Part, RawData
from ntkit.errors import DataError, InvalidInput

TEST_FRACTION = 0.2


def select(
    raw: RawData,
    name: str,
    *,
    n_train: int | None,
    n_test: int | None,
    max_train: int | None,
    max_test: int | None,
    classes: Sequence[int | str] | None,
    seed: int,
) -> Dataset:
    """The chosen samples of `raw` as checked floating-point arrays.

    Raises:
        DataError: more samples asked for than there are, or a class that does not exist.
        MemoryLimitExceeded: the samples would not fit.
    """
    if classes is not None:
        raw = _keep_classes(raw, classes, name)
    for_split, for_train, for_test = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    if raw.test is None:
        train, test = _split(raw.train, n_train, n_test, name, for_split)
    else:
        train, test = raw.train, raw.test
    train = _subset(train, n_train, max_train, f"training samples of {name}", for_train)
    test = _subset(test, n_test, max_test, f"test samples of {name}", for_test)
    dtype = np.result_type(*(p.x.dtype if p.x.dtype == np.float32 else np.float64 for p in (train, test)))
    return Dataset(
        name=name,
        x_train=_as_float(train.x, raw.pixel_max, dtype, f"the training part of {name}"),
        y_train=train.y,
        x_test=_as_float(test.x, raw.pixel_max, dtype, f"the test part of {name}"),
        y_test=test.y,
        classes=raw.classes,
        source=raw.source,
        task=raw.task,
        stands_in=raw.stands_in,
    )


def even_order(
    labels: Int[np.ndarray, "n"], rng: np.random.Generator, proportional: bool = False
) -> Int[np.ndarray, "n"]:
    """Sample numbers in an order whose every prefix is even over the classes.

    Each class is shuffled; sample r of a class of n_c has the place r (equal counts, until a class has no
    more) or (r + ½)/n_c (counts in proportion to n_c), and samples are taken by place.
    """
    shuffled = rng.permutation(len(labels))
    y = labels[shuffled]
    counts = np.bincount(y)
    by_class = np.argsort(y, kind="stable")
    rank = np.empty(len(y), dtype=np.int64)
    rank[by_class] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + 0.5) / counts[y] if proportional else rank
    tie_break = rng.permutation(len(counts))[y]
    return shuffled[np.lexsort((tie_break, place))]


def _keep_classes(raw: RawData, classes: Sequence[int | str], name: str) -> RawData:
    if raw.task != "classification":
        raise DataError(f"classes can be chosen only where there are classes; {name} is a regression data set")
    if isinstance(classes, str):
        raise InvalidInput(
            f"classes must be a list of names or numbers, got the string {classes!r}; write [{classes!r}]"
        )
    kept = [_class_number(label, raw.classes, name) for label in classes]
    if len(set(kept)) < len(kept):
        raise DataError(f"each class of {name} can be chosen once, got {list(classes)}")
    if len(kept) < 2:
        raise DataError(f"at least 2 classes of {name} are needed, got {list(classes)}")
    renumber = np.full(len(raw.classes), -1, dtype=np.int64)
    renumber[kept] = np.arange(len(kept))

    def only(part: Part) -> Part:
        keep = np.isin(part.y, kept)
        return Part(part.x[keep], renumber[part.y[keep]])

    test = None if raw.test is None else only(raw.test)
    return replace(raw, train=only(raw.train), test=test, classes=tuple(raw.classes[k] for k in kept))


def _class_number(label: int | str, names: tuple[str, ...], name: str) -> int:
    """A class by its name, or by its number where names are not numbers themselves."""
    text = str(label)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names) and not any(_is_number(n) for n in names):
        return int(text)
    raise DataError(f"{name} has no class {label!r}; its classes are {', '.join(names)}")


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdecimal()


def _split(
    part: Part, n_train: int | None, n_test: int | None, name: str, rng: np.random.Generator
) -> tuple[Part, Part]:
    """Training and test samples, disjoint: 80 % and 20 %, moved only as far as the sizes asked for need."""
    n = len(part.x)
    least_train, least_test = n_train or 1, n_test or 1
    if least_train + least_test > n:
        raise DataError(
            f"{name} has {n:,} samples for both parts, got n_train={n_train} and n_test={n_test}; ask for fewer"
        )
    size = min(max(round(TEST_FRACTION * n), least_test), n - least_train)
    order = rng.permutation(n) if part.y.ndim == 2 else even_order(part.y, rng, proportional=True)
    test, train = order[:size], order[size:]
    return Part(part.x[train], part.y[train]), Part(part.x[test], part.y[test])


def _subset(part: Part, n: int | None, most: int | None, what: str, rng: np.random.Generator) -> Part:
    """n samples, or, where n is None, as many as there are up to `most`."""
    if n is None:
        if most is None or most >= len(part.x):
            return part
        n = most
    if n > len(part.x):
        raise DataError(f"there are {len(part.x):,} {what}, got a request for {n:,}; ask for at most {len(part.x):,}")
    chosen = (rng.permutation(len(part.x)) if part.y.ndim == 2 else even_order(part.y, rng))[:n]
    return Part(part.x[chosen], part.y[chosen])


def _as_float(
    x: Shaped[np.ndarray, "n ..."], pixel_max: int | None, dtype: np.dtype, what: str
) -> Float[np.ndarray, "n ..."]:
    require_bytes(2 * x.size * dtype.itemsize, what, "lower n_train or n_test")
    values = x.astype(dtype)
    if pixel_max is not None:
        values /= pixel_max
    return values
