"""arora-cntk: the networks against the published recursion, the claims, and the smoke run end to end."""

import math
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_files import write_cifar
from ntkit import InfiniteKernel, _memory
from ntkit._progress import Reporter
from ntkit.errors import DataError, MemoryLimitExceeded
from ntkit.experiments import EXPERIMENTS, reproduce
from ntkit.experiments.reproductions.arora.claims import PUBLISHED, make_claims, tolerance
from ntkit.experiments.reproductions.arora.cntk import AroraConfig, Size, load_images
from ntkit.experiments.reproductions.arora.network import ConvolutionalNetwork
from ntkit.experiments.reproductions.experiment import Workbench
from ntkit.report.figure_files import draw_files
from oracles import arora as oracle

DEPTHS = (3, 4, 6)
SHAPE = (3, 5, 4)
SCALES = EXPERIMENTS["arora-cntk"].scales


def published_over_ours(head):
    """Σ⁽¹⁾ lacks 1/(9C); the last 2/9 stands in for the dense layer's 1 (gap) or 1/(HW), their trace no mean."""
    channels, height, width = SHAPE
    return 9 * channels * 2 / 9 * (height * width if head == "flatten" else 1)


@pytest.mark.parametrize("head", ["flatten", "gap"])
def test_the_kernels_are_those_of_the_published_recursion(head):
    x = np.random.default_rng(0).standard_normal((4, *SHAPE))
    found = InfiniteKernel(ConvolutionalNetwork(SHAPE, DEPTHS, head)).ntk(x[:3], x)
    gap = head == "gap"
    for depth, matrix in zip(DEPTHS, found, strict=True):
        wanted = oracle.gram(x[:3], x, depth, gap=gap, fix=gap)
        ours, other = published_over_ours(head) * matrix, ~np.eye(3, 4, dtype=bool)
        np.testing.assert_allclose(ours[other], wanted[other], rtol=1e-11)
        np.testing.assert_allclose(ours, wanted, rtol=3e-8)  # the oracle's arccos at a self-pair is off by 1e-8


@pytest.mark.parametrize("head", ["flatten", "gap"])
def test_float32_images_with_themselves(head):
    x = np.random.default_rng(1).standard_normal((5, *SHAPE)).astype(np.float32)
    kernel = InfiniteKernel(ConvolutionalNetwork(SHAPE, DEPTHS, head))
    for single, double in zip(kernel.ntk(x), kernel.ntk(x.astype(np.float64)), strict=True):
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=1e-5)


def test_which_layers_are_trained():
    for head, trained in (("flatten", [True] * 5 + [True] * 3), ("gap", [False] + [True] * 4 + [False] * 3)):
        network = ConvolutionalNetwork(SHAPE, DEPTHS, head)
        assert [p.requires_grad for p in network.parameters()] == trained


# --------------------------------------------------------------------------------------------------------- claims


