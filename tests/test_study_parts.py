"""What the study is made of: training runs, stable rates, predictions, kernel machines, networks, the folder."""

import numpy as np
import pytest
import torch
from torch import nn

from ntkit._progress import Reporter
from ntkit.empirical.operator import NTKOperator
from ntkit.errors import InvalidInput
from ntkit.experiments import learning_rates
from ntkit.experiments.kernel_machines import RIDGES, errors_of_parts, fit_machine, learning_sizes
from ntkit.experiments.networks import build_network
from ntkit.experiments.result_folder import result_folder, write_json
from ntkit.experiments.training_curves import linearised_curve, recorded_steps
from ntkit.experiments.training_runs import Problem, descend

SILENT = Reporter(False)


def linear_problem(n=12, d=5, o=2, centered=True):
    model = nn.Linear(d, o, bias=False).double()
    x = torch.randn(n, d, dtype=torch.float64)
    return Problem.of(model, x, torch.randn(n, o, dtype=torch.float64), centered=centered)


def test_descent_is_torch_sgd():
    problem = linear_problem(centered=False)
    losses = [state.loss for state in descend(problem, 0.1, 5)]
    model = nn.Linear(5, 2, bias=False).double()
    model.load_state_dict(problem.model.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    wanted = []
    for _ in range(6):
        loss = 0.5 * ((model(problem.x) - problem.y) ** 2).sum(1).mean()
        wanted.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(losses, wanted, rtol=1e-12)


def test_training_leaves_the_network_as_it_was():
    problem = linear_problem()
    before = problem.model.weight.clone()
    list(descend(problem, 0.1, 3))
    assert torch.equal(problem.model.weight, before)
    assert problem.model.weight.grad is None


def test_a_diverging_run_ends_early():
    states = list(descend(linear_problem(), 1e6, 400))
    assert len(states) < 401
    assert all(np.isfinite(s.loss) for s in states)


def test_largest_rate_of_a_linear_model_is_exactly_two_n_over_lambda_max():
    """One output and one direction: the loss rises at once beyond 2N/λ_max, and never below."""
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    problem = Problem.of(nn.Linear(1, 1, bias=False).double(), x, 3 * x, centered=True)
    predicted = learning_rates.predicted_rate(NTKOperator(problem.model, x))
    assert predicted == pytest.approx(2 * 2 / 5)
    found = learning_rates.largest_stable_rate(problem, predicted, SILENT, "")
    assert found <= predicted * (1 + 1e-9)
    assert found > predicted * 0.99


@pytest.mark.parametrize("guess", [1e-3, 1e3])
def test_a_bad_guess_is_left_behind(guess):
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    problem = Problem.of(nn.Linear(1, 1, bias=False).double(), x, 3 * x, centered=True)
    assert learning_rates.largest_stable_rate(problem, guess, SILENT, "") == pytest.approx(0.8, rel=0.006)


def test_no_edge_of_stability_is_an_error(unchecked):
    problem = linear_problem()
    flat = Problem(problem.model, problem.x, problem.y * 0, problem.offset)
    with pytest.raises(InvalidInput, match="no edge of stability was found"):
        learning_rates.largest_stable_rate(flat, 1.0, SILENT, "")


def test_scan_tells_stable_from_diverging():
    problem = linear_problem()
    predicted = learning_rates.predicted_rate(NTKOperator(problem.model, problem.x))
    scan = learning_rates.scan_rates(problem, predicted, SILENT)
    assert set(scan.outcomes[scan.multiples < 1]) == {learning_rates.STABLE}
    assert set(scan.outcomes[scan.multiples >= 2]) == {learning_rates.DIVERGES}  # a linear model cannot catapult
    assert np.isfinite(scan.losses).all()


def test_linearised_curve_of_a_linear_model_is_its_training():
    problem = linear_problem()
    x_test, y_test = torch.randn(3, 5, dtype=torch.float64), np.zeros((3, 2))
    steps = recorded_steps(20)
    curve = linearised_curve(problem, x_test, y_test, 0.1, steps, SILENT)
    states = {}
    for state in descend(problem, 0.1, 20):
        with torch.no_grad():
            states[state.step] = (state.loss, (state.model(x_test) - problem.model(x_test)).numpy())
    np.testing.assert_allclose(curve.train_loss, [states[s][0] for s in steps], rtol=1e-10)
    np.testing.assert_allclose(curve.test_outputs[-1], states[20][1], rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_recorded_steps_begin_and_end(steps):
    recorded = recorded_steps(steps)
    assert recorded[0] == 0
    assert recorded[-1] == steps
    assert recorded == sorted(set(recorded))


def test_leave_one_out_is_leaving_one_out():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((15, 6))
    K, y = features @ features.T + 0.1 * np.eye(15), rng.standard_normal((15, 2))
    K_test = rng.standard_normal((4, 15))
    machine = fit_machine(K, K_test, y)
    r = machine.ridge * np.trace(K) / 15
    for i in range(15):
        others = np.arange(15) != i
        dual = np.linalg.solve(K[np.ix_(others, others)] + r * np.eye(14), y[others])
        np.testing.assert_allclose(machine.train_loo[i], K[i, others] @ dual, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(machine.test, K_test @ np.linalg.solve(K + r * np.eye(15), y), rtol=1e-8)
    assert machine.ridge in RIDGES


def test_the_ridge_has_the_least_leave_one_out_error():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((30, 3))
    y = features[:, :1] + 0.5 * rng.standard_normal((30, 1))
    K = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1))
    machine = fit_machine(K, K, y)
    errors = {}
    for ridge in RIDGES:
        inverse = np.linalg.inv(K + ridge * np.trace(K) / 30 * np.eye(30))
        errors[ridge] = float(((inverse @ y / np.diag(inverse)[:, None]) ** 2).mean())
    assert errors[machine.ridge] == pytest.approx(min(errors.values()))


def test_errors_of_parts_are_those_of_machines_on_them():
    rng = np.random.default_rng(2)
    features, test = rng.standard_normal((40, 6)), rng.standard_normal((15, 6))
    K, K_test, y, y_test = features @ features.T, test @ features.T, rng.standard_normal((40, 2)), np.ones((15, 2))
    found = errors_of_parts(K, K_test, y, y_test, 10, 0.5, 3)
    for draw, error in enumerate(found):
        used = np.random.default_rng([10, draw]).permutation(40)[:10]
        f = K_test[:, used] @ np.linalg.inv(K[np.ix_(used, used)] + 0.5 * np.eye(10)) @ y[used]
        assert error == pytest.approx(((f - y_test) ** 2).sum() / 15)
    assert len(set(found)) == 3


@pytest.mark.parametrize(("n", "sizes"), [(2, (1,)), (3, (1, 2)), (10, (1, 2, 5, 8)), (64, (1, 2, 4, 8, 16, 32, 48))])
def test_sizes_of_parts_are_below_the_whole(n, sizes):
    assert learning_sizes(n) == sizes


def test_a_zero_kernel_is_an_error():
    with pytest.raises(InvalidInput, match="the kernel's diagonal has mean 0, and must be positive"):
        fit_machine(np.zeros((3, 3)), np.zeros((1, 3)), np.ones((3, 1)))


# ---- networks ------------------------------------------------------------------------------------------------------


def build(spec, shape=(1, 4, 4), outputs=3, seed=0):
    return build_network(spec, shape, outputs, seed=seed, w_std=1.5, b_std=0.1)


def test_mlp_spec():
    network = build("mlp:2x8:tanh")
    kinds = [type(m).__name__ for m in network.model]
    assert kinds == ["Flatten", "Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert network.parameterization == "ntk"
    assert network.model[1].w_std == 1.5


def test_the_seed_draws_the_network_and_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = build("mlp:1x8:relu"), build("mlp:1x8:relu"), build("mlp:1x8:relu", seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.model[1].weight, same.model[1].weight)
    assert not torch.equal(one.model[1].weight, other.model[1].weight)


def write(tmp_path, text):
    path = tmp_path / "network.py"
    path.write_text(text)
    return path


def test_a_function_of_a_file(tmp_path):
    path = write(
        tmp_path,
        "from torch import nn\n"
        "def fixed():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
        "def fitted(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], outputs))\n",
    )
    assert build(f"{path}:fixed").parameterization == "standard"
    assert build(f"{path}:fitted").name == "network.py:fitted"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mlp:3x512", "an mlp must be mlp:DEPTHxWIDTH:ACTIVATION"),
        ("mlp:0x5:relu", "at least one hidden layer"),
        ("mlp:2x5:swoosh", "one of the activations relu, leaky_relu"),
        ("mlp:9x9999:relu", "at most 50,000,000 are studied"),
        ("resnet", "the network must be mlp:DEPTHxWIDTH:ACTIVATION"),
        ("no/such.py:f", "there is no file 'no/such.py'"),
    ],
)
def test_specs_that_are_not_understood(spec, message):
    with pytest.raises(InvalidInput, match=message):
        build(spec)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def build():\n    return 1\n", "other", "has no function 'other'; its functions are build"),
        ("def build():\n    return 1\n", "build", "must return a torch.nn.Module, got int"),
        ("def build():\n    raise OSError('gone')\n", "build", "failed: OSError: gone"),
        ("import no_such_library\n", "build", "cannot be loaded: ModuleNotFoundError"),
        ("from torch import nn\ndef build():\n    return nn.ReLU()\n", "build", "no parameter that requires grad"),
        ("from torch import nn\ndef build():\n    return nn.Linear(5, 3)\n", "build", "does not take samples of shape"),
        (
            "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))\n",
            "build",
            r"must give 3 outputs a sample for these data, so \(2, 3\) for two, got \(2, 4\)",
        ),
    ],
)
def test_files_that_give_no_network(tmp_path, text, name, message):
    with pytest.raises(InvalidInput, match=message):
        build(f"{write(tmp_path, text)}:{name}")


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "result"
    with result_folder(target) as folder:
        write_json(folder, {"a": 1})
        assert not target.exists()
    assert (target / "results.json").read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in target.parent.iterdir()] == ["result"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_after_an_interruption(tmp_path, error):
    target = tmp_path / "deep" / "result"

    def fail():
        with result_folder(target) as folder:
            (folder / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_stays_until_the_new_one_is_there(tmp_path):
    target = tmp_path / "result"
    with result_folder(target) as folder:
        write_json(folder, {"a": 1})

    def fail():
        with result_folder(target):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert "1" in (target / "results.json").read_text()
    with result_folder(target) as folder:
        write_json(folder, {"a": 2})
    assert "2" in (target / "results.json").read_text()


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidInput, match="holds other files"), result_folder(tmp_path):
        pass
    with pytest.raises(InvalidInput, match="is a file"), result_folder(tmp_path / "thesis.tex"):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error():
    with pytest.raises(InvalidInput, match="cannot be written"), result_folder("/proc/nowhere/result"):
        pass


def test_label_spectrum_gives_the_losses_of_the_linearised_network():
    """Lanczos against step-by-step descent of the linearised network, stable and not."""
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    problem = Problem.of(model, x, y, centered=True)
    operator = NTKOperator(model, x)
    labels = learning_rates.label_spectrum(operator, y, 10, SILENT)
    predicted = learning_rates.predicted_rate(operator)
    for multiple in (0.3, 1.0, 1.5):
        curve = linearised_curve(problem, x[:1], y[:1].numpy(), multiple * predicted, list(range(11)), SILENT)
        losses = labels.losses(multiple * predicted, 10)
        np.testing.assert_allclose(losses, np.array(curve.train_loss) / curve.train_loss[0], rtol=1e-8)
    rate = labels.largest_stable_rate(10)
    assert rate >= predicted * (1 - 1e-5)
    assert (np.diff(labels.losses(rate, 10)) <= 1e-6).all()
    assert (np.diff(labels.losses(1.01 * rate, 10)) > 0).any()


def test_values_that_overflow_and_samples_that_are_all_alike_are_said():
    import ntkit
    from ntkit.data import Dataset

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), np.arange(20) % 2
    for data, message in (
        (1e30 * x, "overflows torch.float32"),
        (np.ones_like(x), "all training samples are identical"),
    ):
        made = Dataset("made", data, y, data, y, ("a", "b"), "Made by hand.", "classification")
        with pytest.raises(InvalidInput, match=message):
            ntkit.study("mlp:1x8:relu", made, out="never", progress=False)
