"""yang-depth: shares against the published route in many digits, its claims, and the smoke run end to end."""

import copy
import re
from dataclasses import replace
from math import comb

import mpmath as mp
import numpy as np
import pytest

from ntkit._progress import Reporter
from ntkit.errors import InvalidInput
from ntkit.experiments import EXPERIMENTS, reproduce
from ntkit.experiments.reproductions.experiment import Workbench
from ntkit.experiments.reproductions.yang import depth_claims as claims_of
from ntkit.experiments.reproductions.yang.depth import _first_largest
from ntkit.experiments.reproductions.yang.depth_claims import make_claims
from ntkit.experiments.reproductions.yang.depth_differences import shares_by_differences
from ntkit.report import Figure
from ntkit.theory import boolean_cube
from oracles import theory as oracle


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return reproduce("yang-depth", scale="smoke", out=tmp_path_factory.mktemp("out") / "depth", progress=False)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Findings of the smoke run's grids with all published degrees."""
    experiment = EXPERIMENTS["yang-depth"]
    config = replace(experiment.scales["smoke"], degrees=8)
    return experiment.measure(config, Workbench(None, tmp_path_factory.mktemp("work"), Reporter(False)))


def in_many_digits(activation, depth, w_square, b_square, d, degree):
    """C(d, k) μ_k/Φ(1) of both kernels, by the published recursion and differences of two steps."""
    with mp.workdps(50):
        scales = mp.mpf(w_square), mp.mpf(b_square)
        values = [oracle.kernels(activation, 1 - 2 * mp.mpf(r) / d, depth, *scales) for r in range(d + 1)]
        found = []
        for which in (0, 1):
            row = [value[which] for value in values]
            trace = row[0]
            for _ in range(degree):
                row = [(row[i] - row[i + 2]) / 4 for i in range(len(row) - 2)]
            left = d - 2 * degree
            mean = sum(comb(left, r) * value for r, value in enumerate(row)) / mp.mpf(2) ** left
            found.append(float(comb(d, degree) * mean / trace))
    return found


# the optima of the published grids, and points beside them
POINTS = [
    ("relu", 9, 2.0, 0.0, 8), ("relu", 7, 2.0, 0.0, 7), ("relu", 128, 2.0, 4.0, 3), ("erf", 25, 1.0, 0.0, 3),
    ("erf", 98, 1.0, 0.0, 7), ("erf", 9, 1.8, 0.1, 8), ("erf", 4, 2.7, 0.3, 2),
]  # fmt: skip


@pytest.mark.parametrize(("activation", "depth", "w_square", "b_square", "degree"), POINTS)
def test_points_of_the_grids_in_many_digits(activation, depth, w_square, b_square, degree):
    expected = in_many_digits(activation, depth, w_square, b_square, 128, degree)
    theory = boolean_cube(activation, depth, w_square**0.5, b_square**0.5, 128)
    found = [kernel.fractional_variance[degree] for kernel in (theory.nngp, theory.ntk)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    by_differences = shares_by_differences(activation, depth, w_square, b_square, 128, degree)
    np.testing.assert_allclose(by_differences, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_differences_of_two_steps_are_differences_of_one(activation):
    d = 12
    with mp.workdps(40):
        whole = oracle.cube(activation, 3, 2, 0.5, d)
        traces = oracle.kernels(activation, mp.mpf(1), 3, mp.mpf(2), mp.mpf(0.5))
    for k in range(d // 2 + 1):
        expected = [float(comb(d, k) * mu / trace) for mu, trace in zip(whole[k], traces, strict=True)]
        np.testing.assert_allclose(shares_by_differences(activation, 3, 2.0, 0.5, d, k), expected, rtol=1e-11)
    with pytest.raises(InvalidInput, match="at most half of d = 12 for steps of two, got 7"):
        shares_by_differences(activation, 3, 2.0, 0.5, d, 7)


def test_of_equal_shares_the_first_counts():
    shares = np.array([[0.1, 0.5], [0.3, 0.5 + 1e-16], [0.3 * (1 + 1e-15), 0.2]])
    assert _first_largest(shares).tolist() == [1, 0]


# --------------------------------------------------------------------------------------------------------- claims


def changed(eight, activation="relu", kernel="ntk", degree=3, **numbers):
    findings = copy.deepcopy(eight.findings)
    findings[activation][kernel][degree] |= numbers
    return findings


def test_every_published_number_is_a_claim(eight):
    words = [claim.claim for claim in eight.claims]
    for name in claims_of.NAMES.values():
        for degree in range(1, 9):
            assert f"ReLU, {name}: optimal depth for degree {degree}" in words
            assert f"ReLU, {name}: largest share of degree {degree}" in words
    assert len(words) == 40
    assert all(claim.holds and claim.control_fails for claim in eight.claims)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 4}, "tangent kernel: optimal depth for degree 3"),
        ({"kernel": "nngp", "degree": 8, "depth": 8}, "conjugate kernel: optimal depth for degree 8"),
        ({"share": 0.0759, "by_differences": 0.0759}, "tangent kernel: largest share of degree 3"),
        ({"b_square": 0.5}, "the largest σ_b² at which"),
        ({"activation": "erf", "degree": 7, "depth": 128}, "erf: the largest optimal depth"),
        ({"activation": "erf", "degree": 2, "share_without_biases": 1e-4}, "even degree without biases"),
        ({"activation": "erf", "degree": 2, "by_differences": 0.5}, "erf: how far the largest shares"),
    ],
)
def test_a_wrong_number_is_a_claim_that_does_not_hold(eight, change, words):
    (failed,) = (claim for claim in make_claims(changed(eight, **change)) if not claim.holds)
    assert words in failed.claim


