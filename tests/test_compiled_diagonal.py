"""Networks without pooling in the compiled engine: equal positions only, in tiles of neighbouring samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit.infinite.compiled import diagonal, samples, threads
from ntkit.infinite.compiled.interpreter import interpreter_of
from ntkit.infinite.compiled.lanes import SIDE
from ntkit.infinite.compiled.pooling import windowed
from ntkit.infinite.placement import Placement
from ntkit.infinite.program import Window

CONVS = {1: ntkit.nn.Conv1d, 2: ntkit.nn.Conv2d, 3: ntkit.nn.Conv3d}


class Branches(nn.Module):
    """Two branches whose means meet, for the product of means."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(2, 3, padding=1), conv(2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.first(x)) + 0.5 * torch.relu(self.second(x))


def conv(inputs: int, kernel: int, rank: int = 2, **more: Any) -> nn.Module:
    return CONVS[rank](inputs, 8, kernel, w_std=1.3, b_std=0.2, **more)


def same(*sample: int, rank: int = 2, **more: Any) -> tuple[nn.Module, tuple[int, ...]]:
    """Two layers of 3-wide windows that keep the size."""
    one, two = (conv(inputs, 3, rank, padding=1, **more) for inputs in (sample[0], 8))
    return nn.Sequential(one, nn.ReLU(), two), sample


NEIGHBOURS = {  # 3 × 3 windows on images: a strip is 64 positions, so parts of a row, whole rows, and several
    "a row longer than a strip": same(2, 3, 70),
    "two strips a row": same(1, 2, 128),
    "rows across strips": same(2, 7, 13),
    "one row": same(3, 1, 9),
    "one column": same(2, 9, 1),
    "one position a side": same(2, 2, 2),
    "means": (nn.Sequential(Branches(), conv(8, 3, padding=1)), (2, 5, 6)),
}
OTHERS = {
    "one axis": same(2, 11, rank=1),
    "three axes": same(2, 3, 4, 5, rank=3),
    "circular": same(2, 5, 4, padding_mode="circular"),
    "valid": (nn.Sequential(conv(2, 3), nn.ReLU(), conv(8, (3, 1))), (2, 6, 7)),
    "stride": (nn.Sequential(conv(2, 3, padding=1, stride=2), nn.ReLU(), conv(8, 3, padding=1)), (2, 7, 9)),
    "dilation": (nn.Sequential(conv(2, 3, padding=2, dilation=2), nn.ReLU(), conv(8, 5, padding=2)), (2, 6, 5)),
}
NETWORKS = {**NEIGHBOURS, **OTHERS}


def case(name: str) -> tuple[ntkit.InfiniteKernel, tuple[int, ...]]:
    body, sample = NETWORKS[name]
    with torch.no_grad():
        width = body(torch.zeros(1, *sample)).numel()
    model = nn.Sequential(body, nn.ReLU(), nn.Flatten(), ntkit.nn.Linear(width, 1, w_std=1.1, b_std=0.1))
    return ntkit.InfiniteKernel(model), sample


