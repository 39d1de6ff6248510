"""Worker: ntkit. Also measures the machine's matrix multiplication, which the limits are taken from."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ntkit
from peers.protocol import Task, serve
from peers.rows import B_STD, W_STD, Row
from peers.torch_mlp import mlp, stage

ACTIVATIONS = {"relu": nn.ReLU, "erf": ntkit.nn.Erf, "gelu": nn.GELU}


class Exact:
    """`InfiniteKernel(model).ntk(x)`; the model is read when the row is prepared."""

    def __init__(self, row: Row):
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((row.d, *[1] * row.depth, 1)):  # hidden widths do not enter the limit
            layers += [ntkit.nn.Linear(fan_in, fan_out, W_STD, B_STD), ACTIVATIONS[row.activation]()]
        self.kernel = ntkit.InfiniteKernel(nn.Sequential(*layers[:-1]))

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(arrays["x"])

    def compute(self, inputs: Tensor) -> Any:
        return self.kernel.ntk(inputs)

    def to_numpy(self, result: Tensor) -> np.ndarray:
        return result.numpy()


class Empirical:
    """`empirical_ntk(model, x, outputs=…)`."""

    def __init__(self, row: Row):
        self.model, self.row = mlp(row), row

    def stage(self, arrays: dict[str, np.ndarray]) -> Tensor:
        return stage(self.model, arrays)

    def compute(self, inputs: Tensor) -> Any:
        return ntkit.empirical_ntk(self.model, inputs, outputs=self.row.outputs)

    def to_numpy(self, result: Tensor) -> np.ndarray:
        return result.numpy()


def prepare(row: Row) -> Task:
    return Exact(row) if row.kind == "exact" else Empirical(row)


def peak(size: int = 3072, tries: int = 5) -> float:
    """GFLOP/s of the fastest of several (size, size) float32 products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:]) / 1e9


if __name__ == "__main__":
    serve(prepare, ("ntkit", "torch"), peak)
