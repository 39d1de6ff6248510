"""Eigenvalues by degree, beside whole matrices, other formulas in many digits, and printed numbers."""

import itertools
import math
from math import comb

import mpmath as mp
import numpy as np
import pytest
from torch import nn

import ntkit
from ntkit.errors import InvalidInput
from ntkit.theory import boolean_cube, depth_grid, gaussian, sphere
from ntkit.theory.on_sphere import multiplicities
from oracles import theory as oracle


def network(module, depth, w_std, b_std, d):
    scales = {"w_std": w_std, "b_std": b_std}
    widths = [d, *[1] * depth]
    layers = [layer for width in widths[:-1] for layer in (ntkit.nn.Linear(width, 1, **scales), module)]
    return nn.Sequential(*layers, ntkit.nn.Linear(widths[-1], 1, **scales))


def all_corners(d):
    return np.array(list(itertools.product([-1.0, 1.0], repeat=d)))


def repeated(spectrum, scale=1.0):
    counts = spectrum.multiplicities.astype(int)
    return np.sort(np.repeat(spectrum.eigenvalues * scale, counts))


ACTIVATIONS = [("relu", nn.ReLU()), ("erf", ntkit.nn.Erf()), ("gelu", nn.GELU()), ("tanh", nn.Tanh())]


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("d", [1, 2, 7, 9])
@pytest.mark.parametrize(("name", "module"), ACTIVATIONS)
def test_cube_has_the_eigenvalues_of_the_matrix_of_all_corners(name, module, d, depth):
    require_matrix_of_all_corners(name, module, d, depth)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), ACTIVATIONS[:2])
def test_cube_of_twelve_bits(name, module):
    require_matrix_of_all_corners(name, module, 12, 3)


def require_matrix_of_all_corners(name, module, d, depth):
    kernel = ntkit.InfiniteKernel(network(module, depth, 1.4, 0.3, d))
    found = boolean_cube(name, depth, 1.4, 0.3, d)
    x = all_corners(d)
    for matrix, spectrum in ((kernel.nngp(x), found.nngp), (kernel.ntk(x), found.ntk)):
        expected = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(repeated(spectrum, 2.0**d), expected, rtol=0, atol=1e-10 * expected[-1])


@pytest.mark.parametrize(("name", "depth", "scales"), [
    ("relu", 0, (2, 0)), ("relu", 1, (2, 0)), ("relu", 6, (2, 1)), ("relu", 30, (2, 0)), ("relu", 30, (2, 2)),
    ("erf", 1, (1, 0)), ("erf", 6, (4, 1)), ("erf", 30, (4, 0)), ("erf", 30, (2, 1)),
])  # fmt: skip
def test_noise_floors_bound_what_is_wrong(name, depth, scales):
    d = 40
    found = boolean_cube(name, depth, scales[0] ** 0.5, scales[1] ** 0.5, d)
    with mp.workdps(60):
        exact = np.array(
            [[float(value) for value in pair] for pair in oracle.cube(name, depth, scales[0], scales[1], d)]
        )
    for spectrum, expected in ((found.nngp, exact[:, 0]), (found.ntk, exact[:, 1])):
        assert (np.abs(spectrum.eigenvalues - expected) <= 2 * spectrum.noise_floor).all()
        assert (spectrum.noise_floor <= 1e-12 * spectrum.trace).all()


def test_zeros_of_an_odd_activation_are_zeros():
    assert (boolean_cube("erf", 3, 2.0, 0.0, 20).ntk.eigenvalues[::2] == 0).all()


@pytest.mark.parametrize(("b_square", "nngp", "ntk"), [(2, 0.8388, 0.6269), (1, 0.7645, 0.5176)])
def test_degree_zero_of_seven_bits(b_square, nngp, ntk):
    """Computed with the code that the paper's authors published."""
    found = boolean_cube("relu", 2, 2**0.5, b_square**0.5, 7)
    assert found.nngp.fractional_variance[0] == pytest.approx(nngp, abs=5e-5)
    assert found.ntk.fractional_variance[0] == pytest.approx(ntk, abs=5e-5)


def test_optimal_depths_of_relu():
    """The same, and checked against the optimal depths that the paper's figure shows."""
    grid = depth_grid("relu", 20, 2**0.5, np.linspace(0, 4, 41) ** 0.5, d=128, degrees=8)
    assert grid.optimal_depth("ntk")[1:].tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert grid.optimal_depth("nngp")[1:].tolist() == [0, 1, 3, 4, 5, 6, 7, 7]
    largest = {kernel: grid.maximum(kernel)[1:].round(4).tolist() for kernel in ("ntk", "nngp")}
    assert largest["ntk"] == [1, 0.2384, 0.0758, 0.0510, 0.0353, 0.0284, 0.0230, 0.0198]
    assert largest["nngp"] == [1, 0.1585, 0.0355, 0.0196, 0.0103, 0.0073, 0.0049, 0.0038]


