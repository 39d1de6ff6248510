"""kopitkov: image, losses, training and what is seen of it against independent forms; the claims; the smoke run."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ntkit import _memory
from ntkit._progress import Reporter
from ntkit.errors import DataError, MemoryLimitExceeded
from ntkit.experiments import EXPERIMENTS, reproduce
from ntkit.experiments.reproductions.experiment import Workbench
from ntkit.experiments.reproductions.kopitkov import alignment, image
from ntkit.experiments.reproductions.kopitkov.image import brightness_at, density_of, draw_points, grid_points
from ntkit.experiments.reproductions.kopitkov.network import leaky_network
from ntkit.experiments.reproductions.kopitkov.observation import Observer, Watch, first_order_errors
from ntkit.experiments.reproductions.kopitkov.summary import chance
from ntkit.experiments.reproductions.kopitkov.tasks import (
    DensityEstimation,
    Plane,
    Regression,
    magnitude_down,
    magnitude_up,
)
from ntkit.experiments.reproductions.kopitkov.training import Run, Training, recorded_steps
from oracles import jacobian as oracle

SCALES = EXPERIMENTS["kopitkov"].scales
SMALL = np.random.default_rng(0).random((6, 6))


def small_plane(n=24):
    return Plane(np.random.default_rng(1).random((n, 2)))


def jacobian(model, x):
    """(n, p): ∂f(x_n)/∂θ."""
    return oracle.jacobian(model, torch.from_numpy(x))[:, 0].numpy()


# ---------------------------------------------------------------------------------------------------------- image


def test_the_portrait_is_grey_and_square():
    found = image.load_image(32)
    assert found.shape == (32, 32)
    assert 0 <= found.min() < 0.1
    assert 0.9 < found.max() <= 1
    finer = image.load_image(64)
    np.testing.assert_allclose(finer.reshape(32, 2, 32, 2).mean(axis=(1, 3)), found, atol=0.01)


def test_an_image_that_is_missing_is_said_to_be(monkeypatch):
    monkeypatch.setattr("matplotlib.cbook.get_sample_data", lambda name, asfileobj: "/nowhere/" + name)
    with pytest.raises(DataError, match=r"grace_hopper.jpg .* cannot be read .* install matplotlib from PyPI"):
        image.load_image(8)


def test_brightness_is_linear_between_the_centres_of_pixels():
    u, v = 0.4, 0.7  # to the right, downwards
    column, row = u * 6 - 0.5, v * 6 - 0.5
    i, j = int(row), int(column)
    a, b = row - i, column - j
    wanted = (1 - a) * ((1 - b) * SMALL[i, j] + b * SMALL[i, j + 1]) + a * (
        (1 - b) * SMALL[i + 1, j] + b * SMALL[i + 1, j + 1]
    )
    assert brightness_at(SMALL, np.array([[u, v]]))[0] == pytest.approx(wanted, abs=1e-12)
    np.testing.assert_allclose(brightness_at(SMALL, grid_points(6)).reshape(6, 6), SMALL, atol=1e-12)


def test_a_density_integrates_to_one_and_is_drawn_from():
    density = density_of(SMALL, 0.1)
    assert brightness_at(density, grid_points(600)).mean() == pytest.approx(1, abs=1e-4)
    points = draw_points(density, 40_000, np.random.default_rng(2))
    assert points.shape == (40_000, 2)
    counts, *_ = np.histogram2d(points[:, 1], points[:, 0], bins=3, range=((0, 1), (0, 1)))
    share = brightness_at(density, grid_points(300)).reshape(3, 100, 3, 100).mean(axis=(1, 3)) / 9
    deviation = (counts / 40_000 - share) / np.sqrt(share * (1 - share) / 40_000)
    assert np.abs(deviation).max() < 5


# --------------------------------------------------------------------------------------------------- what is learned


def test_standardised_points():
    plane = small_plane()
    x = plane.standardised()
    np.testing.assert_allclose((x.mean(axis=0), x.std(axis=0)), [[0, 0], [1, 1]], atol=1e-12)
    np.testing.assert_allclose(plane.standardised(plane.points[:3]), x[:3])


def test_the_derivative_of_least_squares():
    task = Regression(SMALL, small_plane())
    assert (task.target.mean(), task.target.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    x, derivative = task.draw(torch.Generator())
    f = torch.randn(len(x), 1, requires_grad=True)
    loss = 0.5 * ((f[:, 0] - torch.from_numpy(task.target).float()) ** 2).mean()
    torch.testing.assert_close(derivative(f.detach()), torch.autograd.grad(loss, f)[0])


def test_a_batch_is_of_samples_with_their_targets():
    task = Regression(SMALL, small_plane(), batch=5)
    x, derivative = task.draw(torch.Generator().manual_seed(3))
    assert x.shape == (5, 2)
    everything = torch.from_numpy(task.plane.standardised()).float()
    chosen = [int((everything - sample).norm(dim=1).argmin()) for sample in x]
    np.testing.assert_allclose(-5 * derivative(torch.zeros(5, 1))[:, 0].numpy(), task.target[chosen], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.25, 1.0, 3.0])
def test_the_magnitudes_of_pso_are_the_published_ones(alpha):
    f = torch.linspace(-6, 6, 25, dtype=torch.float64)
    below = (f.exp() ** alpha + 1) ** (1 / alpha)
    torch.testing.assert_close(magnitude_up(f, alpha), 1 / below)
    torch.testing.assert_close(magnitude_down(f, alpha), f.exp() / below)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_pso_stands_still_at_the_log_density_alone(alpha):
    density = torch.from_numpy(density_of(SMALL, 0.1))

    def force(f):
        """p^U M^U − p^D M^D at each point, which any ∇f is weighted with."""
        return density * magnitude_up(f, alpha) - magnitude_down(f, alpha)

    assert force(density.log()).abs().max() < 1e-14
    assert (force(density.log() - 0.3) > 0).all()  # f is driven up where it is too small
    assert (force(density.log() + 0.3) < 0).all()


def test_the_samples_of_a_density_step():
    task = DensityEstimation(SMALL, small_plane(), alpha=0.25, floor=0.1, pool=500, batch=300, seed=0)
    np.testing.assert_allclose(np.exp(task.target), brightness_at(density_of(SMALL, 0.1), task.plane.points))
    x, derivative = task.draw(torch.Generator().manual_seed(0))
    assert x.shape == (600, 2)
    corners = task.plane.standardised(np.array([[0.0, 0.0], [1.0, 1.0]]))
    uniform = (x[300:].numpy() - corners[0]) / (corners[1] - corners[0])
    assert 0 <= uniform.min() < 0.05
    assert 0.95 < uniform.max() <= 1
    np.testing.assert_allclose(uniform.mean(axis=0), 0.5, atol=5 / np.sqrt(12 * 300))
    m = derivative(torch.zeros(600, 1))
    torch.testing.assert_close(m[:300], torch.full((300, 1), -(0.5**4) / 300))
    torch.testing.assert_close(m[300:], torch.full((300, 1), 0.5**4 / 300))


# ------------------------------------------------------------------------------------------- networks and training


def test_the_network():
    before = torch.get_rng_state()
    model = leaky_network(4, 200, 0.1, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    layers = [module for module in model if isinstance(module, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(200, 2), (200, 200), (200, 200), (1, 200)]
    assert [type(module).__name__ for module in model] == ["Linear", "LeakyReLU"] * 3 + ["Linear"]
    for layer in layers:
        assert layer.bias.abs().max() == 0
        bound = np.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert torch.equal(layers[1].weight, leaky_network(4, 200, 0.1, seed=5)[2].weight)


def by_hand(model, task, rates):
    """Gradient descent, one rate a step."""
    x, y = torch.from_numpy(task.plane.standardised()).float(), torch.from_numpy(task.target).float()
    for rate in rates:
        loss = 0.5 * ((model(x)[:, 0] - y) ** 2).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    return model


def weights(step, model, rate):
    return {"step": np.array(step), "rate": np.array(rate), "weights": model[0].weight.detach().numpy().copy()}


def test_training_is_gradient_descent_whose_rate_is_halved(tmp_path):
    task, run = Regression(SMALL, small_plane()), Run("r", "", 3, 0.2, halved_at=4)
    rows = Training(run, task, leaky_network(3, 8, 0.01, 0), 0, tmp_path).watch([0, 4, 6], weights, lambda: None)
    wanted = by_hand(leaky_network(3, 8, 0.01, 0), task, [0.2] * 4 + [0.1] * 2)
    np.testing.assert_allclose(rows[-1]["weights"], wanted[0].weight.detach().numpy(), atol=1e-6)
    assert [float(row["rate"]) for row in rows] == [0.2, 0.1, 0.1]


@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path, optimiser):
    task, run = Regression(SMALL, small_plane(), batch=4), Run("r", "", 3, 0.05, optimiser)
    steps = [0, 3, 7, 9]

    def training(folder):
        folder.mkdir(exist_ok=True)
        return Training(run, task, leaky_network(3, 8, 0.01, 0), 0, folder)

    whole = training(tmp_path / "whole").watch(steps, weights, lambda: None)

    def interrupted(step, model, rate):
        if step == 7:
            raise KeyboardInterrupt
        return weights(step, model, rate)

    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "parts").watch(steps, interrupted, lambda: None)
    assert (tmp_path / "parts" / "r.done").read_text() == "3\n"
    seen = []

    def watched(step, model, rate):
        seen.append(step)
        return weights(step, model, rate)

    parts = training(tmp_path / "parts").watch(steps, watched, lambda: None)
    assert seen == [7, 9]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one["weights"], other["weights"])
    assert training(tmp_path / "parts").watch(steps, interrupted, lambda: None)[-1]["step"] == 9


def test_the_watched_steps():
    steps = recorded_steps(1000, 5, (33,))
    assert steps[0] == 0
    assert steps[-1] == 1000
    assert steps == sorted(set(steps))
    assert {1, 6, 32, 33, 178, 250, 500, 750} <= set(steps)


# ----------------------------------------------------------------------------------------------------- what is seen


def observed(layers=3, top=8, eigenpairs=None):
    """A row of an observer, the network's Jacobian, outputs and target, of a network that was trained a little."""
    task = Regression(SMALL, small_plane())
    start = leaky_network(layers, 16, 0.01, 0)
    model = by_hand(copy.deepcopy(start), task, [0.1] * 20)
    watch = Watch(top_target=3, top_output=top, eigenpairs=eigenpairs, shuffles=2, grid=5, seed=0)
    observer = Observer(task, watch, start=start, eigenfunctions_at=(20,), picture_at=20)
    return task, start, model, observer(20, model, 0.1)


