"""What `monte_carlo_kernel` refuses, and how it says so."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.errors import InvalidInput, MemoryLimitExceeded, UnsupportedLayer
from ntkit.infinite import monte_carlo_kernel

pytestmark = pytest.mark.usefixtures("unchecked")

X = data(3, 4)
GENERATOR = np.random.default_rng(0)


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(linear(4, width), nn.ReLU(), linear(width, 1))


def refused(message: str, builder: Any = mlp, x1: Any = X, x2: Any = None, **options: Any) -> None:
    with pytest.raises(InvalidInput, match=message):
        monte_carlo_kernel(builder, x1, x2, **{"draws": 3, **options})


# ---- builders --------------------------------------------------------------------------------------------------------

KEPT = mlp()
FIRST = linear(4, 8)
CYCLE = itertools.cycle([mlp(), mlp(), mlp()])


def seeded() -> nn.Module:
    torch.manual_seed(0)
    return mlp()


def by_numpy() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(GENERATOR.standard_normal((8, 4))))
    return model


def growing(state: list[int] = [8]) -> nn.Module:  # noqa: B006
    state[0] += 1
    return mlp(state[0])


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (3, "builder must be a function that returns a new torch.nn.Module, got int"),
        (mlp(), r"builder must be a function .*, got Sequential; pass lambda: make_model\(\)"),
        (lambda: (mlp(), mlp()), "builder must return a torch.nn.Module, got tuple; pass a function without arguments"),
        (lambda: KEPT, "builder must return a new network every time, got the same module twice"),
        (
            lambda: nn.Sequential(FIRST, nn.ReLU(), linear(8, 1)),
            r"builder must return networks that share nothing, but '0.weight' of one lies in the memory of another; "
            r"make every layer inside builder, and copy.deepcopy what is the same in all",
        ),
        (seeded, r"builder must draw random parameters, .* leave out torch.manual_seed and load_state_dict in it"),
        (by_numpy, r"must give the same network whenever .* has the same seed, .*not from numpy, random or"),
        (growing, "two calls with one seed gave different parameters"),
        (lambda: next(CYCLE), "two calls with one seed gave different parameters"),
        (
            lambda: nn.LazyLinear(1),
            "a network whose parameters have shapes, got 'weight' without; run the network once",
        ),
        (lambda: mlp().requires_grad_(False), 'needs a parameter that requires grad, .* pass which="nngp"'),
        (lambda: nn.ReLU(), "builder must draw random parameters"),
    ],
)
def test_builders(builder, message):
    refused(message, builder)


def test_what_a_builder_raises_is_raised():
    def builder() -> nn.Module:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        monte_carlo_kernel(builder, X)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Dropout, r"network 0 of the builder: .* with 1 \(Dropout\) in training mode it draws random numbers; call"),
        (lambda: nn.BatchNorm1d(3), r"network 0 .* 1 \(BatchNorm1d\) in training mode its statistics mix the samples"),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False).eval(), "network 0 .* keeps no running statistics"),
        (lambda: nn.LSTM(3, 2), "network 0 of the builder: the model must give one tensor, got tuple"),
        (lambda: nn.Softmax(0), "network 0 .* another output alone than in a batch"),
        (lambda: nn.Linear(4, 2), "network 0 of the builder: the model cannot be run on samples of this form: mat1"),
    ],
)
@pytest.mark.parametrize("which", ["nngp", "both"])
def test_networks_that_empirical_kernels_refuse(last, message, which):
    refused(message, lambda: nn.Sequential(nn.Linear(4, 3), last()), which=which)


def test_values_that_are_not_finite_name_their_network():
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(self.last(x) + 2)

    refused(r"network \d+ of the builder: the model's output must be finite, got \d value", Root, draws=100)


def test_squares_that_overflow():
    message = "network 1 of the builder: the squares of the kernel's entries must fit into float64, but some overflow"
    refused(message, x1=X * 1e90, which="ntk")
    refused("squares of the kernel's entries must fit into float64", x1=X * 1e200, which="nngp")


# ---- samples and arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"x1": X[:0]}, "x1 must hold at least one sample, got an empty batch"),
        ({"x1": None}, "x1 must be a torch tensor or numpy array, or a tuple or dict of them, got NoneType"),
        ({"x1": [[1.0]]}, "x1 must be a torch tensor or numpy array, or a tuple or dict of them, got list"),
        ({"x1": X.half()}, "x1 must be float32 or float64, got torch.float16"),
        ({"x1": X * torch.nan}, r"x1 must be finite, got 12 value\(s\)"),
        ({"x1": X.long()}, "x1 must be floating point, got torch.int64"),
        ({"x2": X.float()}, "x2 must have the model's dtype torch.float64, got torch.float32"),
        ({"x2": X[:, :3]}, r"x1 and x2 must agree in everything but the number of samples, got samples \(4,\)"),
        ({"x2": X * torch.inf}, "x2 must be finite"),
        ({"x1": data(3, 5)}, "network 0 of the builder: the model cannot be run on samples of this form"),
    ],
)
def test_samples(samples, message):
    refused(message, **samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1}, "draws must be a whole number from 2, got 1"),
        ({"draws": 10.0}, "draws must be a whole number from 2, got 10.0"),
        ({"draws": True}, "draws must be a whole number from 2, got True"),
        ({"min_draws": 1}, "min_draws must be a whole number from 2, got 1"),
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"precision": 0.0}, "precision must be a positive number such as 0.01, .* or None, got 0.0"),
        ({"precision": -0.1}, "precision must be a positive number"),
        ({"precision": float("nan")}, "precision must be a positive number"),
        ({"precision": "1%"}, "precision must be a positive number .* got '1%'"),
        ({"which": "nntk"}, "which must be one of 'both', 'nngp', 'ntk', got 'nntk'"),
        ({"forward": 3}, "forward must be a function of a model and samples, got int"),
        ({"resume": X}, "resume must be a result of monte_carlo_kernel, got Tensor"),
        ({"memory_limit": 0}, "memory_limit must be a positive number of bytes, such as 4e9, got 0"),
        ({"memory_limit": "2 GB"}, "memory_limit must be a positive number of bytes, such as 4e9, got '2 GB'"),
        ({"checkpoint": 3}, "checkpoint must be the path of a file, got int"),
    ],
)
def test_arguments(options, message):
    refused(message, **options)


def test_memory():
    message = (
        "means and standard errors of kernels of 3 x 3 samples needs .* is the memory limit; use fewer samples, or "
        "compute it in blocks monte_carlo_kernel"
    )
    with pytest.raises(MemoryLimitExceeded, match=message):
        monte_carlo_kernel(mlp, X, memory_limit=100)
    huge = torch.ones(1, 4).expand(10_000_000, 4)
    with pytest.raises(MemoryLimitExceeded, match="compute it in blocks"):
        monte_carlo_kernel(mlp, huge)


# ---- earlier draws ---------------------------------------------------------------------------------------------------


def scaled() -> nn.Module:
    return nn.Sequential(ntkit.nn.Linear(4, 8, 1.4, 0.2), nn.ReLU(), linear(8, 1))


@pytest.mark.parametrize("of", ["resume", "checkpoint"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "{of} holds draws with seed=0, but seed=1 is asked for; pass seed=0, or start anew without {of}"),
        ({"which": "ntk"}, "{of} holds draws with which='both', but which='ntk' is asked for; pass which='both'"),
        ({"x1": X + 1e-9}, "{of} holds draws for other samples x1; pass the same samples, or start anew without {of}"),
        ({"x1": X.float()}, "{of} holds draws for other samples x1; pass the same samples"),
        ({"x2": X}, "{of} holds draws for other samples x2"),
        ({"builder": lambda: mlp(9)}, "{of} holds draws for networks with other parameters; pass the same builder"),
        ({"builder": scaled}, "{of} holds draws for networks that give other outputs at the same seed; pass the same"),
        ({"forward": lambda model, x: model(x) ** 2}, "{of} holds draws for networks that give other outputs"),
    ],
)
def test_draws_of_another_configuration(of, changed, message, tmp_path):
    path = tmp_path / "run.npz"
    earlier = monte_carlo_kernel(mlp, X, draws=3, checkpoint=path)
    before = path.read_bytes()
    refused(message.format(of=of), **changed, **{of: earlier if of == "resume" else path})
    assert path.read_bytes() == before


def test_two_places_of_earlier_draws(tmp_path):
    earlier = monte_carlo_kernel(mlp, X, draws=3, checkpoint=tmp_path / "run.npz")
    refused("resume or from a checkpoint, but both are there", resume=earlier, checkpoint=tmp_path / "run.npz")


def test_places_that_cannot_hold_a_checkpoint(tmp_path):
    refused("checkpoint must be a file in a folder that exists and can be written", checkpoint=tmp_path)
    refused("make the folder, or give another place", checkpoint=tmp_path / "none" / "run.npz")


def archive(**arrays: Any) -> Any:
    def write(path: Any) -> None:
        with path.open("wb") as stream:
            np.savez(stream, **arrays)

    return write


def cut(path: Any) -> None:
    monte_carlo_kernel(mlp, X, draws=3, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-40])


def damaged(path: Any) -> None:
    """A well-formed archive whose scatter is negative."""
    monte_carlo_kernel(mlp, X, draws=3, checkpoint=path)
    with np.load(path) as held:
        arrays = dict(held)
    arrays["ntk_squares"] = -arrays["ntk_squares"]
    archive(**arrays)(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("hello"),
        lambda path: path.write_bytes(b""),
        archive(a=np.ones(3)),
        archive(about=np.array("{}")),
        archive(about=np.array('{"format": "another", "draws": 3}')),
        archive(about=np.array([{}], dtype=object)),
        cut,
        damaged,
    ],
    ids=["text", "empty", "other", "bare", "format", "pickle", "cut", "damaged"],
)
def test_files_that_are_no_checkpoints(write, tmp_path):
    path = tmp_path / "run.npz"
    write(path)
    before = path.read_bytes()
    refused(r"checkpoint '.*run.npz' is broken, or not a checkpoint of monte_carlo_kernel \(.*\); remove it, or give "
            "another name", checkpoint=path)  # fmt: skip
    assert path.read_bytes() == before


# ---- the remedy of what has no exact kernel --------------------------------------------------------------------------


def test_layers_without_a_rule_name_this_function():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 1))
    with pytest.raises(UnsupportedLayer, match=r"ntkit.infinite.monte_carlo_kernel for the mean over random draws"):
        ntkit.InfiniteKernel(model, w_std=1.0)
