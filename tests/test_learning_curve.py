"""Predicted errors of kernel regression beside measured ones."""

import itertools

import numpy as np
import pytest
from torch import nn

import ntkit
from ntkit.errors import InvalidInput
from ntkit.theory import boolean_cube, learning_curve, pool_learning_curve

P = 300


@pytest.fixture(scope="module")
def features():
    """Eigenvalues and coefficients of a target in Gaussian features, for which the theory is exact as P grows."""
    eigenvalues = np.arange(1.0, P + 1) ** -1.3
    coefficients = np.arange(1.0, P + 1) ** -0.8 * np.random.default_rng(0).choice([-1, 1], P)
    return eigenvalues, coefficients


def errors(eigenvalues, coefficients, n, ridge, noise, draws):
    """Mean errors over draws, on fresh samples and on those of training."""
    generator = np.random.default_rng(1)
    test, train = [], []
    for _ in range(draws):
        z = generator.standard_normal((n, P))
        y = z @ coefficients + noise**0.5 * generator.standard_normal(n)
        kernel = (z * eigenvalues) @ z.T
        alpha = np.linalg.solve(kernel + ridge * np.eye(n), y)
        learned = eigenvalues * (z.T @ alpha)
        test.append(((learned - coefficients) ** 2).sum() + noise)
        train.append(np.mean((kernel @ alpha - y) ** 2))
    return np.mean(test), np.mean(train)


@pytest.mark.parametrize(("ridge", "noise"), [(0.0, 0.0), (0.1, 0.0), (1.0, 0.3)])
def test_errors_are_the_mean_over_draws(features, ridge, noise):
    eigenvalues, coefficients = features
    numbers = [20, 60, 200]
    curve = learning_curve(eigenvalues, coefficients**2, numbers, ridge=ridge, noise=noise)
    measured = [errors(eigenvalues, coefficients, n, ridge, noise, 60) for n in numbers]
    np.testing.assert_allclose(curve.test, [test for test, _ in measured], rtol=0.06)
    np.testing.assert_allclose(curve.train, [train for _, train in measured], rtol=0.06, atol=1e-12)


def test_a_wrong_spectrum_does_not_predict_them(features):
    eigenvalues, coefficients = features
    flat = np.full(P, eigenvalues.mean())
    curve = learning_curve(flat, coefficients**2, [60], ridge=0.1)
    assert curve.test[0] / errors(eigenvalues, coefficients, 60, 0.1, 0.0, 20)[0] > 1.5


def test_multiplicities_are_eigenvalues_that_are_repeated():
    values, counts = np.array([1.0, 0.2, 0.01]), np.array([1.0, 5.0, 30.0])
    power = np.array([0.5, 0.3, 0.2])
    short = learning_curve(values, power, [3, 20], multiplicities=counts, ridge=0.1)
    whole = counts.astype(int)
    long = learning_curve(np.repeat(values, whole), np.repeat(power / counts, whole), [3, 20], ridge=0.1)
    np.testing.assert_allclose(short.test, long.test, rtol=1e-12)
    np.testing.assert_allclose(short.kappa, long.kappa, rtol=1e-12)


D = 8


@pytest.fixture(scope="module")
def cube():
    """A kernel of all corners, a target with power in three degrees, and both by degree."""
    x = np.array(list(itertools.product([-1.0, 1.0], repeat=D)))
    layers = [ntkit.nn.Linear(D, 1, w_std=2**0.5, b_std=0.3), nn.ReLU(), ntkit.nn.Linear(1, 1, w_std=2**0.5, b_std=0.3)]
    kernel = ntkit.InfiniteKernel(nn.Sequential(*layers)).ntk(x)
    y = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + 0.3 * x[:, 3] * x[:, 4] * x[:, 5] * x[:, 6]
    power = np.zeros(D + 1)
    power[[1, 2, 4]] = 1.0, 0.25, 0.09
    return kernel, y, boolean_cube("relu", 1, 2**0.5, 0.3, D).ntk, power


def test_a_pool_says_the_same(cube):
    kernel, y, spectrum, power = cube
    by_degree = learning_curve(
        spectrum.eigenvalues, power, [50, 200], multiplicities=spectrum.multiplicities, ridge=0.1
    )
    pool = pool_learning_curve(kernel, y, [50, 200], ridge=0.1, unused=False)
    np.testing.assert_allclose(pool.test, by_degree.test, rtol=1e-6)
    np.testing.assert_allclose(pool.train, by_degree.train, rtol=1e-6)


def test_unused_samples_of_a_pool(cube):
    kernel, y, *_ = cube
    generator = np.random.default_rng(1)
    n, found = 60, []
    for _ in range(100):
        at = generator.permutation(len(y))
        used, unused = at[:n], at[n:]
        alpha = np.linalg.solve(kernel[np.ix_(used, used)] + 0.05 * np.eye(n), y[used])
        found.append(np.mean((kernel[np.ix_(unused, used)] @ alpha - y[unused]) ** 2))
    curve = pool_learning_curve(kernel, y, [n], ridge=0.05)
    assert curve.test[0] == pytest.approx(np.mean(found), rel=0.1)


