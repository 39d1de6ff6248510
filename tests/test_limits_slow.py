"""What needs wide networks: exact kernels as limits, the largest rate of a real run. Run by `make test-slow`."""

import pytest
import torch
from torch import nn

import ntkit
from ntkit._progress import Reporter
from ntkit.data import load
from ntkit.empirical.operator import NTKOperator
from ntkit.experiments.learning_rates import STEPS, label_spectrum, largest_stable_rate, predicted_rate
from ntkit.experiments.networks import build_network
from ntkit.experiments.training_runs import Problem
from ntkit.nn import Linear

pytestmark = pytest.mark.slow


class Residual(nn.Module):
    """A pre-activation residual network."""

    def __init__(self, width, activation):
        super().__init__()
        self.read = Linear(6, width, 1.4, 0.2)
        self.block = nn.Sequential(activation, Linear(width, width, 1.2, 0.1))
        self.head = nn.Sequential(activation, Linear(width, 1, 1.0))

    def forward(self, x):
        h = self.read(x)
        return self.head(h + self.block(h))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.ELU(), ntkit.nn.Sin()])
def test_wide_networks_tend_to_the_exact_kernel(activation):
    """The mean of 64 empirical kernels of width 1,024 within four standard errors and a 1/width bias."""
    x = torch.randn(5, 6, dtype=torch.float64)
    exact = ntkit.InfiniteKernel(Residual(8, activation)).ntk(x)
    draws = []
    for seed in range(64):
        torch.manual_seed(seed)
        draws.append(ntkit.empirical_ntk(Residual(1024, activation).double(), x, outputs="trace"))
    kernels = torch.stack(draws)
    error = (kernels.mean(0) - exact).abs()
    assert (error < 4 * kernels.std(0) / 8 + 0.01 * exact.abs().max()).all()


def test_the_found_rate_lies_between_the_prediction_and_the_linearised_network():
    data = load("mnist", n_train=500, n_test=10)
    network = build_network("mlp:3x1024:relu", data.input_shape, data.n_outputs, seed=0, w_std=2**0.5, b_std=0.1)
    x, y = (torch.from_numpy(t).float() for t in (data.x_train, data.targets(centered=True)[0]))
    problem = Problem.of(network.model, x, y, centered=True)
    operator, silent = NTKOperator(network.model, x), Reporter(False)
    predicted = predicted_rate(operator)
    linearised = label_spectrum(operator, y, STEPS, silent).largest_stable_rate(STEPS)
    found = largest_stable_rate(problem, predicted, silent, "")
    assert 0.95 * predicted < found < 1.01 * linearised
