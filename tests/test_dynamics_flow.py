"""`gradient_flow`: against the matrix exponential of the whole linear system, and its limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkit.dynamics import gradient_descent, gradient_flow
from ntkit.errors import InvalidInput
from oracles.descent import flow


def problem(n=6, m=3, o=2, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n + m, rank or 2 * n))
    K = X @ X.T / X.shape[1]
    outputs = rng.standard_normal((2 * n + m, o))
    return K[:n, :n], K[n:, :n], outputs[:n], outputs[n : 2 * n], outputs[2 * n :]


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(
    ("loss", "speed"),
    [("mse", 1 / 6), (torch.nn.MSELoss(), 2 / 12), (torch.nn.MSELoss(reduction="sum"), 2.0)],
)
def test_outputs_follow_the_differential_equation(rank, loss, speed):
    K, K_test, y, f0, f0_test = problem(rank=rank)
    times = [0.0, 1e-9, 0.3, 2.0, 50.0]
    path = gradient_flow(K, y, times=times, f0=f0, K_test=K_test, f0_test=f0_test, loss=loss)
    train, test = flow(K, y, speed, times, f0, K_test, f0_test)
    np.testing.assert_allclose(path.train, train, atol=1e-11)
    np.testing.assert_allclose(path.test, test, atol=1e-11)
    assert path.times.tolist() == times
    assert path.steps is None


def test_four_axes():
    n, m, o = 3, 2, 2
    flat, flat_test, y, f0, f0_test = problem(n * o, m * o, 1)
    K = flat.reshape(n, o, n, o).transpose(0, 2, 1, 3)
    K_test = flat_test.reshape(m, o, n, o).transpose(0, 2, 1, 3)
    path = gradient_flow(
        K, y.reshape(n, o), times=[0.5, 4.0],
        f0=f0.reshape(n, o), K_test=K_test, f0_test=f0_test.reshape(m, o),
    )  # fmt: skip
    train, test = flow(flat, y, 1 / n, [0.5, 4.0], f0, flat_test, f0_test)
    np.testing.assert_allclose(path.train, train.reshape(2, n, o), atol=1e-12)
    np.testing.assert_allclose(path.test, test.reshape(2, m, o), atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_it_starts_at_f0_and_ends_at_kernel_regression_on_the_row_space(n, rank, seed):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank]
    X = basis * np.sqrt(rng.uniform(0.1, 1, basis.shape[1]))  # well conditioned on its row space
    X_test = rng.standard_normal((2, X.shape[1]))
    y, f0, f0_test = (rng.standard_normal((rows, 2)) for rows in (n, n, 2))
    path = gradient_flow(X @ X.T, y, times=[0.0, 1e5], f0=f0, K_test=X_test @ X.T, f0_test=f0_test)
    np.testing.assert_allclose(path.train[0], f0, atol=1e-13)
    np.testing.assert_array_equal(path.test[0], f0_test)
    weights = np.linalg.lstsq(X, y - f0, rcond=None)[0]
    np.testing.assert_allclose(path.train[1], f0 + X @ weights, atol=1e-9)
    np.testing.assert_allclose(path.test[1], f0_test + X_test @ weights, atol=1e-9)


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_loss_never_rises(n, seed):
    K, _, y, f0, _ = problem(n, 1, 2, seed=seed)
    loss = gradient_flow(K, y, times=np.geomspace(1e-3, 1e4, 20), f0=f0).train_loss(y)
    assert (np.diff(loss) <= 1e-14).all()


def test_small_steps_of_descent_tend_to_flow():
    K, K_test, y, _, _ = problem()
    errors = []
    for steps in (100, 1000):
        descent = gradient_descent(K, y, lr=2.0 / steps, steps=[steps], K_test=K_test)
        errors.append(np.abs(descent.test - gradient_flow(K, y, times=[2.0], K_test=K_test).test).max())
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)


def test_dtype_and_kind_follow_the_kernel():
    K, K_test, y, _, _ = problem()
    path = gradient_flow(
        torch.tensor(K).float(), torch.tensor(y), times=torch.tensor([0.0, 1.0]), K_test=torch.tensor(K_test)
    )
    assert path.train.dtype == path.test.dtype == torch.float32
    assert path.times.dtype == torch.float64
    vector = gradient_flow(K, y[:, 0], times=np.arange(3), K_test=K_test)
    assert isinstance(vector.train, np.ndarray)
    assert vector.train.shape == (3, 6)
    assert vector.test.shape == (3, 3)


def test_infinitely_long_times_still_converge():
    path = gradient_flow(np.array([[1e3]]), np.ones(1), times=[1e308], K_test=np.array([[500.0]]))
    assert path.train[0, 0] == 1.0
    assert path.test[0, 0] == pytest.approx(0.5)


def test_overflow_names_the_time_and_the_negative_eigenvalue():
    with pytest.raises(InvalidInput, match=r"float64 at time 10000: K has the negative eigenvalue -1,.*earlier"):
        gradient_flow(np.diag([1.0, -1.0]), np.ones(2), times=[1.0, 1e4])


@pytest.mark.gpu
def test_a_kernel_on_the_gpu_stays_there():
    K, K_test, y, _, _ = (torch.tensor(part) for part in problem())
    path = gradient_flow(K.cuda(), y, times=[0.0, 1.0], K_test=K_test.cuda())
    assert path.train.is_cuda
    assert path.test.is_cuda
    torch.testing.assert_close(path.test.cpu(), gradient_flow(K, y, times=[0.0, 1.0], K_test=K_test).test)
    for method in ("eigen", "iterate"):
        for momentum in (0.0, 0.9):
            steps = gradient_descent(K.cuda(), y.cuda(), lr=0.1, steps=5, momentum=momentum, method=method)
            assert steps.train_loss(y).is_cuda
