"""`gradient_descent`: against the recursion written out, and torch.optim.SGD on a real linear model."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkit.dynamics import gradient_descent, max_learning_rate
from ntkit.errors import InvalidInput
from oracles.descent import flattened, simulate


def problem(n=7, m=3, o=2, rank=None, seed=0):
    """A joint kernel of n training and m test points, targets and starting outputs."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n + m, rank or 2 * n))
    K = X @ X.T / X.shape[1]
    outputs = rng.standard_normal((2 * n + m, o))
    return K[:n, :n], K[n:, :n], outputs[:n], outputs[n : 2 * n], outputs[2 * n :]


def assert_matches_simulation(path, expected, steps, tolerance=1e-10):
    train, test = expected
    np.testing.assert_allclose(path.train, train[steps], atol=tolerance, rtol=0)
    np.testing.assert_allclose(path.test, test[steps], atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", ["eigen", "iterate"])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_every_step_is_the_recursions(method, momentum, rank, fraction):
    K, K_test, y, f0, f0_test = problem(rank=rank)
    lr = fraction * max_learning_rate(K, momentum)
    path = gradient_descent(
        K, y, lr=lr, steps=60, momentum=momentum, f0=f0, K_test=K_test, f0_test=f0_test, method=method
    )
    assert path.steps.tolist() == list(range(61))
    assert path.times is None
    assert_matches_simulation(path, simulate(K, y, lr / 7, 60, momentum, f0, K_test, f0_test), path.steps)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.81])
@pytest.mark.parametrize("method", ["eigen", "iterate"])
def test_every_kind_of_root_in_one_kernel(momentum, method):
    """A double root at z = (1 ∓ √m)²; real roots below, complex between, real negative above."""
    low, high = (1 - momentum**0.5) ** 2, (1 + momentum**0.5) ** 2
    z = np.array([0.0, 1e-300, 1e-17, 1e-9, low / 2, low, (low + high) / 2, 1.0, high, 2 * (1 + momentum)])
    n = len(z)
    rng = np.random.default_rng(4)
    K, K_test, y = np.diag(z) * n, rng.standard_normal((2, n)), rng.standard_normal((n, 1))
    steps = [0, 1, 2, 3, 10, 57, 58, 200]
    path = gradient_descent(K, y, lr=1.0, steps=steps, momentum=momentum, K_test=K_test, method=method)
    expected = simulate(K, y, 1 / n, 200, momentum, K_test=K_test)
    assert_matches_simulation(path, expected, steps)