def test_a_grid_has_the_spectra_of_its_networks():
    grid = depth_grid("erf", 3, [1.0, 2.0], [0.0, 0.5, 1.0], d=9, degrees=5)
    for depth, (i, w), (j, b) in itertools.product(range(4), enumerate([1.0, 2.0]), enumerate([0.0, 0.5, 1.0])):
        one = boolean_cube("erf", depth, w, b, 9)
        np.testing.assert_allclose(grid.ntk[depth, i, j], one.ntk.fractional_variance[:6], atol=1e-14)
        np.testing.assert_allclose(grid.nngp[depth, i, j], one.nngp.fractional_variance[:6], atol=1e-14)


def test_cube_of_a_thousand_bits_and_layers():
    found = boolean_cube("relu", 1000, 2**0.5, 0.1, 1000)
    shares = found.ntk.fractional_variance
    assert shares[:3].min() > 0
    assert 0.1 < shares.sum() <= 1  # what is hidden by noise is not there


@pytest.mark.parametrize(("name", "depth", "scales"), [("relu", 1, (2, 0)), ("relu", 4, (2, 1)), ("erf", 3, (4, 1))])
@pytest.mark.parametrize("d", [3, 10])
def test_sphere_is_funk_and_heckes_integral(name, depth, scales, d):
    found = sphere(name, depth, scales[0] ** 0.5, scales[1] ** 0.5, d, degrees=6)
    with mp.workdps(25):
        for k in (0, 1, 2, 5):
            expected = [float(value) for value in oracle.sphere(name, depth, scales[0], scales[1], d, k)]
            for spectrum, value in zip((found.nngp, found.ntk), expected, strict=True):
                assert spectrum.eigenvalues[k] == pytest.approx(value, abs=1e-10 * spectrum.eigenvalues.max())
                assert abs(spectrum.eigenvalues[k] - value) <= 2 * spectrum.noise_floor[k]


def test_the_circle_is_a_fourier_transform():
    m = 4096
    angles = 2 * np.pi * np.arange(m) / m
    x = np.stack([np.cos(angles), np.sin(angles)], 1) * 2**0.5
    kernel = ntkit.InfiniteKernel(network(nn.ReLU(), 3, 1.4, 0.3, 2))
    expected = np.fft.rfft(kernel.ntk(x[:1], x)[0]).real / m
    found = sphere("relu", 3, 1.4, 0.3, 2, degrees=10)
    np.testing.assert_allclose(
        found.ntk.eigenvalues, expected[:11], rtol=0, atol=1e-6
    )  # the sum sees degrees m ± k, too


@pytest.mark.parametrize("d", [2, 3, 50, 1000])
def test_degrees_of_a_sphere_sum_to_the_kernel(d):
    found = sphere("gelu", 2, 1.5, 0.5, d, degrees=200)
    for spectrum in (found.nngp, found.ntk):
        share = spectrum.fractional_variance.sum()
        assert share <= 1 + 1e-10
        assert share > (0.997 if spectrum is found.nngp else 0.98)


def test_high_dimensions_agree():
    """Cube, sphere and Gaussian inputs have the same eigenvalues as d grows (Yang & Salman 2019)."""
    d, scales = 1000, (2, 2**0.5, 0.5)
    spectra = [boolean_cube("relu", *scales, d), sphere("relu", *scales, d), gaussian("relu", *scales, d)]
    for which in ("nngp", "ntk"):
        first, *others = (getattr(spectrum, which).fractional_variance[:5] for spectrum in spectra)
        for other in others:
            np.testing.assert_allclose(other, first, rtol=0.03, atol=1e-5)


def test_gaussian_weights_are_those_of_products_with_hermite_polynomials():
    """A kernel that is a polynomial: Gauss's rule with few nodes is exact."""
    d, depth, w, b = 2, 1, 1.3, 0.4
    square = ntkit.nn.Polynomial((0.2, 1.0, 0.5))
    found = gaussian(square, depth, w, b, d, degrees=5)
    kernel = ntkit.InfiniteKernel(network(square, depth, w, b, d))
    nodes, shares = np.polynomial.hermite_e.hermegauss(8)
    shares = shares / shares.sum()
    x = np.array(list(itertools.product(nodes, repeat=d)))
    p = np.array([a * b for a, b in itertools.product(shares, repeat=d)])
    for matrix, spectrum in ((kernel.nngp(x), found.nngp), (kernel.ntk(x), found.ntk)):
        for k in range(6):
            total = 0.0
            for i in range(k + 1):
                h = np.ones(len(x))
                for axis, degree in enumerate((i, k - i)):
                    one = np.polynomial.hermite_e.hermeval(x[:, axis], np.eye(degree + 1)[degree])
                    h = h * one / float(np.sqrt(np.prod(np.arange(1.0, degree + 1))))
                total += (h * p) @ matrix @ (h * p)
            weight = spectrum.eigenvalues[k] * spectrum.multiplicities[k]
            assert weight == pytest.approx(total, abs=1e-10 * spectrum.trace)
        assert spectrum.trace == pytest.approx(p @ matrix.diagonal(), rel=1e-10)


