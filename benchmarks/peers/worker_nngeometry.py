"""Worker: nngeometry's `GramMatrix`, all samples in one batch."""

# pyright: reportMissingImports=false
# (this worker runs in its peer's own environment)

from __future__ import annotations

import numpy as np
from nngeometry.gram import GramMatrix
from torch import Tensor

from peers.protocol import serve
from peers.rows import EmpiricalRow, Row
from peers.torch_mlp import mlp, stage


class Gram:
    def __init__(self, row: Row):
        if not isinstance(row, EmpiricalRow):
            raise NotImplementedError("nngeometry has no exact kernels")
        if row.outputs == "trace" and row.n_outputs > 1:
            raise NotImplementedError("nngeometry computes all pairs of outputs, not their trace")
        self.row, self.model = row, mlp(row)

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return stage(self.model, arrays)

    def compute(self, inputs: Tensor) -> Tensor:
        return GramMatrix(self.model, (inputs,)).to_torch()  # (O, n, O, n)

    def to_numpy(self, result: Tensor) -> np.ndarray:
        kernel = result.detach().permute(1, 3, 0, 2).numpy()
        return kernel[:, :, 0, 0] if self.row.outputs == "trace" else kernel


if __name__ == "__main__":
    serve(Gram, ("nngeometry", "torch"))