def test_errors_fall_with_samples_and_noise_is_never_learned(cube):
    _, _, spectrum, power = cube
    curve = learning_curve(
        spectrum.eigenvalues, power, [10, 100, 10_000], multiplicities=spectrum.multiplicities, ridge=1.0, noise=0.1
    )
    assert (np.diff(curve.test) < 0).all()
    assert curve.test[-1] > 0.1
    assert (np.diff(curve.kappa) < 0).all()


BAD = [
    ({"eigenvalues": np.zeros(3)}, "eigenvalues must not all be 0"),
    ({"eigenvalues": np.ones(2)}, "must have one shape"),
    ({"power": -np.ones(3)}, "power must not be negative"),
    ({"samples": [0, 1]}, "samples must be whole numbers from 1"),
    ({"samples": [1.5]}, "samples must be whole numbers from 1"),
    ({"samples": [3]}, "without a ridge samples must be fewer than the 3 eigenfunctions"),
    ({"ridge": -1.0}, "ridge must be a number from 0, got -1.0"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("change", "message"), BAD)
def test_errors_of_input(change, message):
    arguments = {"eigenvalues": np.ones(3), "power": np.ones(3), "samples": [1, 2]} | change
    with pytest.raises(InvalidInput, match=message):
        learning_curve(**arguments)


@pytest.mark.usefixtures("unchecked")
def test_errors_of_pools():
    with pytest.raises(InvalidInput, match="samples must be below the 4 of the pool, got 4"):
        pool_learning_curve(np.eye(4), np.ones(4), [4])
    with pytest.raises(InvalidInput, match="got one with outputs"):
        pool_learning_curve(np.ones((2, 2, 1, 1)), np.ones((2, 1)), [1])


def test_a_tail_is_a_ridge_to_what_is_learned():
    """Ten large eigenvalues given, 3,000 tiny ones as their sum: the same as all of them given."""
    head, tail = np.arange(1.0, 11) ** -1.0, np.full(3000, 1e-4)
    power = np.full(10, 0.1)
    whole = learning_curve(np.r_[head, tail], np.r_[power, np.zeros(3000)], [20, 40], ridge=0.05)
    short = learning_curve(head, power, [20, 40], ridge=0.05, tail=float(tail.sum()))
    np.testing.assert_allclose(short.test, whole.test, rtol=0.01)
    np.testing.assert_allclose(short.train, whole.train, rtol=0.01)
    assert learning_curve(head, power, [20], ridge=0.05).test[0] < 0.5 * short.test[0]


def test_degrees_that_are_left_out_count_as_the_tail():
    many, few = (ntkit.theory.sphere("relu", 3, 2**0.5, 0.1, 25, degrees=k).ntk for k in (60, 5))
    power = np.zeros(61)
    power[[1, 2]] = 0.7, 0.3
    samples = [30, 300]
    np.testing.assert_allclose(
        few.learning_curve(power[:6], samples).test, many.learning_curve(power, samples).test, rtol=0.02
    )


def test_learnability_is_the_share_of_a_mode_that_is_learned(features):
    eigenvalues, coefficients = features
    curve = learning_curve(eigenvalues, coefficients**2, [60], ridge=0.1)
    generator = np.random.default_rng(5)
    shares = []
    for _ in range(200):
        z = generator.standard_normal((60, P))
        alpha = np.linalg.solve((z * eigenvalues) @ z.T + 0.1 * np.eye(60), z @ coefficients)
        shares.append((eigenvalues * (z.T @ alpha) / coefficients)[:5])
    found = curve.learnability(eigenvalues)
    assert found.shape == (1, P)
    np.testing.assert_allclose(found[0, :5], np.mean(shares, 0), atol=0.03)


def test_eigenpairs_serve_in_place_of_the_pool():
    generator = np.random.default_rng(3)
    root, y = generator.standard_normal((40, 60)), generator.standard_normal((40, 2))
    K = root @ root.T
    for target in (y, y[:, 0]):
        wanted = pool_learning_curve(K, target, [5, 20], ridge=1.0)
        np.testing.assert_allclose(pool_learning_curve(ntkit.spectrum(K), target, [5, 20], ridge=1.0).test, wanted.test)
    with pytest.raises(InvalidInput, match="K must hold all eigenpairs of a kernel"):
        pool_learning_curve(ntkit.spectrum(K, k=3), y, [5])


def test_what_is_learned_almost_wholly_does_not_cancel():
    """Ten samples of ten eigenfunctions and hardly a ridge: κ = δ/10 · (1 + …) and test errors of κ's size."""
    curve = ntkit.theory.learning_curve(np.ones(10), np.ones(10), [10], ridge=1e-30)
    kappa = curve.kappa[0]
    assert kappa == pytest.approx(np.sqrt(1e-30 / 10), rel=1e-6)  # 10 κ/(1 + κ) = δ/κ
    assert curve.test[0] == pytest.approx(10 / (20 * kappa) * 10 * kappa**2, rel=1e-6)


def test_an_indefinite_kernel_is_no_pool():
    with pytest.raises(InvalidInput, match=r"pool_learning_curve\(\) needs a positive semi-definite kernel"):
        ntkit.theory.pool_learning_curve(np.diag([1.0, 1.0, -1.0]), np.ones(3), [1])


def test_unused_is_a_truth_value(unchecked):
    with pytest.raises(InvalidInput, match="unused must be True or False, got 'no'"):
        ntkit.theory.pool_learning_curve(np.eye(3), np.ones(3), [1], unused="no")
