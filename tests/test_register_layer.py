"""Layers registered from outside: what they compute, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.architecture import specs
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.infinite import Layer, register_layer
from oracles import recursion
from outside_rules import Bilinear, Blurred, Dense, Form, Gated, Maxout, Pairs, Snake, maxout, with_maxout


def kernel(*layers: nn.Module) -> ntkit.InfiniteKernel:
    return ntkit.InfiniteKernel(nn.Sequential(*layers))


def test_maxout_equals_its_recursion():
    """max of two independent channels: E[max max'] and P(a > b, a' > b'), from Sheppard's angle."""
    x = data(4, 5).numpy()
    cov = 1.3**2 * x @ x.T / 5 + 0.2**2
    first, second = recursion.leaky_relu_dual(-1.0)(cov.diagonal()[:, None], cov.diagonal()[None, :], cov)
    after, slope = (cov + first) / 2, (1 + second) / 2
    found = kernel(linear(5), Maxout(64), linear(32, 1))(x)
    np.testing.assert_allclose(found.nngp, 1.3**2 * after + 0.2**2, rtol=1e-12)
    np.testing.assert_allclose(found.ntk, 1.3**2 * (after + cov * slope) + 0.2**2, rtol=1e-12)


@pytest.mark.parametrize("trains", [True, False])
def test_a_bilinear_layer_of_the_data_is_their_kernel_squared(trains):
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.form, self.last = Bilinear(5, 64, 1.3), linear(64, 1)
            self.form.requires_grad_(trains)

        def forward(self, x):
            return self.last(self.form(x, x))

    x = data(4, 5)
    square = 1.3**2 * (x @ x.T / 5) ** 2
    found = ntkit.InfiniteKernel(Square())(x)
    torch.testing.assert_close(found.nngp, 1.3**2 * square + 0.04)
    torch.testing.assert_close(found.ntk, 1.3**2 * square * (1 + trains) + 0.04)


def test_two_layers_with_parameters_are_two_and_one_used_twice_is_refused():
    class Sum(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            self.one, self.last = Bilinear(5, 64, 1.0), linear(64, 1)
            self.two = self.one if shared else Bilinear(5, 64, 1.0)

        def forward(self, x):
            return self.last(self.one(x, x) + self.two(x, x))

    x = data(3, 5)
    torch.testing.assert_close(ntkit.InfiniteKernel(Sum(False)).nngp(x), 1.3**2 * 2 * (x @ x.T / 5) ** 2 + 0.04)
    with pytest.raises(UnsupportedLayer, match=r"the weight of Bilinear at 'one' is used twice"):
        ntkit.InfiniteKernel(Sum(True))


def test_a_layer_without_parameters_may_be_used_twice_and_is_one_value():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.fold, self.last = linear(5), Maxout(64), linear(32, 1)

        def forward(self, x):
            h = self.first(x)
            return self.last(self.fold(h) + self.fold(h))

    x = data(3, 5)
    once = kernel(linear(5), Maxout(64), linear(32, 1)).nngp(x)
    torch.testing.assert_close(ntkit.InfiniteKernel(Twice()).nngp(x) - 0.04, 4 * (once - 0.04))


def test_hyperparameters_of_other_layers_recompile_the_rule():
    found = kernel(linear(5), Maxout(64), linear(32, 1)).with_hyperparameters({"2": {"w_std": 2.6}})
    x = data(3, 5)
    once = kernel(linear(5), Maxout(64), linear(32, 1)).nngp(x)
    torch.testing.assert_close(found.nngp(x) - 0.04, 4 * (once - 0.04))


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_a_layer_with_windows_over_positions_keeps_its_grid(engine):
    x = data(2, 2, 4, 3)
    found = ntkit.InfiniteKernel(Blurred(16)).nngp(x, engine=engine)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found, ntkit.InfiniteKernel(Blurred(16)).nngp(x, engine="torch"), rtol=1e-10, atol=0)


class OnChannels(nn.Module):
    def __init__(self, before: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer = before, layer

    def forward(self, x):
        return self.layer(self.before(x))


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (
            lambda: nn.Sequential(Maxout(6), linear(3, 1)),
            UnsupportedLayer,
            r"at '0' reads the data, which is not Gaussian",
        ),
        (
            lambda: nn.Sequential(linear(5), nn.ReLU(), Maxout(64), linear(32, 1)),
            UnsupportedLayer,
            r"the layer at '2' reads the activation at '1', which is not Gaussian",
        ),
        (
            lambda: nn.Sequential(linear(5), nn.LayerNorm(64), Maxout(64), linear(32, 1)),
            UnsupportedLayer,
            r"the layer at '2' reads what a normalisation layer scales by trained numbers.*freeze the scale",
        ),
        (
            lambda: nn.Sequential(linear(5), Maxout(32), linear(16, 1)),
            InvalidInput,
            r"Maxout at '1' takes 32 channels, but 64 arrive",
        ),
        (
            lambda: nn.Sequential(ntkit.nn.Conv2d(2, 64, 3), Maxout(64)),
            UnsupportedLayer,
            r"Maxout at '1' takes channels on axis -1 of .batch, channels, positions 0, positions 1.; move them there",
        ),
    ],
)
def test_uses_of_a_layer_without_a_limit_or_a_meaning(model, error, text):
    with pytest.raises(error, match=text):
        ntkit.InfiniteKernel(model())


def test_channels_side_by_side_and_other_arguments_are_refused():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.fold = linear(5, 32), linear(5, 32), Maxout(64)

        def forward(self, x):
            return self.fold(torch.cat([self.one(x), self.two(x)], 1))

    class WithNumber(Beside):
        def forward(self, x):
            return self.fold(self.one(x), 2)

    with pytest.raises(UnsupportedLayer, match=r"the layer at 'fold' reads channels of different layers side by side"):
        ntkit.InfiniteKernel(Beside())
    with pytest.raises(UnsupportedLayer, match=r"Maxout at 'fold' is called with other things than tensors"):
        ntkit.InfiniteKernel(WithNumber())


def test_data_of_a_wrong_width_are_refused():
    found = ntkit.InfiniteKernel(Gated(16))
    with pytest.raises(InvalidInput, match=r"x1 has 4 features a sample .*but the model takes 5"):
        found.nngp(data(2, 4))


@pytest.mark.parametrize("wrong", [None, 3, [1, 2]])
def test_what_a_rule_returns_must_be_a_value(wrong):
    class Empty(nn.Module):
        pass

    @dataclass(frozen=True)
    class EmptySpec(Layer):
        pass

    register_layer(Empty, EmptySpec, read=lambda m: EmptySpec())(lambda spec, inputs, builder: wrong)
    with pytest.raises(
        InvalidInput, match=r"the rule of EmptySpec at '1' must return an ntkit.infinite.rules.Value, got"
    ):
        kernel(linear(5), Empty())


def test_what_read_returns_must_be_a_spec():
    class Odd(nn.Module):
        pass

    @dataclass(frozen=True)
    class OddSpec(Layer):
        pass

    register_layer(Odd, OddSpec, read=lambda m: 3)(lambda spec, inputs, builder: inputs[0])  # pyright: ignore
    with pytest.raises(InvalidInput, match=r"Odd at '1' is read into 3, and a spec is wanted, a frozen data"):
        kernel(linear(5), Odd())


class New(nn.Module):
    pass


class NoDataclass(Layer):
    pass


@dataclass(frozen=True)
class Fresh(Layer):
    pass


@pytest.mark.parametrize(
    ("module", "spec", "text"),
    [
        (3, Fresh, r"takes a torch.nn.Module class, got 3"),
        (New, specs.Pool, r"the spec of New must be a frozen dataclass that derives from ntkit.infinite.Layer, got"),
        (New, Layer, r"the spec of New must be a frozen dataclass that derives from ntkit.infinite.Layer, got"),
        (New, NoDataclass, r"NoDataclass must be decorated with @dataclass.frozen=True."),
        (nn.Linear, Fresh, r"Linear has a rule already"),
        (nn.LayerNorm, Fresh, r"LayerNorm has a rule already"),
        (ntkit.nn.Sin, Fresh, r"Sin has a rule already"),
        (Maxout, Fresh, r"Maxout has a rule already"),
        (Snake, Fresh, r"Snake has a rule already"),
        (New, Form, r"Form has another rule already; derive a spec of its own"),
    ],
)
def test_layers_that_cannot_be_registered(unchecked, module, spec, text):
    with pytest.raises(InvalidInput, match=text):
        register_layer(module, spec, read=lambda m: spec())(lambda spec, inputs, builder: inputs[0])


def test_two_classes_may_share_a_spec_and_its_rule():
    class Wider(Maxout):
        pass

    read = lambda m: Pairs(in_channels=m.features, out_channels=m.features // 2)  # noqa: E731
    assert register_layer(Wider, Pairs, read=read)(maxout) is maxout
    assert kernel(linear(5), Wider(64), linear(32, 1)) == kernel(linear(5), Maxout(64), linear(32, 1))


def test_empirical_kernels_take_layers_from_outside():
    x = data(3, 5)
    model = with_maxout(16).double()
    whole = ntkit.empirical_ntk(model, x, outputs="trace")
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(dict(model.named_parameters()))
    wanted = sum(torch.einsum("nop,mop->nm", j.flatten(2), j.flatten(2)) for j in jacobian.values())
    torch.testing.assert_close(whole, wanted)


def test_a_module_without_a_rule_says_how_to_give_one():
    with pytest.raises(UnsupportedLayer, match=r"Bilinear at '0' has no rule .*or give it a rule with ntkit"):
        kernel(nn.Bilinear(3, 3, 3))
    with pytest.raises(UnsupportedLayer, match=r"forward uses '0.weight' directly.*its module a rule with"):
        kernel(Dense(5, 64))