def data(n: int, sample: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, *sample, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def runner_of(kernel: ntkit.InfiniteKernel, sample: tuple[int, ...], dtype: str = "float64") -> Any:
    return interpreter_of(Placement(kernel.program, sample), dtype, True, kernel.tolerance).spatial.diagonal  # pyright: ignore


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_the_torch_interpreter(name, dtype, tolerance):
    kernel, sample = case(name)
    x1, x2 = data(6, sample, 0, dtype), data(5, sample, 1, dtype)
    assert runner_of(kernel, sample) is not None
    for second in (None, x2):
        expected = kernel(x1.double(), None if second is None else second.double(), engine="torch")
        found = kernel(x1, second, engine="numba")
        for one, two in ((found.nngp, expected.nngp), (found.ntk, expected.ntk)):
            torch.testing.assert_close(one.double(), two, rtol=0, atol=tolerance * float(two.abs().max()))
    expected, found = kernel.diagonal(x1.double(), engine="torch"), kernel.diagonal(x1, engine="numba")
    torch.testing.assert_close(found.ntk.double(), expected.ntk, rtol=tolerance, atol=0)


@pytest.mark.parametrize("n", range(1, 2 * SIDE + 2))
def test_any_number_of_samples(n):
    kernel, sample = case("rows across strips")
    x = data(2 * SIDE + 1, sample)
    whole = kernel.ntk(x, engine="numba")
    torch.testing.assert_close(kernel.ntk(x[:n], engine="numba"), whole[:n, :n], rtol=1e-14, atol=0)
    torch.testing.assert_close(kernel.ntk(x, x[:n], engine="numba"), whole[:, :n], rtol=1e-14, atol=0)
    torch.testing.assert_close(kernel.diagonal(x[:n], engine="numba").ntk, whole.diagonal()[:n], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_three_by_three_windows_are_found_and_no_others(name):
    kernel, sample = case(name)
    widths = set(runner_of(kernel, sample).windows[:, diagonal.WIDTH].tolist())
    strided = {0, 5}  # 9 columns, then an ordinary window on 5
    assert widths == ({sample[-1]} if name in NEIGHBOURS else strided if name == "stride" else {0})


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_windows_give_the_same_by_neighbours_and_by_taps(name):
    kernel, sample = case(name)
    x = data(5, sample, 2).numpy()
    interpreter = interpreter_of.__wrapped__(Placement(kernel.program, sample), "float64", True, kernel.tolerance)
    runner, blocks = interpreter.spatial.diagonal, interpreter.states(x).packed["main"]
    by_neighbours = runner.matrices(blocks, blocks, True)
    runner.windows[:, diagonal.WIDTH] = 0
    np.testing.assert_allclose(by_neighbours, runner.matrices(blocks, blocks, True), rtol=1e-12, atol=1e-15)


def test_networks_with_pooling_have_no_such_runner():
    pooled = nn.Sequential(conv(2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), ntkit.nn.Linear(8 * 4, 1))
    assert runner_of(ntkit.InfiniteKernel(pooled), (2, 6, 6)) is None


def test_a_pool_of_one_position_before_an_activation():
    """Only equal positions are needed, and yet each sample's own distances within the pool's window are."""
    last = (ntkit.nn.Linear(8, 4), nn.ReLU(), ntkit.nn.Linear(4, 1))
    model = nn.Sequential(conv(2, 1, rank=1), nn.ReLU(), nn.AvgPool1d(1, 2), nn.Flatten(), *last)
    kernel, x = ntkit.InfiniteKernel(model), data(5, (2, 2))
    assert runner_of(kernel, (2, 2)) is None
    torch.testing.assert_close(kernel.ntk(x, engine="numba"), kernel.ntk(x, engine="torch"), rtol=1e-12, atol=0)


# ---- what is known of samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_squares(dtype):
    values, means = np.random.default_rng(0).standard_normal((5, 3, 7)).astype(dtype), np.empty((7, 5))
    samples.mean_squares(values, np.empty(7), means)
    np.testing.assert_allclose(means, (values.astype(np.float64) ** 2).mean(1).T, rtol=1e-15)


def test_mean_squares_are_float64_where_float32_overflows():
    values, means = np.full((1, 1, 1), 1e30, dtype=np.float32), np.empty((1, 1))
    samples.mean_squares(values, np.empty(1), means)
    assert means[0, 0] == pytest.approx(1e60)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_blocks_are_filled_up_with_the_last_sample(n):
    values, blocks = np.random.default_rng(1).standard_normal((3, n)), np.zeros((-(-n // SIDE), 5, SIDE), np.float32)
    samples.put_in_blocks(values, blocks, 2)
    order = np.minimum(np.arange(len(blocks) * SIDE), n - 1)
    expected = values[:, order].reshape(3, len(blocks), SIDE).transpose(1, 0, 2)
    np.testing.assert_array_equal(blocks[:, 2:], expected.astype(np.float32))
    assert not blocks[:, :2].any()


@pytest.mark.parametrize("name", ["rows across strips", "circular", "stride", "dilation", "three axes", "valid"])
def test_means_over_windows(name):
    kernel, sample = case(name)
    placement = Placement(kernel.program, sample)
    for op in placement.program.instructions:
        if isinstance(op, Window) and placement.positions(op.source) > 1:
            grid = placement.grids[op.source]
            values = np.random.default_rng(2).standard_normal((*grid, 3))
            expected = values
            for k, (axis, n) in enumerate(zip(op.axes, grid, strict=True)):
                expected = np.moveaxis(np.tensordot(axis.counts(n), expected, axes=(1, k)), 0, k)
            found = windowed(op, values.reshape(-1, 3), grid)
            np.testing.assert_allclose(found, expected.reshape(-1, 3) / op.taps, rtol=1e-12, atol=1e-14)


# ---- how the work is shared out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 91, 5000])
def test_parts_cover_everything_once_and_end_small(n, cores):
    found = threads.parts(n, 64, cores)
    assert [k for part in found for k in range(part.start, part.stop)] == list(range(n))
    sizes = [part.stop - part.start for part in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= 64 for size in sizes)
    assert not sizes or sizes[-1] == 1
