"""Compiled passes between sums over positions, beside the same instructions one by one with torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.infinite import program as ops
from ntkit.infinite.compiled import chain_machine as machine
from ntkit.infinite.compiled import chain_sides, chains
from ntkit.infinite.flow import holds_data
from ntkit.infinite.placement import Placement
from ntkit.infinite.rules import base
from ntkit.infinite.torch_interpreter import TorchInterpreter
from sequence_networks import MASK, TOKENS, WIDTH, Reader, Vectors, attention, words


class Masked(nn.Module):
    """Attention and a mean over the tokens that are there, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = linear(3), attention(), attention()
        self.mean, self.out = ntkit.nn.MaskedMean(), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.one(self.first(x), mask=mask)
        return self.out(self.mean(torch.relu(x + self.two(torch.relu(x), mask=mask)), mask))


class Skip(nn.Module):
    """A transformer's block: attention and a token's own network beside skips, with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attend, self.norm = linear(3), attention(), nn.LayerNorm(WIDTH)
        self.own, self.out = nn.Sequential(linear(WIDTH), nn.GELU(), linear(WIDTH)), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.attend(self.norm(x))
        return self.out(torch.erf(x + self.own(x)).mean(1))


NETWORKS = {
    "two layers": Vectors(attention(), nn.ReLU(), attention(), nn.LeakyReLU(0.2)),
    "scores of activations": Vectors(linear(WIDTH), nn.ReLU(), attention(mechanism="abs"), nn.LeakyReLU(0.3)),
    "no position twice": nn.Sequential(linear(3), attention(), nn.ReLU(), nn.Flatten(), linear(WIDTH * TOKENS, 1)),
    "affine norm": Vectors(attention(), nn.LayerNorm(WIDTH, elementwise_affine=True), nn.ReLU()),
    "block": Skip(),
    "quadrature between": Vectors(attention(), nn.SiLU(), attention(), nn.ReLU()),
}


def in_plain_torch(network, x, y=None, mask=None):
    """Both kernels without compiled loops, in float64."""
    kernel = ntkit.InfiniteKernel(network)
    interpreter = TorchInterpreter(kernel.program, kernel.tolerance, Placement(kernel.program, tuple(x.shape[1:])))
    interpreter._precision = lambda x: None
    return interpreter.matrix(x, y, True, True, (mask, mask))[0]


def assert_same(found, wanted, rtol):
    for one, two in zip((found.nngp, found.ntk), wanted, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_pass_gives_what_single_instructions_give(name):
    network, x, y = NETWORKS[name], data(3, TOKENS, 3), data(9, TOKENS, 3, seed=1)
    kernel = ntkit.InfiniteKernel(network)
    assert_same(kernel(x), in_plain_torch(network, x), 1e-12)
    assert_same(kernel(x, y), in_plain_torch(network, x, y), 1e-12)
    torch.testing.assert_close(kernel.diagonal(x).ntk, kernel.ntk(x).diagonal(), rtol=1e-10, atol=0)


def test_masks_too():
    network, x = Masked(), data(3, TOKENS, 3)
    assert_same(ntkit.InfiniteKernel(network)((x, MASK)), in_plain_torch(network, x, mask=MASK), 1e-12)
    network, x = Reader(), words()
    wanted = in_plain_torch(network, x.double(), mask=MASK)
    assert_same(ntkit.InfiniteKernel(network)((x, MASK)), wanted, 1e-12)


def test_more_positions_than_a_strip_holds():
    network, x = NETWORKS["two layers"], data(2, 40, 3)
    many = data(30, 40, 3, seed=1)  # 1200 columns
    assert_same(ntkit.InfiniteKernel(network)(x, many), in_plain_torch(network, x, many), 1e-12)


def repeated(n, tokens, seed=0):
    """Sequences with a token twice, one of them again with its tokens in another order, and one twice."""
    x = data(n, tokens, 3, seed=seed)
    x[:, 2] = x[:, 0]
    x[1], x[2] = x[0], x[0].flip(0)
    return x


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_and_sequences_that_occur_twice(name):
    network, x = NETWORKS[name], repeated(4, TOKENS)
    # an equal pair's distance behind a sum is 0 up to roundings, and a kinked activation's derivative their root
    assert_same(ntkit.InfiniteKernel(network)(x), in_plain_torch(network, x), 1e-7)


@pytest.mark.parametrize("tokens", [2, 3, 9, 33, 70])
def test_any_number_of_positions(tokens):
    x, y = data(3, tokens, 3), data(11, tokens, 3, seed=1)
    for name in ("two layers", "block"):
        network = NETWORKS[name]
        assert_same(ntkit.InfiniteKernel(network)(x), in_plain_torch(network, x), 1e-12)
        assert_same(ntkit.InfiniteKernel(network)(x, y), in_plain_torch(network, x, y), 1e-12)


def test_blocks_of_pairs_give_the_same(monkeypatch):
    """Many small blocks and jobs, in threads, where otherwise one does."""
    network, x = NETWORKS["two layers"], data(9, TOKENS, 3)
    whole = ntkit.InfiniteKernel(network)(x)
    monkeypatch.setattr(chains, "_ENTRIES_OF_JOB", (1, 1))
    monkeypatch.setattr(chain_sides, "_ENTRIES", 2 * TOKENS**2)
    parts = ntkit.InfiniteKernel(network)(x)
    assert_same(parts, (whole.nngp, whole.ntk), 1e-14)


# ---- float32 ---------------------------------------------------------------------------------------------------------


def errors(kernel, x):
    """Of float32's entries, in units of √(K_ii K_jj)."""
    found, wanted = kernel(x.float()), kernel(x.float().double())
    for name in ("nngp", "ntk"):
        one, two = getattr(found, name), getattr(wanted, name)
        assert one.dtype == torch.float32
        scale = two.diagonal().sqrt()
        yield float(((one - two).abs() / (scale[:, None] * scale)).max())


