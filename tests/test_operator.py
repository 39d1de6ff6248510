"""NTKOperator and Tangent against the dense Jacobian."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.autograd.function import once_differentiable

import ntkit
from expansion_models import Lstm
from ntkit import NTKOperator
from ntkit.empirical.operator import Tangent
from ntkit.errors import InvalidInput, MemoryLimitExceeded, NtkitError


def dense_jacobian(model, x):
    """(n·o, p) by one backward pass an output: nothing of ntkit."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for value in model(x).flatten():
        grads = torch.autograd.grad(value, parameters, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.fixture
def model():
    return torch.nn.Sequential(
        torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3)
    ).double()


@pytest.fixture
def x():
    return torch.randn(5, 4, dtype=torch.float64)


def test_products_and_dense_form_match_the_jacobian(model, x):
    jacobian = dense_jacobian(model, x)
    wanted = jacobian @ jacobian.T
    operator = ntkit.NTKOperator(model, x)
    v = torch.randn(15, dtype=torch.float64)
    torch.testing.assert_close(operator @ v, wanted @ v, rtol=1e-10, atol=1e-10)
    block = torch.randn(15, 2, dtype=torch.float64)
    torch.testing.assert_close(operator @ block, wanted @ block, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(operator @ v.numpy(), (wanted @ v).numpy(), rtol=1e-10)
    torch.testing.assert_close(operator.to_dense(), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.diagonal(), wanted.diagonal(), rtol=1e-10, atol=1e-10)
    assert operator.trace() == pytest.approx(float(wanted.trace()), rel=1e-10)
    assert operator.n_samples == 5


def test_scipy_takes_it(model, x):
    operator = ntkit.NTKOperator(model, x)
    largest = eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0]
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(operator.to_dense())[-1]), rel=1e-9)


def test_later_training_does_not_reach_it(model, x):
    operator = ntkit.NTKOperator(model, x)
    v = torch.ones(15, dtype=torch.float64)
    before, dense = operator @ v, operator.to_dense()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(operator @ v, before)
    assert torch.equal(operator.to_dense(), dense)


def test_a_wrong_length_says_what_is_wanted(model, x, unchecked):
    with pytest.raises(
        InvalidInput, match=r"an operator of shape \(15, 15\) takes \(no,\) or \(no, k\), got shape \(4,\)"
    ):
        ntkit.NTKOperator(model, x) @ torch.ones(4, dtype=torch.float64)


def test_push_is_the_derivative_along_a_direction(model, x):
    tangent = Tangent(model, x)
    direction = {name: torch.randn_like(p) for name, p in tangent.point.items()}
    step = 1e-6
    moved = {name: p + step * direction[name] for name, p in tangent.point.items()}
    back = {name: p - step * direction[name] for name, p in tangent.point.items()}
    slope = (torch.func.functional_call(model, moved, (x,)) - torch.func.functional_call(model, back, (x,))) / (
        2 * step
    )
    torch.testing.assert_close(tangent.push(direction), slope.detach(), rtol=1e-7, atol=1e-7)


