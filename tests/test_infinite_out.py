"""Kernels written into arrays of the caller: where they belong, or a clear refusal."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit import _memory
from ntkit.errors import InvalidInput, MemoryLimitExceeded
from ntkit.infinite import Kernels, inputs


def data(n=5, d=4, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_kernel():
    return ntkit.InfiniteKernel(nn.Sequential(ntkit.nn.Linear(4, 8, 1.3, 0.2), nn.ReLU(), ntkit.nn.Linear(8, 1, 1.1)))


class Heads(nn.Module):
    """Two outputs in a dict, a tuple or a list."""

    def __init__(self, arrange):
        super().__init__()
        self.body, self.one, self.two = ntkit.nn.Linear(4, 8), ntkit.nn.Linear(8, 1), ntkit.nn.Linear(8, 1, 2.0)
        self.arrange = arrange

    def forward(self, x):
        h = self.body(x)
        return self.arrange(self.one(h), self.two(torch.relu(h)))


ARRANGED = {
    "dict": lambda one, two: {"one": one, "two": two},
    "tuple": lambda one, two: (one, two),
    "list": lambda one, two: [one, two],
}


def empty(*shape, **options):
    return torch.full(shape, torch.nan, **({"dtype": torch.float64} | options))


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("name", ARRANGED)
def test_several_outputs_are_written_where_they_belong(name, engine):
    kernel, x = ntkit.InfiniteKernel(Heads(ARRANGED[name])), data()
    expected = kernel(x, engine=engine)
    out = ARRANGED[name](Kernels(empty(5, 5), empty(5, 5)), Kernels(empty(5, 5), empty(5, 5)))
    given = dict(reversed(out.items())) if isinstance(out, dict) else out
    returned = kernel(x, out=given, engine=engine)
    assert type(returned) is type(out)
    for key in out if isinstance(out, dict) else (0, 1):
        for which in ("nngp", "ntk"):
            assert getattr(returned[key], which) is getattr(out[key], which)
            assert torch.equal(getattr(out[key], which), getattr(expected[key], which))


OUT = {
    "too few": ("tuple", lambda: (empty(5, 5),), "a tuple of one result for each .* 2 outputs, got 1 in a tuple"),
    "one array": ("list", lambda: empty(5, 5), "out must be a list of one result .*got Tensor"),
    "a list": ("dict", lambda: [empty(5, 5)] * 2, r"a dict with the keys .*\['one', 'two'\], got 2 in a list"),
    "other keys": ("dict", lambda: {"one": empty(5, 5), "2": empty(5, 5)}, r"got the keys \['one', '2'\]"),
    "shape": ("one", lambda: empty(5, 4), r"out \(ntk\) must have shape \(5, 5\), got \(5, 4\)"),
    "dtype": ("one", lambda: empty(5, 5, dtype=torch.float32), r"out \(ntk\) must be float64, got float32; give an"),
    "kind": ("one", lambda: np.zeros((5, 5)), "must be a torch tensor like x1, got ndarray"),
    "grad": ("one", lambda: empty(5, 5, requires_grad=True), "on cpu without gradients, got one that requires grad"),
    "device": ("one", lambda: empty(5, 5, device="meta"), "a tensor on cpu without gradients, got one on meta"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUT)
def test_what_cannot_be_written_into_is_refused(unchecked, name):
    arranged, make, text = OUT[name]
    kernel = plain_kernel() if arranged == "one" else ntkit.InfiniteKernel(Heads(ARRANGED[arranged]))
    with pytest.raises(InvalidInput, match=text):
        kernel.ntk(data(), out=make())


def test_both_kernels_are_written_into_kernels_of_arrays_that_allow_it(unchecked):
    with pytest.raises(InvalidInput, match=r"out must be ntkit.infinite.Kernels\(nngp, ntk\) of arrays, got Tensor"):
        plain_kernel()(data(), out=empty(5, 5))
    fixed = np.zeros((5, 5))
    fixed.flags.writeable = False
    with pytest.raises(InvalidInput, match=r"out \(nngp\) cannot be written; open it in a mode that allows it"):
        plain_kernel().nngp(data().numpy(), out=fixed)


def _with_gradients(seed=0):
    return data(seed=seed).requires_grad_()


GRADIENTS = {
    "x1": (lambda: (_with_gradients(),), r"but x1 requires grad; leave out= away .* or pass x1.detach\(\)$"),
    "x1 of two": (lambda: (_with_gradients(), data(seed=1)), r"but x1 requires grad; .* or pass x1.detach\(\)$"),
    "x2": (lambda: (data(), _with_gradients(1)), r"but x2 requires grad; .* or pass x2.detach\(\)$"),
    "both": (
        lambda: (_with_gradients(), _with_gradients(1)),
        r"but x1 and x2 require grad; .* or pass x1.detach\(\) and x2.detach\(\)$",
    ),
}


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_not_lost_in_silence(name, engine):
    make, text = GRADIENTS[name]
    x, kernel, out = make(), plain_kernel(), Kernels(empty(5, 5), empty(5, 5))
    calls = [(kernel, out), (kernel.ntk, out.ntk), (kernel.nngp, out.nngp)]
    for call, place in calls:
        with pytest.raises(InvalidInput, match="^out= takes inputs without gradients, .*" + text):
            call(*x, out=place, engine=engine)
    assert torch.isnan(out.ntk).all(), "something was written before the refusal"


def test_out_is_written_where_gradients_are_turned_off_or_detached():
    kernel, x = plain_kernel(), _with_gradients()
    expected = kernel.ntk(x, engine="torch").detach()
    out = empty(5, 5)
    with torch.no_grad():
        assert kernel.ntk(x, out=out, engine="torch") is out
    assert torch.equal(out, expected)
    assert torch.equal(kernel.ntk(x.detach(), out=empty(5, 5), engine="torch"), expected)


def test_torch_needs_its_own_memory_beside_out(monkeypatch):
    monkeypatch.setattr(_memory, "_machine_available", lambda: 1_000)
    x, out = data(12), empty(12, 12)
    plain_kernel().ntk(x, out=out, engine="numba")
    with pytest.raises(MemoryLimitExceeded, match=r"needs 1.12 KiB"):
        plain_kernel().ntk(x, out=out, engine="torch")


# ---- memory that is not its own --------------------------------------------------------------------------------------


def overlapping() -> dict[str, tuple[np.ndarray, Any, str]]:
    x, both = np.random.default_rng(0).normal(size=(4, 4)), np.zeros((8, 4))
    thin = np.lib.stride_tricks.as_strided(both, (4, 4), (8, 8))
    message = "out ({}) must be memory of its own, but it overlaps {}"
    return {
        "the input": (x, Kernels(np.zeros((4, 4)), x), message.format("ntk", "x1")),
        "one another": (x, Kernels(both[:4], both[3:7]), message.format("ntk", "out (nngp)")),
        "itself": (x, Kernels(thin, np.zeros((4, 4))), message.format("nngp", "itself")),
    }


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("case", ["the input", "one another", "itself"])
def test_overlapping_memory_is_refused(case, engine):
    x, out, message = overlapping()[case]
    kernel = ntkit.InfiniteKernel(ntkit.nn.Linear(4, 1))
    with pytest.raises(InvalidInput, match=re.escape(message)):
        kernel(x, out=out, engine=engine)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_interleaved_memory_is_its_own(engine):
    x, both = np.random.default_rng(0).normal(size=(4, 4)), np.zeros((8, 4))
    kernel = ntkit.InfiniteKernel(ntkit.nn.Linear(4, 1))
    kernel(x, out=Kernels(both[::2], both[1::2]), engine=engine)
    np.testing.assert_allclose(both[::2], kernel.nngp(x))
    np.testing.assert_allclose(both[1::2], kernel.ntk(x))


def test_on_tile_has_to_be_a_function():
    with pytest.raises(InvalidInput, match="on_tile must be a function of two slices"):
        inputs.check_on_tile(5)  # the kernel's own method is type-checked under test


# ---- scales ----------------------------------------------------------------------------------------------------------


def steep() -> ntkit.InfiniteKernel:
    layers = [layer for _ in range(9) for layer in (ntkit.nn.Linear(4, 4, w_std=1e3), torch.nn.ReLU())]
    return ntkit.InfiniteKernel(torch.nn.Sequential(*layers, ntkit.nn.Linear(4, 1)))


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_what_overflows_is_an_error_and_nothing_is_written(engine):
    x, out = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), np.full((3, 3), 7, dtype=np.float32)
    with pytest.raises(InvalidInput, match=r"must fit into float32, but some overflow; .* pass x\.double"):
        steep().ntk(x, out=out, engine=engine)
    assert (out == 7).all()
    for compute in (steep().diagonal, steep().ntk):  # results in float64 do not hide what was computed in float32
        for out_dtype in (np.float32, np.float64) if engine == "numba" else (np.float32,):
            with pytest.raises(InvalidInput, match="must fit into float32, but some overflow"):
                compute(x, engine=engine, out_dtype=out_dtype)
    assert np.isfinite(steep().ntk(x.astype(np.float64), engine=engine)).all()


def flattened() -> ntkit.InfiniteKernel:
    conv = ntkit.nn.Conv2d(2, 8, 3, padding=1, w_std=2**0.5)
    return ntkit.InfiniteKernel(torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), ntkit.nn.Linear(72, 1)))


def test_images_that_overflow_in_float32_are_an_error_too():
    layers = [layer for _ in range(9) for layer in (ntkit.nn.Conv2d(2, 2, 3, padding=1, w_std=1e3), torch.nn.ReLU())]
    x = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    for head in ([torch.nn.Flatten()], [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]):
        features = 18 if len(head) == 1 else 2
        kernel = ntkit.InfiniteKernel(torch.nn.Sequential(*layers, *head, ntkit.nn.Linear(features, 1)))
        for compute in (kernel.diagonal, kernel.ntk):
            for out_dtype in (np.float32, np.float64):
                with pytest.raises(InvalidInput, match=r"must fit into float32, but some overflow; .* pass x\.double"):
                    compute(x, engine="numba", out_dtype=out_dtype)
        assert np.isfinite(kernel.ntk(x.astype(np.float64), engine="numba")).all()


@pytest.mark.parametrize("scale", [1e-25, 1e-5, 1e3, 1e7, 1e18])
def test_float32_images_of_any_scale_keep_their_accuracy(scale):
    images = np.random.default_rng(1).normal(size=(2, 2, 3, 3))
    wanted = flattened().ntk(images)
    got = flattened().ntk((images * scale).astype(np.float32), out_dtype=np.float64)
    np.testing.assert_allclose(got / scale / scale, wanted, rtol=2e-5)
    if scale <= 1e7:
        uneven = (images * np.array([1.0, scale])[:, None, None, None]).astype(np.float32)
        if scale >= 1e-7:
            assert abs(flattened().ntk(uneven)[0, 1] / scale / wanted[0, 1] - 1) < 2e-5


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("single", [True, False])
def test_images_of_hopelessly_different_scales_are_refused(single, engine):
    images = np.random.default_rng(1).normal(size=(2, 2, 3, 3))
    images[1] *= 1e9
    with pytest.raises(InvalidInput, match=r"root mean squares of images must lie within a factor of 1e\+08"):
        flattened().ntk(images.astype(np.float32) if single else images, engine=engine)
