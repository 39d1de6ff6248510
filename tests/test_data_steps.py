"""Preprocessing steps against textbook forms; fitted on the training part alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.preprocessing import StandardScaler

from ntkit.data import STEPS, Dataset, apply_steps, load
from ntkit.errors import DataError
from oracles.whitening import zca


def dataset(x_train: np.ndarray, x_test: np.ndarray) -> Dataset:
    y = (np.arange(len(x_train)) % 2, np.arange(len(x_test)) % 2)
    return Dataset("made", x_train, y[0], x_test, y[1], ("a", "b"), "Made in a test.", "classification")


@pytest.fixture
def mixed() -> Dataset:
    """(30, 5) correlated features of very different sizes."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((5, 5)) * [1, 10, 100, 0.1, 3]
    return dataset(rng.standard_normal((30, 5)) @ mix + 7, rng.standard_normal((12, 5)) @ mix)


@pytest.fixture
def images() -> Dataset:
    rng = np.random.default_rng(1)
    scale = np.array([1.0, 5.0, 0.2])[:, None, None]
    return dataset(rng.random((20, 3, 4, 4)) * scale, rng.random((8, 3, 4, 4)) * scale + 1)


def test_standardize(mixed):
    done = apply_steps(mixed, ["standardize"])
    scaler = StandardScaler().fit(mixed.x_train)
    np.testing.assert_allclose(done.x_train, scaler.transform(mixed.x_train), atol=1e-12)
    np.testing.assert_allclose(done.x_test, scaler.transform(mixed.x_test), atol=1e-12)
    assert done.steps == ("standardize",)
    assert done.notes == ()


def test_constant_features_become_zero_in_both_parts(mixed):
    x_train, x_test = mixed.x_train.copy(), mixed.x_test.copy()
    x_train[:, 2] = 0.1  # whose mean is not exactly 0.1
    done = apply_steps(dataset(x_train, x_test), ["standardize"])
    assert (done.x_train[:, 2] == 0).all()
    assert (done.x_test[:, 2] == 0).all()
    assert done.notes == ("standardize: 1 of 5 features are constant in training and became 0",)


def test_standardize_channels(images):
    done = apply_steps(images, ["standardize-channels"])
    for c in range(3):
        mean, std = images.x_train[:, c].mean(), images.x_train[:, c].std()
        np.testing.assert_allclose(done.x_train[:, c], (images.x_train[:, c] - mean) / std, atol=1e-12)
        np.testing.assert_allclose(done.x_test[:, c], (images.x_test[:, c] - mean) / std, atol=1e-12)


def test_standardize_channels_needs_channels(mixed):
    with pytest.raises(DataError, match=r"is for inputs \(n, channels, positions …\), got \(30, 5\)"):
        apply_steps(mixed, ["standardize-channels"])


def test_center_and_flatten(images):
    done = apply_steps(images, ["center", "flatten"])
    centered = images.x_test - images.x_train.mean(axis=0)
    np.testing.assert_allclose(done.x_test, centered.reshape(8, 48), atol=1e-15)
    assert done.steps == ("center", "flatten")
    assert done.input_shape == (48,)


def test_whiten_is_zca(mixed):
    done = apply_steps(mixed, ["whiten"])
    np.testing.assert_allclose(done.x_train, zca(mixed.x_train, mixed.x_train), atol=1e-8)
    np.testing.assert_allclose(done.x_test, zca(mixed.x_train, mixed.x_test), atol=1e-8)
    assert done.notes == ()


def test_whiten_pca_differs_from_zca_by_a_rotation(mixed):
    flat, turned = apply_steps(mixed, ["whiten"]), apply_steps(mixed, ["whiten-pca"])
    np.testing.assert_allclose(turned.x_test @ turned.x_test.T, flat.x_test @ flat.x_test.T, atol=1e-8)
    covariance = turned.x_train.T @ turned.x_train / 30
    np.testing.assert_allclose(covariance, np.eye(5), atol=1e-12)