def test_energies_are_those_of_the_jacobians_left_singular_vectors():
    task, start, model, row = observed()
    x = task.plane.standardised()
    J = jacobian(copy.deepcopy(model).double(), x)
    vectors, singular, _ = np.linalg.svd(J, full_matrices=False)
    np.testing.assert_allclose(row["eigenvalues"], (singular**2)[:24], rtol=1e-9, atol=1e-9 * singular[0] ** 2)
    f = copy.deepcopy(model).double()(torch.from_numpy(x)).detach().numpy()[:, 0]
    for name, phi in (("target", task.target), ("output", f), ("residual", f - task.target)):
        wanted = np.cumsum((vectors.T @ phi) ** 2)[:8] / (phi @ phi)
        np.testing.assert_allclose(row[f"energy_{name}"], wanted, atol=1e-9)
    first, *_ = np.linalg.svd(jacobian(copy.deepcopy(start).double(), x), full_matrices=False)
    assert row["energy_output_in_start"] == pytest.approx(((first[:, :8].T @ f) ** 2).sum() / (f @ f), abs=1e-9)
    assert row["error"] == pytest.approx(0.5 * np.mean((f - task.target) ** 2))


def test_fewer_eigenpairs_have_the_same_energies():
    *_, everything = observed()
    *_, few = observed(eigenpairs=10)
    assert few["eigenvalues"].shape == (10,)
    for name in ("energy_target", "energy_output", "energy_shuffled", "first_order"):
        np.testing.assert_allclose(few[name], everything[name], atol=1e-8)


