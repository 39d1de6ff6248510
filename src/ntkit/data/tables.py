"""csv files: one sample a line, separated by commas, the last column the target; plain or gzipped, UTF-8.

- A first line is a header where none of its cells is a number, and must not look like one otherwise.
- The target is classes where no value is a number, or by the rule of `raw.reads_as_classes`; else it is a
  quantity to predict. `task` overrides this.
- Every other cell must be a finite number; the first that is not is named by line and column.
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ntkit._memory import require_bytes
from ntkit.data.dataset import Task
from ntkit.data.files import Bytes, opened
from ntkit.data.raw import Part, RawData, number_classes, reads_as_classes, real_targets
from ntkit.errors import DataError

_LONGEST_LINE = 1 << 24  # characters: room for a million numbers
_CHECK_EVERY = 10_000  # lines between two looks at the memory
_TARGET_BYTES = 64  # of one target kept as text


@dataclass
class _Columns:
    """What has been read: the features flat, row by row; targets as text; each row's line in the file."""

    path: Path
    width: int
    header: list[str]
    features: array = field(default_factory=lambda: array("d"))
    targets: list[str] = field(default_factory=list)
    lines: array = field(default_factory=lambda: array("q"))

    def cell(self, line: int, column: int) -> str:
        name = f" ({self.header[column]!r})" if self.header else ""
        return f"line {line}, column {column + 1}{name} of {self.path}"


def read_csv(path: Path, task: Task | None = None) -> RawData:
    """A data set from one csv file.

    Raises:
        DataError: empty, ragged, not UTF-8, a cell that is no finite number (located), or targets that are
            partly numbers and partly text.
        MemoryLimitExceeded: the table would not fit.
    """
    with opened(path) as stream:
        try:
            columns = _read_columns(stream, path)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} must be UTF-8 text, got a byte that is not ({error}); save it as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{path} is not a csv file: {error}") from error
    x = np.frombuffer(columns.features).reshape(-1, columns.width - 1).copy()
    _check_features(x, columns)
    targets = _numeric_targets(columns, task)
    what = f"the last column of {path}"
    if task is None:
        text = targets is None
        task = "classification" if text or reads_as_classes(targets) else "regression"
    classes: tuple[str, ...] = ()
    if task == "classification":
        values = np.array(columns.targets) if targets is None else targets
        (y,), classes = number_classes([values], what)
    else:
        y = real_targets(np.array(columns.targets) if targets is None else targets, what)
    return RawData(Part(x, y), None, classes, f"{len(x):,} samples from the csv file {path}.", task)


def _read_columns(stream: Bytes, path: Path) -> _Columns:
    rows = csv.reader(_lines(stream, path))
    columns: _Columns | None = None
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells) and len(cells) < 2:
            continue  # a blank line
        if columns is None:
            columns = _start(cells, path)
            if columns.header:
                continue
        _append(columns, cells, rows.line_num)
        if len(columns.lines) % _CHECK_EVERY == 0:
            needed = 3 * 8 * len(columns.features) + _TARGET_BYTES * len(columns.targets)
            require_bytes(needed, f"reading {path} on past line {rows.line_num:,}", "use fewer rows")
    if columns is None or not columns.lines:
        raise DataError(f"{path} is empty: at least one line of numbers is wanted")
    return columns


def _lines(stream: Bytes, path: Path) -> Iterator[str]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{path} has a line of more than {_LONGEST_LINE:,} characters; is it a csv file?")
        yield line
    text.detach()  # else its end would close the stream, which belongs to the caller


def _start(cells: list[str], path: Path) -> _Columns:
    if len(cells) < 2:
        hint = next((repr(mark) for mark in (";", "\t", "|", " ") if mark in cells[0]), None)
        found = f"one column; separate them by commas, not by {hint}" if hint else "one column"
        raise DataError(f"{path} must have at least two columns, features and last the target, got {found}")
    header = cells if all(_number(cell) is None for cell in cells) else []
    return _Columns(path, len(cells), header)


def _append(columns: _Columns, cells: list[str], line: int) -> None:
    if len(cells) != columns.width:
        header = " (taken as a header, since none of its cells is a number)" if columns.header else ""
        raise DataError(
            f"line {line} of {columns.path} must have {columns.width} cells as the first line{header} has, got "
            f"{len(cells)}"
        )
    for column, cell in enumerate(cells[:-1]):
        number = _number(cell)
        if number is None:
            got = f"{cell!r}" if cell else "nothing"
            raise DataError(
                f"{columns.cell(line, column)} must be a number, got {got}; fill missing values in and "
                "encode categories as numbers first"
            )
        columns.features.append(number)
    if not cells[-1]:
        raise DataError(f"{columns.cell(line, columns.width - 1)} must be the target, got nothing; drop the line")
    columns.targets.append(cells[-1])
    columns.lines.append(line)


def _number(cell: str) -> float | None:
    """The number a cell holds (NaN and infinities included), or None."""
    if "_" in cell:  # Python reads 1_000, csv writers do not mean it
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _check_features(x: Float[np.ndarray, "n d"], columns: _Columns) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{columns.cell(columns.lines[row], column)} must be finite, got {x[row, column]}; "
            f"{finite.size - int(finite.sum())} cell(s) are NaN or infinite; fill them in or drop the lines"
        )


def _refuse_header_as_sample(columns: _Columns) -> None:
    """A header with numbers in its other cells, such as 0,1,2,species, would pass for a sample."""
    first = columns.targets[0]
    if not columns.header and columns.targets.count(first) == 1:
        raise DataError(
            f"{columns.cell(columns.lines[0], columns.width - 1)} is {first!r}, which no other line has; "
            "where this line is a header, name its columns by words, else drop it: a class needs two samples"
        )


def _numeric_targets(columns: _Columns, task: Task | None) -> Float[np.ndarray, "n"] | None:
    """The targets as numbers, or None where they are names of classes."""
    numbers = [_number(cell) for cell in columns.targets]
    texts = [row for row, number in enumerate(numbers) if number is None]
    last = columns.width - 1
    if texts and (task == "classification" or len(texts) == len(numbers)):
        if task == "regression":
            raise DataError(
                f"{columns.cell(columns.lines[0], last)} must be a number for regression, got "
                f"{columns.targets[0]!r}; load it with task='classification'"
            )
        _refuse_header_as_sample(columns)
        return None
    if texts:
        raise DataError(
            f"{columns.cell(columns.lines[texts[0]], last)} must be a number as other targets are, got "
            f"{columns.targets[texts[0]]!r}; repair it, or load it with task='classification' to read all as "
            "names"
        )
    values = np.array(numbers, dtype=np.float64)
    for row, value in enumerate(numbers):
        if value is not None and not math.isfinite(value):
            raise DataError(f"{columns.cell(columns.lines[row], last)} must be finite, got {value}; drop the line")
    return values
