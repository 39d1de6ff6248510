"""Means of finite networks' kernels: against exact kernels and closed forms, their errors, stopping."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import ntkit
from layer_cases import conv, data, linear
from monte_carlo_cases import equal, mlp
from ntkit.infinite import monte_carlo_kernel
from ntkit.infinite.monte_carlo.moments import Moments
from oracles import jacobian

# ---- exact kernels ---------------------------------------------------------------------------------------------------


def pooled(width: int) -> nn.Module:
    return nn.Sequential(
        *(conv(2, width, padding=1), nn.ReLU(), conv(width, width, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(width, 2)),
    )


def normalised(width: int) -> nn.Module:
    return nn.Sequential(linear(4, width), nn.LayerNorm(width, 0.1), nn.ReLU(), linear(width, 4))


def partly_frozen(width: int) -> nn.Module:
    return nn.Sequential(
        linear(4, width).requires_grad_(False), nn.ReLU(), linear(width, width), nn.ReLU(), linear(width, 4)
    )


def with_dropout(width: int) -> nn.Module:
    """Dropout is left out in eval mode."""
    return nn.Sequential(linear(4, width), nn.ReLU(), nn.Dropout(0.3), linear(width, 4)).eval()


@pytest.mark.usefixtures("unchecked")  # checks of shapes take longer than the draws
@pytest.mark.parametrize(
    ("model", "sample", "width", "draws"),
    [
        pytest.param(lambda w: mlp(w, 4), (4,), 128, 24, id="mlp"),
        pytest.param(lambda w: mlp(w, 4), (4,), 512, 200, id="mlp, wide", marks=pytest.mark.slow),
        pytest.param(pooled, (2, 3, 4), 256, 64, id="convolutions", marks=pytest.mark.slow),
        pytest.param(normalised, (4,), 512, 200, id="normalised", marks=pytest.mark.slow),
        pytest.param(partly_frozen, (4,), 512, 200, id="frozen", marks=pytest.mark.slow),
        pytest.param(with_dropout, (4,), 512, 200, id="dropout", marks=pytest.mark.slow),
    ],
)
def test_wide_networks_have_the_exact_kernel_within_four_standard_errors(model, sample, width, draws):
    x1, x2 = data(3, *sample), data(2, *sample, seed=1)
    exact = ntkit.InfiniteKernel(model(64))(x1, x2)
    found = monte_carlo_kernel(lambda: model(width), x1, x2, draws=draws)
    assert ((found.nngp - exact.nngp).abs() < 4 * found.nngp_error).all()
    assert ((found.ntk - exact.ntk).abs() < 4 * found.ntk_error).all()
    assert (found.ntk_error < 0.1 * exact.ntk.abs().max()).all()


def test_the_first_draws_are_the_textbook_kernels_of_their_networks():
    """Two draws by hand: mean and error of Jacobian products and of products of outputs."""
    kept: list[nn.Module] = []

    def builder() -> nn.Module:
        kept.append(mlp(outputs=3).double())
        return kept[-1]

    x = data(4, 4)
    found = monte_carlo_kernel(builder, x, draws=2)
    first, again, other, second = kept  # two calls more, which check the builder
    ntk, nngp = [], []
    for model in (first, second):
        j = jacobian.jacobian(model, x)
        ntk.append(jacobian.kernel(j, j, "mean"))
        f = model(x).detach()
        nngp.append((f @ f.T) / 3)
    for mean, error, (a, b) in ((found.ntk, found.ntk_error, ntk), (found.nngp, found.nngp_error, nngp)):
        torch.testing.assert_close(mean, (a + b) / 2, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(error, (a - b).abs() / 2, rtol=1e-9, atol=1e-13)  # √(s²/2), s² = (a − b)²/2
    assert torch.equal(again[0].weight, first[0].weight)
    assert torch.equal(other[0].weight, second[0].weight)


# ---- standard errors -------------------------------------------------------------------------------------------------


def deep_linear(width: int) -> nn.Module:
    """f = w·W x/√(width·d), whose kernels have closed means at every width: x·x'/d and 2 x·x'/d."""
    return nn.Sequential(ntkit.nn.Linear(4, width), ntkit.nn.Linear(width, 1))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("runs", [16, pytest.param(250, marks=pytest.mark.slow)])
def test_standard_errors_are_unbiased_and_cover_the_closed_means_of_linear_networks(runs):
    """At x·x = d: f² has variance 3(1 + 2/width) − 1, and the tangent kernel (|w|² + |Wx|²/d)/width has 4/width."""
    width, draws = 16, 8
    x = data(1, 4)
    x = x * 2 / x.norm()
    found = [monte_carlo_kernel(lambda: deep_linear(width), x, draws=draws, seed=seed) for seed in range(runs)]
    quantile = stats.t.ppf(0.975, draws - 1)
    # `spread`: variance of a run's squared error in units of its square, 2/(draws − 1) + excess kurtosis/draws
    for kind, mean, variance, spread in (("nngp", 1.0, 2 + 6 / width, 3.0), ("ntk", 2.0, 4 / width, 0.35)):
        means = np.array([float(getattr(f, kind)) for f in found])
        errors = np.array([float(getattr(f, f"{kind}_error")) for f in found])
        assert abs(means.mean() - mean) < 4 * np.sqrt(variance / (draws * runs))
        assert abs((errors**2).mean() / (variance / draws) - 1) < 4 * np.sqrt(spread / runs)
        covered = (np.abs(means - mean) < quantile * errors).mean()
        least = 0.95 if kind == "ntk" else 0.8  # squares of one Gaussian are far from Gaussian
        assert covered > least - 4 * np.sqrt(0.05 / runs)


def test_welford_s_sums_are_those_of_numpy():
    values = 1e6 + np.random.default_rng(0).standard_normal((50, 3, 2))
    moments = Moments.none(3, 2)
    for value in values:
        moments = moments.including(value)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-15)
    np.testing.assert_allclose(moments.standard_error, values.std(0, ddof=1) / 50**0.5, rtol=1e-9)


def test_a_kernel_that_is_the_same_in_every_network_has_no_error():
    x = data(3, 4)
    found = monte_carlo_kernel(lambda: nn.Linear(4, 2, bias=False), x, which="ntk", precision=0.01)
    torch.testing.assert_close(found.ntk, x @ x.T)
    assert (found.ntk_error < 1e-15).all()
    assert found.draws == 16


def test_an_output_layer_of_zeros_has_covariance_zero_and_an_ntk():
    def builder() -> nn.Module:
        model = mlp()
        nn.init.zeros_(model[2].weight)
        nn.init.zeros_(model[2].bias)
        return model

    found = monte_carlo_kernel(builder, data(2, 4), draws=4)
    assert (found.nngp == 0).all()
    assert (found.nngp_error == 0).all()
    assert (found.ntk.diagonal() > 0).all()


# ---- seeds -----------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_numbers_and_other_seeds_others():
    x = data(3, 4)
    one, two, other = (monte_carlo_kernel(mlp, x, draws=4, seed=seed) for seed in (5, 5, 6))
    assert equal(one, two)
    assert one.seed == 5
    assert not (one.ntk == other.ntk).any()


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    monte_carlo_kernel(mlp, data(3, 4), draws=3)
    with pytest.raises(ntkit.errors.InvalidInput):
        monte_carlo_kernel(lambda: nn.Dropout(), data(3, 4), draws=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.initial_seed() == 3
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    x = data(3, 4)
    expected = monte_carlo_kernel(mlp, x, draws=3)
    with mode():
        assert equal(monte_carlo_kernel(mlp, x.clone(), draws=3), expected)


# ---- when it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_it_stops_at_the_first_draw_that_reaches_the_precision():
    x = data(3, 4)
    found = monte_carlo_kernel(mlp, x, which="ntk", precision=0.06, draws=500)
    assert found.precision <= 0.06
    assert 16 < found.draws < 500
    before = monte_carlo_kernel(mlp, x, which="ntk", draws=found.draws - 1)
    assert before.precision > 0.06
    scale = found.ntk.diagonal().max()
    assert found.ntk.abs().max() == scale
    assert found.precision == pytest.approx(float(found.ntk_error.max() / scale), rel=1e-12)
    both = monte_carlo_kernel(mlp, x, draws=20)
    assert both.precision == pytest.approx(float((both.nngp_error.max() / both.nngp.max()).item()), rel=1e-12)


def test_a_precision_is_not_judged_before_min_draws():
    found = monte_carlo_kernel(mlp, data(3, 4), which="ntk", precision=10.0, min_draws=7)
    assert found.draws == 7


def test_a_precision_that_is_not_reached_is_said():
    with pytest.warns(RuntimeWarning, match=r"after 4 draws the largest standard error is .* and 0.001 was asked for; "
                      r"about [\d,]+ draws are needed: raise draws, and go on from here with resume="):  # fmt: skip
        found = monte_carlo_kernel(mlp, data(3, 4), draws=4, precision=0.001)
    assert found.draws == 4
    assert found.precision > 0.001


# ---- what comes and goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_one_kernel_alone_is_that_of_both(which):
    x1, x2 = data(3, 4), data(2, 4, seed=1)
    both, alone = (monte_carlo_kernel(mlp, x1, x2, draws=4, which=w) for w in ("both", which))
    other = "ntk" if which == "nngp" else "nngp"
    assert getattr(alone, other) is getattr(alone, f"{other}_error") is None
    for name in (which, f"{which}_error"):
        assert torch.equal(getattr(alone, name), getattr(both, name))


def test_results_have_the_kind_and_dtype_of_the_data_and_symmetric_ones_are_so():
    x = data(5, 4)
    double, single = (monte_carlo_kernel(mlp, x.to(dtype), draws=3) for dtype in (torch.float64, torch.float32))
    numpy = monte_carlo_kernel(mlp, x.numpy(), draws=3)
    for name in ("nngp", "ntk", "nngp_error", "ntk_error"):
        one, two, three = (getattr(found, name) for found in (double, single, numpy))
        assert (one.dtype, two.dtype, three.dtype) == (torch.float64, torch.float32, np.dtype("float64"))
        assert torch.equal(one, one.T)
        assert torch.equal(two, two.T)
        assert not one.requires_grad
        np.testing.assert_array_equal(one.numpy(), three)
        torch.testing.assert_close(two.double(), one, rtol=1e-4, atol=1e-5)
    assert "run=" not in repr(double)


class Scored(nn.Module):
    """Tokens and weights for them, as a dict; two results."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.last = nn.Embedding(7, 16), linear(16, 2)

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.last(torch.einsum("ntc,nt->nc", self.tokens(ids), weights))}


