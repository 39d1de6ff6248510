"""Blocks of pairs of samples, and matrices put together of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Block = tuple[slice, slice]  # rows and columns


def blocks_of(n: int, m: int, pairs: int, symmetric: bool, multiple: int = 1) -> list[Block]:
    """Blocks of so many pairs: squares on and above the diagonal where symmetry is used, else long rows.

    Args:
        n: rows.
        m: columns.
        pairs: of a block, at most, but for what `multiple` asks.
        symmetric: whether the half on and above the diagonal is enough.
        multiple: widths are multiples of it, but at the edge.
    """
    width = max(1, int(pairs**0.5)) if symmetric else min(m, pairs)
    width = -(-width // multiple) * multiple
    height = width if symmetric else max(1, pairs // width)
    rows = [slice(i, min(i + height, n)) for i in range(0, n, height)]
    columns = [slice(j, min(j + width, m)) for j in range(0, m, width)]
    return [(r, c) for r in rows for c in columns if not symmetric or c.start >= r.start]


def store(wholes: Sequence[Tensor | None], parts: Sequence[Tensor | None], block: Block, symmetric: bool) -> None:
    """Puts parts of matrices in their place, and in the mirrored one."""
    rows, columns = block
    for whole, part in zip(wholes, parts, strict=True):
        if whole is None or part is None:
            continue
        if symmetric and rows == columns:  # a matrix product need not be symmetric to the last digit
            part = part.triu() + part.triu(1).T
        whole[rows, columns] = part
        if symmetric and columns.start > rows.start:
            whole[columns, rows] = part.T