class Attention(nn.Module):
    """torch's fused attention, called as a function."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))


class Multihead(nn.Module):
    """nn.MultiheadAttention: outside of training, torch runs it by one operation without derivatives."""

    def __init__(self):
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


class Square(torch.autograd.Function):
    """x², without a forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class SquareOnce(Square):
    """x², whose backward pass cannot be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.head = function, nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.function.apply(self.first(x)).mean(1))


MODELS = {
    "scaled_dot_product_attention": (Attention, "reverse-forward"),
    "MultiheadAttention": (Multihead, "reverse-forward"),
    "TransformerEncoderLayer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), nn.Flatten()),
        "reverse-forward",
    ),
    "LSTM": (Lstm, None),
    "a function of one's own": (lambda: Custom(Square), "reverse-reverse"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["reverse-forward", "reverse-reverse"])
@pytest.mark.parametrize("name", MODELS)
def test_operations_without_a_forward_derivative(name, mode, dtype):
    build, chosen = MODELS[name]
    model, x = build().to(dtype).eval(), torch.randn(6, 5, 4, dtype=dtype)
    jacobian = dense_jacobian(model, x)
    wanted = jacobian @ jacobian.T
    operator = ntkit.NTKOperator(model, x, mode=mode)
    v = torch.randn(len(wanted), 2, dtype=dtype)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype] * float(wanted.abs().max())
    torch.testing.assert_close(operator @ v, wanted @ v, rtol=0, atol=tolerance)
    if chosen is not None:
        assert operator.tangent.mode == (chosen if mode == "reverse-forward" else mode)
    few = ntkit.NTKOperator(model, x, mode=mode, memory_limit=operator.tangent.bytes_each * 5)
    assert few.tangent.block < 6
    torch.testing.assert_close(few @ v, wanted @ v, rtol=0, atol=tolerance)


def test_settings_of_attention_are_left_as_they_were():
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    ntkit.NTKOperator(Multihead().eval(), torch.randn(3, 5, 4)) @ torch.ones(6)
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before


def test_an_operation_without_either_derivative_is_named():
    with pytest.raises(InvalidInput, match=r"the model calls SquareOnce.*reverse-forward: .*jvp.*; reverse-reverse: "):
        ntkit.NTKOperator(Custom(SquareOnce), torch.randn(3, 5, 4))


def test_parameters_that_are_not_reached_move_nothing(x):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    model.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for mode in ("reverse-forward", "reverse-reverse"):
        tangent = Tangent(model, x, forward=lambda m, x: m[1](m[0](x)), mode=mode)
        assert not tangent.pull(torch.ones(5, 2, dtype=torch.float64))["spare"].any()
        assert not tangent.push({name: p * (name == "spare") for name, p in tangent.point.items()}).any()


@pytest.mark.parametrize("mode", ["reverse-forward", "reverse-reverse"])
@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_blocks_of_samples_change_nothing_but_rounding(model, samples, mode):
    x = torch.randn(11, 4, dtype=torch.float64)
    whole = ntkit.NTKOperator(model, x, mode=mode)
    v, y = torch.randn(33, 3, dtype=torch.float64), torch.randn(11, 3, dtype=torch.float64)
    limit = 2 * samples * whole.tangent.bytes_each if samples < 5 else 10 * whole.tangent.bytes_each
    operator = ntkit.NTKOperator(model, x, mode=mode, memory_limit=limit)
    assert whole.tangent.block == 11
    assert operator.tangent.block == min(samples, 5)
    torch.testing.assert_close(operator @ v, whole @ v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator @ v[:, 0], whole @ v[:, 0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.tangent.outputs, whole.tangent.outputs, rtol=1e-12, atol=1e-12)
    pulled, wanted = operator.tangent.pull(y), whole.tangent.pull(y)
    for name in wanted:
        torch.testing.assert_close(pulled[name], wanted[name], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.tangent.push(wanted), whole.tangent.push(wanted), rtol=1e-10, atol=1e-10)


def test_a_limit_that_one_sample_exceeds_is_refused(model, x):
    with pytest.raises(MemoryLimitExceeded, match=r"the graph of one sample needs .*, but 10 B is the memory limit"):
        ntkit.NTKOperator(model, x, memory_limit=10)


def test_later_changes_of_samples_buffers_and_modes_do_not_reach_it(x):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).double().eval()
    for limit in (None, 3000):
        samples = x.clone()
        operator = ntkit.NTKOperator(model, samples, memory_limit=limit)
        v = torch.ones(10, dtype=torch.float64)
        before, dense = operator @ v, operator.to_dense()
        samples.mul_(3)
        model.train()(samples)
        model.eval()[1].running_var.mul_(5)
        model.train()
        assert torch.equal(operator @ v, before)
        assert torch.equal(operator.to_dense(), dense)
        model.eval()


def test_a_model_that_works_in_place_leaves_samples_alone():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    kept, wanted = x.clone(), ntkit.empirical_ntk(model, x.clone())
    operator = ntkit.NTKOperator(model, x)
    assert torch.equal(operator @ torch.ones(10, dtype=torch.float64), operator @ torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(operator.to_dense(), wanted.permute(0, 2, 1, 3).reshape(10, 10))
    assert torch.equal(x, kept)


def test_numpy_columns_are_multiplied_all_at_once(model, x):
    operator = ntkit.NTKOperator(model, x)
    block = np.random.default_rng(0).standard_normal((15, 3))
    result = operator @ block
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, operator.to_dense().numpy() @ block, rtol=1e-10)


@pytest.mark.parametrize("preconditioner", ["auto", "mean", "nystrom", None])
@pytest.mark.parametrize("limit", [None, 5000])
def test_solutions_are_those_of_the_dense_matrix(model, x, preconditioner, limit):
    operator = ntkit.NTKOperator(model, x, memory_limit=limit)
    y = torch.randn(5, 3, dtype=torch.float64)
    dense = operator.to_dense() if limit is None else ntkit.NTKOperator(model, x).to_dense()
    wanted = torch.linalg.solve(dense + 0.3 * torch.eye(15, dtype=torch.float64), y.flatten())
    found = operator.solve(y, 0.3, tolerance=1e-12, preconditioner=preconditioner, rank=6)
    torch.testing.assert_close(found, wanted.reshape(5, 3), rtol=1e-9, atol=1e-9)
    flat = operator.solve(y.numpy().flatten(), 0.3, tolerance=1e-12, preconditioner=preconditioner)
    assert isinstance(flat, np.ndarray)
    np.testing.assert_allclose(flat, wanted.numpy(), rtol=1e-9, atol=1e-9)


def test_solutions_in_single_precision_have_the_dtype_of_the_target():
    model, x = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2)), torch.randn(20, 4)
    operator = ntkit.NTKOperator(model, x)
    for dtype in (torch.float32, torch.float64):
        y = torch.randn(20, 2, dtype=dtype)
        found = operator.solve(y, ridge=0.5)
        assert found.dtype == dtype
        missing = (operator @ found.flatten().float()).double() + 0.5 * found.flatten().double() - y.flatten().double()
        assert float(missing.norm() / y.double().norm()) < 2e-4


def test_the_mean_kernel_preconditions_wide_networks_best():
    model = nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 4)).double()
    operator = ntkit.NTKOperator(model, torch.randn(40, 6, dtype=torch.float64))
    counts = {}
    for name in ("mean", "nystrom", None):
        made = []
        operator._columns = lambda v, made=made: made.append(v.shape[1]) or NTKOperator._columns(operator, v)
        operator.solve(torch.ones(40, 4, dtype=torch.float64), 0.1, preconditioner=name, rank=20)
        counts[name] = sum(made) - (20 if name == "nystrom" else 0)
    assert counts["mean"] < counts["nystrom"] < counts[None]
    assert counts["mean"] < counts[None] / 3


def test_the_mean_kernel_gives_way_where_it_does_not_fit(model):
    x = torch.randn(60, 4, dtype=torch.float64)
    operator = ntkit.NTKOperator(model, x, memory_limit=50_000)
    y = torch.randn(60, 3, dtype=torch.float64)
    with pytest.raises(MemoryLimitExceeded, match="the mean kernel of 60 samples"):
        operator.solve(y, 1.0, preconditioner="mean")
    torch.testing.assert_close(operator.solve(y, 1.0), operator.solve(y, 1.0, preconditioner="nystrom"))


def test_estimates_agree_with_the_exact_values():
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2)).double()
    operator = ntkit.NTKOperator(model, torch.randn(60, 4, dtype=torch.float64))
    trace, diagonal = operator.estimate_trace(60, seed=1), operator.estimate_diagonal(60, seed=1)
    assert abs(trace.value - operator.trace()) < 4 * trace.error
    assert trace.error < 0.02 * operator.trace()
    misses = diagonal.value - operator.diagonal()
    assert float(misses.square().mean().sqrt()) < 2 * float(diagonal.error.square().mean().sqrt())
    assert operator.estimate_trace(60, seed=1).value == trace.value != operator.estimate_trace(60, seed=2).value
    assert operator.estimate_trace(120).value == pytest.approx(operator.trace(), rel=1e-12)
    torch.testing.assert_close(operator.estimate_diagonal(120).value, operator.diagonal(), rtol=1e-12, atol=1e-12)


class Summed(nn.Module):
    """Every sample sees those before it, and the first sees none."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x).cumsum(0)


