"""Products of rows, x yᵀ, on CPUs.

In float32 by oneDNN, which torch brings: on processors of other makers than its own, MKL leaves half of their vector
units idle (twice the time on a Zen 5 with AVX-512).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

_WORTH_A_LIBRARY = 1_000_000  # multiplications: fewer are done before another library's form of x is made


def row_products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The products of all rows, (n, d) and (m, d) to (n, m), in their dtype."""
    left, right = torch.from_numpy(x), torch.from_numpy(y)
    if left.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return _by_onednn(left, right).numpy()
    return torch.mm(left, right.T).numpy()


def float32_products_are_exact() -> bool:
    """Whether torch computes float32 products in float32, which its user may have allowed it not to do."""
    backends: Any = torch.backends
    settings = [place.fp32_precision for place in (backends.mkldnn.matmul, backends.mkldnn, backends)]
    return next((setting for setting in settings if setting != "none"), "ieee") == "ieee"


def products_of_rows(x: Float[Tensor, "*b n d"], y: Float[Tensor, "*b m d"]) -> Float[Tensor, "*b n m"]:
    """x yᵀ, by the faster library where both do."""
    plain = x.dim() == 2 and x.device.type == "cpu" and x.dtype == torch.float32
    if not plain or x.shape[0] * y.shape[0] * x.shape[1] < _WORTH_A_LIBRARY or not torch.backends.mkldnn.is_available():
        return x @ y.mT
    return _by_onednn(x.contiguous(), y)


def _by_onednn(x: Tensor, y: Tensor) -> Tensor:
    return linear(x.to_mkldnn(), y).to_dense()