def made_up(n_flatten=2000, n_gap=500, *, accuracy=0.42, shrink=1, stands_in=False):
    """Findings as `measure` gives them."""

    def kernel(title, n):
        rows = [{"depth": d, "accuracy": accuracy, "error_test": 0.01, "error_train": 0.01, "smallest_eigenvalue": 1e-3,
                 "largest_eigenvalue": 10.0} for d in DEPTHS]  # fmt: skip
        costs = {"seconds_train": 2.0, "seconds_test": 4.0, "pairs_train": n * (n + 1) // 2, "pairs_test": n * n}
        return {"title": title, "n_train": n, "n_test": n, "block": 50, "chance": 0.1, "depths": rows, **costs,
                "seconds_per_entry": 1e-3, "plan_of_a_block": ["50 x 50 pairs"]}  # fmt: skip

    return {
        "data": {"name": "cifar10", "source": "Made up.", "stands_in": stands_in, "steps": ["standardize-channels"],
                 "input_shape": [3, 32, 32], "classes": ["a", "b"]},
        "shrink": shrink,
        "threads": 2,
        "kernels": {"flatten": kernel("CNTK-V", n_flatten), "gap": kernel("CNTK-GAP", n_gap)},
        "comparison": [{"depth": d, "flatten": 0.3, "gap": 0.36, "difference": 0.06, "error": 0.02, "n_train": n_gap,
                        "n_test": n_gap} for d in DEPTHS],
    }  # fmt: skip


def made_up_arrays(findings):
    arrays = {}
    for head, kernel in findings["kernels"].items():
        n, m = kernel["n_train"], kernel["n_test"]
        arrays[f"sizes_{head}"] = np.array([n >> k for k in (4, 3, 2, 1, 0)])
        for depth in DEPTHS:
            arrays[f"right_{head}_{depth}"] = np.arange(m) < m * np.array([0.2, 0.25, 0.3, 0.35, 0.4])[:, None]
            arrays[f"eigenvalues_{head}_{depth}"] = np.geomspace(10.0, 1e-3, n)
    return arrays


def test_the_small_published_columns_stand_beside_2000_images():
    claims = make_claims(made_up())
    equal = [claim for claim in claims if claim.relation == "equal"]
    assert [claim.expected for claim in equal] == [40.94, 42.54, 43.43]
    assert all(claim.measured == 42.0 and claim.holds for claim in equal)
    fewer = [claim for claim in claims if claim.relation == "at most"]
    assert [claim.expected for claim in fewer] == [49.71, 51.06, 51.73]
    assert sum("CNTK-GAP less CNTK-V" in claim.claim for claim in claims) == 3
    assert len(claims) == 11


def test_a_wrong_accuracy_is_a_claim_that_does_not_hold():
    held = {claim.claim: claim.holds for claim in make_claims(made_up(accuracy=0.60))}
    assert sum(not holds for holds in held.values()) == 6  # all of V, and GAP with fewer images than published


def test_the_tolerance_is_three_standard_errors_of_a_difference():
    assert tolerance({"error_test": 0.03, "error_train": 0.04}) == pytest.approx(300 * 0.05 * math.sqrt(2))


def test_the_full_columns_stand_beside_50000_images():
    expected = [claim.expected for claim in make_claims(made_up(50_000, 50_000)) if claim.relation == "equal"]
    columns = (PUBLISHED["flatten", 50_000], PUBLISHED["gap", 50_000])
    assert expected == [column[d] for column in columns for d in DEPTHS]


@pytest.mark.parametrize("other", [{"shrink": 4}, {"stands_in": True}])
def test_nothing_published_is_set_beside_other_images(other):
    claims = make_claims(made_up(**other))
    assert {claim.relation for claim in claims} == {"above"}
    assert not any("Table 1" in claim.source for claim in claims)


def test_the_page_shows_what_is_published(tmp_path):
    findings = made_up()

    def draw(*arguments):
        return draw_files(tmp_path, *arguments)

    story = EXPERIMENTS["arora-cntk"].show(findings, made_up_arrays(findings), draw)
    assert story.notices == ()
    accuracy = story.sections[0]
    assert "published" in accuracy.figures[0].svg
    assert "no equality is to be expected" in accuracy.sentence
    assert any("42.54% (2,000)" in row for row in accuracy.details.rows)
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.svg"))) == 5


# ------------------------------------------------------------------------------------------------- data and limits


def bench(tmp_path, data_dir=None):
    return Workbench(data_dir, tmp_path, Reporter(False))


def test_images_are_averaged_and_standardised(tmp_path):
    written = write_cifar(tmp_path / "cifar-10-batches-bin")
    config = AroraConfig(Size(40, 20, 5), Size(10, 10, 5), shrink=4)
    data = load_images(config, bench(tmp_path, tmp_path))
    assert data.x_train.shape == (40, 3, 8, 8)
    assert data.x_train.dtype == np.float32
    np.testing.assert_allclose(data.x_train.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(axis=(0, 2, 3)), 1, rtol=1e-5)
    averaged = np.concatenate([x for x, _ in written[:2]]).reshape(40, 3, 8, 4, 8, 4).mean(axis=(3, 5))
    assert sorted(averaged[:, 0, 0, 0]) == pytest.approx(
        sorted(data.x_train[:, 0, 0, 0] * averaged[:, 0].std() + averaged[:, 0].mean()), rel=1e-4
    )
    assert not data.stands_in


def test_digits_stand_in_only_where_no_folder_was_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)
    assert load_images(SCALES["smoke"], bench(tmp_path)).stands_in
    with pytest.raises(DataError, match="cifar10 needs the files"):
        load_images(SCALES["smoke"], bench(tmp_path, tmp_path))
    with pytest.raises(DataError, match="no folder was named"):
        load_images(SCALES["laptop"], bench(tmp_path))


def test_the_published_size_is_refused_where_memory_or_images_do_not_suffice(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2**30)
    with pytest.raises(MemoryLimitExceeded, match=r"regression on 50,000 training images needs 40.98 GiB"):
        reproduce("arora-cntk", scale="paper", out=tmp_path / "out", data_dir=tmp_path, progress=False)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2**40)
    with pytest.raises(DataError, match=r"there are 40 training samples of cifar10, got a request for 50,000"):
        reproduce("arora-cntk", scale="paper", out=tmp_path / "out", data_dir=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-batches-bin"]


# ------------------------------------------------------------------------------------------------------- smoke run


def test_the_smoke_run(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)
    result = reproduce("arora-cntk", scale="smoke", out=tmp_path / "out", progress=False)
    assert result.holds
    kernels = result.results["findings"]["kernels"]
    assert [row["depth"] for row in kernels["gap"]["depths"]] == list(DEPTHS)
    assert all(row["accuracy"] > 0.7 for kernel in kernels.values() for row in kernel["depths"])
    assert kernels["flatten"]["seconds_per_entry"] > 0
    assert "CIFAR-10 was not found" in result.page.read_text()
    comparison = result.results["findings"]["comparison"]
    n = SCALES["smoke"].gap.n_train
    for row in comparison:
        assert row["n_train"] == n
        right = result.arrays[f"right_gap_{row['depth']}"][-1]
        assert row["gap"] == pytest.approx(right.mean())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_computed_and_says_so(tmp_path, number, status):
    write_cifar(tmp_path / "cifar-10-batches-bin", n=2000, batches=1)
    command = [sys.executable, "-m", "ntkit", "reproduce", "arora-cntk", "--data-dir", ".", "--quiet"]
    for blocks in (1, 2):  # the second run goes on where the first one stopped
        running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while kept_blocks(tmp_path) < blocks and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
        assert running.returncode == status, said
        assert re.search(r"interrupted; what was computed is kept in .*\.arora-cntk\.work-", said)
        assert kept_blocks(tmp_path) >= blocks
        names = [path.name for path in tmp_path.iterdir()]
        assert len(names) == 2, "only the data and the working folder are left"


def kept_blocks(folder):
    return sum(len(ledger.read_text().splitlines()) for ledger in folder.glob(".arora-cntk.work-*/*/blocks.done"))
