"""`max_learning_rate`, and what every function of `dynamics` says to bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkit import _memory
from ntkit.dynamics import gradient_descent, gradient_flow, max_learning_rate
from ntkit.errors import InvalidInput, MemoryLimitExceeded

K, Y = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), np.ones(3)  # λ_max = 3
K4 = np.einsum("ij,ab->ijab", K, np.eye(2))


@pytest.mark.parametrize(
    ("kernel", "options", "expected"),
    [
        (K, {}, 2 * 3 / 3),
        (K, {"momentum": 0.9}, 2 * 1.9 * 3 / 3),
        (K, {"n_outputs": 5}, 2 * 3 / 3),
        (K, {"loss": torch.nn.MSELoss()}, 2 / (2 / 3 * 3)),
        (K, {"loss": torch.nn.MSELoss(), "n_outputs": 5}, 2 / (2 / 15 * 3)),
        (K, {"loss": torch.nn.MSELoss(reduction="sum"), "momentum": 0.5}, 3 / (2 * 3)),
        (K4, {}, 2 * 3 / 3),
        (K4, {"loss": torch.nn.MSELoss()}, 2 / (2 / 6 * 3)),
    ],
)
def test_largest_rates_by_hand(kernel, options, expected):
    assert max_learning_rate(kernel, **options) == pytest.approx(expected, rel=1e-14)


def test_the_largest_rate_of_a_large_kernel_is_that_of_all_eigenvalues():
    X = np.random.default_rng(0).standard_normal((510, 600))
    kernel = X @ X.T
    assert max_learning_rate(kernel) == pytest.approx(2 * 510 / np.linalg.eigvalsh(kernel)[-1], rel=1e-10)
    assert max_learning_rate(kernel) == max_learning_rate(kernel)
    assert max_learning_rate(np.eye(510)) == pytest.approx(2 * 510, rel=1e-10)


@given(st.floats(1e-100, 1e100), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_the_largest_rate_scales_inversely(scale, momentum):
    assert max_learning_rate(scale * K, momentum) == pytest.approx(2 * (1 + momentum) / scale, rel=1e-12)


NAN = np.array([1.0, np.nan, 1.0])
SHARED = [  # what both gradient_flow and gradient_descent check
    ({"K": np.ones((3, 2))}, r"K must be the kernel.*shape \(n, n\).*got shape \(3, 2\)"),
    ({"K": np.triu(np.ones((3, 3)))}, "K must be symmetric"),
    ({"K": np.diag(NAN)}, "K must be finite"),
    ({"K": np.eye(3, dtype=int)}, "K must be a float32 or float64 array"),
    ({"y": np.ones(4)}, r"y must have shape \(3,\) or \(3, outputs\), one row for each of K's 3.*got \(4,\)"),
    ({"y": np.ones((3, 2, 1))}, r"got \(3, 2, 1\)"),
    ({"y": np.array(1.0)}, r"got \(\)"),
    ({"K": K4, "y": np.ones((3, 3))}, r"y must have shape \(3, 2\).*got \(3, 3\)"),
    ({"K": K4}, r"y must have shape \(3, 2\).*got \(3,\)"),
    (
        {"y": np.arange(3)},
        r"y must hold real-valued targets, got integers \(int64\).*ntkit.data.one_hot\(y\)",
    ),
    ({"y": torch.arange(3)}, r"ntkit.data.one_hot\(y\)"),
    ({"y": NAN}, "y must be finite"),
    ({"y": [1.0, 1.0, 1.0]}, "y must be a torch tensor or a numpy array, got list"),
    ({"f0": np.ones((3, 1))}, r"f0, the outputs before training, must have shape \(3,\), one row a point"),
    ({"f0": NAN}, "f0 must be finite"),
    ({"K_test": np.ones((2, 4))}, r"K_test must be.*shape \(test points, 3\), got \(2, 4\)"),
    ({"K_test": np.ones(3)}, r"shape \(test points, 3\), got \(3,\)"),
    ({"K_test": np.ones((0, 3))}, r"got \(0, 3\); compute it with kernel.ntk\(x_test, x_train\)"),
    ({"K_test": K4}, r"shape \(test points, 3\), got \(3, 3, 2, 2\)"),
    ({"K": K4, "y": np.ones((3, 2)), "K_test": K}, r"shape \(test points, 3, 2, 2\), got \(3, 3\)"),
    ({"K_test": K, "f0": Y}, "f0 was given but f0_test was not.*as f0_test"),
    ({"K_test": K, "f0_test": Y}, "f0_test was given but f0 was not.*as f0"),
    ({"f0": Y, "f0_test": Y}, "f0_test was given without K_test"),
    ({"K_test": K, "f0": Y, "f0_test": np.ones(2)}, r"f0_test, the outputs.*shape \(3,\).*got \(2,\)"),
    ({"loss": "l1"}, r'loss must be "mse".*MSELoss\(reduction="mean"\).*got \'l1\''),
    ({"loss": torch.nn.L1Loss()}, r"loss must be .*got L1Loss\(\)"),
    ({"loss": torch.nn.MSELoss}, r"an instance torch.nn.MSELoss.*got <class"),
    ({"loss": torch.nn.MSELoss(reduction="none")}, r'got torch.nn.MSELoss\(reduction="none"\)'),
]


@pytest.mark.parametrize("function", [gradient_flow, gradient_descent])
@pytest.mark.parametrize(("change", "message"), SHARED)
def test_bad_problems_are_named(unchecked, function, change, message):
    when = {"times": [1.0]} if function is gradient_flow else {"lr": 1.0, "steps": 3}
    with pytest.raises(InvalidInput, match=message):
        function(**{"K": K, "y": Y, **when, **change})


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [0.0, 2.0, 1.0],
            r"times must increase strictly, but 2.0 is followed by 1.0; pass sorted\(set\(times\)\)",
        ),
        ([1.0, 1.0], "1.0 is followed by 1.0"),
        ([-1.0, 1.0], "times must not be negative, got -1.0 at index 0"),
        ([0.0, np.inf], "times must be finite, got inf at index 1"),
        ([0.0, np.nan], "times must be finite, got nan at index 1"),
        ([], r"at least one entry, got shape \(0,\)"),
        ([[1.0]], r"got shape \(1, 1\)"),
        (1.0, "times must be a sequence or an array, got float"),
        ("now", "times must be a sequence or an array, got str"),
        (["now"], "times must be real numbers"),
    ],
)
def test_bad_times_are_named(unchecked, times, message):
    with pytest.raises(InvalidInput, match=message):
        gradient_flow(K, Y, times=times)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lr": -0.1},
            r"lr must be a positive finite number, got -0.1; see ntkit.dynamics.max_learning_rate",
        ),
        ({"lr": 0.0}, "lr must be a positive finite number, got 0.0"),
        ({"lr": np.inf}, "lr must be a positive finite number, got inf"),
        ({"lr": np.nan}, "lr must be a positive finite number, got nan"),
        ({"lr": "fast"}, "lr must be a positive finite number, got 'fast'"),
        ({"momentum": 1.0}, "momentum must be a number from 0 up to, but not including, 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be a number from 0"),
        ({"momentum": np.nan}, "momentum must be a number from 0"),
        ({"steps": -1}, "steps must be a whole number from 0, or an increasing sequence of them, got -1"),
        ({"steps": True}, "steps must be a whole number, a sequence or an array, got bool"),
        ({"steps": 2.5}, "steps must be a whole number, a sequence or an array, got float"),
        ({"steps": [0.5, 1.0]}, "increasing sequence of whole numbers, got dtype float64"),
        ({"steps": [0, 5, 3]}, "steps must increase strictly, but 5 is followed by 3"),
        ({"steps": [-2, 5]}, "steps must not be negative, got -2 at index 0"),
        ({"steps": [2**60]}, r"steps must be below 2\^53"),
        ({"method": "magic"}, "method must be 'auto', 'eigen' or 'iterate', got 'magic'"),
    ],
)
def test_bad_descents_are_named(unchecked, change, message):
    with pytest.raises(InvalidInput, match=message):
        gradient_descent(**{"K": K, "y": Y, "lr": 0.5, "steps": 3, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.ones((2, 3))}, r"got shape \(2, 3\)"),
        ({"K": np.zeros((3, 3))}, "K must have a positive eigenvalue, but its largest is 0"),
        ({"K": -K}, "K must have a positive eigenvalue, but its largest is -1"),
        ({"momentum": 1}, "momentum must be a number from 0"),
        ({"loss": "hinge"}, 'loss must be "mse"'),
        ({"n_outputs": 0}, "n_outputs must be a whole number from 1, got 0"),
        ({"K": K4, "n_outputs": 3}, "n_outputs=3 contradicts K, which has 2 outputs"),
    ],
)
def test_bad_input_of_max_learning_rate_is_named(unchecked, change, message):
    with pytest.raises(InvalidInput, match=message):
        max_learning_rate(**{"K": K, **change})


def test_numbers_may_be_numpys_own(unchecked):
    path = gradient_descent(K, Y, lr=np.float32(0.5), steps=np.int64(3), momentum=np.float64(0.5))
    assert path.train.shape == (4, 3)
    assert max_learning_rate(K, n_outputs=np.int32(2)) == pytest.approx(2.0)


def test_losses_check_their_targets(unchecked):
    path = gradient_descent(K, Y, lr=0.5, steps=3, K_test=K[:2])
    with pytest.raises(InvalidInput, match=r"y must have the shape \(3,\) of the outputs.*got \(3, 1\)"):
        path.train_loss(Y[:, None])
    with pytest.raises(InvalidInput, match=r"y_test must have the shape \(2,\)"):
        path.test_loss(Y)
    with pytest.raises(InvalidInput, match=r"ntkit.data.one_hot"):
        path.test_loss(np.arange(2))
    with pytest.raises(InvalidInput, match="computed without K_test"):
        gradient_descent(K, Y, lr=0.5, steps=3).test_loss(Y)


@pytest.mark.parametrize("steps", [10**12, range(10**12 + 1)])
def test_steps_too_many_to_list_are_refused(unchecked, steps):
    text = r"a list of 1000000000001 steps needs 7.28 TiB, .*; pass fewer, as a sequence of the steps wanted"
    with pytest.raises(MemoryLimitExceeded, match=text):
        gradient_descent(K, Y, lr=0.5, steps=steps)
    assert gradient_descent(K, Y, lr=0.5, steps=[0, 10**12]).train.shape == (2, 3)


def test_sizes_are_said_before_anything_is_allocated(unchecked, monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10**6)
    with pytest.raises(MemoryLimitExceeded, match=r"a trajectory of 100001 moments.*steps=range"):
        gradient_descent(K, Y, lr=0.5, steps=100_000)
    with pytest.raises(MemoryLimitExceeded, match="eigendecomposition of a kernel with 170 rows"):
        gradient_flow(np.eye(170), np.ones(170), times=[1.0])
    with pytest.raises(MemoryLimitExceeded, match="checking K in float64"):
        max_learning_rate(np.eye(300))
