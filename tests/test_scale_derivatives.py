"""E[uσ'(u) vσ'(v)], what a trained scale before an activation adds: against quadrature over the plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn

import ntkit
from layer_cases import assert_limit, conv, data, linear
from ntkit.infinite import InfiniteKernel
from ntkit.infinite.dual import ClosedForm, Series, dual
from oracles import recursion

Q1 = np.array([1.7, 0.3, 4.0, 1.0, 0.05, 2.0])
Q2 = np.array([0.9, 0.3, 0.5, 1.0, 2.50, 2.0])
C = np.array([0.6, -0.4, 0.0, 0.95, -0.9, 0.2])
S = C * np.sqrt(Q1 * Q2)


class Clamped(nn.Module):
    """ReLU, written so that it is integrated."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


def activation_spec(module: nn.Module) -> Any:
    return InfiniteKernel(nn.Sequential(linear(2), module, linear(64, 1))).network.nodes[2].spec


def of_scale(module: nn.Module, q1: np.ndarray, q2: np.ndarray, d: np.ndarray, tolerance: float = 1e-10) -> np.ndarray:
    """E[uσ'(u) vσ'(v)] of pairs in line."""
    rule = dual(activation_spec(module), tolerance)
    one, two, gap = (torch.as_tensor(v, dtype=torch.float64) for v in (q1, q2, d))
    if isinstance(rule, ClosedForm):
        assert rule.scale_derivative is not None
        return rule.scale_derivative(one, two, gap).numpy()
    assert isinstance(rule, Series)
    scaled = rule.of_scale()
    both = scaled.samples(torch.cat([one, two]))
    left, right = both[: len(one)], both[len(one) :]
    distance, _ = scaled.pairs(left, right, gap, False)
    return ((left.variance + right.variance - distance) / 2).numpy()


# slopes, written again with numpy, and where they are not smooth
SLOPES: dict[str, tuple[nn.Module, Callable[[np.ndarray], np.ndarray], list[float]]] = {
    "gelu": (nn.GELU(), recursion.gelu_slope, []),
    "tanh": (nn.Tanh(), lambda x: 1 / np.cosh(x) ** 2, []),
    "sigmoid": (nn.Sigmoid(), lambda x: special.expit(x) * special.expit(-x), []),
    "silu": (nn.SiLU(), lambda x: special.expit(x) * (1 + x * special.expit(-x)), []),
    "softplus": (nn.Softplus(), special.expit, []),
    "elu": (nn.ELU(1.3), lambda x: np.where(x > 0, 1, 1.3 * np.exp(np.minimum(x, 0))), [0.0]),
    "hardtanh": (nn.Hardtanh(-0.5, 2.0), lambda x: (x > -0.5) & (x < 2), [-0.5, 2.0]),
    "hardswish": (nn.Hardswish(), lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, x > 0), [-3.0, 3.0]),
    "hardshrink": (nn.Hardshrink(0.7), lambda x: np.abs(x) > 0.7, [-0.7, 0.7]),
}


@pytest.mark.parametrize("name", SLOPES)
def test_equal_to_quadrature_over_the_plane(name):
    module, slope, kinks = SLOPES[name]

    def function(x: np.ndarray) -> np.ndarray:
        return x * slope(x)

    plane = recursion.kinked_dual(function, slope, kinks) if kinks else recursion.panel_dual(function, slope, step=0.03)
    found = of_scale(module, Q1, Q2, Q1 + Q2 - 2 * S)
    lengths = [of_scale(module, q, q, 0 * q) for q in (Q1, Q2)]
    error = np.abs(found - plane(Q1, Q2, S)[0]) / np.sqrt(lengths[0] * lengths[1])
    assert error.max() < 1e-9


@pytest.mark.parametrize("name", SLOPES)
def test_of_a_sample_with_itself_it_is_the_second_moment(name):
    module, slope, kinks = SLOPES[name]
    t, w = np.polynomial.legendre.leggauss(30)
    for q, found in zip(Q1, of_scale(module, Q1, Q1, 0 * Q1), strict=True):
        edges = np.union1d(np.linspace(-9, 9, 73), np.array(kinks) / math.sqrt(q))
        g = (edges[:-1, None] + np.diff(edges)[:, None] * (t + 1) / 2).ravel()
        weight = (np.diff(edges)[:, None] * w / 2).ravel() * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
        u = math.sqrt(q) * g
        assert found == pytest.approx(((u * slope(u)) ** 2 * weight).sum(), rel=1e-9)


@pytest.mark.parametrize("name", SLOPES)
def test_zeros_opposite_and_equal_samples_are_exact(name):
    module, slope, kinks = SLOPES[name]
    q1, q2 = np.array([0.0, 0.0, 1.3, 1.3, 1.3]), np.array([0.0, 1.3, 0.0, 1.3, 1.3])
    found = of_scale(module, q1, q2, np.array([0.0, 1.3, 1.3, 0.0, 4 * 1.3]))
    np.testing.assert_allclose(found[:3], 0.0, atol=1e-15)  # uσ'(u) = 0 at u = 0
    t, w = np.polynomial.legendre.leggauss(30)
    edges = np.union1d(np.linspace(-9, 9, 73), np.array([*kinks, *(-k for k in kinks)]) / math.sqrt(1.3))
    g = (edges[:-1, None] + np.diff(edges)[:, None] * (t + 1) / 2).ravel()
    weight = (np.diff(edges)[:, None] * w / 2).ravel() * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    u = math.sqrt(1.3) * g
    own, opposite = (((u * slope(u)) * (sign * u * slope(sign * u)) * weight).sum() for sign in (1, -1))
    np.testing.assert_allclose(found[3:], [own, opposite], rtol=1e-9)


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-4, 1e-7])
def test_close_pairs_of_a_kinked_function_equal_the_closed_form(angle):
    """max(x, 0) written as a clamp is integrated; relu has a formula."""
    q1, q2 = np.array([1.7, 1.7]), np.array([1.7, 1.6])
    d = (np.sqrt(q1) - np.sqrt(q2)) ** 2 + 4 * np.sin(angle / 2) ** 2 * np.sqrt(q1 * q2)
    np.testing.assert_allclose(of_scale(Clamped(), q1, q2, d), of_scale(nn.ReLU(), q1, q2, d), rtol=1e-9)


