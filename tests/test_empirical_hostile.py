"""Models whose batches are not what they seem: reordered, ragged, folded, mixed only when they are large."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from empirical_networks import assert_same, features
from ntkit.empirical import EmpiricalKernel, blocks, empirical_ntk
from ntkit.errors import InvalidInput
from oracles import jacobian as oracle


class Net(nn.Module):
    """A linear layer, and whatever is done with it."""

    def __init__(self, function):
        super().__init__()
        self.function, self.fc = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.function(self, x)


def by_order(self, x):
    order = x[:, 0].argsort()
    return torch.tanh(self.fc(x[order]))[order.argsort()]


def real_tokens(self, x):
    """The layer sees only tokens that are there, of all samples in one batch."""
    there, out = x[:, :, 0] > 0, x.new_zeros(*x.shape[:2], 3)
    out[there] = torch.tanh(self.fc(x[there]))
    return out.sum(1)


def time_major(self, x):
    n, tokens = x.shape[:2]
    return torch.tanh(self.fc(x.transpose(0, 1).flatten(0, 1))).unflatten(0, (tokens, n))[0]


def ghost_norm(self, x):
    h = self.fc(x)
    return torch.cat([c - c.mean(0) if len(c) == 8 else c for c in h.split(8)])


class Table(nn.Module):
    """One row for each token, as many tokens as there may be samples."""

    def __init__(self):
        super().__init__()
        self.row = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.tanh(x + self.row.expand(4, 4)).sum(2)


class Unused(nn.Module):
    """A parameter without a rule, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.weight, self.unused = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2))

    def forward(self, x):
        return x @ self.weight**2


class Experts(nn.Module):
    """Layers that may see no sample at all."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        left, out = x[:, 0] > 0, x.new_zeros(len(x), 3)
        out[left], out[~left] = self.one(x[left]), self.two(x[~left])
        return out


def vectors(n):
    return features(n)


def sequences(n):
    return features(n, 4, 4)


MODELS = {
    "reversed and back": (lambda: Net(lambda self, x: torch.tanh(self.fc(x.flip(0))).flip(0)), vectors),
    "sorted and back": (lambda: Net(by_order), vectors),
    "reversed when large": (
        lambda: Net(lambda self, x: torch.tanh(self.fc(x.flip(0))).flip(0) if len(x) > 4 else torch.tanh(self.fc(x))),
        vectors,
    ),
    "ragged": (lambda: Net(real_tokens), sequences),
    "positions first, one read": (lambda: Net(time_major), sequences),
    "a table by token": (Table, sequences),
    "unused beside generic": (Unused, vectors),
    "experts": (Experts, vectors),
}


def check(model, x):
    rows = torch.cat([oracle.jacobian(model, x[i : i + 1]) for i in range(len(x))])
    assert_same(empirical_ntk(model, x), oracle.kernel(rows, rows, "full"))


@pytest.mark.parametrize("sizes", [(1, 4, 9), (2, 5, 4), (4, 1, 4)])
@pytest.mark.parametrize("name", MODELS)
def test_every_batch_is_right_whatever_came_before(name, sizes):
    make, draw = MODELS[name]
    model = make().double()
    for n in sizes:
        check(model, draw(n))


def test_an_order_that_shows_only_later():
    """The samples that routes are proved on are sorted already."""
    x = features(8)
    x[[0, 2, 4, 7], 0] = torch.tensor([-9.0, -8.0, -7.0, -6.0], dtype=torch.float64)
    x[:4, 0] -= torch.arange(4.0, 0, -1, dtype=torch.float64)
    check(Net(by_order).double(), x)
    model = Net(by_order).double()
    check(model, torch.arange(16.0, dtype=torch.float64).view(4, 4))
    check(model, features(4))


def test_the_same_number_of_tokens_shared_out_otherwise():
    one, two = features(4, 3, 4), features(4, 3, 4)
    one[:, :, 0] = torch.tensor([1.0, 1, -1])
    two[:, :, 0] = torch.tensor([[1.0, 1, -1], [1, 1, -1], [1, 1, 1], [1, -1, -1]])
    model = Net(real_tokens).double()
    for x in (one, two, torch.cat([one, two])):
        check(model, x)


@pytest.mark.parametrize(
    "function",
    [
        ghost_norm,
        lambda self, x: self.fc(x).tanh() * (2 if len(x) >= 7 else 1),
        lambda self, x: (h := self.fc(x).tanh()) + (torch.roll(h, 4, 0) if len(x) > 4 else 0),
        lambda self, x: (h := self.fc(x).tanh()) + h.mean(0),
    ],
    ids=["ghost norm", "scaled", "rolled", "mean"],
)
def test_samples_that_meet_only_in_large_batches(function):
    model = Net(function).double()
    EmpiricalKernel(model).ntk(features(1))
    with pytest.raises(InvalidInput, match="the model gives a sample another output alone than in a batch"):
        EmpiricalKernel(model).ntk(features(9))


def test_checkpoints_that_hide_what_they_hold():
    def function(self, x):
        return checkpoint(lambda z: torch.tanh(self.fc(z)), x.clone().requires_grad_(), use_reentrant=True) + self.fc(x)

    with pytest.raises(InvalidInput, match="call it with use_reentrant=False"):
        empirical_ntk(Net(function).double(), features(3))
    check(
        Net(lambda self, x: checkpoint(lambda z: torch.tanh(self.fc(z)), x, use_reentrant=False)).double(), features(5)
    )


def test_no_graph_waits_for_the_garbage_collector():
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)), torch.randn(3, 1, 4, 4)
    empirical_ntk(model, x)
    gc.collect()
    gc.disable()
    try:
        empirical_ntk(model, x)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        waiting = [type(thing).__name__ for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not [name for name in waiting if "Backward" in name or name == "Tensor"]


@pytest.mark.parametrize("outputs", ["full", "trace"])
@pytest.mark.parametrize("two_sides", [False, True])
def test_derivatives_give_way_to_the_next_ones(outputs, two_sides, monkeypatch):
    alive, most, made = weakref.WeakSet(), [], blocks._features

    def counted(*arguments):
        most.append(len(alive))
        features = made(*arguments)
        alive.update(features[:1])
        return features

    monkeypatch.setattr(blocks, "_features", counted)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 6)).double()
    x1, x2 = features(40, 3, 4, 4), features(30, 3, 4, 4) if two_sides else None
    whole = EmpiricalKernel(model, outputs=outputs).ntk(x1, x2)
    most.clear()
    limit = whole.nbytes + 60_000
    assert_same(EmpiricalKernel(model, outputs=outputs, memory_limit=limit).ntk(x1, x2), whole, 1e-12)
    assert len(most) > 4  # units are many
    assert max(most) <= 1  # besides one side's the other's are made