def test_eigenfunctions_and_the_picture_over_the_plane():
    task, _, model, row = observed()
    model = copy.deepcopy(model).double()
    J, x_grid = jacobian(model, task.plane.standardised()), task.plane.standardised(grid_points(5))
    vectors, singular, _ = np.linalg.svd(J, full_matrices=False)
    wanted = (jacobian(model, x_grid) @ J.T @ vectors[:, :6] / singular[:6] ** 2).T.reshape(6, 5, 5)
    signs = np.sign((wanted * row["eigenfunctions"]).sum(axis=(1, 2)))[:, None, None]
    np.testing.assert_allclose(row["eigenfunctions"], signs * wanted, atol=1e-8)
    outputs = model(torch.from_numpy(x_grid)).detach().numpy().reshape(5, 5)
    np.testing.assert_allclose(row["picture"], outputs, atol=1e-12)


def test_a_linear_networks_steps_are_predicted_exactly():
    x, y = torch.randn(12, 2, dtype=torch.float64), np.random.default_rng(4).standard_normal(12)
    model = torch.nn.Sequential(torch.nn.Linear(2, 1).double())
    K = jacobian(model, x.numpy()) @ jacobian(model, x.numpy()).T
    found = first_order_errors(model, x, y, 0.7, {"": K, "_doubled": 2 * K})
    assert found["first_order"] < 1e-12
    assert found["first_order_doubled"] == pytest.approx(1, abs=1e-12)


