"""Spectra by products: of operators, of one end, their densities, decay, and eigenfunctions elsewhere."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from torch import nn

import ntkit
from ntkit.errors import InvalidInput, MemoryLimitExceeded
from ntkit.spectra import spectral_density
from test_spectra import kernel


def falling(n, exponent, seed=0):
    """A matrix with eigenvalues i^−exponent."""
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return (vectors * np.arange(1.0, n + 1) ** -exponent) @ vectors.T


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("end", ["top", "bottom"])
def test_an_operator_has_the_pairs_of_its_matrix(end, dtype):
    K = kernel(60, seed=3).astype(dtype)
    expected = np.linalg.eigvalsh(K.astype(np.float64))
    expected = expected[::-1][:4] if end == "top" else expected[::-1][-4:]
    found = ntkit.spectrum(aslinearoperator(K), k=4, end=end)
    tolerance = {np.float32: 1e-4, np.float64: 1e-9}[dtype]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=tolerance * np.linalg.norm(K))
    assert found.is_partial
    assert found.end == end
    assert (found.trace, found.norm) == (None, None)
    assert found.eigenvalues.dtype == dtype


@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("end", ["top", "bottom"])
def test_residuals_bound_the_distance_to_an_eigenvalue(method, end):
    K = kernel(80)
    found = ntkit.spectrum(K, k=5, method=method, end=end)
    direct = np.linalg.norm(K @ found.eigenvectors - found.eigenvectors * found.eigenvalues, axis=0)
    np.testing.assert_allclose(found.residuals, direct, atol=1e-14)
    exact = np.linalg.eigvalsh(K)
    apart = np.abs(found.eigenvalues[:, None] - exact).min(1)
    assert (apart <= found.residuals + 1e-14).all()
    assert (found.residuals <= 1e-9).all()
    assert ntkit.spectrum(K).residuals is None


def test_the_bottom_is_the_bottom():
    K = kernel(30)
    found = ntkit.spectrum(K, k=3, end="bottom")
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(K)[:3][::-1], atol=1e-12)
    with pytest.raises(InvalidInput, match="energy\\(\\) needs the top eigenpairs"):
        found.energy(np.ones(30))
    with pytest.raises(InvalidInput, match="power_law\\(\\) needs the top eigenvalues"):
        found.power_law()


def test_a_kernel_of_a_network_that_is_never_formed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x = torch.randn(20, 5, dtype=torch.float64)
    operator = ntkit.NTKOperator(model, x)
    dense = ntkit.spectrum(operator.to_dense(), k=6)
    found = ntkit.spectrum(operator, k=6)
    np.testing.assert_allclose(found.eigenvalues, dense.eigenvalues.numpy(), rtol=1e-9)
    assert found.trace == pytest.approx(dense.trace, rel=1e-10)
    assert (found.n_samples, found.n_outputs) == (20, 3)
    y = np.random.default_rng(0).standard_normal((20, 3))
    np.testing.assert_allclose(found.energy(y), dense.energy(torch.from_numpy(y).flatten()).numpy(), atol=1e-7)


def test_float32_matrices_are_multiplied_in_float64():
    K = kernel(600).astype(np.float32)
    K = (K + K.T) / 2
    found = ntkit.spectrum(K, k=3)
    expected = np.linalg.eigvalsh(K.astype(np.float64))[::-1][:3]
    half_a_digit = np.finfo(np.float32).eps / 2  # what rounding the result leaves; float32 products leave more
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=half_a_digit)
    assert found.residuals.max() < half_a_digit * found.eigenvalues[0]


def test_lanczos_copies_no_matrix(monkeypatch):
    from ntkit import _memory

    K = kernel(600)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 9 * K.nbytes // 10)
    assert ntkit.spectrum(K, k=3).eigenvalues[0] > 0
    with pytest.raises(MemoryLimitExceeded):
        ntkit.spectrum(K, k=3, method="dense")


def test_cosines_are_roots_of_energies():
    K, phi = kernel(9), np.random.default_rng(1).standard_normal(9)
    found = ntkit.spectrum(K)
    np.testing.assert_allclose(found.cosine(phi) ** 2, found.energy(phi), atol=1e-15)
    projected = found.eigenvectors[:, :3].T @ phi
    assert found.cosine(phi)[2] == pytest.approx(np.linalg.norm(projected) / np.linalg.norm(phi))


def test_participation_ratio():
    K = kernel(12)
    values = np.linalg.eigvalsh(K)
    expected = values.sum() ** 2 / (values**2).sum()
    for found in (ntkit.spectrum(K), ntkit.spectrum(K, k=2)):
        assert found.participation_ratio() == pytest.approx(expected)
    with pytest.raises(InvalidInput, match="not known of an operator"):
        ntkit.spectrum(aslinearoperator(K), k=2).participation_ratio()


@pytest.mark.parametrize("exponent", [0.5, 1.5, 3.0])
def test_power_laws_are_found(exponent):
    law = ntkit.spectrum(falling(300, exponent)).power_law(5, 200)
    assert law.exponent == pytest.approx(exponent, rel=0.01)
    assert law.low <= law.exponent <= law.high
    assert law.scale == pytest.approx(1, rel=0.05)
    assert (law.first, law.last) == (5, 200)


def test_intervals_of_power_laws_cover_the_exponent():
    """Eigenvalues with noise of their own, whose order bends the ends: eight of ten intervals, as is said."""
    generator = np.random.default_rng(0)
    covered, draws = 0, 200
    for _ in range(draws):
        values = np.sort(np.arange(1.0, 201.0) ** -1.2 * np.exp(0.3 * generator.standard_normal(200)))[::-1]
        law = ntkit.spectrum(np.diag(values)).power_law()
        covered += law.low <= 1.2 <= law.high
    assert 0.75 < covered / draws < 0.95


def test_an_exponential_is_no_power_law():
    law = ntkit.spectrum(np.diag(np.exp(-np.arange(40.0) / 4))).power_law()
    assert law.high - law.low > 1


@pytest.mark.parametrize(("arguments", "message"), [
    ((0, None), "first must be the rank of an eigenvalue that is more than rounding, from 1 to 12, got 0"),
    ((1, 13), "last must be the rank of an eigenvalue that is more than rounding, from 1 to 12, got 13"),
    ((8, 12), "8 eigenvalues or more, got the 5 of ranks 8 to 12"),
])  # fmt: skip
def test_bad_ranks(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        ntkit.spectrum(kernel(12)).power_law(*arguments)


def test_eigenfunctions_are_eigenvectors_on_the_samples_and_smooth_between():
    x = np.linspace(0, 1, 200)

    def K(a, b):
        return np.exp(-((a[:, None] - b) ** 2) / 0.1)

    train, between = x[::2], x[1::2]
    found = ntkit.spectrum(K(train, train), k=4)
    np.testing.assert_allclose(found.extend(K(train, train)), found.eigenvectors, atol=1e-9)
    middle = (found.eigenvectors[1:] + found.eigenvectors[:-1]) / 2
    np.testing.assert_allclose(found.extend(K(between, train))[:-1], middle, atol=2e-3)


def test_eigenfunctions_of_several_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2)).double()
    x, other = torch.randn(8, 3).double(), torch.randn(5, 3).double()
    found = ntkit.spectrum(ntkit.empirical_ntk(model, x), k=6)
    extended = found.extend(ntkit.empirical_ntk(model, other, x))
    assert extended.shape == (10, 6)
    again = found.extend(ntkit.empirical_ntk(model, x))
    torch.testing.assert_close(again, found.eigenvectors)


def test_bad_kernels_of_other_points():
    found = ntkit.spectrum(kernel(6), k=2)
    with pytest.raises(InvalidInput, match=r"with the 6 samples, \(m, 6\), got \(4, 5\)"):
        found.extend(np.ones((4, 5)))
    with pytest.raises(InvalidInput, match=r"only 2 of 6 exceed.*spectrum\(K, k=2\)"):
        ntkit.spectrum(kernel(6, rank=2)).extend(np.ones((4, 6)))


def test_density_counts_eigenvalues():
    K = falling(400, 1.0)
    exact = np.linalg.eigvalsh(K)
    density = spectral_density(K, starts=30, steps=60)
    for threshold in (0.1, 0.02, 0.005):
        count, error = density.count_above(threshold)
        assert abs(count - (exact > threshold).sum()) <= 4 * error + 400 / 60  # nodes of 60 steps
    assert density.weights.sum(1) == pytest.approx(np.ones(30))


def test_density_has_exact_moments():
    """Of each start the first 2m moments are those of its quadratic form."""
    K = kernel(30)
    density = spectral_density(K, starts=3, steps=4, seed=5)
    signs = torch.randint(2, (30, 3), generator=torch.Generator().manual_seed(5)) * 2 - 1
    z = signs.double().numpy() / 30**0.5
    for power in range(8):
        expected = np.einsum("np,nm,mp->p", z, np.linalg.matrix_power(K, power), z)
        np.testing.assert_allclose((density.weights * density.nodes**power).sum(1), expected, rtol=1e-9)


def test_density_of_few_eigenvalues_ends_early():
    density = spectral_density(np.diag([3.0, 3.0, 1.0, 1.0, 1.0]), starts=4, steps=5)
    assert density.count_above(2.0)[0] == pytest.approx(2, abs=1e-10)
    assert np.isfinite(density.nodes).all()
    points = np.linspace(-1, 5, 600)
    assert np.trapezoid(density.smoothed(points, 0.1), points) == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("unchecked")
def test_bad_operators():
    with pytest.raises(InvalidInput, match="K must be symmetric, but u·Kv and v·Ku differ"):
        ntkit.spectrum(aslinearoperator(np.triu(np.ones((20, 20)))), k=2)
    with pytest.raises(InvalidInput, match=r"K must be a square operator, got shape \(3, 4\)"):
        ntkit.spectrum(aslinearoperator(np.ones((3, 4))), k=1)
    with pytest.raises(InvalidInput, match="operator of float32 or float64 numbers, got complex128"):
        ntkit.spectrum(aslinearoperator(np.eye(3, dtype=complex)), k=1)
    with pytest.raises(InvalidInput, match="say how many, as k=50"):
        ntkit.spectrum(aslinearoperator(np.eye(3)))
    with pytest.raises(InvalidInput, match=r"pass K\.to_dense\(\)"):
        ntkit.spectrum(aslinearoperator(np.eye(3)), k=1, method="dense")
    with pytest.raises(InvalidInput, match="end must be 'top' or 'bottom', got 'middle'"):
        ntkit.spectrum(np.eye(3), k=1, end="middle")
    broken = LinearOperator((3, 3), matvec=lambda v: np.full(v.shape, np.nan), dtype=np.float64)
    with pytest.raises(InvalidInput, match="the product with K must be finite"):
        ntkit.spectrum(broken, k=1)
    with pytest.raises(InvalidInput, match="starts must be a whole number, at least 1, got 0"):
        spectral_density(np.eye(3), starts=0)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-161, 1e155, 1e300])
@pytest.mark.parametrize("wrap", [np.asarray, aslinearoperator])
def test_kernels_whose_squares_are_no_numbers(scale, wrap):
    """Squares of entries under- or overflow; eigenpairs, residuals and densities do not."""
    K = falling(120, 1.5)
    found = ntkit.spectrum(wrap(scale * K), k=3, method="lanczos")
    np.testing.assert_allclose(found.eigenvalues / scale, ntkit.spectrum(K).eigenvalues[:3], rtol=1e-10)
    assert np.all(found.residuals <= 1e-9 * found.eigenvalues[0])
    density, plain = (spectral_density(matrix, starts=2, steps=10) for matrix in (wrap(scale * K), K))
    np.testing.assert_allclose(density.nodes / scale, plain.nodes, atol=1e-9)


@pytest.mark.parametrize("method", ["dense", "lanczos"])
def test_residuals_are_those_of_the_numbers_that_are_given(method):
    """Of a float32 kernel these are rounded, and so is what they leave."""
    K = kernel(60, seed=3).astype(np.float32)
    found = ntkit.spectrum(K, k=2, method=method)
    vectors, values = found.eigenvectors.astype(np.float64), found.eigenvalues.astype(np.float64)
    true = np.linalg.norm(K.astype(np.float64) @ vectors - vectors * values, axis=0)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-4)


def test_an_operator_of_zero_is_said():
    with pytest.raises(InvalidInput, match="K is zero everywhere"):
        ntkit.spectrum(aslinearoperator(np.zeros((5, 5))), k=2)


def test_power_laws_end_where_rounding_begins():
    K = np.diag([*(np.arange(1.0, 21.0) ** -2.0), *np.full(20, 1e-15)])
    law = ntkit.spectrum(K).power_law()
    assert (law.first, law.last) == (1, 20)
    assert law.exponent == pytest.approx(2.0)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_bad_widths_of_densities(width):
    density = spectral_density(np.eye(4), starts=1, steps=2)
    with pytest.raises(InvalidInput, match="width must be a finite number > 0"):
        density.smoothed(np.array([0.0]), width)


def test_eigenfunctions_of_kernels_near_the_smallest_numbers():
    K = kernel(6) * 1e-309
    found = ntkit.spectrum(K)
    np.testing.assert_allclose(found.extend(K), found.eigenvectors, atol=1e-6)
