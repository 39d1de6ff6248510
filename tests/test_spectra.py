"""`spectrum`: against definitions, dense against Lanczos, and what a partial spectrum says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import ntkit
from ntkit import _memory
from ntkit.errors import InvalidInput, MemoryLimitExceeded, ToleranceNotReached
from ntkit.spectra import block_lanczos
from ntkit.spectra.eigensolvers import largest_eigenvalue
from oracles import spectra as oracle


def kernel(n, rank=None, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, rank or 2 * n))
    return X @ X.T / X.shape[1]


def test_eigenpairs_solve_the_eigenvalue_equation_in_descending_order():
    K = kernel(12)
    result = ntkit.spectrum(K)
    values, vectors = result.eigenvalues, result.eigenvectors
    np.testing.assert_allclose(K @ vectors, vectors * values, atol=1e-13)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-13)
    assert (np.diff(values) <= 0).all()
    assert result.trace == pytest.approx(np.trace(K), rel=1e-14)
    assert result.norm == pytest.approx(np.linalg.norm(K), rel=1e-14)
    assert (vectors[np.abs(vectors).argmax(axis=0), range(12)] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out_and_numpy_in_numpy_out(dtype):
    K = torch.tensor(kernel(6), dtype=dtype)
    result = ntkit.spectrum(K)
    assert result.eigenvalues.dtype == result.eigenvectors.dtype == dtype
    assert result.energy(torch.ones(6, dtype=dtype)).dtype == dtype
    array = ntkit.spectrum(K.numpy())
    assert isinstance(array.eigenvalues, np.ndarray)
    assert array.eigenvalues.dtype == K.numpy().dtype
    np.testing.assert_array_equal(array.eigenvectors, result.eigenvectors.numpy())


def test_a_kernel_that_requires_grad_is_read_only():
    K = torch.tensor(kernel(4)).requires_grad_()
    assert not ntkit.spectrum(K).eigenvalues.requires_grad


DEGENERATE = {
    "generic": kernel(80),
    "low rank": kernel(80, rank=3),
    "identity": np.eye(80),
    "K ⊗ I": np.kron(kernel(8), np.eye(10)),
    "indefinite": kernel(80) - 0.5 * np.eye(80),
    "two rows": np.array([[2.0, 1.0], [1.0, 2.0]]),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("k", [1, 6])
def test_lanczos_finds_the_same_leading_pairs_also_repeated_ones(name, k):
    K = DEGENERATE[name]
    k = min(k, len(K) - 1)
    dense, lanczos = ntkit.spectrum(K, k=k, method="dense"), ntkit.spectrum(K, k=k, method="lanczos")
    np.testing.assert_allclose(lanczos.eigenvalues, dense.eigenvalues, atol=1e-12 * dense.norm)
    vectors = lanczos.eigenvectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-10)
    np.testing.assert_allclose(K @ vectors, vectors * lanczos.eigenvalues, atol=1e-10 * dense.norm)
    again = ntkit.spectrum(K, k=k, method="lanczos")
    np.testing.assert_array_equal(again.eigenvectors, vectors)


def test_large_kernels_take_lanczos_and_agree_with_dense():
    K = kernel(501)
    np.testing.assert_allclose(ntkit.spectrum(K, k=5).eigenvalues, np.linalg.eigvalsh(K)[::-1][:5], rtol=1e-12)
    assert largest_eigenvalue(torch.tensor(K)) == pytest.approx(np.linalg.eigvalsh(K)[-1], rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_restarts_lose_nothing(k, monkeypatch):
    """A basis of three blocks, pressed together again and again; eigenvalues come in fives."""
    monkeypatch.setattr(block_lanczos, "_BLOCKS", 3)
    monkeypatch.setattr(block_lanczos, "_ROOM", 0)
    presses = []
    true_press = block_lanczos._press
    monkeypatch.setattr(block_lanczos, "_press", lambda *given: presses.append(given[2]) or true_press(*given))
    K = np.kron(kernel(50, seed=2), np.eye(5))
    found = ntkit.spectrum(K, k=k, method="lanczos")
    assert presses
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(K)[::-1][:k], rtol=1e-12)
    np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(k), atol=1e-12)
    assert found.residuals.max() <= 1e-12 * found.eigenvalues[0]


def test_where_blocks_do_not_converge_lapack_is_asked(monkeypatch):
    monkeypatch.setattr(block_lanczos, "_PATIENCE", 2)
    monkeypatch.setattr(block_lanczos, "_PRODUCTS", 0)
    K = kernel(600, seed=1)
    assert block_lanczos.leading_eigenpairs(lambda v: torch.tensor(K) @ v, 600, 5, 1e-13) is None
    found = ntkit.spectrum(K, k=5, method="lanczos")
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(K)[::-1][:5], rtol=1e-12)
    with pytest.raises(ToleranceNotReached, match="did not find the 5 eigenpairs at the top of this operator"):
        ntkit.spectrum(aslinearoperator(K), k=5)


def test_energy_is_that_of_the_projection_and_sums_over_outputs():
    K, phi = kernel(9), np.random.default_rng(1).standard_normal((9, 3))
    full, part = ntkit.spectrum(K), ntkit.spectrum(K, k=4)
    np.testing.assert_allclose(full.energy(phi), oracle.energy(K, phi), atol=1e-13)
    np.testing.assert_allclose(part.energy(phi), oracle.energy(K, phi)[:4], atol=1e-13)
    np.testing.assert_allclose(full.energy(phi[:, 0]), oracle.energy(K, phi[:, 0]), atol=1e-13)


def test_four_axes_flatten_sample_major():
    n, o = 4, 3
    flat = kernel(n * o)
    K = flat.reshape(n, o, n, o).transpose(0, 2, 1, 3)
    y = np.random.default_rng(2).standard_normal((n, o))
    result, reference = ntkit.spectrum(K), ntkit.spectrum(flat)
    np.testing.assert_allclose(result.eigenvalues, reference.eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(result.energy(y), reference.energy(y.ravel()), atol=1e-13)
    np.testing.assert_allclose(result.energy(y.ravel()), reference.energy(y.ravel()), atol=1e-13)
    assert result.alignment(y) == pytest.approx(oracle.alignment(flat, y.reshape(-1, 1)), abs=1e-13)
    assert (result.n_samples, result.n_outputs) == (n, o)


def test_alignment_and_effective_rank_of_a_full_spectrum():
    K, y = kernel(7), np.random.default_rng(3).standard_normal((7, 2))
    result = ntkit.spectrum(K)
    assert result.alignment(y) == pytest.approx(oracle.alignment(K, y), abs=1e-13)
    assert result.effective_rank() == pytest.approx(oracle.effective_rank(K), rel=1e-12)


def test_rounding_level_negative_eigenvalues_are_reported_and_harmless():
    K = kernel(30, rank=2).astype(np.float32)
    result = ntkit.spectrum(K)
    assert result.eigenvalues.min() < 0
    assert 1 <= result.effective_rank() <= 2.001
    energy = result.energy(K[:, 0])
    assert energy[1] == pytest.approx(1.0, abs=1e-6)
    assert energy.max() <= 1


@given(
    st.integers(1, 12),
    st.integers(0, 10**6),
    st.sampled_from([1e-200, 1e-6, 1.0, 1e9, 1e200]),
    st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=40, deadline=None)
def test_energy_rises_from_zero_to_one(n, seed, scale, dtype):
    K = kernel(n, seed=seed).astype(dtype)
    phi = np.random.default_rng(seed).standard_normal((n, 2)) * scale
    energy = ntkit.spectrum(K).energy(phi)
    assert (energy >= 0).all()
    assert (energy <= 1).all()
    assert (np.diff(energy) >= 0).all()
    assert energy[-1] == pytest.approx(1, abs=1e-5 if dtype == np.float32 else 1e-12)


@given(st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_effective_rank_lies_between_one_and_n(n, seed):
    rank = ntkit.spectrum(kernel(n, seed=seed)).effective_rank()
    assert 1 - 1e-12 <= rank <= n * (1 + 1e-12)


NAN = np.eye(3)
NAN[1, 2] = np.nan
INVALID_KERNELS = [
    (np.ones((3, 4)), r"shape \(n, n\) or \(n, n, outputs, outputs\), got shape \(3, 4\)"),
    (np.ones((3, 3, 2)), r"got shape \(3, 3, 2\)"),
    (np.ones((3, 3, 2, 1)), r"got shape \(3, 3, 2, 1\)"),
    (np.ones((0, 0)), r"got shape \(0, 0\)"),
    (np.array([[1.0, 0.5], [0.4, 1.0]]), "K must be symmetric to 1e-10 of its largest entry.*pass"),
    (np.array([[1.0, 0.5], [0.4999, 1.0]], dtype=np.float32), "K must be symmetric to 1e-05"),
    (NAN, r"K must be finite, got 1 value.*first at index \(1, 2\)"),
    (np.eye(3, dtype=int), "K must be a float32 or float64 array"),
    ([[1.0]], "K must be a torch tensor or a numpy array, got list"),
    (np.zeros((3, 3)), "K is zero everywhere"),
]


@pytest.mark.parametrize(("K", "message"), INVALID_KERNELS)
def test_bad_kernels_are_named(unchecked, K, message):
    with pytest.raises(InvalidInput, match=message):
        ntkit.spectrum(K)


def test_rounding_of_float32_is_no_asymmetry():
    K = kernel(50).astype(np.float32)
    K[0, 1] *= 1 + 3e-6
    assert ntkit.spectrum(K).eigenvalues[0] > 0


@pytest.mark.parametrize("k", [0, 4, -1, True, 1.5])
def test_k_must_count_eigenpairs(unchecked, k):
    with pytest.raises(InvalidInput, match="k must be a whole number of eigenpairs from 1 to 3"):
        ntkit.spectrum(np.eye(3), k=k)


def test_methods_are_named(unchecked):
    with pytest.raises(InvalidInput, match="method must be 'auto', 'dense' or 'lanczos', got 'qr'"):
        ntkit.spectrum(np.eye(3), method="qr")
    with pytest.raises(InvalidInput, match="fewer than all 3 eigenpairs, got k=3"):
        ntkit.spectrum(np.eye(3), method="lanczos")


def test_a_partial_spectrum_says_what_it_cannot_answer():
    result = ntkit.spectrum(kernel(5), k=2)
    assert result.is_partial
    with pytest.raises(InvalidInput, match=r"all 5 eigenpairs.*2 at the top; use ntkit.alignment\(K, y\)"):
        result.alignment(np.ones(5))
    with pytest.raises(InvalidInput, match=r"effective_rank\(\) needs all 5.*use ntkit.spectrum\(K\)"):
        result.effective_rank()


def test_effective_rank_refuses_an_indefinite_kernel():
    with pytest.raises(InvalidInput, match=r"positive semi-definite kernel.*sum to 1 and the negative ones to -1"):
        ntkit.spectrum(np.diag([1.0, -1.0])).effective_rank()


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (np.zeros(3), "phi is zero everywhere"),
        (np.ones(4), r"phi must have shape \(3,\) or \(3, outputs\).*got \(4,\)"),
        (np.ones((3, 0)), r"got \(3, 0\)"),
        (np.arange(3), "ntkit.data.one_hot"),
    ],
)
def test_bad_functions_are_named(unchecked, phi, message):
    with pytest.raises(InvalidInput, match=message):
        ntkit.spectrum(np.eye(3)).energy(phi)


def test_a_decomposition_that_does_not_fit_is_refused(unchecked, monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda: 30 * 100**2)
    with pytest.raises(MemoryLimitExceeded, match=r"eigendecomposition of a kernel with 100 rows.*spectrum\(K, k"):
        ntkit.spectrum(np.eye(100))


@pytest.mark.gpu
def test_a_kernel_on_the_gpu_stays_there():
    K = torch.tensor(kernel(40), device="cuda")
    dense, lanczos = ntkit.spectrum(K), ntkit.spectrum(K, k=3, method="lanczos")
    assert dense.eigenvectors.is_cuda
    assert lanczos.eigenvectors.is_cuda
    torch.testing.assert_close(dense.eigenvalues[:3], lanczos.eigenvalues)
    assert dense.energy(torch.ones(40).double()).is_cuda
