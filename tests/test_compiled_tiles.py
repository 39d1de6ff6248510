"""Products of small matrices within compiled loops, beside numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkit.infinite.compiled import cache, tiles
from ntkit.infinite.compiled.machine import OPTIONS

SIZE = st.integers(1, 70)


@cache.kept(**OPTIONS)
def product(c, to, a, left, b, right, rows, columns, depth):
    tiles.multiply(c, to, a, left, b, right, rows, columns, depth)


def arrays(rows, columns, depth, dtype, offset):
    """(c, a, b), each with a rim of `offset` around what is multiplied; small whole numbers, so that sums are exact."""
    rng = np.random.default_rng(rows + 100 * columns + 10_000 * depth)
    sizes = (rows, columns), (rows, depth), (depth, columns)
    return [rng.integers(-4, 5, (n + 2 * offset, m + 2 * offset)).astype(dtype) for n, m in sizes]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None)  # the first example compiles
@given(rows=SIZE, columns=SIZE, depth=st.integers(0, 70), offset=st.integers(0, 3))
def test_products_of_any_size_in_any_place(rows, columns, depth, offset, dtype, turned):
    c, a, b = arrays(rows, columns, depth, dtype, offset)
    inner = np.s_[offset : offset + rows, offset : offset + columns]
    wanted = c.copy()
    wanted[inner] = a[offset : offset + rows, offset : offset + depth] @ b[offset : offset + depth, inner[1]]
    at = (offset, offset)
    product(c, at, np.ascontiguousarray(a.T).T if turned else a, at, b, at, rows, columns, depth)
    np.testing.assert_array_equal(c, wanted)  # and the rim is left alone