def test_depths_must_not_fall_with_the_degree(eight):
    findings = changed(eight, degree=8, depth=5)
    failed = [claim.claim for claim in make_claims(findings) if not claim.holds]
    assert failed == [
        "ReLU, tangent kernel: optimal depth for degree 8",
        "ReLU, tangent kernel: the most that the optimal depth falls by, from a degree to the next",
    ]
    rows = [{"depth": depth} for depth in (0, 4, 25, 3, 46)]
    assert claims_of.largest_fall(rows, 1) == 22
    assert claims_of.largest_fall(rows, 2) == 1


def test_depths_of_erf_are_judged_on_the_published_grid_only(eight):
    findings = copy.deepcopy(eight.findings)
    findings["erf"] |= {"w_square": list(range(41)), "b_square": list(range(41))}
    words = [claim.claim for claim in make_claims(findings)]
    assert sum("the next of its parity" in word for word in words) == 2
    assert not any("the next of its parity" in claim.claim for claim in eight.claims)


# ----------------------------------------------------------------------------------------------------- whole runs


def test_the_smoke_run_is_whole(smoke):
    assert smoke.holds
    assert all(claim.control_fails for claim in smoke.claims)
    kernels = claims_of.KERNELS
    maps = {f"erf-{kernel}-{what}" for kernel in kernels for what in ("largest", "depth")}
    names = {"depths", "largest", *(f"relu-{kernel}" for kernel in kernels), *maps}
    assert {path.stem for path in smoke.folder.glob("*.png")} == names
    assert all(np.isfinite(array).all() for array in smoke.arrays.values())
    page = smoke.page.read_text()
    assert page.count("<svg") == 8
    assert page.count("<image") == 4 * 6 + 6  # a panel a degree, and the scales of colours
    assert not re.search(r"\b(nan|inf)\b", page)
    assert "8 of 8 best depths" in page


def test_arrays_are_the_grids(smoke):
    relu, erf = smoke.results["findings"]["relu"], smoke.results["findings"]["erf"]
    i, j = 1, 2
    for kernel in claims_of.KERNELS:
        w, b = erf["w_square"][i] ** 0.5, erf["b_square"][j] ** 0.5
        depth = smoke.arrays[f"erf_{kernel}_depth"][i, j]
        for k in (1, 3, 4):
            theory = [getattr(boolean_cube("erf", int(depth[k]) + step, w, b, 128), kernel) for step in (0, 1)]
            shares = [spectrum.fractional_variance[k] for spectrum in theory]
            assert smoke.arrays[f"erf_{kernel}_largest"][i, j, k] == pytest.approx(shares[0], rel=1e-6)
            assert shares[1] < shares[0]
        one = getattr(boolean_cube("relu", 6, 2**0.5, relu["b_square"][3] ** 0.5, 128), kernel)
        np.testing.assert_allclose(smoke.arrays[f"relu_{kernel}"][6, 3], one.fractional_variance[:5], atol=1e-12)


def test_a_page_says_what_is_not_as_published(eight):
    findings = changed(eight, depth=5, b_square=0.5)
    story = EXPERIMENTS["yang-depth"].show(findings, eight.arrays, lambda name, label, size, paint: Figure("", label))
    assert "15 of 16 best depths" in story.sections[0].sentence
    assert story.sections[1].sentence == "Not every degree has its largest share without biases."


def test_scales_are_the_published_ones():
    for scale in ("laptop", "paper"):
        config = EXPERIMENTS["yang-depth"].scales[scale]
        assert (config.d, config.max_depth, config.degrees) == (128, 128, 8)
        assert config.relu.w_square == (2.0,)
        assert (len(config.relu.b_square), config.relu.b_square[1], config.relu.b_square[-1]) == (401, 0.01, 4.0)
        assert (len(config.erf.w_square), config.erf.w_square[0], config.erf.w_square[-1]) == (41, 1.0, 5.0)
        assert (len(config.erf.b_square), config.erf.b_square[0], config.erf.b_square[-1]) == (41, 0.0, 4.0)
