"""Monte Carlo runs that go on from an earlier result or from a file: the numbers of one long run, bit by bit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data
from monte_carlo_cases import equal, mlp
from ntkit.infinite import monte_carlo_kernel
from ntkit.infinite.monte_carlo import checkpoint as checkpoints


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_going_on_gives_the_numbers_of_one_run(kind):
    x1, x2 = (data(n, 4, seed=n).to(getattr(torch, kind)) for n in (3, 2))
    whole = monte_carlo_kernel(mlp, x1, x2, draws=9)
    part = monte_carlo_kernel(mlp, x1, x2, draws=4)
    assert equal(monte_carlo_kernel(mlp, x1, x2, draws=9, resume=part), whole)
    copied = pickle.loads(pickle.dumps(part))
    assert equal(monte_carlo_kernel(mlp, x1, x2, draws=9, resume=copied), whole)
    assert equal(monte_carlo_kernel(mlp, x1, x2, draws=3, resume=part), part)  # what is there counts


@pytest.mark.usefixtures("unchecked")
def test_a_run_that_stopped_at_a_precision_goes_on_to_a_finer_one():
    x = data(3, 4)
    coarse = monte_carlo_kernel(mlp, x, which="ntk", precision=0.1, draws=500)
    finer = monte_carlo_kernel(mlp, x, which="ntk", precision=0.06, draws=500, resume=coarse)
    assert coarse.draws < finer.draws
    assert equal(finer, monte_carlo_kernel(mlp, x, which="ntk", precision=0.06, draws=500))


class Interrupting:
    """A builder that is interrupted in one of its calls."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self) -> nn.Module:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return mlp()


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path):
    x, path = data(3, 4), tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        monte_carlo_kernel(Interrupting(at=8), x, draws=9, checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    rest = Interrupting(at=99)
    found = monte_carlo_kernel(rest, x, draws=9, checkpoint=path)
    assert rest.calls == 3 + 4  # draws 0 … 4 were kept; three calls check the builder
    assert equal(found, monte_carlo_kernel(mlp, x, draws=9))
    done = Interrupting(at=99)
    assert equal(monte_carlo_kernel(done, x, draws=9, checkpoint=str(path)), found)
    assert done.calls == 3


def test_a_run_that_fails_keeps_its_draws(tmp_path):
    calls = []

    def builder() -> nn.Module:
        calls.append(1)
        model = mlp()
        if len(calls) == 6:
            nn.init.constant_(model[0].weight, torch.nan)
        return model

    path = tmp_path / "run.npz"
    with pytest.raises(ntkit.errors.InvalidInput, match="network 3 of the builder: the model's output must be finite"):
        monte_carlo_kernel(builder, data(3, 4), draws=9, checkpoint=path)
    kept = checkpoints.Checkpoint(path).read()
    assert kept is not None
    assert kept.draws == 3


def test_a_checkpoint_is_written_again_after_some_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SECONDS", -1)
    path, seen = tmp_path / "run.npz", []

    def builder() -> nn.Module:
        seen.append(checkpoints.Checkpoint(path).read().draws if path.exists() else 0)
        return mlp()

    monte_carlo_kernel(builder, data(3, 4), draws=5, checkpoint=path)
    assert seen == [0, 0, 0, 1, 2, 3, 4]


def test_a_writing_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    x, path = data(3, 4), tmp_path / "run.npz"
    first = monte_carlo_kernel(mlp, x, draws=3, checkpoint=path)
    before = path.read_bytes()

    def savez(stream: Any, **arrays: Any) -> None:
        stream.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", savez)
        with pytest.raises(KeyboardInterrupt):
            monte_carlo_kernel(mlp, x, draws=5, checkpoint=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    assert equal(monte_carlo_kernel(mlp, x, draws=3, checkpoint=path), first)


def test_a_result_goes_into_a_new_checkpoint(tmp_path):
    x, path = data(3, 4), tmp_path / "run.npz"
    part = monte_carlo_kernel(mlp, x, draws=3)
    found = monte_carlo_kernel(mlp, x, draws=5, resume=part, checkpoint=path)
    assert equal(monte_carlo_kernel(mlp, x, draws=5, checkpoint=path), found)
