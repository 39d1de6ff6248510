"""The main job end to end, and every bad input: a clear error, a non-zero exit, nothing written."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit.data import Dataset
from ntkit.experiments import run_study

SMALL = {"n_train": 60, "n_test": 60, "steps": 20, "progress": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "digits"
    return ntkit.study("mlp:2x64:relu", "digits", out=out, **SMALL)


def ntkit_command(*args, cwd):
    return subprocess.run([sys.executable, "-m", "ntkit", *args], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_folder_holds_page_numbers_and_arrays(small):
    assert sorted(p.name for p in small.folder.iterdir()) == ["arrays.npz", "index.html", "results.json"]
    findings = json.loads((small.folder / "results.json").read_text())
    assert findings == json.loads(json.dumps(small.findings))
    with np.load(small.folder / "arrays.npz", allow_pickle=False) as stored:
        assert set(stored.files) == set(small.arrays)
    page = small.page.read_text()
    assert "mlp:2x64:relu" in page
    assert "<svg" in page


def test_the_numbers_are_sound(small):
    rates = small.findings["learning_rate"]
    assert 0.7 < rates["found_centered"] / rates["predicted_initial"] < 1.5
    assert small.findings["training"]["loss_end"] < small.findings["training"]["loss_start"]
    assert small.findings["training"]["worst_gap_initial"] < 0.1
    machines = {row["key"]: row for row in small.findings["machines"]}
    assert set(machines) == {"nngp", "exact", "initial", "final", "network"}
    assert machines["exact"]["test"] > 0.7
    energy = small.arrays["label_energy_exact"]
    assert energy[-1] == pytest.approx(1.0)
    assert (np.diff(energy) >= -1e-12).all()
    np.testing.assert_array_equal(np.diff(small.arrays["eigenvalues_initial"]) <= 0, True)
    assert small.arrays["kernel_distance"][0] == pytest.approx(0, abs=1e-12)
    needed = small.findings["data_needed"]
    assert needed["key"] == "exact"
    assert needed["worst_gap"] < 0.25, "eighty samples are a small pool"
    assert needed["measured"] < 0.8 * needed["guessing"]
    assert small.arrays["learning_sizes"][-1] < small.findings["data"]["n_train"]


def test_the_same_seed_gives_identical_arrays(small, tmp_path):
    again = ntkit.study("mlp:2x64:relu", "digits", out=tmp_path / "again", **SMALL)
    for name, array in small.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name], err_msg=name)
    assert (small.folder / "arrays.npz").read_bytes() == (again.folder / "arrays.npz").read_bytes()
    other = ntkit.study("mlp:2x64:relu", "digits", out=tmp_path / "other", seed=1, **SMALL)
    assert not np.array_equal(small.arrays["train_loss_network"], other.arrays["train_loss_network"])


def test_shuffled_labels_fall_to_chance(tmp_path):
    result = ntkit.study(
        "mlp:2x64:relu",
        "digits",
        out=tmp_path / "s",
        n_train=300,
        n_test=300,
        steps=30,
        shuffle_labels=True,
        progress=False,
    )
    for row in result.findings["machines"]:
        assert row["test"] < 0.2, row
    lazy, spectrum = result.findings["lazy"], result.findings["spectrum"]
    assert lazy["alignment_start"] < 2 * lazy["alignment_chance"]
    assert spectrum["energy_exact"] < 3 * spectrum["energy_chance"]


def test_a_module_without_exact_kernel_is_studied_all_the_same(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(), nn.Flatten(), nn.Linear(144, 10))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ntkit.errors.UnsupportedLayer, match=r"PReLU at '1' has no rule.* --no-exact, or exact=False"):
        ntkit.study(model, "digits", out=tmp_path / "s", **SMALL)
    assert list(tmp_path.iterdir()) == []
    result = ntkit.study(model, "digits", out=tmp_path / "s", exact=False, **SMALL)
    assert result.findings["network"]["exact_why_not"] == "not asked for (exact=False)"
    assert result.findings["learning_rate"]["predicted_exact"] is None
    assert {row["key"] for row in result.findings["machines"]} == {"initial", "final", "network"}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_convolutional_network_is_studied_with_its_exact_kernel(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
    result = ntkit.study(model, "digits", out=tmp_path / "s", **SMALL)
    assert result.findings["network"]["exact"]
    scores = {row["key"]: row["test"] for row in result.findings["machines"]}
    assert scores["exact"] > 0.5, "chance is 0.1"


def test_regression(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 4))
    y = np.sin(x[:, :1]) + x[:, 1:2]
    data = Dataset("made", x[:80], y[:80], x[80:], y[80:], (), "Made by hand.", "regression")
    result = ntkit.study("mlp:1x64:tanh", data, out=tmp_path / "s", **(SMALL | {"steps": 100, "n_test": 40}))
    assert result.findings["metric"] == "R2"
    assert {r["key"]: r["test"] for r in result.findings["machines"]}["exact"] > 0.8


def test_preprocessing_is_applied_and_told(tmp_path):
    result = ntkit.study("mlp:1x16:relu", "digits", out=tmp_path / "s", preprocessing=("standardize",), **SMALL)
    assert result.findings["data"]["steps"] == ["standardize"]


@pytest.mark.parametrize("moment", ["exact_kernels", "ask_learning_rate", "ask_machines"])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, moment):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_study.parts, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        ntkit.study("mlp:1x16:relu", "digits", out=tmp_path / "deep" / "s", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1.5}, "rate must lie between 0 and 1"),
        ({"n_train": 1}, "n_train must be a whole number of at least 2, got 1"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"w_std": float("nan")}, "w_std must be a finite number >= 0, got nan"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"n_train": 5000}, "5000"),
        ({"preprocessing": ("polish",)}, "polish"),
    ],
)
def test_arguments_out_of_range(tmp_path, unchecked, change, message):
    with pytest.raises(ntkit.errors.NtkitError, match=message):
        ntkit.study("mlp:1x16:relu", "digits", out=tmp_path / "s", **(SMALL | change))
    assert list(tmp_path.iterdir()) == []


def test_too_many_samples_for_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ntkit._memory.available_bytes", lambda: 100_000)
    with pytest.raises(ntkit.errors.MemoryLimitExceeded, match="a study of 60 training and 60 test samples needs"):
        ntkit.study("mlp:1x16:relu", "digits", out=tmp_path / "s", **SMALL)
    assert list(tmp_path.iterdir()) == []


def of_large_targets():
    """A sum of features, a hundred times what a narrow network starts with: it leaves the kernel regime at once."""
    x = np.random.default_rng(0).standard_normal((40, 5))
    y = 100 * (np.sin(x[:, :1]) + x[:, 1:2])
    return Dataset("large", x[:30], y[:30], x[30:], y[30:], (), "Made by hand.", "regression")


def test_targets_that_are_large_for_the_network(tmp_path):
    result = ntkit.study("mlp:1x32:relu", of_large_targets(), out=tmp_path / "large", steps=200, progress=False)
    rates = result.findings["learning_rate"]
    assert rates["found_centered"] < rates["predicted_initial"] / 4
    assert result.findings["training"]["lr"] == pytest.approx(rates["found_centered"] / 2)
    assert all(np.isfinite(array).all() for name, array in result.arrays.items() if "names" not in name)


def test_training_that_diverges_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(run_study.parts.learning_rates, "largest_stable_rate", lambda *_: 1e3)
    with pytest.raises(ntkit.errors.InvalidInput, match=r"diverges between steps .* such as rate=0.125, a wider"):
        ntkit.study("mlp:1x32:relu", of_large_targets(), out=tmp_path / "large", steps=200, progress=False)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_command_writes_the_page(tmp_path):
    done = ntkit_command(
        "study", "mlp:1x16:relu", "digits", "--n-train", "40", "--n-test", "20", "--steps", "5", "--classes", "3,8",
        "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "stable up to" in done.stdout
    assert (tmp_path / "study" / "index.html").is_file()
    assert done.stderr == ""


def bad_files(folder):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), np.arange(20) % 2
    with_nan = x.copy()
    with_nan[4, 1] = np.nan
    np.savez(folder / "nan.npz", X=with_nan, y=y)
    np.savez(folder / "shape.npz", X=x, y=y[:7])
    np.savez(folder / "pickle.npz", X=np.array([{"a": 1}] * 20, dtype=object), y=y)
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    (folder / "net.py").write_text(
        "import sys\nfrom torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n\n"
        "def leave():\n    sys.exit(0)\n\n"
        "def unknown():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))\n"
    )
    (folder / "file").write_text("in the way")


@pytest.mark.parametrize(
    ("network", "data", "extra", "message"),
    [
        ("mlp:1x8:relu", "npz:nan.npz", (), "NaN"),
        ("mlp:1x8:relu", "npz:shape.npz", (), "20"),
        ("mlp:1x8:relu", "npz:broken.npz", (), "broken.npz"),
        ("mlp:1x8:relu", "npz:pickle.npz", (), "pickle"),
        ("mlp:1x8:relu", "mnits", (), "mnist"),
        ("mlp:1x8:swish7", "digits", (), "one of the activations"),
        ("net.py:missing", "digits", (), "has no function 'missing'; its functions are build, leave, unknown"),
        ("net.py:build", "digits", (), "does not take samples of shape"),
        ("net.py:leave", "digits", (), "net.py:leave failed: SystemExit"),
        ("net.py:unknown", "digits", (), "Softmax at '2' has no rule"),
        ("mlp:1x8:relu", "digits", ("--out", "file"), "is a file"),
        ("mlp:1x8:relu", "digits", ("--out", "/proc/nowhere"), "cannot be written"),
        ("mlp:1x8:relu", "digits", ("--n-train", "999999"), "999999"),
    ],
)
def test_bad_input_is_one_clear_message_and_nothing_written(tmp_path, network, data, extra, message):
    bad_files(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    done = ntkit_command("study", network, data, "--quiet", "--n-test", "4", *extra, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_and_says_so(tmp_path, number, status):
    command = [sys.executable, "-m", "ntkit", "study", "mlp:2x64:relu", "digits", "--steps", "100000"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert any(tmp_path.iterdir())  # the folder that is being filled
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == status
    assert "interrupted; nothing was written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("network", "data"), [(42, "digits"), ("mlp:1x8:relu", (1, 2))])
def test_things_of_another_kind(tmp_path, unchecked, network, data):
    with pytest.raises(ntkit.errors.InvalidInput, match=r"must be a (string or a torch.nn.Module|name or file)"):
        ntkit.study(network, data, out=tmp_path / "s", **SMALL)


def test_version(tmp_path):
    assert ntkit_command("--version", cwd=tmp_path).stdout.strip() == f"ntkit {ntkit.__version__}"
