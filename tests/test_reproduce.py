"""The machinery of reproductions: claims, Gram matrices in blocks, resuming, folder, page, command line."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

import llvmlite
import numba
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ntkit import experiments
from ntkit._progress import Reporter
from ntkit.cli.reproduce_command import reproduce as reproduce_command
from ntkit.errors import InvalidInput, MemoryLimitExceeded
from ntkit.experiments import Claim, reproduce
from ntkit.experiments.reproductions import gram_blocks
from ntkit.experiments.reproductions.claims import Control, claims_table, verdict
from ntkit.experiments.reproductions.experiment import Experiment, Measurement, Story
from ntkit.experiments.reproductions.gram_blocks import GramTask, compute_gram
from ntkit.experiments.reproductions.ridgeless import RidgelessMachine
from ntkit.experiments.reproductions.working_folder import digest, working_folder

SILENT = Reporter(False)


class Interrupted(BaseException):
    """Stands for a signal."""


# --------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        ("equal", 11.0, True),
        ("equal", 9.0, True),
        ("equal", 11.1, False),
        ("equal", 8.9, False),
        ("above", 9.1, True),
        ("above", 9.0, False),
        ("at most", 11.0, True),
        ("at most", 11.1, False),
        ("at most", -50.0, True),
    ],
)
def test_a_claim_holds_within_its_tolerance(relation, measured, holds):
    claim = Claim("c", "s", 10.0, measured, 1.0, relation)
    assert claim.holds is holds
    keys = {
        "claim",
        "source",
        "expected",
        "measured",
        "tolerance",
        "holds",
        "relation",
        "unit",
        "refuted_by",
        "control",
    }
    assert set(claim.as_dict()) == keys
    assert ("NO" in claims_table([claim]).rows[0]) is not holds


@pytest.mark.parametrize("numbers", [(np.nan, 1.0, 0.0), (1.0, np.inf, 0.0), (1.0, 1.0, -1.0)])
def test_a_claim_refuses_numbers_that_say_nothing(numbers):
    with pytest.raises(InvalidInput, match=r"of the claim 'c' must be"):
        Claim("c", "s", *map(float, numbers))


@pytest.mark.parametrize(
    ("relation", "tolerance", "refuted", "control", "fails"),
    [
        ("equal", 1.0, "below 9% or above 11%", 11.5, True),
        ("equal", 0.0, "anything but 10%", 10.0, False),
        ("above", 1.0, "9% or less", 9.0, True),
        ("at most", 0.0, "more than 10%", 9.0, False),
    ],
)
def test_a_claim_says_what_refutes_it_and_whether_its_control_fails(relation, tolerance, refuted, control, fails):
    claim = Claim("c", "s", 10.0, 10.0, tolerance, relation, "%", Control("wrong formula", control))
    assert claim.refuted_by == refuted
    assert claim.control_fails is fails
    assert claim.as_dict()["control"] == {"name": "wrong formula", "measured": control, "fails": fails}
    assert claim.as_row()[6] == f"wrong formula: {control:g}%, " + ("fails" if fails else "DOES NOT FAIL")
    with pytest.raises(InvalidInput, match="measured of the control 'x' must be a finite number, got nan"):
        Control("x", float("nan"))


def test_the_verdict_tells_of_controls():
    good = Claim("first", "s", 1.0, 1.0, 0.1, control=Control("shuffled", 2.0))
    weak = Claim("second", "s", 1.0, 1.0, 0.1, control=Control("shuffled", 1.0))
    assert verdict((good,)) == "The claim holds. Its control fails, as it must."
    assert verdict((good, good)) == "All 2 claims hold. All 2 controls fail, as they must."
    assert verdict((good, weak)) == "All 2 claims hold. 1 of 2 controls fail; not that of: second."


def test_the_verdict_names_what_failed():
    claims = (Claim("first", "s", 0.0, 0.0, 0.0), Claim("second", "s", 0.0, 5.0, 1.0))
    assert verdict(claims) == "1 of 2 claims hold; not: second."


# ---------------------------------------------------------------------------------------------------------- blocks


class Kernels:
    """Two kernels of vectors; counts its calls, and can be interrupted at one of them."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def __call__(self, x1, x2):
        if len(self.calls) == self.stop_at:
            raise Interrupted
        self.calls.append((len(x1), None if x2 is None else len(x2)))
        other = x1 if x2 is None else x2
        return x1 @ other.T, np.exp(-((x1[:, None] - other[None]) ** 2).sum(-1))


