"""What an empirical kernel refuses, and how it says so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit._memory import read_limit
from ntkit.empirical import EmpiricalKernel, empirical_ntk
from ntkit.empirical.network import Network, select_parameters
from ntkit.errors import InvalidInput, MemoryLimitExceeded

pytestmark = pytest.mark.usefixtures("unchecked")


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self.fc, x)


class Hoarder(nn.Module):
    """Holds its weight in a list that no swap of parameters can reach."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.kept = [self.fc.weight]

    def forward(self, x):
        return self.fc(x) + x @ self.kept[0].T


X = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 4), "x1 must hold at least one sample, got an empty batch"),
        ((), "x1 must hold at least one array, got an empty tuple"),
        (torch.tensor(1.0), "x1 must be batched on axis 0, got a single number"),
        (torch.full((3, 4), torch.nan), r"x1 must be finite, got 12 value\(s\) that are NaN or infinite"),
        (X.double(), "x1 must have the model's dtype torch.float32, got torch.float64"),
        (X.half(), "x1 must be float32 or float64, got torch.float16"),
        (
            X.long(),
            "x1 must be floating point, got torch.int64: only a model with an nn.Embedding, or a forward= of your own, "
            "takes integers",
        ),
        (np.array(["a"]), "x1 must be numeric, got dtype <U1"),
        ([[1.0]], "x1 must be a torch tensor or numpy array, or a tuple or dict of them, got list"),
        ((X, X[:2]), r"every leaf of x1 must hold the same number of samples on axis 0, got {'x1\[0\]': 3"),
        (torch.ones(3, 5), "the model cannot be run on samples of this form: mat1 and mat2"),
    ],
)
def test_bad_samples(x, message):
    with pytest.raises(InvalidInput, match=message):
        empirical_ntk(nn.Linear(4, 3), x)


def test_samples_of_different_form():
    with pytest.raises(InvalidInput, match=r"x1 and x2 must agree in everything but the number of samples"):
        empirical_ntk(nn.Linear(4, 3), X, torch.ones(3, 5))
    with pytest.raises(InvalidInput, match=r"got samples \(4,\) torch.float32 and \[0\] \(4,\) torch.float32"):
        empirical_ntk(nn.Linear(4, 3), X, (X,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.ReLU(), "the model must have parameters, got ReLU with none"),
        (
            lambda: nn.Linear(4, 3).requires_grad_(False),
            "must have a parameter that requires grad, all 2 are frozen",
        ),
        (lambda: nn.Linear(4, 3).half(), "the model must be float32, float64 or bfloat16, got torch.float16"),
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3).double()),
            "all parameters must have one dtype",
        ),
        (lambda: nn.LazyLinear(3), "parameter 'weight' has no shape yet; run the model once on a batch"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout()), r"but with 1 \(Dropout\) in training mode"),
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
            r"1 \(BatchNorm1d\).*call model.eval\(\) first",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(),
            r"1 \(BatchNorm1d\) keeps no running statistics",
        ),
        (lambda: Lambda(lambda fc, x: fc(x).detach()), "none of fc.weight, fc.bias reaches it"),
        (
            lambda: Lambda(lambda fc, x: x),
            "none of fc.weight, fc.bias reaches it",
        ),
        (lambda: Lambda(lambda fc, x: (fc(x),)), "the model must give one tensor, got tuple"),
        (
            lambda: Lambda(lambda fc, x: fc(x).sum()),
            r"one row a sample, \(n, outputs\) with n = 1, got shape \(\)",
        ),
        (lambda: Lambda(lambda fc, x: fc(x).T), r"one row a sample, \(n, outputs\) with n = 1, got shape \(3, 1\)"),
        (lambda: Lambda(lambda fc, x: fc(x).double()), "must compute in its parameters' dtype torch.float32"),
        (lambda: Lambda(lambda fc, x: fc(x) / 0), "the model's output must be finite"),
        (lambda: Lambda(lambda fc, x: (fc(x) * 0).sqrt()), "the tangent kernel .* must be finite"),
        (Hoarder, "'fc.weight' is also held elsewhere"),
    ],
)
def test_bad_models(make, message):
    x = X * torch.arange(1.0, 4.0)[:, None]
    with pytest.raises(InvalidInput, match=message):
        empirical_ntk(make(), x)


@pytest.mark.parametrize(
    "mix",
    [
        lambda fc, x: fc(x) - fc(x).mean(0),
        lambda fc, x: torch.dropout(fc(x), 0.5, True),
        lambda fc, x: nn.functional.batch_norm(fc(x), None, None, training=True),
    ],
)
def test_samples_that_depend_on_each_other(mix):
    with pytest.raises(InvalidInput, match=r"samples must be treated independently|cannot be run on samples"):
        empirical_ntk(Lambda(mix), torch.randn(3, 4))


