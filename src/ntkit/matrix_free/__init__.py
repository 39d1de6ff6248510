"""Symmetric matrices that are known by their products alone: a function v (N, k) -> A v (N, k), nothing of networks.

`products.py` watches over such a function; `traces.py` estimates trace and diagonal, with error bars;
`krylov.py` solves (A + ridge I) x = b, `preconditioner.py` makes that quick where eigenvalues decay.
"""

from ntkit.matrix_free.krylov import Solution, conjugate_gradients
from ntkit.matrix_free.preconditioner import (
    NystromPreconditioner,
    RepeatedPreconditioner,
    nystrom_preconditioner,
    repeated_preconditioner,
)
from ntkit.matrix_free.products import Product
from ntkit.matrix_free.traces import Estimate, xdiag, xtrace

__all__ = [
    "Estimate",
    "NystromPreconditioner",
    "Product",
    "RepeatedPreconditioner",
    "Solution",
    "conjugate_gradients",
    "nystrom_preconditioner",
    "repeated_preconditioner",
    "xdiag",
    "xtrace",
]