def test_samples_may_be_dicts_and_results_are_chosen_by_forward():
    x = {"ids": torch.arange(12).reshape(4, 3) % 7, "weights": data(4, 3)}

    def forward(model: nn.Module, x: Any) -> torch.Tensor:
        return model(**x)["scores"]

    found = monte_carlo_kernel(Scored, x, draws=3, forward=forward)
    assert found.ntk.dtype == torch.float64
    assert (torch.linalg.eigvalsh(found.ntk) > 0).all()


def test_blocks_of_samples_give_the_same_outputs(monkeypatch):
    x = data(7, 4)
    whole = monte_carlo_kernel(mlp, x, draws=3, which="nngp")
    limited = monte_carlo_kernel(mlp, x, draws=3, which="nngp", memory_limit=3000)  # one sample of 2 × 32 at a time
    torch.testing.assert_close(limited.nngp, whole.nngp, rtol=1e-13, atol=1e-14)


def test_a_network_without_trained_parameters_has_an_nngp():
    found = monte_carlo_kernel(lambda: mlp().requires_grad_(False), data(3, 4), draws=3, which="nngp")
    assert torch.equal(found.nngp, monte_carlo_kernel(mlp, data(3, 4), draws=3).nngp)


@pytest.mark.usefixtures("unchecked")
def test_progress_shows_draws_and_the_time_left(capsys):
    monte_carlo_kernel(mlp, data(3, 4), draws=5, progress=True)
    monte_carlo_kernel(mlp, data(3, 4), draws=400, which="ntk", precision=0.1, progress=True)
    shown = capsys.readouterr().err
    assert "kernels of random networks" in shown
    assert "5/5" in shown
    assert "left" in shown


def test_it_is_loaded_when_first_used():
    code = "import sys, ntkit.infinite as i; print('ntkit.empirical' in sys.modules, i.monte_carlo_kernel.__name__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "monte_carlo_kernel"]
    with pytest.raises(AttributeError, match=r"no attribute 'monte_carlo_kernels'; it has .*monte_carlo_kernel"):
        ntkit.infinite.monte_carlo_kernels  # noqa: B018
