"""kopitkov: the claims, and the page, from made-up findings."""

import dataclasses
import json

import numpy as np
import pytest

from ntkit.experiments import EXPERIMENTS
from ntkit.experiments.reproductions.kopitkov.claims import make_claims
from ntkit.experiments.reproductions.kopitkov.image import density_of
from ntkit.report.style import draw

SCALES = EXPERIMENTS["kopitkov"].scales


def made_up(n=512, **changes):
    """Findings of runs in which everything is as published; `changes` alter every run."""
    layers = [2, 4, 6]
    runs = {}
    for key in ("gd-2", "gd-4", "gd-6", "halved", "sgd", "adam", "pso"):
        depth = int(key[3:]) if key.startswith("gd") else 6
        runs[key] = {
            "key": key, "title": f"{depth} layers", "layers": depth, "rate": 0.25,
            "halved_at": 5000 if key == "halved" else None,
            "error_start": 0.5, "error_late": 0.4 / depth**2, "error_linearised": 0.3 - 0.01 * depth,
            "energy_start": 0.4, "energy_late": 0.4 + 0.05 * depth, "shuffled_start": 0.04, "shuffled_late": 0.04,
            "shuffled_growth": 0.01, "output_least": 0.97, "output_least_step": 7, "output_late": 0.98,
            "residual_least": 0.3, "output_in_start_late": 0.6, "first_order_median": 0.02 * depth,
            "first_order_worst": 0.5, "first_order_worst_step": 7, "first_order_by_start_median": 0.8,
            "edge_start": 0.3, "edge_later_half": 1 + 0.02 * depth, "largest_second_quarter": 4000.0,
            "largest_late": 7000.0 if key == "halved" else 4100.0,
        } | changes  # fmt: skip
    settings = json.loads(json.dumps(dataclasses.asdict(SCALES["laptop"]))) | {"n": n, "layers": layers}
    return {"source": "Made up.", "settings": settings, "runs": runs}


def failing(findings):
    return [claim.claim for claim in make_claims(findings) if not claim.holds]


def test_what_is_as_published_holds_and_every_control_fails():
    claims = make_claims(made_up())
    assert len(claims) == 2 + 2 + 3 + 1 + 2 + 3
    assert all(claim.holds for claim in claims)
    assert all(claim.control_fails for claim in claims)


def test_few_samples_make_few_claims():
    assert len(make_claims(made_up(n=96))) == 2 + 3 + 1


@pytest.mark.parametrize(
    ("changes", "words", "times"),
    [
        ({"energy_late": 0.4}, "growth of the target's energy", 5),
        ({"energy_late": 0.6}, "difference of the target's energy in the top 20", 1),
        ({"error_late": 0.1}, "ratio of the errors, late", 1),
        ({"output_least": 0.9}, "output's energy in the top 100", 3),
        ({"first_order_median": 0.4}, "first-order error of a step", 1),
        ({"edge_later_half": 0.5}, "λ_max over 2N/δ", 1),
        ({"edge_later_half": 2.0}, "λ_max over 2N/δ", 1),
        ({"largest_late": 4100.0}, "before δ is halved", 1),
    ],
)
def test_a_wrong_number_is_a_claim_that_does_not_hold(changes, words, times):
    assert sum(words in claim for claim in failing(made_up(**changes))) == times


@pytest.mark.parametrize(
    "changes",
    [
        {"shuffled_growth": 0.2},
        {"residual_least": 0.99},
        {"first_order_by_start_median": 0.1},
        {"edge_start": 1.0},
    ],
)
def test_a_control_that_does_not_fail_is_seen(changes):
    assert not all(claim.control_fails for claim in make_claims(made_up(**changes)))


def test_the_page_of_a_whole_run():
    findings = made_up()
    steps = np.array([0, 1, 10, 100, 10_000])
    rng = np.random.default_rng(6)
    image = rng.random((6, 6))
    arrays = {"image": image, "density": density_of(image, 0.1), "points": rng.random((24, 2))}
    for key in findings["runs"]:
        shares = np.sort(rng.random((5, 100)), axis=1)
        arrays |= {
            f"{key}_step": steps, f"{key}_rate": np.full(5, 0.25), f"{key}_error": np.geomspace(0.5, 1e-3, 5),
            f"{key}_eigenvalues": np.geomspace(4e3, 1e-3, 60) * np.ones((5, 1)), f"{key}_energy_target": shares,
            f"{key}_energy_output": shares, f"{key}_energy_residual": shares,
            f"{key}_energy_shuffled": np.full((5, 10), 0.04), f"{key}_energy_output_in_start": np.linspace(1, 0.5, 5),
            f"{key}_first_order": np.full(5, 0.1), f"{key}_first_order_by_start": np.full(5, 0.8),
            f"{key}_picture": rng.random((1, 8, 8)), f"{key}_eigenfunctions": rng.standard_normal((2, 6, 8, 8)),
        }  # fmt: skip

    story = EXPERIMENTS["kopitkov"].show(findings, arrays, draw)
    assert story.notices == ()
    sentences = {section.name: section.sentence for section in story.sections}
    assert "from 40% to 70% with 6 layers" in sentences["alignment"]
    assert "less than 97%" in sentences["output"]
    assert "1.75 times what it was before" in sentences["edge"]
    assert all(len(row) == len(section.details.header) for section in story.sections for row in section.details.rows)
    assert sum(len(section.figures) for section in story.sections) == 16