def test_activations_without_closed_form():
    """Softplus by its series, and as a near sum of what has one: log(1 + eˣ) ≈ x/2 + log 2 + x²/8 for small x."""
    near = ntkit.nn.Polynomial((math.log(2), 0.5, 0.125))
    for found, expected in (
        (gaussian("softplus", 1, 0.1, 0.0, 3, degrees=2), gaussian(near, 1, 0.1, 0.0, 3, degrees=2)),
        (sphere("softplus", 2, 0.1, 0.0, 3, degrees=2), sphere(near, 2, 0.1, 0.0, 3, degrees=2)),
    ):
        np.testing.assert_allclose(found.ntk.eigenvalues, expected.ntk.eigenvalues, rtol=0.02)


def test_multiplicities():
    assert multiplicities(2, 3).tolist() == [1, 2, 2, 2]
    assert multiplicities(3, 3).tolist() == [1, 3, 5, 7]
    assert boolean_cube("relu", 1, 1.0, 0.0, 6).ntk.multiplicities.tolist() == [comb(6, k) for k in range(7)]


def test_largest_rate_is_two_over_the_largest_eigenvalue():
    spectrum = boolean_cube("relu", 2, 1.4, 0.1, 8).ntk
    kernel = ntkit.InfiniteKernel(network(nn.ReLU(), 2, 1.4, 0.1, 8))
    expected = ntkit.dynamics.max_learning_rate(kernel.ntk(all_corners(8)))
    assert spectrum.max_learning_rate == pytest.approx(expected, rel=1e-9)


def test_modules_and_names_are_the_same():
    one, two = boolean_cube("LeakyReLU", 2, 1.4, 0.1, 8), boolean_cube(nn.LeakyReLU(), 2, 1.4, 0.1, 8)
    np.testing.assert_array_equal(one.ntk.eigenvalues, two.ntk.eigenvalues)


BAD = [
    (("relu", -1, 1.0, 0.0, 7), "depth must be a whole number from 0 to 1000, got -1"),
    (("relu", 1.5, 1.0, 0.0, 7), "depth must be a whole number from 0 to 1000, got 1.5"),
    (("relu", 1, -1.0, 0.0, 7), "w_std must be a number from 0, a standard deviation, got -1.0"),
    (("relu", 1, float("nan"), 0.0, 7), "w_std must be a number from 0, a standard deviation, got nan"),
    (("relu", 1, 1.0, "a", 7), "b_std must be a number from 0, a standard deviation, got 'a'"),
    (("relu", 1, 1.0, 0.0, 0), "d must be a whole number from 1 to 1000, got 0"),
    (("rely", 1, 1.0, 0.0, 7), "activation must be the name of a module of torch.nn or ntkit.nn"),
    (("monomial", 1, 1.0, 0.0, 7), "pass the module, Monomial(n)"),
    ((nn.Linear(2, 2), 1, 1.0, 0.0, 7), "activation must be one elementwise function"),
    ((nn.LayerNorm(2), 1, 1.0, 0.0, 7), "activation must be one elementwise function"),
    ((3, 1, 1.0, 0.0, 7), "activation must be a name such as"),
    (("relu", 1, 0.0, 0.0, 7), "the kernel is zero everywhere"),
    (("relu", 1000, 1e3, 0.0, 7), "they outgrow float64 at this depth"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_errors(arguments, message):
    with pytest.raises(InvalidInput) as error:
        boolean_cube(*arguments)
    assert message in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_errors_of_sphere_and_grid():
    with pytest.raises(InvalidInput, match="d must be a whole number from 2 to 1000, got 1"):
        sphere("relu", 1, 1.0, 0.0, 1)
    with pytest.raises(InvalidInput, match="b_std must hold at least one standard deviation, got none"):
        depth_grid("relu", 1, 1.0, [], 7)
    with pytest.raises(InvalidInput, match="kernel must be 'nngp' or 'ntk', got 'ck'"):
        depth_grid("relu", 1, 1.0, 0.0, 7, degrees=3).maximum("ck")  # pyright: ignore


def test_scales_whose_kernel_is_zero_are_said():
    with pytest.raises(InvalidInput, match="the kernel of some of the scales is zero everywhere"):
        depth_grid("relu", 2, [0.0, 1.0], [0.0, 1.0], 5)


def test_a_scale_may_be_an_array_without_axes(unchecked):
    grids = [depth_grid("relu", 2, scale, 0.5, 5).ntk for scale in (np.array(1.5), 1.5)]
    np.testing.assert_array_equal(*grids)


def test_names_may_be_those_of_functional():
    spectra = [
        boolean_cube(activation, 2, 1.4, 0.3, 6).ntk.eigenvalues for activation in ("leaky_relu", nn.LeakyReLU())
    ]
    np.testing.assert_array_equal(*spectra)