@given(st.floats(0, 0.999), st.floats(1e-6, 1.0), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_momentum_agrees_with_simulation_at_any_momentum_and_stable_rate(momentum, fraction, seed):
    K, K_test, y, f0, f0_test = problem(n=4, m=2, o=1, seed=seed)
    lr = fraction * max_learning_rate(K, momentum)
    steps = [1, 2, 9, 80]
    path = gradient_descent(
        K, y, lr=lr, steps=steps, momentum=momentum, f0=f0, K_test=K_test, f0_test=f0_test, method="eigen"
    )
    expected = simulate(K, y, lr / 4, 80, momentum, f0, K_test, f0_test)
    scale = max(1.0, *(np.abs(part).max() for part in expected))
    assert_matches_simulation(path, expected, steps, tolerance=1e-10 * scale)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_far_steps_of_slow_modes_keep_their_digits(momentum):
    """A mode of rate 1e-9 follows exp(−z t/(1 − m)) to first order in z; 10⁹ steps cannot be simulated."""
    path = gradient_descent(np.array([[1.0]]), np.ones(1), lr=1e-9, steps=[10**9], momentum=momentum)
    assert float(path.train[0, 0]) == pytest.approx(-np.expm1(-1 / (1 - momentum)), abs=1e-6)
    plain = gradient_descent(np.array([[1.0]]), np.ones(1), lr=1e-9, steps=[10**9])
    assert float(plain.train[0, 0]) == pytest.approx(-np.expm1(1e9 * np.log1p(-1e-9)), rel=1e-14)


@pytest.mark.parametrize("method", ["eigen", "iterate"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_four_axes(method, momentum):
    n, m, o = 4, 2, 3
    flat, flat_test, y, f0, f0_test = problem(n * o, m * o, 1)
    K = flat.reshape(n, o, n, o).transpose(0, 2, 1, 3)
    K_test = flat_test.reshape(m, o, n, o).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(flattened(K_test), flat_test)
    lr = 0.7 * max_learning_rate(K, momentum)
    path = gradient_descent(
        K, y.reshape(n, o), lr=lr, steps=20, momentum=momentum, method=method,
        f0=f0.reshape(n, o), K_test=K_test, f0_test=f0_test.reshape(m, o),
    )  # fmt: skip
    train, test = simulate(flat, y, lr / n, 20, momentum, f0, flat_test, f0_test)
    np.testing.assert_allclose(path.train, train.reshape(21, n, o), atol=1e-12)
    np.testing.assert_allclose(path.test, test.reshape(21, m, o), atol=1e-12)


def test_a_two_axes_kernel_stands_for_every_output_alike():
    K, K_test, y, _, _ = problem(o=3)
    both = np.einsum("ij,ab->ijab", K, np.eye(3)), np.einsum("ij,ab->ijab", K_test, np.eye(3))
    two = gradient_descent(K, y, lr=1.0, steps=5, K_test=K_test)
    four = gradient_descent(both[0], y, lr=1.0, steps=5, K_test=both[1])
    np.testing.assert_allclose(two.train, four.train, atol=1e-13)
    np.testing.assert_allclose(two.test, four.test, atol=1e-13)
    assert max_learning_rate(K) == pytest.approx(max_learning_rate(both[0]), rel=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("method", ["eigen", "iterate"])
def test_torch_sgd_on_a_linear_model_is_predicted_exactly(reduction, momentum, method):
    n, m, d, o = 6, 4, 9, 3
    X, y = torch.randn(n, d).double(), torch.randn(n, o).double()
    X_test, y_test = torch.randn(m, d).double(), torch.randn(m, o).double()
    model, loss = torch.nn.Linear(d, o, bias=False).double(), torch.nn.MSELoss(reduction=reduction)
    lr = 0.9 * max_learning_rate(X @ X.T, momentum, loss, n_outputs=o)
    predicted = gradient_descent(
        X @ X.T, y, lr=lr, steps=40, momentum=momentum, loss=loss, method=method,
        f0=model(X), K_test=X_test @ X.T, f0_test=model(X_test),
    )  # fmt: skip
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    train_loss, test_loss = predicted.train_loss(y), predicted.test_loss(y_test)
    for step in range(41):
        torch.testing.assert_close(predicted.train[step], model(X).detach(), atol=1e-11, rtol=0)
        torch.testing.assert_close(predicted.test[step], model(X_test).detach(), atol=1e-11, rtol=0)
        value = loss(model(X), y)
        torch.testing.assert_close(train_loss[step], value.detach(), atol=1e-11, rtol=1e-10)
        torch.testing.assert_close(test_loss[step], loss(model(X_test), y_test).detach(), atol=1e-10, rtol=0)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()


def test_ntkits_own_loss_on_a_linear_model():
    X, y = torch.randn(5, 8).double(), torch.randn(5, 2).double()
    model = torch.nn.Linear(8, 2, bias=False).double()
    path = gradient_descent(X @ X.T, y, lr=0.1, steps=10, f0=model(X))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(11):
        loss = 0.5 * (model(X) - y).square().sum() / 5
        torch.testing.assert_close(path.train_loss(y)[step], loss.detach(), atol=1e-13, rtol=1e-12)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(0.01, 0.999))
@settings(max_examples=30, deadline=None)
def test_the_loss_never_rises_below_the_largest_rate(n, seed, fraction):
    K, _, y, f0, _ = problem(n, 1, 2, seed=seed)
    path = gradient_descent(K, y, lr=fraction * max_learning_rate(K), steps=30, f0=f0)
    loss = path.train_loss(y)
    assert (np.diff(loss) <= 1e-14 * loss[0]).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_largest_rate_parts_converging_from_diverging(momentum):
    K, _, y, _, _ = problem()
    edge = max_learning_rate(K, momentum)
    below = gradient_descent(K, y, lr=0.999 * edge, steps=[10**7], momentum=momentum)
    np.testing.assert_allclose(below.train[-1], y, atol=1e-8)
    far = int(20000 * (1 - momentum) / (1 + momentum))  # by then the unstable mode has grown by e^40
    above = gradient_descent(K, y, lr=1.001 * edge, steps=[0, far], momentum=momentum)
    assert above.train_loss(y)[1] > 10 * above.train_loss(y)[0]


def test_dtype_kind_and_shape_follow_the_kernel():
    K, K_test, y, _, _ = problem()
    single = gradient_descent(torch.tensor(K).float(), torch.tensor(y), lr=1.0, steps=3, K_test=torch.tensor(K_test))
    assert single.train.dtype == single.test.dtype == single.train_loss(torch.tensor(y)).dtype == torch.float32
    assert isinstance(single.steps, torch.Tensor)
    vector = gradient_descent(K, y[:, 0], lr=1.0, steps=range(0, 9, 4), K_test=K_test)
    assert vector.train.shape == (3, 7)
    assert vector.test.shape == (3, 3)
    assert vector.steps.dtype == np.int64
    column = gradient_descent(K, y[:, :1], lr=1.0, steps=np.array([0, 4, 8]), K_test=K_test)
    np.testing.assert_allclose(column.train[..., 0], vector.train, atol=1e-14)


def test_auto_takes_the_cheaper_method_and_both_agree():
    K, K_test, y, _, _ = problem()
    for steps in (5, [0, 10**6]):
        auto = gradient_descent(K, y, lr=1.0, steps=steps, K_test=K_test)
        named = gradient_descent(K, y, lr=1.0, steps=steps, K_test=K_test, method="iterate" if steps == 5 else "eigen")
        np.testing.assert_array_equal(auto.train, named.train)
        np.testing.assert_array_equal(auto.test, named.test)


def first_overflow(rate, momentum, limit):
    """The step at which the output 1 + e passes `limit`, by the scalar recursion in exact fractions."""
    e, v, step = Fraction(-1), Fraction(0), 0
    while abs(1 + e) <= limit:
        v = Fraction(momentum) * v + e
        e -= Fraction(rate) * v
        step += 1
    return step


@pytest.mark.parametrize("method", ["eigen", "iterate"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [5000, [0, 3, 5000]])
def test_overflow_names_its_step(method, momentum, dtype, steps):
    K, y = np.array([[4.0]], dtype=dtype), np.ones(1, dtype=dtype)
    step = first_overflow(4.0, momentum, float(np.finfo(dtype).max))
    with pytest.raises(InvalidInput, match=rf"overflow torch.{dtype.__name__} at step {step}: the learning rate"):
        gradient_descent(K, y, lr=1.0, steps=steps, momentum=momentum, method=method)
    last = gradient_descent(K, y, lr=1.0, steps=[step - 1], momentum=momentum, method=method)
    assert np.isfinite(last.train).all()


@pytest.mark.parametrize("method", ["eigen", "iterate"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_mode_that_is_not_excited_cannot_overflow(method, momentum):
    K, y = np.diag([100.0, 1.0]), np.array([0.0, 1.0])
    path = gradient_descent(K, y, lr=1.0, steps=[0, 1000], momentum=momentum, method=method, K_test=np.ones((1, 2)))
    np.testing.assert_allclose(path.train[1], y, atol=1e-12)
    np.testing.assert_allclose(path.test[1], [1.0], atol=1e-12)


def test_a_loss_that_overflows_names_its_step():
    path = gradient_descent(np.array([[4.0]]), np.ones(1), lr=1.0, steps=[0, 400])
    with pytest.raises(InvalidInput, match=r"the loss overflows torch.float64 at step 400; stop earlier"):
        path.train_loss(np.ones(1))