MIXING = {
    "batch norm in training": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        r"1 \(BatchNorm1d\) in train",
    ),
    "dropout in training": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout()), r"1 \(Dropout\) in training mode"),
    "sums over samples": (Summed, "another output alone than in a batch"),
}


@pytest.mark.parametrize("name", MIXING)
def test_models_that_mix_samples_are_refused(name, x):
    build, message = MIXING[name]
    with pytest.raises(InvalidInput, match=message):
        ntkit.NTKOperator(build().double(), x)


REFUSED = {
    "ridge": (lambda o, y: o.solve(y, -1.0), "ridge must be a finite number >= 0, got -1.0"),
    "y not finite": (lambda o, y: o.solve(y * np.nan), "y must be finite"),
    "y of another length": (lambda o, y: o.solve(y[:4]), r"y must have shape \(5, 3\) or .* \(15,\), got \(4, 3\)"),
    "y of integers": (lambda o, y: o.solve(y.long()), "y must be float32 or float64"),
    "preconditioner": (lambda o, y: o.solve(y, preconditioner="ssor"), "preconditioner must be one of 'auto', 'mean'"),
    "rank": (lambda o, y: o.solve(y, rank=16), "rank must be a whole number, from 1 to 15, got 16"),
    "products": (lambda o, y: o.estimate_trace(1), "products must be at least 4, .* got 1"),
    "products for the diagonal": (lambda o, y: o.estimate_diagonal(3), "products must be at least 4, .* got 3"),
    "seed": (lambda o, y: o.estimate_trace(4, seed=-1), "seed must be a whole number, at least 0, got -1"),
    "a vector that is not finite": (lambda o, y: o @ (y.flatten() * np.inf), "multiplied by must be finite, got 15"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_of_products_are_refused(name, model, x, unchecked):
    call, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        call(ntkit.NTKOperator(model, x), torch.randn(5, 3, dtype=torch.float64))


MADE = {
    "mode": ({"mode": "forward"}, "mode must be one of 'reverse-forward', 'reverse-reverse', got 'forward'"),
    "memory_limit": ({"memory_limit": 0}, "memory_limit must be a positive number of bytes, such as 4e9, got 0"),
    "parameters": ({"parameters": "spare"}, "'spare' matches none"),
}


@pytest.mark.parametrize("name", MADE)
def test_bad_arguments_of_the_operator_are_refused(name, model, x, unchecked):
    options, message = MADE[name]
    with pytest.raises(InvalidInput, match=message):
        ntkit.NTKOperator(model, x, **options)


def test_a_target_out_of_reach_asks_for_a_ridge():
    operator = ntkit.NTKOperator(nn.Linear(2, 1).double(), torch.randn(9, 2, dtype=torch.float64))
    with pytest.raises(NtkitError, match="larger ridge"):
        operator.solve(torch.randn(9, 1, dtype=torch.float64), preconditioner=None)


@pytest.mark.usefixtures("unchecked")
def test_complex_and_other_vectors():
    operator = NTKOperator(nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64))
    v = np.arange(8) + 1j * np.arange(8)[::-1]
    dense = operator.to_dense().numpy()
    assert np.allclose(operator @ v, dense @ v)
    assert np.allclose(operator.matmat(np.stack([v, 2j * v], 1)), dense @ np.stack([v, 2j * v], 1))
    with pytest.raises(InvalidInput, match=r"dense real vectors, got torch\.complex128"):
        operator @ torch.from_numpy(v)
    with pytest.raises(InvalidInput, match=r"dense real vectors, got torch.float64 of layout torch.sparse_coo"):
        operator @ torch.eye(8, dtype=torch.float64).to_sparse()
    with pytest.raises(InvalidInput, match=r"applied to a tensor \(no,\), got \(8, 2\)"):
        operator.apply(torch.ones(8, 2).double())


def test_gradients_that_are_not_finite():
    with pytest.raises(InvalidInput, match=r"the gradient of 'weight'"):
        NTKOperator(nn.Linear(3, 1, bias=False).double(), torch.zeros(2, 3).double(), forward=lambda m, x: m(x).sqrt())
