"""The contract of layers: ntkit's own keep it, and each property is missed by a rule or an engine broken so."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntkit
from layer_cases import conv, linear
from ntkit.errors import ContractViolation, InvalidInput
from ntkit.infinite import Kernels, Layer, register_layer
from ntkit.infinite.program import Affine, Combine
from ntkit.testing import check_layer
from ntkit.testing.contract import Contract
from ntkit.testing.layers import _check_matrices
from outside_rules import Blurred, Dense, Gated, with_maxout

# ---- layers keep it --------------------------------------------------------------------------------------------------

MATRICES = ("symmetry", "x2 = x1", "diagonal", "definiteness", "equal samples", "order of samples", "float32")
LIMIT = ("parameters", "frozen parameters", "covariance of outputs")


def normalised(width: int) -> nn.Module:
    return nn.Sequential(linear(3, width), nn.LayerNorm(width), nn.ReLU(), linear(width, 16))


def convolutional(width: int) -> nn.Module:
    layers = [conv(2, width, padding=1), nn.ReLU(), nn.AvgPool2d(2), conv(width, width, padding=1), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(width, 8))


def frozen(width: int) -> nn.Module:
    first, last = linear(3, width).requires_grad_(False), linear(width, 16)
    return nn.Sequential(first, nn.ReLU(), linear(width, width), nn.ReLU(), last)


def plain(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 16))


@pytest.mark.parametrize(
    ("build", "sample", "options"),
    [
        (normalised, (3,), {}),
        (convolutional, (2, 4, 4), {}),
        (frozen, (3,), {}),
        (plain, (3,), {"w_std": "torch", "b_std": "torch", "parameterization": "standard"}),
        (with_maxout, (5,), {}),
        (Blurred, (2, 3, 4), {}),
    ],
)
def test_layers_keep_the_contract(build, sample, options):
    assert check_layer(build, sample, width=64, draws=16, **options) == (
        "reading",
        "engines",
        *MATRICES,
        "gradients",
        *LIMIT,
    )


def test_a_layer_that_only_one_engine_computes_keeps_the_rest():
    assert check_layer(Gated, (5,), width=64, draws=16) == ("reading", *MATRICES, "gradients", *LIMIT)


def test_the_limit_may_be_left_out():
    assert check_layer(normalised, (3,), draws=0) == ("reading", "engines", *MATRICES, "gradients")


def test_the_caller_s_random_numbers_stay_as_they_are():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    check_layer(normalised, (3,), width=16, draws=0)
    assert torch.rand(1) == wanted


# ---- broken layers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DenseSpec(Layer):
    trains: tuple[bool, bool]
    w_std: float = 1.3


def broken_dense(affine: Any = lambda op: op, read: Any = lambda spec, m: spec, mix: Any = None) -> type[nn.Module]:
    """A class of linear layers whose instruction, or whose reading, is changed."""
    dense = type("Dense", (Dense,), {})
    spec_type = dataclass(frozen=True)(type("Read", (DenseSpec,), {}))

    def right(m: Dense) -> Any:
        trains = (m.weight.requires_grad, m.bias.requires_grad)
        return read(spec_type(trains, in_channels=m.inputs, out_channels=m.outputs), m)

    @register_layer(dense, spec_type, read=right)
    def rule(spec, inputs, builder):
        w, b = spec.w_std**2, 0.4**2
        source = builder.settle(inputs[0])
        if mix is not None:
            source = mix(source, builder)
        op = Affine(source, w, b, w * spec.trains[0], b * spec.trains[1])
        return builder.single(affine(op), "affine", channels=spec.out_channels)

    return dense


def network(dense: Any) -> Any:
    return lambda width: nn.Sequential(linear(3, width), nn.ReLU(), dense(width, 16))


def without_line(source: int, builder: Any) -> int:
    """More than the linear part of ReLU taken away."""
    return builder.emit(Combine((source, builder.instructions[source].source), (1.0, -0.4)))


BROKEN_LAYERS = {
    "a bias forgotten in T": (
        {"affine": lambda op: replace(op, bias_rate=0.0)},
        r"'parameters': wanted 0.16, got 0 at the part of '2.bias' in ntk",
    ),
    "weights twice in T": (
        {"affine": lambda op: replace(op, weight_rate=2 * op.weight_rate)},
        r"'parameters': .*the part of '2.weight' in ntk.*the mean of 16 networks of width 128",
    ),
    "a variance too large": (
        {"affine": lambda op: replace(op, weight_variance=2 * op.weight_variance)},
        r"'parameters': .*the part of '0.weight'",
    ),
    "a weight in the spec": (
        {"read": lambda spec, m: replace(spec, w_std=float(m.weight.detach()[0, 0]))},
        r"'reading': wanted equal kernels of two equal models, got different ones; let the spec",
    ),
    "requires_grad not read": (
        {"read": lambda spec, m: replace(spec, trains=(True, True))},
        r"'parameters': wanted .*, got 0 at the part of '2.weight'",
    ),
    "a negative weight": ({"mix": without_line}, r"'definiteness': wanted eigenvalues >= .*, got -"),
}


@pytest.mark.parametrize("name", BROKEN_LAYERS)
def test_a_broken_layer_is_told_what_is_broken(name):
    changes, text = BROKEN_LAYERS[name]
    with pytest.raises(ContractViolation, match=r"the network Sequential of width 128 breaks the property " + text):
        check_layer(network(broken_dense(**changes)), (3,), width=128, draws=16)


def test_a_dense_layer_that_is_not_broken_keeps_it():
    assert check_layer(network(broken_dense()), (3,), width=128, draws=16)[-3:] == LIMIT


def test_frozen_parameters_that_count_are_found():
    dense = broken_dense(read=lambda spec, m: replace(spec, trains=(True, True)))

    def build(width: int) -> nn.Module:
        model = network(dense)(width)
        model[2].requires_grad_(False)
        return model

    with pytest.raises(ContractViolation, match=r"'frozen parameters': wanted 0, got .* without every parameter"):
        check_layer(build, (3,), width=64, draws=2)


def test_a_wrong_covariance_is_found_where_nothing_that_it_enters_trains():
    dense = broken_dense(affine=lambda op: replace(op, weight_variance=2 * op.weight_variance))

    def build(width: int) -> nn.Module:
        model = network(dense)(width).requires_grad_(False)
        model[2].bias.requires_grad_(True)
        return model

    with pytest.raises(ContractViolation, match=r"'covariance of outputs': .*at nngp.*the mean of 192 networks"):
        check_layer(build, (3,), width=128, draws=16)


# ---- matrices that no rule gives, but a broken engine would ----------------------------------------------------------


class Changed(ntkit.InfiniteKernel):
    """A kernel whose results one function changes: (results, x1, x2, engine) -> results."""

    def __init__(self, change: Any) -> None:
        super().__init__(plain(8), w_std=1.3, b_std=0.2)
        object.__setattr__(self, "change", change)

    def __call__(self, x1: Tensor, x2: Tensor | None = None, **options: Any) -> Kernels:
        return vars(self)["change"](super().__call__(x1, x2, **options), x1, x2, options.get("engine"))

    def diagonal(self, x: Tensor, **options: Any) -> Kernels:
        return vars(self)["change"](super().diagonal(x, **options), x, "diagonal", None)


def scaled(found: Kernels, by: Any) -> Kernels:
    return Kernels(found.nngp * by, found.ntk * by)


def twin_moved(found: Kernels, x1: Tensor, x2: Any, engine: str) -> Kernels:
    """What tells the second of two equal samples from the first, symmetrically."""
    by = torch.ones(len(x1), dtype=found.nngp.dtype)
    for i in range(1, len(x1)):
        if bool((x1[i] == x1[:i]).all(1).any()):
            by[i] += 1e-12
    if x2 is None or (isinstance(x2, Tensor) and x2.shape == x1.shape):
        return scaled(found, by[:, None] * by)
    return scaled(found, by**2) if isinstance(x2, str) else found


BROKEN_ENGINES = {
    "engines": lambda k, x1, x2, engine: scaled(k, 1 + 1e-7) if engine == "torch" else k,
    "symmetry": lambda k, x1, x2, engine: (
        scaled(k, 1 + 1e-9 * torch.arange(len(x1)).double()[:, None])
        if isinstance(x2, Tensor) and len(x2) != len(x1)
        else k
    ),
    "x2 = x1": lambda k, x1, x2, engine: scaled(k, 1 + 1e-9) if isinstance(x2, Tensor) and len(x2) == len(x1) else k,
    "diagonal": lambda k, x1, x2, engine: scaled(k, 1 + 1e-9) if isinstance(x2, str) else k,
    "equal samples": twin_moved,
    "order of samples": lambda k, x1, x2, engine: (
        scaled(k, 1 + 1e-9 * torch.sign(x1[0, 0])) if x2 is None or isinstance(x2, str) or len(x2) == len(x1) else k
    ),
    "float32": lambda k, x1, x2, engine: scaled(k, 1 + 1e-4) if x1.dtype == torch.float32 else k,
}


@pytest.mark.parametrize("name", BROKEN_ENGINES)
def test_matrices_that_do_not_belong_together_are_found(name):
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x[1] = x[0]
    contract: Any = Contract("a kernel")
    with pytest.raises(ContractViolation, match=rf"a kernel breaks the property '{name}': wanted .*, got .* at n"):
        _check_matrices(contract, Changed(BROKEN_ENGINES[name]), x)


@pytest.mark.parametrize(
    ("build", "options", "text"),
    [
        (normalised, {"width": 0}, r"width must be from 1 and draws 0 or from 2, got width=0, draws=32"),
        (normalised, {"draws": 1}, r"width must be from 1 and draws 0 or from 2, got width=256, draws=1"),
        (normalised, {"draws": 2.0}, r"width must be from 1 and draws 0 or from 2, got width=256, draws=2.0"),
        (normalised, {"width": True}, r"width must be from 1 and draws 0 or from 2, got width=True"),
        (normalised, {"seed": "a"}, r"seed must be a whole number from 0, got 'a'"),
        (lambda width: 3, {}, r"build must return a torch.nn.Module, got int"),
        (3, {}, r"build must be a function of a width that returns a new .*, got int; pass lambda width: make_mod"),
        (nn.Identity(), {}, r"build must be a function of a width .*, got Identity; pass lambda width: make_model"),
        (lambda: normalised(8), {}, r"build must be a function of one argument, the width, got .*: too many pos"),
    ],
)
def test_arguments_out_of_range_are_refused(unchecked, build, options, text):
    with pytest.raises(InvalidInput, match=text):
        check_layer(build, (3,), **options)


@pytest.mark.parametrize("shape", [5, None, (), (5.0,), ("a",), (0,), (-1,), (True,)])
def test_a_sample_s_shape_is_a_tuple_of_whole_numbers(unchecked, shape):
    text = rf"sample_shape must be a tuple of .*, got {re.escape(repr(shape))}; for vectors of 5 numbers it is \(5,\)"
    with pytest.raises(InvalidInput, match=text):
        check_layer(normalised, shape)


def test_networks_of_several_results_are_refused():
    class Two(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.one, self.two = linear(3, 1), linear(3, 1)

        def forward(self, x):
            return self.one(x), self.two(x)

    with pytest.raises(InvalidInput, match=r"check_layer takes networks that return one tensor"):
        check_layer(Two, (3,))


def test_importing_it_imports_no_test_runner():
    code = "import sys, ntkit.testing; print('pytest' in sys.modules, 'hypothesis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
