"""Worker: nngeometry's `GramMatrix`, all samples in one batch.

It computes all pairs of outputs; where a model row asks for a sum over outputs, equal ones are summed afterwards.
"""

# pyright: reportMissingImports=false
# (this worker runs in its peer's own environment)

from __future__ import annotations

import numpy as np
from nngeometry.gram import GramMatrix
from torch import Tensor, nn

from peers import torch_mlp, torch_models
from peers.protocol import serve
from peers.rows import EmpiricalRow, ModelRow, Row


class Gram:
    def __init__(self, row: Row):
        if not isinstance(row, EmpiricalRow | ModelRow):
            raise NotImplementedError("nngeometry has no exact kernels")
        self.row = row
        self.model: nn.Module = torch_models.model(row) if isinstance(row, ModelRow) else torch_mlp.mlp(row)

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        if isinstance(self.model, nn.Sequential) and isinstance(self.row, EmpiricalRow):
            return torch_mlp.stage(self.model, arrays)
        return torch_models.stage(self.model, arrays)

    def compute(self, inputs: Tensor) -> Tensor:
        return GramMatrix(self.model, (inputs,)).to_torch()  # (O, n, O, n)

    def to_numpy(self, result: Tensor) -> np.ndarray:
        kernel = result.detach().permute(1, 3, 0, 2)
        if self.row.outputs == "trace":
            kernel = kernel.diagonal(dim1=2, dim2=3).sum(-1)
        return kernel.numpy()


if __name__ == "__main__":
    serve(Gram, ("nngeometry", "torch"))
