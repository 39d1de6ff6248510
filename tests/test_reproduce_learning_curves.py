"""learning-curves: its targets, the regression behind its points, its claims, and the smoke run end to end."""

import math
import re

import numpy as np
import pytest
from torch import nn

import ntkit
from ntkit._progress import Reporter
from ntkit.experiments import EXPERIMENTS, reproduce
from ntkit.experiments.reproductions.learning_curves import tasks
from ntkit.experiments.reproductions.learning_curves.claims import half_learned, make_claims, worst_point
from ntkit.experiments.reproductions.learning_curves.regression import measure_regression


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return reproduce("learning-curves", scale="smoke", out=tmp_path_factory.mktemp("out") / "curves", progress=False)


def test_waves_are_eigenfunctions_of_the_circle():
    task = tasks.circle(48, 0)
    for target in task.targets:
        np.testing.assert_allclose(task.K @ target.y / 48, target.eigenvalue * target.y, atol=1e-12)
        assert (target.y**2).mean() == pytest.approx(1)


def test_harmonics_are_eigenfunctions_of_the_sphere_in_the_mean():
    """yᵀKy over pairs of different points is λ, to the noise of a sample mean; degrees are orthogonal to that."""
    n = 4000
    task = tasks.sphere(n, 1)
    y = np.concatenate([target.y for target in task.targets], axis=1)
    np.testing.assert_allclose(y.T @ y / n, np.eye(3), atol=5 / math.sqrt(n))
    K = task.K - task.K.mean()  # the constant, most of the kernel, is most of the noise
    np.fill_diagonal(K, 0.0)
    for target in task.targets[:2]:
        assert (target.y.T @ K @ target.y).item() / n**2 == pytest.approx(target.eigenvalue, rel=0.1)


def test_points_are_kernel_regression():
    task = tasks.circle(32, 3)
    found = measure_regression(task, (5, 9), 3, 7, Reporter(False))
    for i, n in enumerate((5, 9)):
        errors, shares = np.empty((3, 4)), np.empty((3, 4))
        for draw in range(3):
            order = np.random.default_rng([7, n, draw]).permutation(32)
            used, unused = order[:n], order[n:]
            for t, target in enumerate(task.targets):
                f = task.K[:, used] @ np.linalg.inv(task.K[np.ix_(used, used)]) @ target.y[used]
                errors[draw, t] = ((f - target.y)[unused] ** 2).mean()
                shares[draw, t] = (f * target.y).sum() / (target.y**2).sum()
        np.testing.assert_allclose(found.error[:, i], errors.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.error_spread[:, i], errors.std(0, ddof=1) / 3**0.5, rtol=1e-6)
        np.testing.assert_allclose(found.share[:, i], shares.mean(0), rtol=1e-8)
        np.testing.assert_allclose(found.share_spread[:, i], shares.std(0, ddof=1) / 3**0.5, rtol=1e-6)


def test_worst_points_are_relative_and_leave_out_tiny_errors():
    measured = np.array([[1.0, 0.1, 1e-4], [1.0, 0.5, 0.2]])
    predicted = np.array([[1.05, 0.08, 1e-2], [1.0, 0.5, 0.21]])
    assert worst_point(predicted, measured) == (0, 1, pytest.approx(-20.0))


def test_half_is_found_between_two_sizes():
    assert half_learned(np.array([4, 16]), np.array([0.25, 0.75])) == pytest.approx(8)
    assert half_learned(np.array([4, 16]), np.array([0.6, 0.75])) is None
    assert half_learned(np.array([4, 16]), np.array([0.1, 0.2])) is None


def made_up(error=1.0):
    findings = {"tasks": {"circle": {"title": "the circle", "targets": ["mode 2", "mode 5"], "control": "shuffled"}}}
    measured = np.array([[0.5, 0.2, 0.01], [1.0, 0.7, 0.1]])
    return findings, {
        "circle_samples": np.array([4, 8, 16]),
        "circle_predicted": error * measured,
        "circle_control": 3 * measured,
        "circle_error": measured,
        "circle_predicted_share": np.array([[0.3, 0.6, 0.9], [0.1, 0.3, 0.7]]),
        "circle_share": np.array([[0.3, 0.6, 0.9], [0.1, 0.3, 0.7]]),
    }


def test_claims_hold_for_right_predictions_and_their_controls_fail():
    claims = make_claims(*made_up())
    assert len(claims) == 3
    assert all(claim.holds and claim.control_fails for claim in claims)


def test_a_prediction_off_by_a_fifth_does_not_hold():
    claims = make_claims(*made_up(1.2))
    assert [claim.holds for claim in claims] == [False, True, True]
    assert claims[0].measured == pytest.approx(20)


def test_the_smoke_run_is_whole(smoke):
    assert set(smoke.results["findings"]["tasks"]) == {"circle", "sphere", "mnist"}
    names = {"circle-error", "circle-share", "sphere-error", "mnist-error"}
    assert {path.stem for path in smoke.folder.glob("*.png")} == names
    assert all(np.isfinite(array).all() for array in smoke.arrays.values())
    page = smoke.page.read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"\b(nan|inf)\b", page)
    assert "other images stand in" in page


def test_what_the_smoke_run_finds(smoke):
    by_task = {claim.claim.split(":")[0]: claim for claim in smoke.claims if "predicted errors" in claim.claim}
    for name in ("the sphere in 25 dimensions", "MNIST"):
        assert by_task[name].holds, by_task[name]
        assert by_task[name].control_fails, by_task[name]
    assert not by_task["the circle"].holds, "in one dimension the theory underestimates errors"


def test_scales_are_those_of_the_documents():
    paper = EXPERIMENTS["learning-curves"].scales["paper"]
    assert (paper.images.pool, paper.images.samples[0], paper.images.samples[-1]) == (12_000, 64, 2048)
    assert EXPERIMENTS["learning-curves"].scales["laptop"].circle.samples == (4, 8, 16, 32, 64, 128)


def test_the_kernel_is_the_stated_network():
    x = np.random.default_rng(0).standard_normal((4, 7))
    sizes = (7, 1, 1)
    hidden = [layer for i in sizes for layer in (ntkit.nn.Linear(i, 1, 2**0.5, 0.1), nn.ReLU())]
    same = nn.Sequential(*hidden, ntkit.nn.Linear(1, 1, 2**0.5, 0.1))
    np.testing.assert_allclose(tasks.network(7).ntk(x), ntkit.InfiniteKernel(same).ntk(x), rtol=1e-12)
