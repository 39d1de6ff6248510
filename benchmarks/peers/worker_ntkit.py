"""Worker: ntkit. Also measures the machine's matrix multiplication, which the limits are taken from."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ntkit
from peers import torch_models
from peers.protocol import Task, serve
from peers.rows import EmpiricalRow, ExactRow, ModelRow, Row
from peers.torch_mlp import mlp, stage
from peers.torch_networks import network


class Exact:
    """`InfiniteKernel(model).ntk(x)`; the model is read when the row is prepared."""

    def __init__(self, row: ExactRow):
        self.kernel = ntkit.InfiniteKernel(network(row.network, row.shape))

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(arrays["x"])

    def compute(self, inputs: Tensor) -> Any:
        return self.kernel.ntk(inputs)

    def to_numpy(self, result: Tensor) -> np.ndarray:
        return result.numpy()


class Empirical:
    """`empirical_ntk(model, x, outputs=…)`."""

    model: nn.Module
    row: EmpiricalRow | ModelRow

    def __init__(self, row: EmpiricalRow):
        self.model, self.row = mlp(row), row

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return stage(self.model, arrays)

    def compute(self, inputs: Tensor) -> Any:
        return ntkit.empirical_ntk(self.model, inputs, outputs=self.row.outputs)

    def to_numpy(self, result: Tensor) -> np.ndarray:
        return result.numpy()


class Model(Empirical):
    """The same of a whole model."""

    def __init__(self, row: ModelRow):
        self.model, self.row = torch_models.model(row), row

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return torch_models.stage(self.model, arrays)


def prepare(row: Row) -> Task:
    match row:
        case ExactRow():
            return Exact(row)
        case EmpiricalRow():
            return Empirical(row)
        case ModelRow():
            return Model(row)
    raise NotImplementedError(f"ntkit has no rows of the kind {row.kind!r}")


def peak(size: int = 3072, tries: int = 5) -> float:
    """GFLOP/s of the fastest of several (size, size) float32 products, by MKL or by oneDNN."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for multiply in (lambda: torch.mm(a, b.T), lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")):
        multiply()
        for _ in range(tries):
            start = time.perf_counter()
            multiply()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


if __name__ == "__main__":
    serve(prepare, ("ntkit", "torch"), peak)