@pytest.mark.parametrize("mechanism", ["softmax", "identity", "relu", "abs"])
@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4, 1e-6])
def test_float32_is_close_to_float64_also_for_near_duplicates(mechanism, noise):
    x = data(4, TOKENS, 3)
    x = torch.cat([x, x + noise * data(4, TOKENS, 3, seed=1)])
    assert max(errors(ntkit.InfiniteKernel(Vectors(attention(mechanism=mechanism))), x)) <= 3e-7


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "quadrature between"])
def test_float32_of_longer_sequences(name):
    width = 12 if name == "no position twice" else 40
    network = (
        NETWORKS[name]
        if width == 40
        else nn.Sequential(linear(3), attention(), nn.ReLU(), nn.Flatten(), linear(WIDTH * width, 1))
    )
    assert max(errors(ntkit.InfiniteKernel(network), data(6, width, 3))) <= 1e-6


def test_blocks_of_near_duplicates_are_computed_again_in_float64(monkeypatch):
    """Where nothing is lost float32 serves, and the same data twice, a little moved, take float64."""
    exact = []
    run = machine.run_chain
    monkeypatch.setattr(machine, "run_chain", lambda *given: (exact.append((given[4], given[-1])), run(*given))[1])
    kernel, x = ntkit.InfiniteKernel(Wide()), data(4, TOKENS, 16).float()
    kernel.ntk(x)
    assert set(exact) == {(machine.OWN, True), (machine.UPPER, False)}
    kernel.ntk(torch.cat([x, x + 1e-6 * data(4, TOKENS, 16, seed=1).float()]))
    assert (machine.UPPER, True) in exact


class Wide(nn.Module):
    """Of 16 features, among whose directions hardly two are parallel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.out = linear(16), attention(), attention(), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.two(torch.relu(self.one(self.first(x))))).mean(1))


# ---- averages of the data --------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Attention and a masked mean with nothing but linear maps before them."""

    def __init__(self, mechanism: str = "softmax") -> None:
        super().__init__()
        self.first, self.second, self.attend = linear(3), linear(WIDTH), attention(mechanism=mechanism)
        self.mean, self.out = ntkit.nn.MaskedMean(), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.mean(self.attend(self.second(self.first(x)), mask=mask), mask)))


def averages_of_data(program):
    return [op for i, op in enumerate(program.instructions) if isinstance(op, ops.Mix) and holds_data(program, i)]


def test_averages_before_linear_maps_give_the_same(monkeypatch):
    x, mask = data(3, TOKENS, 3), MASK
    fast = ntkit.InfiniteKernel(Linear())
    monkeypatch.setattr(base, "averages_first", ops.Program.without_dead_code)
    slow = ntkit.InfiniteKernel(Linear())
    assert (len(averages_of_data(fast.program)), len(averages_of_data(slow.program))) == (2, 0)
    assert_same(fast((x, mask)), (slow((x, mask)).nngp, slow((x, mask)).ntk), 1e-12)
    x.requires_grad_()
    slopes = [torch.autograd.grad(kernel.ntk((x, mask)).square().sum(), x)[0] for kernel in (fast, slow)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_weights_that_do_not_sum_to_one_stay_where_they_are():
    assert averages_of_data(ntkit.InfiniteKernel(Linear("abs")).program) == []
