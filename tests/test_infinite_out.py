"""Kernels written into arrays of the caller: where they belong, or a clear refusal."""

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit import _memory
from ntkit.errors import InvalidInput, MemoryLimitExceeded
from ntkit.infinite import Kernels


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
