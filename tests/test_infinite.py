"""Exact kernels against the textbook recursion in float64, near duplicates in float32, and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ntkit
from ntkit.infinite.placement import Placement
from ntkit.infinite.torch_interpreter import TorchInterpreter
from oracles import recursion as oracle

SOLO = {"max_examples": 10, "deadline": None, "derandomize": True}


def mlp(activation, depth=2, w_std=1.3, b_std=0.2, features=5, width=8):
    layers = []
    for i in range(depth):
        layers += [ntkit.nn.Linear(features if i == 0 else width, width, w_std, b_std), activation]
    return nn.Sequential(*layers, ntkit.nn.Linear(width if depth else features, 1, w_std, b_std))


def data(n=6, d=5, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kernels_of(activation, x1, x2=None, tolerance=1e-8, **options):
    both = ntkit.InfiniteKernel(mlp(activation, features=x1.shape[1], **options), tolerance=tolerance)(x1, x2)
    return both.nngp, both.ntk


# ---- against the recursion -----------------------------------------------------------------------------------------

CLOSED = {
    "relu": (nn.ReLU(), oracle.leaky_relu_dual(0.0)),
    "leaky relu": (nn.LeakyReLU(0.3), oracle.leaky_relu_dual(0.3)),
    "abs": (ntkit.nn.Abs(), oracle.leaky_relu_dual(-1.0)),
    "erf": (ntkit.nn.Erf(), oracle.erf_dual),
    "sin": (ntkit.nn.Sin(1.2, 0.8, 0.3), oracle.sine_dual(1.2, 0.8, 0.3)),
    "cos": (ntkit.nn.Cos(1.2, 0.8, 0.3), oracle.cosine_dual(1.2, 0.8, 0.3)),
    "gaussian": (ntkit.nn.Gaussian(1.4, -0.3), oracle.gaussian_dual(1.4, -0.3)),
    "sign": (ntkit.nn.Sign(), oracle.sign_dual),
    "ab relu": (ntkit.nn.ABReLU(-0.6, 1.7), oracle.ab_relu_dual(-0.6, 1.7)),
    "rectified square": (ntkit.nn.RectifiedMonomial(2), oracle.arc_cosine_dual(2)),
    "square": (ntkit.nn.Monomial(2), oracle.gauss_hermite_dual(np.square, lambda x: 2 * x, nodes=12)),
}
INTEGRATED = {
    "gelu": (nn.GELU(), oracle.panel_dual(oracle.gelu, oracle.gelu_slope, step=0.05), 1e-12),
    "tanh": (nn.Tanh(), oracle.panel_dual(np.tanh, lambda x: 1 / np.cosh(x) ** 2, step=0.05), 1e-9),
    "softplus": (
        nn.Softplus(),
        oracle.panel_dual(lambda x: np.logaddexp(0, x), lambda x: 1 / (1 + np.exp(-x)), step=0.05),
        1e-9,
    ),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_closed_forms_equal_the_recursion(name, depth):
    activation, dual = CLOSED[name]
    x1, x2 = data(6), data(4, seed=1)
    for second in (x2, None):
        nngp, ntk = kernels_of(activation, x1, second, depth=depth)
        expected = oracle.fully_connected(x1.numpy(), (x1 if second is None else second).numpy(), dual, depth, 1.3, 0.2)
        off = ~np.eye(*nngp.shape, dtype=bool) if second is None else np.ones(nngp.shape, dtype=bool)
        np.testing.assert_allclose(nngp.numpy()[off], expected[0][off], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(ntk.numpy()[off], expected[1][off], rtol=1e-11, atol=1e-12)
        # on the diagonal the textbook's arccos loses half of the digits, ntkit does not
        np.testing.assert_allclose(nngp.numpy(), expected[0], rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(ntk.numpy(), expected[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", INTEGRATED)
def test_integrated_duals_give_the_recursion(name):
    activation, dual, rtol = INTEGRATED[name]
    x1, x2 = data(3), data(2, seed=1)
    nngp, ntk = kernels_of(activation, x1, x2, tolerance=1e-10)
    expected = oracle.fully_connected(x1.numpy(), x2.numpy(), dual, 2, 1.3, 0.2)
    np.testing.assert_allclose(nngp, expected[0], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(ntk, expected[1], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("depth", [5, 10, 20])
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_deep_networks_equal_the_recursion(name, depth):
    activation, dual = CLOSED[name]
    x1, x2 = data(4), data(3, seed=1)
    w = 2**0.5 if name == "relu" else 1.5
    nngp, ntk = kernels_of(activation, x1, x2, depth=depth, w_std=w, b_std=0.1)
    expected = oracle.fully_connected(x1.numpy(), x2.numpy(), dual, depth, w, 0.1)
    np.testing.assert_allclose(nngp, expected[0], rtol=1e-10)
    np.testing.assert_allclose(ntk, expected[1], rtol=1e-9)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), ntkit.nn.Abs(), ntkit.nn.Erf(), nn.GELU(), nn.Tanh(), nn.ELU(), ntkit.nn.Sign()]
)
def test_zeros_duplicates_and_antipodes(activation):
    a = data(1)
    x = torch.cat([torch.zeros(1, 5, dtype=a.dtype), a, a, -a, 2 * a, a + 1e-8, torch.zeros(1, 5, dtype=a.dtype)])
    for b_std in (0.0, 0.3):
        nngp, ntk = kernels_of(activation, x, b_std=b_std)
        for K in (nngp, ntk):
            assert torch.isfinite(K).all()
            torch.testing.assert_close(K[1, 1], K[1, 2], rtol=1e-13, atol=0)
            torch.testing.assert_close(K[0, 0], K[0, 6], rtol=1e-13, atol=0)
            assert (K.diagonal() >= 0).all()
        assert (nngp.abs() <= (nngp.diagonal()[:, None] * nngp.diagonal()[None, :]).sqrt() + 1e-14).all()


def test_large_symmetric_matrices_are_the_joint_one_in_blocks():
    x = data(900, seed=3)
    kernel = ntkit.InfiniteKernel(mlp(nn.ReLU()))
    whole = kernel.ntk(x)
    assert torch.equal(whole, whole.T)
    torch.testing.assert_close(whole[700:], kernel.ntk(x[700:], x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.diagonal(), kernel.diagonal(x).ntk, rtol=1e-14, atol=0)


# ---- accuracy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(), ntkit.nn.Erf(), nn.GELU(), nn.Tanh(), ntkit.nn.Sin()])
@pytest.mark.parametrize("depth", [1, 6])
def test_float32_inputs_lose_only_their_own_rounding(activation, depth):
    x = data(30).float()
    x = torch.cat([x, x + 1e-4])
    exact = kernels_of(activation, x.double(), depth=depth, w_std=2**0.5)
    single = kernels_of(activation, x, depth=depth, w_std=2**0.5)
    for K64, K32 in zip(exact, single, strict=True):
        assert K32.dtype == torch.float32
        scale = (K64.diagonal()[:, None] * K64.diagonal()[None, :]).sqrt()
        assert ((K32.double() - K64).abs() / scale).max() < 2e-6


def near_copies():
    """100 points in 20 dimensions and copies of them 1e-4 away, in float32."""
    x = data(100, d=20, seed=5).float()
    return torch.cat([x, x + 1e-4 * data(100, d=20, seed=6).float()])


def deep_kernel(activation):
    return ntkit.InfiniteKernel(mlp(activation, depth=3, w_std=2**0.5, b_std=0.0, features=20))


def interpreter_of(kernel, features):
    return TorchInterpreter(kernel.program, kernel.tolerance, Placement(kernel.program, (features,)))


def test_the_interpreter_keeps_the_spectrum_of_near_duplicates_even_in_float32():
    x, interpreter = near_copies(), interpreter_of(deep_kernel(nn.ReLU()), 20)
    single, exact = (interpreter.matrix(t, None, True, True)[0][1] for t in (x, x.double()))
    assert single.dtype == torch.float32
    smallest = float(torch.linalg.eigvalsh(exact)[0])
    assert smallest > 0
    assert float(torch.linalg.eigvalsh(single.double())[0]) == pytest.approx(smallest, rel=0.05)
    scale = (exact.diagonal()[:, None] * exact.diagonal()[None, :]).sqrt()
    assert ((single.double() - exact).abs() / scale).max() < 2e-6


@pytest.mark.parametrize("activation", [nn.ReLU(), ntkit.nn.Erf(), nn.GELU(), nn.Tanh()])
def test_float32_results_lose_no_more_of_the_spectrum_than_their_rounding(activation):
    kernel, x = deep_kernel(activation), near_copies()
    for single, exact in zip(vars(kernel(x)).values(), vars(kernel(x.double())).values(), strict=True):
        rounding = float(torch.linalg.matrix_norm(exact.float().double() - exact, 2))
        smallest32, smallest64 = (float(torch.linalg.eigvalsh(K.double())[0]) for K in (single, exact))
        assert smallest64 > -1e-12 * float(exact.diagonal().max())
        assert smallest32 >= smallest64 - 4 * rounding


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.SiLU(), nn.Softplus()])
@pytest.mark.parametrize("gap", [1e-4, 1e-8])
def test_quadrature_keeps_the_distance_of_near_duplicates(activation, gap):
    """A smooth activation's D' tends to E[σ'²] D + O(D²) along directions that keep |x|."""
    x = data(1)
    turn = data(1, seed=9)
    turn -= (turn @ x.T) / (x @ x.T) * x
    turn *= x.norm() / turn.norm()
    near = np.cos(gap) * x + np.sin(gap) * turn
    kernel = ntkit.InfiniteKernel(nn.Sequential(ntkit.nn.Linear(5, 8), activation), tolerance=1e-10)
    interpreter = interpreter_of(kernel, 5)
    _, affine, activation_output = interpreter.side(torch.cat([x, near])).registers
    d = torch.tensor([[4 * np.sin(gap / 2) ** 2 * float(affine.second[0, 0])]], dtype=torch.float64)
    same = activation_output.tables[slice(0, 1)]
    distance, slope = interpreter.duals[2].pairs(same, same, d, True)
    assert float(distance / (d * slope)) == pytest.approx(1, rel=10 * gap**2 + 1e-9)


def test_user_functions_and_tolerance():
    class Quick(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    x = data(4)
    scaled = ntkit.nn.Linear(5, 8, 1.3 * 1.702), ntkit.nn.Linear(8, 1, 1.3 / 1.702)
    by_hand = ntkit.InfiniteKernel(nn.Sequential(ntkit.nn.Linear(5, 8, 1.3), Quick(), ntkit.nn.Linear(8, 1, 1.3)))
    by_silu = ntkit.InfiniteKernel(nn.Sequential(scaled[0], nn.SiLU(), scaled[1]))
    torch.testing.assert_close(by_hand.nngp(x), by_silu.nngp(x), rtol=1e-8, atol=1e-10)


def test_hand_written_activations_equal_the_named_ones():
    class Hand(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    x1, x2 = data(4), data(3, seed=1)
    for function, named in [
        (lambda h: 0.5 * h * (1 + torch.erf(h / 2**0.5)), nn.GELU()),
        (lambda h: h * torch.sigmoid(h), nn.SiLU()),
        (lambda h: torch.clamp(h, min=0), nn.ReLU()),
        (lambda h: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp()), nn.Tanh()),
        (lambda h: torch.maximum(h, 0.2 * h), nn.LeakyReLU(0.2)),
        (lambda h: h * h, ntkit.nn.Monomial(2)),
        (lambda h: torch.exp(-(h**2)), ntkit.nn.Gaussian()),
    ]:
        for got, expected in zip(kernels_of(Hand(function), x1, x2), kernels_of(named, x1, x2), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)


# ---- properties ----------------------------------------------------------------------------------------------------

ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    ntkit.nn.Erf(),
    nn.GELU(),
    ntkit.nn.Sin(),
    nn.Tanh(),
    nn.Hardtanh(),
    ntkit.nn.Cos(),
]


@settings(**SOLO)
@given(st.sampled_from(ACTIVATIONS), st.integers(0, 4), st.integers(1, 4), st.floats(0.2, 2.0), st.integers(0, 10**6))
def test_properties_of_every_kernel(activation, depth, repeats, w_std, seed):
    x = data(7, seed=seed) * torch.logspace(-2, 1, 7, dtype=torch.float64)[:, None]
    x = torch.cat([x, x[:repeats], x[:2] + 1e-6])
    kernel = ntkit.InfiniteKernel(mlp(activation, depth=depth, w_std=w_std))
    both = kernel(x)
    diagonal = kernel.diagonal(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    left, right = x[: len(x) // 2], x[len(x) // 2 :]
    for which in ("nngp", "ntk"):
        K = getattr(both, which)
        size = float(K.diagonal().max())
        assert torch.equal(K, K.T)
        assert float(torch.linalg.eigvalsh(K)[0]) > -1e-7 * size
        torch.testing.assert_close(K.diagonal(), getattr(diagonal, which), rtol=1e-8, atol=1e-9 * size)
        torch.testing.assert_close(getattr(kernel(x[order]), which), K[order][:, order], rtol=1e-7, atol=1e-8 * size)
        torch.testing.assert_close(
            getattr(kernel(left, right), which), K[: len(left), len(left) :], rtol=1e-7, atol=1e-8 * size
        )
        torch.testing.assert_close(getattr(kernel, which)(x), K, rtol=1e-8, atol=1e-9 * size)


@settings(**SOLO)
@given(st.sampled_from([nn.ReLU(), nn.LeakyReLU(0.2), ntkit.nn.Abs()]), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_homogeneous_networks_scale(activation, a, b):
    x1, x2 = data(3), data(4, seed=1)
    for which in (0, 1):
        K = kernels_of(activation, x1, x2, b_std=0.0)[which]
        scaled = kernels_of(activation, a * x1, b * x2, b_std=0.0)[which]
        torch.testing.assert_close(scaled, a * b * K, rtol=1e-9, atol=1e-10 * a * b)


def test_rotations_of_the_data_change_nothing():
    x = data(6)
    rotation = torch.linalg.qr(data(5, seed=8))[0]
    for activation in (nn.ReLU(), nn.Tanh()):
        torch.testing.assert_close(
            kernels_of(activation, x @ rotation)[1], kernels_of(activation, x)[1], rtol=1e-9, atol=1e-10
        )
