"""`alignment` and `kernel_distance`: against their definitions, their invariances, and bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntkit
from ntkit.errors import InvalidInput
from oracles import spectra as oracle

SEEDS = st.integers(0, 10**6)
SCALES = st.sampled_from([1e-250, 1e-9, 0.5, 3.0, 1e12, 1e250])


def draw(seed, n, o):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n))
    return X @ X.T, rng.standard_normal((n, o))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("o", [1, 4])
def test_alignment_is_the_cosine_of_the_kernel_and_the_targets_kernel(centered, o):
    K, y = draw(0, 8, o)
    expected = oracle.alignment(K, y, centered)
    assert ntkit.alignment(K, y, centered) == pytest.approx(expected, abs=1e-13)
    assert ntkit.alignment(torch.tensor(K), torch.tensor(y), centered) == pytest.approx(expected, abs=1e-13)
    assert ntkit.alignment(K.astype(np.float32), y, centered) == pytest.approx(expected, abs=1e-5)


def test_one_output_is_the_rayleigh_form():
    K, y = draw(1, 6, 1)
    y = y[:, 0]
    assert ntkit.alignment(K, y) == pytest.approx(y @ K @ y / (np.linalg.norm(K) * (y @ y)), abs=1e-14)


@pytest.mark.parametrize("centered", [False, True])
def test_four_axes_meet_the_targets_as_one_vector(centered):
    n, o = 5, 3
    flat, _ = draw(2, n * o, 1)
    K = flat.reshape(n, o, n, o).transpose(0, 2, 1, 3)
    y = np.random.default_rng(3).standard_normal((n, o))
    vector = y.reshape(-1, 1)
    if centered:
        H = np.kron(np.eye(n) - 1 / n, np.eye(o))
        flat, vector = H @ flat @ H, H @ vector
    expected = oracle.alignment(flat, vector)
    assert ntkit.alignment(K, y, centered) == pytest.approx(expected, abs=1e-13)
    assert ntkit.alignment(K, y.ravel(), centered) == pytest.approx(expected, abs=1e-13)


@given(SEEDS, st.integers(2, 8), st.integers(1, 3), SCALES, SCALES, st.booleans())
@settings(max_examples=50, deadline=None)
def test_alignment_is_a_cosine_and_forgets_scales(seed, n, o, a, b, centered):
    K, y = draw(seed, n, o)
    value = ntkit.alignment(K, y, centered)
    assert -1 <= value <= 1
    assert ntkit.alignment(a * K, b * y, centered) == pytest.approx(value, abs=1e-12)
    assert ntkit.alignment(-K, y, centered) == pytest.approx(-value, abs=1e-12)


@given(SEEDS, st.integers(2, 8), st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_centred_alignment_forgets_constants(seed, n, shift_kernel, shift_targets):
    K, y = draw(seed, n, 1)
    value = ntkit.alignment(K, y, centered=True)
    assert ntkit.alignment(K + shift_kernel, y + shift_targets, centered=True) == pytest.approx(value, abs=1e-9)


@given(SEEDS, st.integers(1, 8), SCALES)
@settings(max_examples=50, deadline=None)
def test_kernel_distance_is_one_minus_the_cosine_and_zero_for_multiples(seed, n, scale):
    K1, _ = draw(seed, n, 1)
    K2, _ = draw(seed + 1, n, 1)
    value = ntkit.kernel_distance(K1, K2)
    assert value == pytest.approx(oracle.kernel_distance(K1, K2), abs=1e-13)
    assert 0 <= value <= 1 + 1e-12
    assert ntkit.kernel_distance(K1, scale * K1) == pytest.approx(0, abs=1e-25)
    assert ntkit.kernel_distance(scale * K1, K2) == pytest.approx(value, abs=1e-13)
    assert ntkit.kernel_distance(K1, -scale * K1) == pytest.approx(2, abs=1e-13)


def test_kernel_distance_sees_a_small_change():
    """1 − cos of a relative change ε is about ε²/2, far below what 1 − cos can hold at ε = 1e-9."""
    K = np.eye(2)
    assert ntkit.kernel_distance(K, np.diag([1.0, 1.0 + 2e-9])) == pytest.approx(0.5e-18, rel=1e-6)


def test_kernel_distance_takes_rectangles_and_four_axes():
    K = np.random.default_rng(0).standard_normal((3, 5, 2, 2))
    L = np.random.default_rng(1).standard_normal((3, 5, 2, 2))
    assert ntkit.kernel_distance(K, L) == pytest.approx(oracle.kernel_distance(K, L), abs=1e-14)
    assert ntkit.kernel_distance(torch.tensor(K[..., 0, 0]), torch.tensor(K[..., 0, 0])) == 0.0


@pytest.mark.parametrize(
    ("K", "y", "options", "message"),
    [
        (np.eye(3), np.arange(3), {}, r"got integers \(int64\).*one-hot rows ntkit.data.one_hot\(y\)"),
        (np.eye(3), torch.arange(3), {}, r"one-hot rows ntkit.data.one_hot\(y\)"),
        (np.eye(3), np.zeros(3), {}, "y is zero everywhere"),
        (np.zeros((3, 3)), np.ones(3), {}, "K is zero everywhere"),
        (np.eye(3), np.ones(3), {"centered": True}, "y is the same for every sample.*centered=False"),
        (np.ones((3, 3)), np.arange(3.0), {"centered": True}, "K is the same for every sample"),
        (np.eye(3), np.ones(2), {}, r"y must have shape \(3,\) or \(3, outputs\)"),
        (np.eye(3), np.array([1.0, np.nan, 0.0]), {}, "y must be finite"),
        (np.eye(3), [1.0, 2.0, 3.0], {}, "y must be a torch tensor or a numpy array, got list"),
        (
            np.ones((2, 2, 3, 3)),
            np.ones((3, 2)),
            {},
            r"y must have shape \(2, 3\) or its sample-major flattening",
        ),
        (np.ones((2, 3)), np.ones(2), {}, r"got shape \(2, 3\)"),
    ],
)
def test_bad_input_of_alignment_is_named(unchecked, K, y, options, message):
    if K.ndim == 4:
        K = K + np.eye(3)
    with pytest.raises(InvalidInput, match=message):
        ntkit.alignment(K, y, **options)


@pytest.mark.parametrize(
    ("K1", "K2", "message"),
    [
        (np.eye(3), np.eye(2), r"both \(n, m\).*got shapes \(3, 3\) and \(2, 2\)"),
        (np.ones(3), np.ones(3), r"got shapes \(3,\) and \(3,\)"),
        (np.eye(3), np.zeros((3, 3)), "K2 is zero everywhere"),
        (np.full((3, 3), np.inf), np.eye(3), "K1 must be finite"),
    ],
)
def test_bad_input_of_kernel_distance_is_named(unchecked, K1, K2, message):
    with pytest.raises(InvalidInput, match=message):
        ntkit.kernel_distance(K1, K2)


# ------------------------------------------------------------------------------------------- by class, by layer


@pytest.mark.parametrize("centered", [False, True])
def test_alignment_of_each_class(centered):
    generator = np.random.default_rng(4)
    root, y = generator.standard_normal((6, 9)), generator.standard_normal((6, 3))
    K = root @ root.T
    found = ntkit.alignment(torch.tensor(K), y, centered, per_class=True)
    np.testing.assert_allclose(found, [oracle.alignment(K, y[:, [c]], centered) for c in range(3)], atol=1e-13)
    assert ntkit.alignment(K, y[:, 0], centered, per_class=True) == pytest.approx(found[:1])
    root = generator.standard_normal((18, 30))
    full = (root @ root.T).reshape(6, 3, 6, 3).transpose(0, 2, 1, 3)
    own = [oracle.alignment(full[:, :, c, c], y[:, [c]], centered) for c in range(3)]
    np.testing.assert_allclose(ntkit.alignment(full, y, centered, per_class=True), own, atol=1e-13)


def test_alignment_by_layer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    parts = ntkit.EmpiricalKernel(model).parts(x)
    found = ntkit.alignment(parts, y)
    assert found == {name: ntkit.alignment(K, y) for name, K in parts.items()}
    assert list(found) == ["0", "2"]
    by_class = ntkit.alignment(parts, y, per_class=True)
    assert by_class["2"].shape == (2,)
    with pytest.raises(InvalidInput, match="K must hold at least one kernel by name, got an empty mapping"):
        ntkit.alignment({}, y)


def test_a_class_without_targets_is_an_error():
    with pytest.raises(InvalidInput, match="y"):
        ntkit.alignment(np.eye(3), np.array([[1.0, 0.0]] * 3), per_class=True)