def samples(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3))


def task(n, m=None, block=4):
    return GramTask("it", ("dot", "gauss"), samples(n), None if m is None else samples(m, 1), block)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 11), m=st.none() | st.integers(1, 9), block=st.integers(1, 12))
def test_blocks_give_what_one_call_gives(tmp_path_factory, n, m, block):
    wanted = task(n, m, block)
    kernel = Kernels()
    gram = compute_gram(kernel, wanted, tmp_path_factory.mktemp("g"), SILENT)
    for matrix, whole in zip(gram.matrices.values(), kernel(wanted.x1, wanted.x2), strict=True):
        np.testing.assert_allclose(matrix, whole, rtol=1e-13, atol=1e-14)
    assert gram.pairs == (n * (n + 1) // 2 if m is None else n * m)


def test_a_symmetric_matrix_costs_half_of_its_blocks(tmp_path):
    kernel = Kernels()
    compute_gram(kernel, task(10), tmp_path, SILENT)
    sizes = [(4, None), (4, 4), (4, 2), (4, None), (4, 2), (2, None)]
    assert kernel.calls[1:] == sizes  # the first call warms up


@pytest.mark.parametrize("stop", [1, 2, 4, 6])
def test_an_interrupted_matrix_goes_on_where_it_stopped(tmp_path, stop):
    with pytest.raises(Interrupted):
        compute_gram(Kernels(stop), task(10), tmp_path, SILENT)
    kernel = Kernels()
    gram = compute_gram(kernel, task(10), tmp_path, SILENT)
    assert len(kernel.calls) == 1 + 6 - (stop - 1)
    whole = compute_gram(Kernels(), task(10), tmp_path / "other", SILENT)
    for name, matrix in gram.matrices.items():
        np.testing.assert_array_equal(matrix, whole.matrices[name])
    again = Kernels()
    assert compute_gram(again, task(10), tmp_path, SILENT).seconds == pytest.approx(gram.seconds, rel=1e-4)
    assert again.calls == []


def test_a_line_of_the_ledger_cut_short_does_not_count(tmp_path):
    compute_gram(Kernels(), task(10), tmp_path, SILENT)
    ledger = tmp_path / gram_blocks.LEDGER
    ledger.write_text(ledger.read_text()[:-3])
    kernel = Kernels()
    gram = compute_gram(kernel, task(10), tmp_path, SILENT)
    assert kernel.calls[1:] == [(2, None)]
    assert len(ledger.read_text().splitlines()) == 6
    assert gram.seconds >= 0


def test_a_missing_matrix_means_a_new_beginning(tmp_path):
    compute_gram(Kernels(), task(10), tmp_path, SILENT)
    (tmp_path / "gauss.npy").unlink()
    kernel = Kernels()
    compute_gram(kernel, task(10), tmp_path, SILENT)
    assert len(kernel.calls) == 7


def test_the_cost_is_said_when_a_block_has_been_timed(tmp_path):
    lines = []
    compute_gram(Kernels(), task(10), tmp_path, SILENT, lines.append)
    assert len(lines) == 1
    assert "45 pairs left" in lines[0]  # 55 less the 10 of the first block
    assert "1.56 KiB on disk" in lines[0]


def test_a_disk_too_small_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(gram_blocks.shutil, "disk_usage", lambda path: usage._replace(free=100))
    kernel = Kernels()
    with pytest.raises(MemoryLimitExceeded, match=r"2 matrices of 10 x 10 need 1.56 KiB on disk, but 100 B is free"):
        compute_gram(kernel, task(10), tmp_path, SILENT)
    assert kernel.calls == []


# -------------------------------------------------------------------------------------------------- working folder


def test_a_working_folder_goes_when_the_work_is_done(tmp_path):
    with working_folder(tmp_path / "out", "key") as folder:
        assert folder == tmp_path / ".out.work-key"
        (folder / "a.done").write_text("")
    assert list(tmp_path.iterdir()) == []


def test_a_working_folder_stays_when_something_was_computed(tmp_path):
    def compute():
        with working_folder(tmp_path / "out", "key") as folder:
            (folder / "part").mkdir()
            (folder / "part" / "blocks.done").write_text("")
            raise Interrupted

    with pytest.raises(Interrupted) as caught:
        compute()
    assert (tmp_path / ".out.work-key" / "part" / "blocks.done").exists()
    assert "the same command goes on" in caught.value.__notes__[0]
    with pytest.raises(Interrupted), working_folder(tmp_path / "other", "key"):
        raise Interrupted
    assert [path.name for path in tmp_path.iterdir()] == [".out.work-key"]


def test_two_runs_do_not_share_a_working_folder(tmp_path):
    with (
        working_folder(tmp_path / "out", "key"),
        pytest.raises(InvalidInput, match="another run is working in"),
        working_folder(tmp_path / "out", "key"),
    ):
        pass


def test_a_digest_tells_arrays_apart():
    x = np.arange(6.0)
    different = [x, x.reshape(2, 3), x.astype(np.float32), x + 1, {"x": 1}]
    assert len({digest(d) for d in different}) == len(different)
    assert digest(np.asfortranarray(x.reshape(2, 3))) == digest(x.reshape(2, 3))


# ------------------------------------------------------------------------------------------------------ regression


def machine(n=12, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, n))
    y, y_test = rng.integers(0, 3, n), rng.integers(0, 3, 40)
    return RidgelessMachine(root @ root.T, rng.standard_normal((40, n)), y, y_test, 3)


