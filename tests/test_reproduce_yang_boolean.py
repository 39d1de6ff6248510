"""yang-boolean: draws against their definitions and the exact kernel, its claims, and the smoke run end to end."""

import copy
import itertools
import math
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit.experiments import EXPERIMENTS, reproduce
from ntkit.experiments.reproductions.yang import boolean_draws as draws
from ntkit.experiments.reproductions.yang.boolean import DEEP, ERF, RELU, SMALL_BIAS
from ntkit.experiments.reproductions.yang.boolean_claims import difference_error, make_claims, pairs_of_the_limit
from ntkit.experiments.reproductions.yang.boolean_draws import Architecture
from ntkit.report import Figure


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return reproduce("yang-boolean", scale="smoke", out=tmp_path_factory.mktemp("out") / "boolean", progress=False)


# ------------------------------------------------------------------------------------------------------ functions


def test_parities_are_products_of_bits():
    x, table = draws.corners(), draws.parities()
    assert len({tuple(row) for row in x}) == 128
    for s in (0, 1, 2, 37, 127):
        members = [i for i in range(7) if s >> i & 1]
        np.testing.assert_array_equal(table[:, s], np.prod(x[:, members], axis=1))
        assert draws.degrees()[s] == len(members)


def test_energies_are_squared_fourier_coefficients():
    x = torch.from_numpy(draws.corners()).float()
    f = 2 + 3 * x[:, 0] - x[:, 1] * x[:, 2] + 0.5 * x[:, 4] * x[:, 5] * x[:, 6]
    np.testing.assert_allclose(draws.energies(f[None]), [[4, 9, 1, 0.25, 0, 0, 0, 0]], atol=1e-12)


def test_functions_are_counted_as_a_dictionary_counts_them():
    f = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 128)))
    f[:40], f[40:60] = f[0].clone(), f[1].clone()
    counted = draws.count(draws.functions(f))
    known = Counter(tuple(row) for row in (f > 0).tolist())
    assert counted.counts.tolist() == sorted(known.values(), reverse=True)
    bits = np.unpackbits(counted.codes.view(np.uint8), axis=1, bitorder="little").astype(bool)
    assert [known[tuple(row)] for row in bits.tolist()] == counted.counts.tolist()
    assert counted.pairs == math.comb(40, 2) + math.comb(20, 2)
    np.testing.assert_array_equal(draws.ones(counted.codes), bits.sum(1))


def test_kinds_of_functions():
    x = torch.from_numpy(draws.corners())
    constant, corner, bit = torch.ones(128), torch.ones(128), -x[:, 3]
    corner[17] = -1.0
    codes = draws.functions(torch.stack([constant, -constant, corner, -corner, corner, bit, x[:, 0] * x[:, 1]]))
    assert draws.count_kinds(codes) == {"constants": 2, "one_corner": 3, "one_bit": 1}


def test_the_error_of_shares_is_their_spread():
    rng = np.random.default_rng(0)
    samples = rng.chisquare(1, (400, 500, 3)) * np.array([5.0, 1.0, 0.2])
    found = [draws.shares(sample) for sample in samples]
    spread = np.std([share for share, _ in found], axis=0)
    np.testing.assert_allclose(np.mean([error for _, error in found], axis=0), spread, rtol=0.12)


# ---------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("arch", [RELU, SMALL_BIAS, *ERF, DEEP])
def test_the_process_has_the_covariance_of_the_exact_kernel(arch):
    scales = {"w_std": arch.w_square**0.5, "b_std": arch.b_square**0.5}
    layer, function = partial(ntkit.nn.Linear, **scales), {"relu": nn.ReLU, "erf": ntkit.nn.Erf}[arch.activation]
    hidden = [one for i in range(arch.depth) for one in (layer(1 if i else 7, 1), function())]
    K = ntkit.InfiniteKernel(nn.Sequential(*hidden, layer(1, 1))).nngp(draws.corners())
    f = torch.cat(list(draws.draw_process(arch, 40_000, 3))).double().numpy()
    found = f.T @ f / len(f)
    error = np.sqrt((np.outer(np.diag(K), np.diag(K)) + K**2) / len(f))
    assert (np.abs(found - K) / error).max() < 6


@pytest.mark.parametrize("arch", [Architecture("relu", 1, 2.0, 2.0), Architecture("erf", 1, 4.0, 0.5)])
def test_networks_of_one_hidden_layer_have_the_spectrum_of_theory_at_any_width(arch):
    """Their covariance is the kernel at every width, as only the last layer's inputs are not Gaussian."""
    energy = np.concatenate([draws.energies(f) for f in draws.draw_networks(arch, 6, 20_000, 1)])
    share, error = draws.shares(energy)
    assert (np.abs(share - arch.spectrum.fractional_variance) < 4.5 * error).all()
    assert energy.sum(1).mean() == pytest.approx(arch.spectrum.trace, rel=0.05)


def test_networks_are_what_they_are_said_to_be():
    """With the same numbers, drawn in the same order."""
    arch, width, n = Architecture("relu", 2, 1.5, 0.5), 5, 3
    (found,) = draws.draw_networks(arch, width, n, 11)
    generator = draws._generator(11, f"{arch.key} width {width}")
    h = torch.from_numpy(draws.corners()).float().expand(n, -1, -1)
    for fan_in, fan_out in itertools.pairwise((7, width, width, 1)):
        weight = torch.randn(n, fan_in, fan_out, generator=generator)
        bias = torch.randn(n, 1, fan_out, generator=generator)
        z = (1.5 / fan_in) ** 0.5 * torch.einsum("mxi,mio->mxo", h, weight) + 0.5**0.5 * bias
        h = z.clamp(min=0)
    torch.testing.assert_close(found, z[..., 0])