def test_whitening_drops_directions_without_variance(mixed):
    double = dataset(np.hstack([mixed.x_train] * 2), np.hstack([mixed.x_test] * 2))
    done = apply_steps(double, ["whiten-pca"])
    assert done.input_shape == (5,)
    assert "5 of 10 directions kept, the others have negligible variance" in done.notes[0]
    kept_shape = apply_steps(double, ["whiten"])
    assert kept_shape.input_shape == (10,)
    assert np.abs(kept_shape.x_test).max() < 1e3
    np.testing.assert_allclose(np.linalg.matrix_rank(kept_shape.x_train, tol=1e-6), 5)


def test_whitening_rounding_noise_of_float32_is_not_a_direction(mixed):
    rng = np.random.default_rng(2)
    table = (mixed.x_train @ rng.standard_normal((5, 9))).astype(np.float32)
    done = apply_steps(dataset(table, table), ["whiten-pca"])
    assert done.input_shape == (5,)
    assert done.x_train.dtype == np.float32


def test_whitening_with_fewer_samples_than_features_says_what_it_does():
    rng = np.random.default_rng(3)
    done = apply_steps(dataset(rng.random((6, 40)), rng.random((4, 40))), ["whiten"])
    gram = done.x_train @ done.x_train.T
    np.testing.assert_allclose(gram, 6 * (np.eye(6) - 1 / 6), atol=1e-9)
    assert "puts all of them equally far apart" in done.notes[0]


def test_whitening_needs_samples_that_differ():
    alike = np.full((6, 3), 0.1)
    with pytest.raises(DataError, match="whitening needs training samples that differ, got 6"):
        apply_steps(dataset(alike, alike), ["whiten"])


def test_unit_norm(images):
    done = apply_steps(images, ["unit-norm"])
    np.testing.assert_allclose((done.x_train**2).sum(axis=(1, 2, 3)), 48, rtol=1e-12)
    np.testing.assert_allclose((done.x_test**2).sum(axis=(1, 2, 3)), 48, rtol=1e-12)
    zero = replace(images, x_test=images.x_test * (np.arange(8) != 5)[:, None, None, None])
    with pytest.raises(DataError, match="unit-norm needs samples that are not zero, got zero at sample 5"):
        apply_steps(zero, ["unit-norm"])


@pytest.mark.parametrize("name", STEPS)
def test_no_step_looks_at_the_test_part(images, name):
    other = replace(images, x_test=images.x_test[::-1] * 3 + 1)
    done, done_other = apply_steps(images, [name]), apply_steps(other, [name])
    np.testing.assert_array_equal(done.x_train, done_other.x_train)


@pytest.mark.parametrize("name", STEPS)
def test_steps_keep_the_dtype_and_leave_the_input_alone(images, name):
    single = replace(images, x_train=images.x_train.astype("f4"), x_test=images.x_test.astype("f4"))
    before = single.x_train.copy()
    assert apply_steps(single, [name]).x_train.dtype == np.float32
    np.testing.assert_array_equal(single.x_train, before)


@pytest.mark.parametrize("name", ["standardize", "whiten", "center"])
@given(
    x=arrays(np.float64, (6, 3), elements=st.floats(-1e6, 1e6)),
    shift=st.floats(-100, 100),
)
@settings(max_examples=40, deadline=None)
def test_no_step_gives_nan(name, x, shift):
    x[0, 0] += 1.0 + abs(x).max()  # so that not all samples are alike
    done = apply_steps(dataset(x, x + shift), [name])
    assert np.isfinite(done.x_train).all()
    assert np.isfinite(done.x_test).all()


def test_values_too_large_to_square(mixed):
    with pytest.raises(DataError, match=r"needs values between 1e-100 and 1e100 in size, got .*e\+202"):
        apply_steps(replace(mixed, x_train=mixed.x_train * 1e200), ["standardize"])


def test_an_unknown_step_is_an_error_before_any_is_applied(images):
    with pytest.raises(DataError, match=r"no step 'standardise'; .* center, .*did you mean 'standardize'"):
        apply_steps(images, ["flatten", "standardise"])


def test_real_digits_whitened():
    done = apply_steps(load("digits"), ["whiten-pca"])
    covariance = done.x_train.T @ done.x_train / len(done.x_train)
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=1e-8)