def test_the_first_order_error_falls_with_the_rate():
    task, _, model, _ = observed()
    x = torch.from_numpy(task.plane.standardised())
    model = copy.deepcopy(model).double()
    J = jacobian(model, x.numpy())
    errors = [
        float(first_order_errors(copy.deepcopy(model), x, task.target, rate, {"": J @ J.T})["first_order"])
        for rate in (1e-3, 5e-4, 2.5e-4)
    ]
    assert errors[1] / errors[0] == pytest.approx(0.5, rel=0.05)
    assert errors[2] / errors[1] == pytest.approx(0.5, rel=0.05)


def test_the_linearised_network_is_iterated_by_hand():
    config = dataclasses.replace(SCALES["smoke"], width=8)
    task = Regression(SMALL, small_plane())
    found = alignment._linearised(3, task, [0, 1, 5, 40], config)
    model, x = alignment._network(3, config).double(), torch.from_numpy(task.plane.standardised())
    J = jacobian(model, x.numpy())
    residual = model(x).detach().numpy()[:, 0] - task.target
    wanted = []
    for _ in range(41):
        wanted.append(0.5 * np.mean(residual**2))
        residual = residual - config.rate / 24 * (J @ (J.T @ residual))
    np.testing.assert_allclose(found, [wanted[t] for t in (0, 1, 5, 40)], rtol=1e-9)


def test_chance_is_the_spread_of_random_directions():
    directions = np.random.default_rng(5).standard_normal((20_000, 60))
    shares = (directions[:, :10] ** 2).sum(axis=1) / (directions**2).sum(axis=1)
    assert chance(10, 60) == pytest.approx(shares.std(), rel=0.03)


# ------------------------------------------------------------------------------------------------ limits, smoke run


def test_the_published_size_is_refused_where_memory_does_not_suffice(tmp_path, monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2**30)
    with pytest.raises(MemoryLimitExceeded, match=r"kernels on 10,000 samples needs 7.45 GiB, .* smaller --scale"):
        alignment.measure(SCALES["paper"], Workbench(None, tmp_path, Reporter(False)))


def test_the_smoke_run(tmp_path):
    result = reproduce("kopitkov", scale="smoke", out=tmp_path / "out", progress=False)
    assert result.holds
    assert all(claim.control_fails for claim in result.claims)
    assert all(np.isfinite(array).all() for array in result.arrays.values())
    assert result.arrays["gd-4_eigenfunctions"].shape == (2, 6, 16, 16)
    assert result.arrays["gd-4_energy_target"].shape == (len(result.arrays["gd-4_step"]), 40)
    half = result.arrays["halved_step"] <= 100  # the same network until its rate is halved
    same = slice(0, int(half.sum()) - 1)
    np.testing.assert_array_equal(result.arrays["halved_error"][same], result.arrays["gd-4_error"][same])
    np.testing.assert_array_equal(result.arrays["halved_rate"][half], [0.25] * (int(half.sum()) - 1) + [0.125])
    page = result.page.read_text()
    assert "this is a trial of the machinery" in page
    assert page.count("<svg") == 16
    assert len(list((tmp_path / "out").glob("*.png"))) == 16