def test_bad_arguments():
    model = nn.Linear(4, 3)
    with pytest.raises(InvalidInput, match="outputs must be one of 'full', 'diagonal', 'trace', 'mean', got 'sum'"):
        EmpiricalKernel(model, outputs="sum")
    with pytest.raises(InvalidInput, match=r"'b\*x' matches none of the model's parameters, weight, bias"):
        EmpiricalKernel(model, parameters=["weight", "b*x"])
    with pytest.raises(InvalidInput, match=r"parameters must name at least one parameter"):
        EmpiricalKernel(model, parameters=[])
    with pytest.raises(InvalidInput, match=r"model must be a torch\.nn.Module, got function"):
        EmpiricalKernel(lambda x: x)
    with pytest.raises(InvalidInput, match="memory_limit must be a positive number of bytes, such as 4e9, got 0"):
        EmpiricalKernel(model, memory_limit=0)


def test_a_result_too_large_is_refused_before_it_is_allocated():
    kernel = EmpiricalKernel(nn.Linear(4, 3), memory_limit=300)
    with pytest.raises(MemoryLimitExceeded, match=r"shape \(3, 3, 3, 3\), needs 324 B, but 300 B is the memory limit"):
        kernel.ntk(X)
    with pytest.raises(MemoryLimitExceeded, match=r'"trace" or fewer samples, raise memory_limit, or use NTKOperator'):
        kernel.ntk(X)
    huge = torch.ones(1, 4).expand(10_000_000, 4)
    with pytest.raises(MemoryLimitExceeded, match=r"take outputs=.trace. or fewer samples"):
        empirical_ntk(nn.Linear(4, 3), huge)


def test_a_sample_too_large_is_refused():
    model = nn.Conv2d(3, 64, 3)
    with pytest.raises(MemoryLimitExceeded, match=r"one output at one sample need .* raise memory_limit"):
        empirical_ntk(model, torch.ones(2, 3, 5, 5), outputs="trace", memory_limit=4_000)


class Compiled(nn.Module):
    """What autograd says of a model compiled ahead of time."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("This backward function was compiled with non-empty donated buffers\nand more")

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.Once.apply(self.fc(x))


def test_models_that_autograd_cannot_differentiate():
    def overwritten(fc, x):
        h = fc(x).exp()
        h.add_(1)
        return h

    with pytest.raises(InvalidInput, match=r"differentiable .* modified by an inplace operation.*write h = h \+ 1"):
        empirical_ntk(Lambda(overwritten), torch.randn(3, 4))
    with pytest.raises(InvalidInput, match=r"donated buffers; give the module as it was before torch\.compile"):
        empirical_ntk(Compiled(), torch.randn(3, 4))


def test_what_cannot_be_read_is_said_so():
    model, x = nn.Linear(4, 3), torch.randn(3, 4)
    with pytest.raises(InvalidInput, match="x1 must be a dense tensor, got a nested one"):
        empirical_ntk(model, torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged))
    with pytest.raises(InvalidInput, match="cannot be run on samples of this form: index out of range"):
        empirical_ntk(nn.Embedding(3, 2), torch.tensor([[5], [1]]))
    with pytest.raises(InvalidInput, match=r"got dtype >f4; convert it with x\.astype"):
        empirical_ntk(model, x.numpy().astype(">f4"))
    for patterns in (3, [3]):
        with pytest.raises(InvalidInput, match=r"parameters must be names or glob patterns, .* got \[?3"):
            select_parameters(model, patterns)
    with pytest.raises(InvalidInput, match=r"groups must be a mapping such as .*, got list"):
        Network(model, None, None, groups=["a"])
    with pytest.raises(InvalidInput, match="forward must be a function of the model and x, got str"):
        Network(model, None, "model(x)")
    for limit in ("1GB", True, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="memory_limit must be a positive number of bytes, such as 4e9, got"):
            read_limit(limit)
    assert read_limit(4e9) == 4_000_000_000
    assert read_limit(None) is None


def test_named_tuples_keep_their_names():
    class Pair(NamedTuple):
        a: torch.Tensor
        b: torch.Tensor

    model, x = nn.Linear(4, 3), Pair(torch.randn(3, 4), torch.randn(3, 4))
    kernel = EmpiricalKernel(model, forward=lambda fc, pair: fc(pair.a) + pair.b[:, :3])
    assert torch.equal(kernel.ntk(x), empirical_ntk(model, x.a))


def test_centred_kernels_that_rounding_has_eaten():
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 2))
    x = 1 + 1e-3 * torch.randn(6, 20)
    kernel = EmpiricalKernel(model, outputs="trace")
    for normalized in (False, True):
        with pytest.raises(InvalidInput, match=r"less than three digits; take model\.double\(\) and x\.double\(\)"):
            kernel.ntk(x, centered=True, normalized=normalized)
    with pytest.raises(InvalidInput, match="less than three digits"):
        kernel.ntk(x[:3], x[3:], centered=True)
    assert not kernel.ntk(x[:1], centered=True).any()  # the mean of one is itself
    precise = EmpiricalKernel(model.double(), outputs="trace")
    features = ntkit.gradient_features(model, x.double())
    centred = features - features.mean(0)
    expected = torch.einsum("nop,mop->nm", centred, centred)
    assert torch.allclose(precise.ntk(x.double(), centered=True), expected, rtol=0, atol=1e-6 * float(expected.max()))
