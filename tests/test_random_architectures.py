"""Two hundred random architectures: both engines against the textbook, float32 against float64, and wide networks.

A failure names its seed; `print(recipe_of(seed))` shows the network. The plain suite takes the first twenty-two.

The textbook adds up covariances, so that entries carry the rounding of the largest one, and correlations near ±1 lose
half of their digits: samples are far from each other, and entries are compared in units of the largest of their kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from random_architectures import covariances, features_of, model_of, recipe_of
from random_architectures.checks import (
    deviations,
    engines_of,
    in_single,
    monte_carlo,
    samples_of,
    stacked,
)
from random_architectures.seeds import ALL, BRIEF, FEATURES, LEAST, OF_TOKENS, WIDE, coverage
from random_architectures.steps import Attention, Branching, Dense, Positions, Step, Steps, depth_of

BOUND = 1e-9  # of the largest entry; torch's engine finds quadrature's moments to 1e-11
SINGLE = 5e-6  # of √(K_ii K_jj)
ALLOWANCE = 0.01  # of the largest entry, for finite width
EVERY_SEED = [pytest.param(seed, marks=[] if seed in BRIEF else [pytest.mark.slow]) for seed in ALL]


# ---- the networks ----------------------------------------------------------------------------------------------------


def test_every_feature_occurs_often_enough():
    found = coverage(ALL)
    assert set(found) == FEATURES
    assert min(found.values()) >= LEAST, found
    assert {depth_of(recipe_of(seed).steps) for seed in ALL} == set(range(13))


def test_the_first_networks_have_every_layer_of_tokens():
    found = coverage(BRIEF)
    assert all(found[feature] >= 2 for feature in OF_TOKENS | {"transposed convolution"}), found


def test_wide_networks_have_every_feature_but_great_depth():
    assert len(WIDE) == len(set(WIDE)) == 20
    assert FEATURES - set(coverage(WIDE)) == {"depth 9 to 12"}


def test_a_seed_is_a_network_and_its_text_shows_it():
    assert recipe_of(7) == recipe_of(7) != recipe_of(8)
    assert str(recipe_of(8)).startswith(f"seed 8: samples of shape {recipe_of(8).shape}, with a mask\n  Conv(w_std=")
    assert str(recipe_of(6)).startswith(f"seed 6: samples of shape {recipe_of(6).shape}\n  ")
    assert len({recipe_of(seed).steps for seed in ALL}) == len(ALL)


def test_the_compiled_engine_takes_what_has_no_reason_for_the_other():
    torch_only = {"product", "dropout", "dropout of channels", "Tanh", "SiLU", "Sigmoid"} | OF_TOKENS
    alone = {
        "trained scale before an activation, one a position",
        "trained scale before a layer or a pool, one a position",
    }
    by_both = 0
    for seed in BRIEF:
        recipe = recipe_of(seed)
        compiled = "numba" in engines_of(model_of(recipe).kernel(), recipe)
        by_both += compiled
        assert not (compiled and features_of(recipe) & torch_only)
        assert compiled or features_of(recipe) & (torch_only | alone | {"trained shift"}), recipe
    assert by_both >= len(BRIEF) / 5


# ---- exact kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", EVERY_SEED)
def test_every_engine_has_the_kernels_of_the_textbook(seed):
    found = deviations(recipe_of(seed))
    assert max(found.values()) <= BOUND, f"{found}\n{recipe_of(seed)}"


@pytest.mark.parametrize("seed", EVERY_SEED)
def test_float32_loses_no_more_than_rounding_takes(seed):
    found = in_single(recipe_of(seed))
    assert found.error <= SINGLE, recipe_of(seed)
    assert found.shortfall <= 1, recipe_of(seed)


@pytest.mark.parametrize("seed", [2, 3, 9])
def test_a_scale_that_is_off_by_a_millionth_is_found(seed):
    recipe = recipe_of(seed)
    (*others, last) = recipe.steps
    assert isinstance(last, Dense)
    other = replace(recipe, steps=(*others, replace(last, w_std=last.w_std * (1 + 1e-6))))
    samples = samples_of(recipe)
    found, expected = stacked(model_of(other).kernel()(samples.given)), covariances(recipe, samples.x, samples.mask)
    assert np.abs(found - expected).max() > 100 * BOUND * np.abs(expected).max()


@pytest.mark.parametrize(
    ("seed", "kind", "name"),
    [(5, Attention, "score_scale"), (8, Attention, "score_scale"), (17, Positions, "correlation_length")],
)
def test_a_layer_of_tokens_that_is_off_by_a_millionth_is_found(seed, kind, name):
    recipe = recipe_of(seed)
    other = replace(recipe, steps=_changed(recipe.steps, kind, name))
    found, right = (stacked(model_of(r).kernel()(samples_of(recipe).given)) for r in (other, recipe))
    assert np.abs(found - right).max() > BOUND * np.abs(right).max()


def _changed(steps: Steps, kind: type[Step], name: str) -> Steps:
    """With a number of each step of a kind a millionth larger, in all branches."""

    def changed(step: Step) -> Step:
        if isinstance(step, Branching):
            return replace(step, branches=tuple(_changed(branch, kind, name) for branch in step.branches))
        new: dict[str, Any] = {name: getattr(step, name) * (1 + 1e-6)} if isinstance(step, kind) else {}
        return replace(step, **new)

    return tuple(changed(step) for step in steps)


# ---- wide networks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", WIDE)
def test_wide_networks_tend_to_the_exact_kernels(seed):
    found = monte_carlo(recipe_of(seed), width=256, draws=48, allowance=ALLOWANCE)
    assert found.standard_errors <= 4, f"{found}\n{recipe_of(seed)}"