def test_other_widths_and_seeds_have_other_draws():
    first = next(draws.draw_networks(RELU, 4, 2, 0))
    torch.testing.assert_close(first, next(draws.draw_networks(RELU, 4, 2, 0)))
    for width, seed in ((5, 0), (4, 1)):
        assert not torch.allclose(first, next(draws.draw_networks(RELU, width, 2, seed)))


# --------------------------------------------------------------------------------------------------------- claims


def published(smoke):
    """The findings of the smoke run, made up to the published size and numbers."""
    findings = copy.deepcopy(smoke.results["findings"])
    findings["networks"] = 10_000
    draw = {"most_frequent": [1802, 1762, 9, 5], "pairs": 3_000_000, "different": 6000}
    relu, erf, _, strong, deep, control = findings["cases"].values()
    relu["batches"] = [draw] * 10
    relu["widths"][0] |= {"draws": 100_000, "constants": 35_000}
    control["widths"][0] |= {"draws": 10_000, "constants": 2500}
    erf["batches"] = [{"most_frequent": [5], "pairs": pairs, "different": 9980} for pairs in (38, 42) * 5]
    strong["batches"] = [{"most_frequent": [1], "pairs": pairs, "different": 10_000} for pairs in (0, 1) * 5]
    deep["batches"] = [{"most_frequent": [1], "pairs": 0, "different": 10_000}]
    return findings


def test_claims_hold_for_published_numbers_and_their_controls_fail(smoke):
    claims = make_claims(published(smoke))
    assert len(claims) == 13
    assert all(claim.holds and claim.control_fails for claim in claims)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c["relu_2_2_2"]["widths"][0].update(constants=38_000), ("constant functions", "width 40")),
        (lambda c: c["relu_2_2_2"]["widths"][-1].update(constants=450), ("constant functions", "as in the limit")),
        (lambda c: c["relu_2_2_2"].update(batches=[{"most_frequent": [1800, 1800, 90], "pairs": 0}] * 10), ("third",)),
        (lambda c: c["relu_2_2_2"]["theory"].__setitem__(0, 0.8390), ("degree 0 in the conjugate", "σ_b² = 2")),
        (lambda c: c["erf_2_4_0"]["widths"][-1]["share"].__setitem__(1, 0.5), ("share of degree 1", "σ_w² = 4")),
        (lambda c: c["relu_2_2_2"]["eigenvalues"].__setitem__(3, 5.0), ("eigenvalues fall",)),
        (lambda c: c["erf_32_4_0"]["batches"][0].update(most_frequent=[2]), ("most frequent", "32 hidden layers")),
        (lambda c: c["erf_2_1_0"].update(batches=c["erf_2_4_0"]["batches"]), ("pairs",)),
    ],
)
def test_a_wrong_number_is_a_claim_that_does_not_hold(smoke, spoil, words):
    findings = published(smoke)
    before = make_claims(findings)
    spoil(findings["cases"])
    (failed,) = (claim for claim in make_claims(findings) if not claim.holds)
    assert all(claim.holds for claim in before)
    assert all(word in failed.claim for word in words)


def test_tolerances_are_standard_errors():
    assert difference_error(200, 1000, 300, 1000) == pytest.approx(math.sqrt(0.25 * 0.75 * 2 / 1000))
    findings = {"networks": 100}
    assert pairs_of_the_limit(findings, {"limit": {"pairs": 1000, "draws": 1000}}) == pytest.approx(4950 / 499.5)


def test_frequencies_of_single_functions_are_not_compared_in_small_draws(smoke):
    assert len(smoke.claims) == 11
    assert not any("third" in claim.claim or "pairs" in claim.claim for claim in smoke.claims)


# ----------------------------------------------------------------------------------------------------- whole runs


def test_the_smoke_run_is_whole(smoke):
    assert smoke.holds
    assert all(claim.control_fails for claim in smoke.claims)
    assert {path.stem for path in smoke.folder.glob("*.png")} == {
        "ranks", "widths", "shares", "deviations", "eigenvalues",
    }  # fmt: skip
    assert all(np.isfinite(array).all() for array in smoke.arrays.values())
    for key in smoke.results["findings"]["cases"]:
        assert smoke.arrays[f"ranks_{key}"].sum() == smoke.arrays[f"limit_ranks_{key}"].sum() == 400
    page = smoke.page.read_text()
    assert page.count("<svg") == 5
    assert not re.search(r"\b(nan|inf)\b", page)
    assert "a trial of the machinery" in page


def test_the_page_of_the_published_size(smoke):
    findings = published(smoke)
    story = EXPERIMENTS["yang-boolean"].show(findings, smoke.arrays, lambda name, label, size, paint: Figure("", label))
    assert story.notices == ()
    assert story.facts[0].rows[1][1].startswith("40 ± 0.67 at width 40; limit ")
    assert story.tiles[0].value == "35%"


def test_scales_are_the_published_ones():
    for scale in ("laptop", "paper"):
        config = EXPERIMENTS["yang-boolean"].scales[scale]
        assert config.networks == 10_000
        assert [case.arch for case in config.cases] == [RELU, *ERF, DEEP]
        assert {case.widths[0] for case in config.cases} == {40}
        assert config.process % config.networks == 0