def test_predictions_are_those_of_the_inverse():
    it = machine()
    for size in (12, 7):
        K, K_test, y = it.K[:size, :size], it.K_test[:, :size], it.y[:size]
        classes = (K_test @ np.linalg.inv(K) @ (np.eye(3)[y] - 0.1)).argmax(1)
        np.testing.assert_array_equal(it.right(slice(size)), classes == it.y_test)
        np.testing.assert_array_equal(it.learning_curve(np.array([size]))[0], classes == it.y_test)
    np.testing.assert_allclose(it.eigenvalues(), np.linalg.eigvalsh(it.K)[::-1])


def test_equal_samples_are_named_as_the_cause():
    y = np.array([0, 1, 0, 1])
    with pytest.raises(InvalidInput, match=r"4 training samples is singular.*are two samples equal"):
        RidgelessMachine(np.ones((4, 4)), np.ones((4, 4)), y, y, 2).right()


def test_the_jackknife_finds_the_spread_over_training_sets():
    """Against the spread that fresh training sets have: within a factor of 1.6, the mean over 12 jackknives."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = rng.integers(0, 2, n)
        return rng.standard_normal((n, 5)) + 0.7 * y[:, None], y

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 20)

    x_test, y_test = draw(400)
    found, accuracies = [], []
    for repeat in range(40):
        x, y = draw(60)
        it = RidgelessMachine(kernel(x, x) + 0.1 * np.eye(60), kernel(x_test, x), y, y_test, 2)
        accuracies.append(it.right().mean())
        if repeat < 12:
            found.append(it.training_spread(20, repeat))
    assert 1 / 1.6 < np.mean(found) / np.std(accuracies) < 1.6


# --------------------------------------------------------------------------------------------- a whole experiment


@dataclass(frozen=True)
class Config:
    n: int
    seed: int = 3


def experiment(measured=1.0, stop_at=None):
    """One that computes a matrix, and claims that a number is 1."""

    def measure(config, bench):
        gram = compute_gram(Kernels(stop_at), task(config.n), bench.work / "g", bench.reporter, bench.say)
        total = float(gram.matrices["dot"].sum())
        return Measurement({"total": total}, {"k": np.arange(3)}, (Claim("it is one", "us", 1.0, measured, 0.1),))

    def show(findings, arrays, draw):
        draw("picture", "nothing", (2.0, 1.0), lambda canvas: canvas.text(0.5, 0.5, "hello"))
        return Story("A title", f"Total {findings['total']:.3f}.", (), (), (), (), ())

    return Experiment("fake", "One line.", "Nobody 2000", dict.fromkeys(("smoke", "laptop", "paper"), Config(10)),
                      measure, show)  # fmt: skip


@pytest.fixture
def fake(monkeypatch):
    def install(**options):
        monkeypatch.setitem(experiments.EXPERIMENTS, "fake", experiment(**options))

    return install


def test_the_folder_holds_results_arrays_figures_and_page(tmp_path, fake):
    fake()
    result = reproduce("fake", scale="smoke", out=tmp_path / "out", progress=False)
    names = ["arrays.npz", "index.html", "picture.png", "picture.svg", "results.json"]
    assert sorted(path.name for path in result.folder.iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    stored = json.loads((result.folder / "results.json").read_text())
    assert stored == result.results
    assert stored["configuration"] == {"n": 10, "seed": 3}
    assert stored["seeds"] == [3]
    assert stored["claims"][0]["holds"] is True
    assert "torch" in stored["environment"]
    assert {name: stored["environment"][name] for name in ("numba", "llvmlite")} == {
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }
    assert result.holds
    page = result.page.read_text()
    assert "A title" in page
    assert "it is one" in page


def test_an_interrupted_experiment_leaves_no_result_and_goes_on(tmp_path, fake):
    fake(stop_at=4)
    with pytest.raises(Interrupted) as caught:
        reproduce("fake", out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.work-*"))) == 1
    assert "is kept in" in caught.value.__notes__[0]
    fake(stop_at=5)  # 1 to warm up and 3 that are left
    reproduce("fake", out=tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def command(*arguments):
    app = typer.Typer()
    app.command()(reproduce_command)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(("measured", "strict", "status"), [(1.0, True, 0), (2.0, True, 1), (2.0, False, 0)])
def test_strict_turns_a_failed_claim_into_a_status(tmp_path, fake, measured, strict, status):
    fake(measured=measured)
    options = ["--out", str(tmp_path / "out"), "--quiet", *(["--strict"] if strict else [])]
    done = command("fake", *options)
    assert done.exit_code == status
    assert "it is one" in done.stdout
    assert ("NO" in done.stdout) is (measured != 1.0)
    assert "source    us" in done.stdout


def test_the_list_has_a_line_an_experiment(fake):
    fake()
    lines = command("--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(experiments.EXPERIMENTS)
    assert "fake                One line." in lines
    for entry in experiments.EXPERIMENTS.values():
        assert set(entry.scales) == {"smoke", "laptop", "paper"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "arora-cnt"}, r"no experiment 'arora-cnt'; there are: .*did you mean 'arora-cntk'"),
        ({"name": "arora-cntk", "scale": "huge"}, r"scale must be one of smoke, laptop, paper, got 'huge'"),
    ],
)
def test_unknown_names_and_scales(tmp_path, arguments, message):
    with pytest.raises(InvalidInput, match=message):
        reproduce(**arguments, out=tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command_is_part_of_ntkit():
    done = subprocess.run([sys.executable, "-m", "ntkit", "reproduce", "--list"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("arora-cntk          CIFAR-10")


def test_a_command_without_a_name_says_which_there_are():
    done = command()
    assert isinstance(done.exception, InvalidInput)
    assert "an experiment must be named; there are: arora-cntk" in str(done.exception)


def test_other_files_in_the_output_folder_are_left_alone(tmp_path, fake):
    fake()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InvalidInput, match="holds other files"):
        reproduce("fake", out=tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
