"""The face of the exact kernel: kinds and dtypes of arrays, bad input, sizes, plans, gradients in the inputs."""

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit import _memory
from ntkit.errors import InvalidInput, MemoryLimitExceeded, ToleranceNotReached, UnsupportedLayer
from ntkit.infinite.distance import squared_distances


def mlp(activation=None, features=4, b_std=0.2):
    return nn.Sequential(
        nn.Flatten(),
        ntkit.nn.Linear(features, 8, 1.3, b_std),
        activation or nn.ReLU(),
        ntkit.nn.Linear(8, 8, 1.2, b_std),
        activation or nn.ReLU(),
        ntkit.nn.Linear(8, 1, 1.1),
    )


def data(n=5, d=4, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


KERNEL = ntkit.InfiniteKernel(mlp())


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_in_numpy_out_torch_in_torch_out(dtype):
    x = data()
    tensor, array = x.to(getattr(torch, dtype)), x.numpy().astype(dtype)
    for call in (lambda v: KERNEL(v), lambda v: KERNEL(v, v[:2]), lambda v: KERNEL.diagonal(v)):
        for which in ("nngp", "ntk"):
            from_torch, from_numpy = getattr(call(tensor), which), getattr(call(array), which)
            assert isinstance(from_torch, torch.Tensor)
            assert isinstance(from_numpy, np.ndarray)
            assert from_torch.dtype == tensor.dtype
            assert from_numpy.dtype == array.dtype
            np.testing.assert_array_equal(from_numpy, from_torch.numpy())
    assert KERNEL(x, x[:2]).ntk.shape == (5, 2)
    assert KERNEL.diagonal(x).ntk.shape == (5,)


def test_images_reversed_and_read_only_arrays_are_read_as_they_are():
    x = data()
    expected = KERNEL.ntk(x)
    assert torch.equal(KERNEL.ntk(x.reshape(5, 1, 2, 2)), expected)
    reversed_rows = x.numpy()[::-1]
    np.testing.assert_allclose(KERNEL.ntk(reversed_rows), expected.flip(0, 1).numpy(), rtol=1e-13)
    fixed = x.numpy().copy()
    fixed.flags.writeable = False
    np.testing.assert_array_equal(KERNEL.ntk(fixed), expected.numpy())
    torch.testing.assert_close(KERNEL.ntk(x.T.contiguous().T), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("transformed", [torch.func.vmap, torch.func.grad, torch.func.jacrev, torch.func.jacfwd])
def test_transformations_of_functions_are_refused(transformed):
    x = data()
    with pytest.raises(InvalidInput, match=r"x1 is a tensor inside a transformation of torch.func .* torch.autograd"):
        transformed(lambda v: KERNEL.ntk(v.reshape(-1, 4)).sum())(x)
    assert torch.autograd.functional.jacobian(KERNEL.ntk, x).shape == (5, 5, 5, 4)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_numpy_set_to_raise_does_not_matter(engine):
    x = data().numpy()
    expected = KERNEL(x, engine=engine).ntk
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(KERNEL(x, engine=engine).ntk, expected)
        tiny = KERNEL(x * 1e-160, engine=engine).ntk  # squares underflow: what the biases give is left
        assert np.isfinite(KERNEL.diagonal(x * 1e-160, engine=engine).ntk).all()
    np.testing.assert_allclose(tiny, KERNEL(0 * x, engine=engine).ntk, rtol=1e-12)


def test_inputs_are_left_alone():
    x = data()
    before = x.clone()
    KERNEL(x, x)
    assert torch.equal(x, before)


WRONG = {
    "integers": (lambda: torch.ones(3, 4, dtype=torch.int64), "x1 must be float32 or float64, got torch.int64"),
    "numpy integers": (lambda: np.ones((3, 4), dtype=int), "x1 must be a float32 or float64 array, got dtype int64"),
    "half precision": (
        lambda: torch.ones(3, 4, dtype=torch.float16),
        "x1 must be float32 or float64, got torch.float16",
    ),
    "complex": (lambda: torch.ones(3, 4, dtype=torch.complex64), "x1 must be float32 or float64, got torch.complex64"),
    "a masked array": (
        lambda: np.ma.masked_array(np.ones((3, 4)), np.eye(3, 4)),
        "x1 is a masked array, whose mask would",
    ),
    "a list": (lambda: [[1.0, 2.0, 3.0, 4.0]], "x1 must be a torch tensor or a numpy array, got list"),
    "NaN": (lambda: torch.full((3, 4), torch.nan), "x1 must be finite, got 12 value.s. .* the first at index .0, 0."),
    "infinity": (lambda: np.full((3, 4), np.inf), "x1 must be finite"),
    "sparse": (
        lambda: torch.eye(3, 4).to_sparse(),
        r"x1 must be a dense tensor, got layout torch.sparse_coo; convert it with x.to_dense\(\)",
    ),
    "no values": (
        lambda: torch.ones(3, 4, device="meta"),
        "x1 must be a dense tensor with values, got one on the meta",
    ),
    "no axis of features": (lambda: torch.ones(4), "at least one sample of at least one feature, got shape .4,."),
    "no samples": (lambda: torch.ones(0, 4), "got shape .0, 4."),
    "no features": (lambda: torch.ones(3, 0), "got shape .3, 0."),
    "a wrong width": (lambda: torch.ones(3, 5), "x1 has 5 features a sample .shape .3, 5.., but the model takes 4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_inputs_say_what_was_wanted(unchecked, name):
    make, text = WRONG[name]
    for call in (KERNEL, KERNEL.ntk, KERNEL.nngp):
        with pytest.raises(InvalidInput, match=text):
            call(make())
    with pytest.raises(InvalidInput, match=text.replace("x1", "x")):
        KERNEL.diagonal(make())
    with pytest.raises(InvalidInput, match=text.replace("x1", "x2")):
        KERNEL(np.ones((3, 4)) if isinstance(make(), np.ndarray) else torch.ones(3, 4), make())


@pytest.mark.parametrize(
    ("x1", "x2", "text"),
    [
        (
            torch.ones(3, 4),
            torch.ones(3, 4, dtype=torch.float64),
            "x1 is torch.float32 and x2 is torch.float64; convert one",
        ),
        (torch.ones(3, 4), np.ones((3, 4)), "x1 is a Tensor and x2 a ndarray; give both as the same kind"),
        (
            torch.ones(3, 4),
            torch.ones(3, 2, 2),
            r"samples of x1 have shape \(4,\) and those of x2 \(2, 2\); resize or reshape one of them",
        ),
    ],
)
def test_sides_must_agree(unchecked, x1, x2, text):
    with pytest.raises(InvalidInput, match=text):
        KERNEL(x1, x2)


@pytest.mark.parametrize("model", [nn.Sequential(), nn.Flatten(), nn.Sequential(nn.Dropout(0.5), nn.Identity()).eval()])
def test_a_model_without_weights_has_no_kernel(model):
    with pytest.raises(UnsupportedLayer, match=r"the model has no layer with weights .* put a linear layer in it"):
        ntkit.InfiniteKernel(model)


def test_weights_that_the_output_does_not_see_do_not_count():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside = ntkit.nn.Linear(4, 4)

        def forward(self, x):
            self.aside(x)
            return x

    with pytest.raises(UnsupportedLayer, match="no layer with weights between its input and its output"):
        ntkit.InfiniteKernel(Skips())


def test_images_need_a_flatten():
    kernel = ntkit.InfiniteKernel(nn.Sequential(ntkit.nn.Linear(4, 1)))
    with pytest.raises(InvalidInput, match=r"x1 has shape \(5, 2, 2\), .*put torch.nn.Flatten"):
        kernel(data().reshape(5, 2, 2))


def test_a_kernel_too_large_for_memory_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(_memory, "_machine_available", lambda: 1_000)
    x = data(12)
    with pytest.raises(
        MemoryLimitExceeded, match=r"a kernel of 12 x 12 samples needs 2.25 KiB, but 1000 B is free; use fewer"
    ):
        KERNEL(x)
    with pytest.raises(MemoryLimitExceeded, match=r"needs 1.12 KiB"):
        KERNEL.ntk(x)
    assert KERNEL.ntk(x[:5], x).shape == (5, 12)


def test_moments_that_overflow_or_do_not_exist_name_the_layer():
    growing = ntkit.InfiniteKernel(mlp(ntkit.nn.Gaussian(1.0, 0.2)))
    with pytest.raises(InvalidInput, match=r"at '2': Gaussian.* has infinite moments"):
        growing(data())
    with pytest.raises(InvalidInput, match=r"at '2': a polynomial of degree 9 overflows torch.float64"):
        ntkit.InfiniteKernel(mlp(ntkit.nn.Monomial(9)))(1e20 * data())


def test_the_plan_says_what_a_kernel_costs():
    kernel = ntkit.InfiniteKernel(mlp(nn.Tanh()))
    plan, rectangle = kernel.plan((1000, 4)), kernel.plan((1000, 4), (10, 4))
    assert (plan.n, plan.m, plan.symmetric) == (1000, 1000, True)
    instructions = len(kernel.program.instructions)
    assert plan.memory == 2 * 8 * 1000 * 1000 + 8 * (1000 + 1000) * instructions
    assert rectangle.memory == 2 * 8 * 1000 * 10 + 8 * (1000 + 10) * instructions
    assert plan.entries == instructions * 1000 * 1001 // 2
    assert rectangle.entries == instructions * 10_000
    assert plan.covariances == (("vectors", "one number"),)
    assert [path for path, _ in plan.duals] == ["2", "2"], "the same activation module stands at two places"
    assert "half of them by symmetry" in str(plan)
    assert "dual       2: ReLU, closed form" in str(KERNEL.plan((3, 4)))
    assert "dual       2: tanh(x), quadrature: E[σ(u)σ(v)] to 1e-08 of √(E[σ(u)²] E[σ(v)²]), and so for σ'" in str(plan)
    assert plan.engine.startswith("torch"), "series have no compiled form"
    assert KERNEL.plan((3, 4)).engine.startswith("numba")
    assert KERNEL.plan((3, 4), engine="torch").engine.startswith("torch")


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (5, "must be a tuple of at least two whole numbers from 1, samples first, got 5; pass tuple.x.shape."),
        ((5,), r"at least two whole numbers from 1, samples first, got \(5,\)"),
        ([3, 4], r"must be a tuple of .*got \[3, 4\]"),
        ((-1, 4), r"got \(-1, 4\)"),
        ((0, 4), r"got \(0, 4\)"),
        ((3.0, 4), r"got \(3.0, 4\)"),
        ((True, 4), r"got \(True, 4\)"),
        ((), r"got \(\)"),
        ((3, 5), r"has 5 features a sample \(shape \(3, 5\)\), but the model takes 4"),
    ],
)
def test_a_plan_is_only_made_for_shapes_the_model_takes(unchecked, shape, text):
    with pytest.raises(InvalidInput, match="^shape .*" + text):
        KERNEL.plan(shape)
    with pytest.raises(InvalidInput, match="^shape2 .*" + text):
        KERNEL.plan((3, 4), shape)


def test_a_plan_knows_images_and_flattening():
    assert KERNEL.plan((3, 1, 2, 2)).n == 3
    with pytest.raises(InvalidInput, match=r"shape has shape \(3, 2, 2\), .*put torch.nn.Flatten"):
        ntkit.InfiniteKernel(nn.Sequential(ntkit.nn.Linear(4, 1))).plan((3, 2, 2))


# ---- squared distances -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1.0, 1e-4, 1e-8, 1e-14])
def test_squared_distances_keep_their_relative_accuracy(gap):
    x = data(6, 50).abs() + 1
    y = x + gap * data(6, 50, seed=1)
    expected = ((x.numpy().astype(np.longdouble)[:, None] - y.numpy().astype(np.longdouble)[None]) ** 2).sum(-1)
    got = squared_distances(x, y).numpy()
    np.testing.assert_allclose(got, expected.astype(float), rtol=1e-12)
    assert torch.equal(squared_distances(x, x).diagonal(), torch.zeros(6, dtype=torch.float64))
    assert (squared_distances(x.float(), y.float()) >= 0).all()


def test_many_close_pairs_are_done_in_parts(monkeypatch):
    monkeypatch.setattr("ntkit.infinite.distance._CLOSE_AT_ONCE", 7)
    x = torch.cat([data(3)] * 5)
    x = x + 1e-9 * data(15, seed=2)
    expected = ((x[:, None] - x[None]) ** 2).sum(-1)
    torch.testing.assert_close(squared_distances(x, x), expected, rtol=1e-12, atol=0)


# ---- gradients -------------------------------------------------------------------------------------------------------

SMOOTH = [
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    ntkit.nn.Erf(),
    nn.GELU(),
    nn.Tanh(),
    ntkit.nn.Sin(),
    ntkit.nn.Gaussian(1.2, -0.4),
    ntkit.nn.Monomial(2),
    nn.SiLU(),
]


def central_difference(function, x, step=1e-5):
    grad = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros(x.numel(), dtype=x.dtype)
        e[i] = step
        grad.view(-1)[i] = (function(x + e.view_as(x)) - function(x - e.view_as(x))) / (2 * step)
    return grad


def assert_gradient(function, x, atol=2e-7):
    leaf = x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(function(leaf), leaf)
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(grad, central_difference(lambda v: float(function(v)), x), rtol=1e-5, atol=atol)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_gradients_equal_central_differences(activation, which):
    kernel = ntkit.InfiniteKernel(mlp(activation), tolerance=1e-12)
    x1, x2 = 0.7 * data(3), 0.7 * data(2, seed=1)
    weights = data(3, 2, seed=2)
    assert_gradient(lambda v: (getattr(kernel, which)(v, x2) * weights).sum(), x1)
    assert_gradient(lambda v: (getattr(kernel, which)(x1, v) * weights).sum(), x2)
    square = data(3, 3, seed=3)
    assert_gradient(lambda v: (getattr(kernel, which)(v) * square).sum(), x1)
    assert_gradient(lambda v: getattr(kernel.diagonal(v), which).sum(), x1)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_gradients_at_identical_rows_equal_central_differences(activation, which):
    """x1 and x2 share a row: arccos has no derivative there, but the nngp has one; the NTK's cone counts as level."""
    kernel = ntkit.InfiniteKernel(mlp(activation), tolerance=1e-12)
    x2 = 0.7 * data(2, seed=1)
    x1 = torch.cat([x2[:1], 0.7 * data(1)])
    weights = data(2, 2, seed=2)
    assert_gradient(lambda v: (getattr(kernel, which)(v, x2) * weights).sum(), x1, atol=2e-6)
    twice = torch.cat([x1, x1[:1]])
    square = data(3, 3, seed=3)
    assert_gradient(lambda v: (getattr(kernel, which)(v) * square).sum(), twice, atol=2e-6)


@pytest.mark.parametrize("activation", SMOOTH[2:])  # relu without bias has a cone at 0, and no derivative
@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_gradients_at_a_zero_row_equal_central_differences(activation, which):
    kernel = ntkit.InfiniteKernel(mlp(activation, b_std=0.0), tolerance=1e-12)
    x2 = 0.7 * data(2, seed=1)
    x1 = torch.cat([torch.zeros(1, 4, dtype=x2.dtype), 0.7 * data(1)])
    weights = data(2, 2, seed=2)
    assert_gradient(lambda v: (getattr(kernel, which)(v, x2) * weights).sum(), x1, atol=1e-5)


def test_the_ntk_of_relu_takes_the_mean_of_both_sides_at_identical_rows():
    kernel, x2 = ntkit.InfiniteKernel(mlp(nn.ReLU(), b_std=0.0)), data(2, seed=1)
    x1 = torch.cat([x2[:1], data(1)])
    assert_gradient(lambda v: kernel.ntk(v, x2).sum(), x1, atol=1e-4)


@pytest.mark.parametrize("activation", [nn.ReLU(), ntkit.nn.Erf(), nn.GELU(), nn.Tanh()])
def test_no_gradient_is_nan_at_zeros_antipodes_and_duplicates(activation):
    a = data(1)
    for b_std in (0.0, 0.3):
        kernel = ntkit.InfiniteKernel(mlp(activation, b_std=b_std))
        x = torch.cat([0 * a, a, a, -a, 2 * a, a + 1e-9]).requires_grad_(True)
        for which in ("nngp", "ntk"):
            (grad,) = torch.autograd.grad(getattr(kernel(x), which).sum(), x)
            assert torch.isfinite(grad).all()


def test_gradients_keep_their_kind_and_do_not_change_the_values():
    x = data().float()
    leaf = x.clone().requires_grad_(True)
    K = KERNEL.ntk(leaf, x[:2])
    assert K.dtype == torch.float32
    K.sum().backward()
    assert leaf.grad.dtype == torch.float32
    torch.testing.assert_close(K.detach(), KERNEL.ntk(x, x[:2]), rtol=1e-6, atol=0)


def test_gradients_through_integrated_kinks_are_refused():
    kernel = ntkit.InfiniteKernel(mlp(nn.Hardtanh()))
    with pytest.raises(
        ToleranceNotReached, match=r"at '2': gradients through hardtanh.x, -1.0, 1.0. are not available: it has kinks"
    ):
        kernel.ntk(data().requires_grad_(True))