def test_the_formula_of_gelu_equals_forty_digits():
    q1, q2, s = 1.3, 0.4, 0.55
    found = of_scale(nn.GELU(), np.array([q1]), np.array([q2]), np.array([q1 + q2 - 2 * s]))
    with mpmath.workdps(40):
        a, b = mpmath.sqrt(q1), mpmath.mpf(s) / mpmath.sqrt(q1)
        c = mpmath.sqrt(mpmath.mpf(q2) - b**2)

        def tau(x: mpmath.mpf) -> mpmath.mpf:
            return x * (mpmath.ncdf(x) + x * mpmath.npdf(x))

        g = [mpmath.mpf(k) / 4 for k in range(-40, 41)]  # the trapezoidal rule: exact to 1e-30 for entire functions
        w = [mpmath.npdf(x) / 4 for x in g]
        inner = [sum(v * tau(b * x + c * y) for y, v in zip(g, w, strict=True)) for x in g]
        expected = sum(tau(a * x) * v * i for x, v, i in zip(g, w, inner, strict=True))
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-13)


# ---- in networks -----------------------------------------------------------------------------------------------------


def with_norms(activation: nn.Module) -> nn.Module:
    return nn.Sequential(linear(5), nn.LayerNorm(64, 0.1), activation, linear(64), nn.RMSNorm(64, 0.1), linear(64, 1))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.ELU()])
def test_blocks_diagonals_and_symmetry_agree(activation):
    kernel, x = InfiniteKernel(with_norms(activation)), data(5, 5)
    x[3] = x[0]
    whole = kernel.ntk(x)
    torch.testing.assert_close(kernel.ntk(x[:3], x[3:]), whole[:3, 3:], rtol=1e-8, atol=0)
    torch.testing.assert_close(kernel.diagonal(x).ntk, whole.diagonal(), rtol=1e-8, atol=0)
    torch.testing.assert_close(whole, whole.T)
    torch.testing.assert_close(whole[0], whole[3], rtol=1e-8, atol=0)


def on_images(activation: nn.Module, width: int = 64, norm: nn.Module | None = None) -> nn.Module:
    """A trained scale before an activation, on images whose positions meet in a pool."""
    layers = conv(2, width, padding=1), norm or nn.GroupNorm(1, width, 0.1), activation, conv(width, width, 2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(width, 1))


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 64, 0.1), nn.LayerNorm((64, 2, 2), 0.1)])
def test_a_function_integrated_and_by_formula_has_one_kernel(norm):
    x, y = data(2, 2, 2, 2), data(2, 2, 2, 2, seed=1)
    integrated, formula = (InfiniteKernel(on_images(a, norm=norm), tolerance=1e-8) for a in (Clamped(), nn.ReLU()))
    assert "quadrature" in str(integrated.plan((2, 2, 2, 2)))
    assert "closed form" in str(formula.plan((2, 2, 2, 2)))
    for second in (None, y):
        torch.testing.assert_close(integrated.ntk(x, second), formula.ntk(x, second), rtol=1e-7, atol=0)
    torch.testing.assert_close(integrated.diagonal(x).ntk, formula.diagonal(x).ntk, rtol=1e-7, atol=0)


def test_both_engines_agree_on_gelu():
    kernel, x = InfiniteKernel(on_images(nn.GELU())), data(3, 2, 2, 3)
    torch.testing.assert_close(kernel.ntk(x, engine="numba"), kernel.ntk(x, engine="torch"), rtol=1e-11, atol=0)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU()])
def test_gradients_equal_finite_differences(activation):
    kernel, x, y = InfiniteKernel(with_norms(activation), tolerance=1e-11), data(2, 5), data(2, 5, seed=1)
    leaf = x.clone().requires_grad_()
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    cotangent, direction = torch.randn(2, 2, dtype=torch.float64), torch.randn_like(x)
    (kernel.with_hyperparameters({"*": {"w_std": w}}).ntk(leaf, y) * cotangent).sum().backward()

    def moved(h: float) -> Tensor:
        by_scale = kernel.with_hyperparameters({"*": {"w_std": 1.3 + h}}).ntk(x, y)
        return torch.stack([(k * cotangent).sum() for k in (by_scale, kernel.ntk(x + h * direction, y))])

    expected = (moved(1e-4) - moved(-1e-4)) / 2e-4
    assert leaf.grad is not None
    assert w.grad is not None
    torch.testing.assert_close(w.grad, expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close((leaf.grad * direction).sum(), expected[1], rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.ELU()])
def test_wide_networks_tend_to_the_exact_kernel(activation):
    x = data(3, 2, 2, 3)
    exact = InfiniteKernel(on_images(activation))(x)
    frozen = InfiniteKernel(on_images(activation).requires_grad_(False))(x)
    draws = []
    for seed in range(48):
        torch.manual_seed(seed)
        draws.append(ntkit.empirical_ntk(on_images(activation, 512).double(), x, outputs="trace"))
    assert_limit(draws, exact.ntk)
    torch.testing.assert_close(exact.nngp, frozen.nngp)
