"""yang-learning-rate: its parts against textbook forms, its claims on made-up numbers, and the smoke run."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas

from data_files import write_cifar, write_mnist
from ntkit import InfiniteKernel
from ntkit._progress import Reporter
from ntkit.data import Dataset
from ntkit.errors import DataError, MemoryLimitExceeded
from ntkit.experiments import EXPERIMENTS, learning_rates, reproduce
from ntkit.experiments.reproductions.experiment import Workbench
from ntkit.experiments.reproductions.yang import learning_rate_depths as depths_part
from ntkit.experiments.reproductions.yang import learning_rate_search as search_part
from ntkit.experiments.reproductions.yang import learning_rate_shares as shares_part
from ntkit.experiments.reproductions.yang import learning_rate_tasks as tasks_part
from ntkit.experiments.reproductions.yang.learning_rate import LearningRateConfig, load_sets
from ntkit.experiments.reproductions.yang.learning_rate_claims import make_claims
from ntkit.experiments.reproductions.yang.learning_rate_layers import connected, convolutional
from ntkit.experiments.reproductions.yang.learning_rate_search import Grid, Member
from ntkit.experiments.reproductions.yang.learning_rate_tasks import Scales
from ntkit.experiments.training_runs import Problem
from ntkit.report import Figure
from ntkit.report.style import styled
from oracles import convolutional as cnn
from oracles import jacobian as jacobians
from oracles import recursion

SCALES = Scales(math.sqrt(2), 0.1)
RELU = recursion.leaky_relu_dual(0.0)
NAME = "yang-learning-rate"


def bench(folder, data_dir=None):
    return Workbench(data_dir, folder, Reporter(False))


# ------------------------------------------------------------------------------------------------ inputs, networks


def test_parities_are_products_of_bits():
    bits = 4
    x, basis = tasks_part.corners(bits), tasks_part.parities(bits)
    sets = [np.flatnonzero(row < 0) for row in x]
    for at, members in enumerate(sets):
        np.testing.assert_array_equal(basis[:, at], x[:, members].prod(axis=1))
        assert tasks_part.degrees(bits)[at] == len(members)
    assert {tuple(row) for row in x} == set(itertools.product((-1, 1), repeat=bits))


def test_the_target_over_the_cube_has_equal_power_in_every_degree():
    task = tasks_part.cube_task(5, seed=3)
    (y,) = task.targets.values()
    coefficients = tasks_part.parities(5).T @ y[:, 0] / 32
    power = np.bincount(tasks_part.degrees(5), weights=coefficients**2)
    np.testing.assert_allclose(power, 1 / 6, rtol=1e-12)
    assert task.n_outputs == 1


def images(n=12, classes=3):
    rng = np.random.default_rng(0)
    x = rng.random((2 * n, 1, 5, 6))
    y = np.arange(2 * n) % classes
    return Dataset("made", x[:n], y[:n], x[n:], y[n:], tuple("abc"), "Made up.", "classification")


def test_images_in_their_own_span_have_the_same_kernel():
    data = images()
    task = tasks_part.image_task(data, seed=0)
    flat = data.x_train.reshape(12, -1)
    whole = replace(task, x=flat)
    assert task.x.shape == (12, 12)
    wanted = InfiniteKernel(tasks_part.network("relu", 2, 4, whole, SCALES, 0)).ntk(flat)
    found = InfiniteKernel(tasks_part.network("relu", 2, 4, task, SCALES, 0)).ntk(task.x)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(task.targets["one-hot"].mean(axis=1), 1 / 3)
    np.testing.assert_allclose(task.targets["centred"].sum(axis=1), 0, atol=1e-15)


def test_scrambled_images_keep_their_pixels_only():
    data = images()
    task = tasks_part.image_task(data, seed=0)
    assert task.scrambled is not None
    lengths = np.linalg.norm(data.x_train.reshape(12, -1), axis=1)
    np.testing.assert_allclose(np.linalg.norm(task.scrambled, axis=1) * math.sqrt(30 / 12), lengths)
    assert np.abs(task.scrambled @ task.scrambled.T - task.x @ task.x.T).max() > 0.1


def test_networks_differ_by_draw_depth_and_width_only():
    task = tasks_part.cube_task(3, 0)

    def first(depth, width, draw):
        return next(tasks_part.network("erf", depth, width, task, SCALES, draw).parameters()).detach()[0, 0].item()

    assert first(1, 4, 0) == first(1, 4, 0)
    assert len({first(1, 4, 0), first(1, 4, 1), first(2, 4, 0), first(1, 5, 0)}) == 4


# ---------------------------------------------------------------------------------------------------------- rates


def test_a_row_has_the_rates_of_the_networks_own_jacobian(tmp_path):
    task = tasks_part.image_task(images(), seed=0)
    limits, rows = search_part.search_rates([task], (Grid("relu", (2,), (24,), 1),), SCALES, 0, bench(tmp_path))
    model = tasks_part.network("relu", 2, 24, task, SCALES, 0)
    x = torch.from_numpy(task.x).float()
    J = jacobians.jacobian(model, x).double()
    full = jacobians.kernel(J, J, "full").permute(0, 2, 1, 3).reshape(36, 36)
    averaged = jacobians.kernel(J, J, "mean")
    assert [row["labels"] for row in rows] == ["one-hot", "centred"]
    assert limits[0]["theory"] is None
    for row in rows:
        assert row["own"] == pytest.approx(24 / torch.linalg.eigvalsh(full)[-1].item(), rel=1e-4)
        assert row["averaged"] == pytest.approx(24 / torch.linalg.eigvalsh(averaged)[-1].item(), rel=1e-4)
        assert row["first_rise"] > row["own"] * (1 - 1e-4)
        y = torch.from_numpy(task.targets[row["labels"]]).float()
        problem = Problem.of(model, x, y, centered=True)
        assert learning_rates.is_stable(problem, row["found"])
        assert not learning_rates.is_stable(problem, 1.006 * row["found"])
    assert rows[0]["plain"] > 0
    assert rows[1]["plain"] is None


def test_an_interrupted_search_goes_on_from_its_files(tmp_path):
    grids = (Grid("relu", (1,), (8, 16), 1),)
    task = tasks_part.cube_task(3, 0)
    _, rows = search_part.search_rates([task], grids, SCALES, 0, bench(tmp_path))
    files = sorted(tmp_path.glob("*.done"))
    assert len(files) == 2
    files[0].write_text('[{"width": "from the file"}]')
    _, again = search_part.search_rates([task], grids, SCALES, 0, bench(tmp_path))
    assert {row["width"] for row in again} == {"from the file", *(row["width"] for row in rows)} - {16}


def test_members_of_several_grids():
    grids = (Grid("relu", (1, 2), (8,), 2), Grid("erf", (1,), (4,), 1))
    assert search_part.members(grids)[0] == Member("erf", 1, 4, 0)
    assert len(search_part.members(grids)) == 5


def test_the_spectrum_of_labels_gives_the_losses_of_descent():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((5, 5))
    K, y = A @ A.T, rng.standard_normal((5, 2))
    losses = search_part.spectrum_of_labels(K, y).losses(0.1, 40)
    f, wanted = np.zeros_like(y), []
    for _ in range(41):
        wanted.append(((f - y) ** 2).sum() / (y**2).sum())
        f = f - 0.1 / 5 * K @ (f - y)
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)


def test_an_infinitely_wide_network_recovers_from_no_rise():
    """Its top direction only grows; too few steps, with little of the labels in it, would not tell."""
    K, y = np.diag([4.0, 0.01]), np.array([[1e-3], [1.0]])
    multiples = np.array([0.5, 0.99, 1.01, 1.1])
    assert search_part.limit_recovers(K, y, multiples, 100) == 0.0
    assert search_part.limit_recovers(K, y, multiples, 30) == 1.1


@pytest.mark.parametrize(
    ("path", "kind"),
    [([1.0, 0.5, 0.4], learning_rates.STABLE), ([1.0, 3.0, 0.9], learning_rates.RECOVERS),
     ([1.0, 0.5, 1.5], learning_rates.DIVERGES)],
)  # fmt: skip
def test_how_a_path_ends(path, kind):
    assert learning_rates.outcome(np.array(path)) == kind


# ---------------------------------------------------------------------------------------------------------- depths


def test_every_depth_has_the_kernel_of_a_network_of_its_own():
    x = np.random.default_rng(0).standard_normal((4, 7))
    found = InfiniteKernel(connected(7, (1, 3, 4), SCALES)).ntk(x)
    field = cnn.data(x[:, :, None])
    wanted = {}
    for depth in range(1, 5):
        field = cnn.activation(cnn.affine(field, SCALES.w_std, SCALES.b_std), RELU)
        wanted[depth] = cnn.result(cnn.affine(field, SCALES.w_std, SCALES.b_std))[1]
    for depth, K in zip((1, 3, 4), found, strict=True):
        np.testing.assert_allclose(K, wanted[depth], rtol=1e-7)  # the oracle's arccos at a self-pair is off by 1e-8


def test_regression_by_the_inverse(tmp_path):
    data, arrays = images(), {}
    size = depths_part.DepthSize((1, 2), (4, 6), 2, 12)
    found = depths_part.measure_depths(data, size, SCALES, 0, bench(tmp_path), arrays)
    x, x_test = (part.reshape(12, -1) for part in (data.x_train, data.x_test))
    whole = replace(tasks_part.image_task(data, 0), x=x)
    kernel = InfiniteKernel(tasks_part.network("relu", 2, 3, whole, SCALES, 0))
    second = slice(6, 10)  # the first four images of the second draw
    f = kernel.ntk(x_test, x[second]) @ np.linalg.inv(kernel.ntk(x[second])) @ data.targets(centered=True)[0][second]
    wanted = data.targets(centered=True)[1]
    assert arrays["depths_error_made_4"][1, 1] == np.mean(f.argmax(axis=1) != data.y_test)
    assert arrays["depths_squared_made_4"][1, 1] == pytest.approx(((f - wanted) ** 2).sum() / (wanted**2).sum())
    assert [row["n_train"] for row in found["best"]] == [4, 6]


def test_the_best_depth_of_a_draw_is_chosen_on_the_others():
    errors = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.4], [0.3, 0.1, 0.6]])
    # the other two draws choose depth 1, 1 (or 0: 0.4 against 0.3) and 1
    gaps = np.array([0.3 - 0.2, 0.4 - 0.1, 0.6 - 0.1])
    found = depths_part.excess(errors, 2)
    assert found.mean == pytest.approx(gaps.mean())
    assert found.error == pytest.approx(gaps.std(ddof=1) / math.sqrt(3))
    assert found.in_errors == pytest.approx(gaps.mean() / (gaps.std(ddof=1) / math.sqrt(3)))
    assert depths_part.excess(np.ones((3, 2)), 0).in_errors == 0


# ---------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(("domain", "shape"), [("ring", (1, 4)), ("image", (1, 2, 2))])
@pytest.mark.parametrize("kind", ["flatten", "gap"])
def test_convolutional_kernels_of_every_depth(domain, shape, kind):
    x = tasks_part.corners(4).astype(float)[:6].reshape(6, *shape)
    found = InfiniteKernel(convolutional(domain, 4, (1, 2), kind, SCALES))(x)
    field, w, b = cnn.data(x), SCALES.w_std, SCALES.b_std
    for K in found:
        field = cnn.activation(cnn.conv(field, 3, w, b, padding=1, circular=domain == "ring"), RELU)
        head = cnn.flatten(field) if kind == "flatten" else cnn.global_average(field)
        nngp, ntk = cnn.result(cnn.affine(head, w, b))
        np.testing.assert_allclose(K.nngp, nngp, rtol=1e-7)
        np.testing.assert_allclose(K.ntk, ntk, rtol=1e-7)


def test_shares_are_quadratic_forms_of_parities():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((8, 8))
    K, basis = A @ A.T, tasks_part.parities(3)
    shares, off = shares_part.shares_of_parities(K, basis)
    wanted = [basis[:, s] @ K @ basis[:, s] / (8 * np.trace(K)) for s in range(8)]
    np.testing.assert_allclose(shares, wanted)
    assert shares.sum() == pytest.approx(1)
    assert off == pytest.approx(1 - (np.array(wanted) ** 2).sum() * np.trace(K) ** 2 / np.linalg.norm(K) ** 2)


def test_pairs_of_a_ring_by_their_distance():
    bits, rng = 5, np.random.default_rng(0)
    shares = rng.random(2**bits)
    x = tasks_part.corners(bits)
    for distance, found in enumerate(shares_part.pairs_by_distance(shares, bits), start=1):
        wanted = []
        for i, j in itertools.combinations(range(bits), 2):
            if min(j - i, bits - (j - i)) == distance:
                at = next(s for s, row in enumerate(x) if set(np.flatnonzero(row < 0)) == {i, j})
                wanted.append(shares[at])
        assert found == pytest.approx(np.mean(wanted))


def test_the_cube_is_refused_where_it_does_not_fit(tmp_path):
    with pytest.raises(MemoryLimitExceeded, match="take fewer bits"):
        shares_part.measure_shares(shares_part.ShareSize(24, (2, 2), (1,)), SCALES, bench(tmp_path))


# ---------------------------------------------------------------------------------------------------------- claims


def made_up(*, off=1.0, catapult=2.0, t=9.0, high=0.5):
    """Findings as `measure` gives them; `off` is predicted over found of the own kernel."""

    def row(name, labels, activation, depth, width, draw):
        found = {"cube": 1.0, "mnist": 8.0, "cifar10": 2.0}[name] / depth
        return {
            "set": name, "labels": labels, "activation": activation, "depth": depth, "width": width, "draw": draw,
            "exact": 1.04 * found, "conjugate": 2 * found, "averaged": 1.02 * found, "own": off * found,
            "first_rise": 1.03 * off * found, "found": found,
            "plain": 1.4 * found if draw == 0 and labels != "centred" else None,
        }  # fmt: skip

    targets = {"cube": ["degree-mixed"], "mnist": ["one-hot", "centred"], "cifar10": ["one-hot", "centred"]}
    networks = [*itertools.product(["relu"], (1, 2), (64, 1024), (0, 1)), ("erf", 2, 1024, 0)]
    limits = [
        {"set": name, "activation": a, "depth": d, "exact": 1.0, "conjugate": 2.0, "scrambled": 0.7,
         "theory": {"ntk": 1.0, "nngp": 2.0} if name == "cube" else None, "gap": 12.0,
         "top_share": dict.fromkeys(labels, 0.1)}
        for name, labels in targets.items() for a, d in (("relu", 1), ("relu", 2), ("erf", 2))
    ]  # fmt: skip
    ends = {"shallowest": t, "deepest": t}
    best = {
        "n_train": 1000, "error": 2, "squared": 2, "alignment": 2, "least": 0.07, "shuffled_least": 0.89,
        "excess": {end: {"mean": 0.01, "error": 0.001} for end in ends}, "excess_in_errors": ends,
        "shuffled_in_errors": {"shallowest": 0.3, "deepest": -1.0},
    }  # fmt: skip
    return {
        "data": [{"name": name, "source": "Made up.", "input_shape": [1, 28, 28], "classes": 10}
                 for name in ("mnist", "cifar10")],
        "stands_in": False, "wide": 1024, "n": 256, "bits": 8, "w_std": 1.4, "b_std": 0.1, "threads": 2,
        "limits": limits,
        "rates": [row(name, own, *network) for network in networks for name, of in targets.items() for own in of],
        "scans": [{"set": name, "depth": 2, "width": w, "own": 1.0, "steps": 4, "stable_up_to": 0.95,
                   "recovers_up_to": catapult, "limit_recovers_up_to": 0.0} for name in targets for w in (64, 1024)],
        "depths": [{"set": name, "depths": [1, 2, 4], "sizes": [256, 1000], "draws": 3, "n_test": 10, "classes": 10,
                    "best": [best | {"n_train": 256}, best]} for name in ("mnist", "cifar10")],
        "shares": made_up_shares(high),
    }  # fmt: skip


def made_up_shares(high):
    rows = []
    for domain, kind, depth in itertools.product(("ring", "image"), ("connected", "flatten", "gap"), (1, 2)):
        for kernel, first in (("ntk", 0.6), ("nngp", 0.7)):
            above = 0.2 * high ** ("connected", "flatten", "gap").index(kind)
            shares = [first, 0.8 - first + (0.2 - above), above / 2, above / 4, above / 4]
            rows.append({
                "domain": domain, "kind": kind, "depth": depth, "kernel": kernel, "bits": 8, "shares": shares,
                "theory": [first, 0.8 - first, 0.1, 0.05, 0.05], "off": 0.01 if kind == "gap" else 0.0, "high": above,
                "pairs": ([1.0, 1.0] if kind == "connected" else [1.0, 0.2]) if domain == "ring" else None,
            })  # fmt: skip
    return rows


def made_up_arrays():
    rng = np.random.default_rng(0)
    arrays = {"scan_multiples": np.array([0.5, 1.2, 2.5])}
    for name, width in itertools.product(("cube", "mnist", "cifar10"), (64, 1024)):
        arrays[f"scan_outcomes_{name}_{width}"] = np.array([0, 1, 2])
        arrays[f"scan_losses_{name}_{width}"] = np.ones((3, 5))
    for name, n, measure in itertools.product(("mnist", "cifar10"), (256, 1000), depths_part.MEASURES):
        arrays[f"depths_{measure}_{name}_{n}"] = 0.1 + 0.1 * rng.random((3, 3))
    return arrays


def test_what_is_claimed_holds_of_numbers_that_agree():
    claims = make_claims(made_up())
    assert len(claims) == 5 * 3 + 1 + 3 + 4 + 6
    assert [claim.claim for claim in claims if not claim.holds] == []
    assert [claim.claim for claim in claims if not claim.control_fails] == []


@pytest.mark.parametrize(
    ("wrong", "named", "how_many"),
    [({"off": 1.06}, "own kernel", 5), ({"off": 1.06}, "first rise", 5), ({"catapult": 0.0}, "recovers", 3),
     ({"t": 2.9}, "test error", 4), ({"high": 1.01}, "share of degrees above", 2)],
)  # fmt: skip
def test_wrong_numbers_are_claims_that_do_not_hold(wrong, named, how_many):
    claims = make_claims(made_up(**wrong))
    failed = [claim for claim in claims if not claim.holds]
    assert sum(named in claim.claim for claim in failed) == how_many


def test_narrow_networks_are_not_judged():
    findings = made_up()
    for row in findings["rates"]:
        if row["width"] == 64:
            row["own"] = 10 * row["found"]
    assert all(claim.holds for claim in make_claims(findings))


def test_a_trial_claims_nothing_of_wide_networks():
    findings = made_up() | {"stands_in": True}
    claims = make_claims(findings)
    assert {claim.source for claim in claims[:3]} == {"a check of the machinery"}
    assert not any("standard errors" in claim.claim for claim in claims)


def test_the_page_of_made_up_numbers():
    painted = []

    def draw(name, label, size, paint):
        with styled():
            paint(Canvas(figsize=size))
        painted.append(name)
        return Figure("", label)

    story = EXPERIMENTS[NAME].show(made_up(), made_up_arrays(), draw)
    assert story.notices == ()
    assert [section.name for section in story.sections] == ["rates", "ladder", "widths", "depths", "shares"]
    assert all(len(row) == len(s.details.header) for s in story.sections for row in s.details.rows)
    assert "at most 0% on Boolean cube" in story.sections[0].sentence
    assert "4% on MNIST" in story.sections[0].sentence
    assert "recover from a rise up to 2×" in story.sections[2].sentence
    assert len(set(painted)) == sum(len(section.figures) for section in story.sections) == 23


# -------------------------------------------------------------------------------------------------- data, smoke run


def test_real_data_are_taken_where_they_are_found(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)
    smoke: LearningRateConfig = EXPERIMENTS[NAME].scales["smoke"]
    (alone,) = load_sets(smoke, bench(tmp_path))
    assert alone.name == "digits"
    assert alone.stands_in
    with pytest.raises(DataError, match="no folder was named"):
        load_sets(replace(EXPERIMENTS[NAME].scales["laptop"], sets=("cifar10",)), bench(tmp_path))
    write_mnist(tmp_path / "mnist", 200, 100, side=28)
    write_cifar(tmp_path / "cifar-10-batches-bin", 200, batches=1)
    both = load_sets(smoke, bench(tmp_path, tmp_path))
    assert [(one.name, one.stands_in, len(one.x_train)) for one in both] == [
        ("mnist", False, 180),
        ("cifar10", False, 180),
    ]


def test_the_smoke_run(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKIT_DATA", raising=False)
    result = reproduce(NAME, scale="smoke", out=tmp_path / "out", progress=False)
    assert result.holds
    assert all(claim.control_fails for claim in result.claims)
    assert all(np.isfinite(values).all() for values in result.arrays.values())
    findings = result.results["findings"]
    assert {row["set"] for row in findings["rates"]} == {"cube", "digits"}
    assert all(row["found"] > 0 for row in findings["rates"])
    assert "other images stand in" in result.page.read_text()
    assert len(list(result.folder.glob("*.png"))) >= 14
