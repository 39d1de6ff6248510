"""Activations registered from outside: what they compute, and what is refused."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.architecture import specs
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.infinite import register_activation
from ntkit.infinite.dual import dual
from outside_rules import Maxout, Snake, snake_formulas, snake_of


def kernel(*layers: nn.Module) -> ntkit.InfiniteKernel:
    return ntkit.InfiniteKernel(nn.Sequential(*layers))


def mlp(*activations: nn.Module) -> ntkit.InfiniteKernel:
    layers = [layer for activation in activations for layer in (linear(64), activation)]
    return kernel(linear(5), *layers, linear(64, 1))


class Called(nn.Module):
    def __init__(self, **constants: float) -> None:
        super().__init__()
        self.constants = constants

    def forward(self, x):
        return snake_of(x, **self.constants)


class Plain(nn.Module):
    """The same function without formulas: written with torch, found by quadrature."""

    def forward(self, x):
        return x + (1 - torch.cos(0.7 * x)) / 0.7


# ---- activations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("activation", [Snake(0.7), Called(b=0.7)])
def test_formulas_from_outside_equal_quadrature(activation, engine):
    x = data(5, 5)
    found = mlp(activation, activation)(x, engine=engine)
    wanted = ntkit.InfiniteKernel(
        nn.Sequential(linear(5), linear(64), Plain(), linear(64), Plain(), linear(64, 1)), tolerance=1e-11
    )(x)
    torch.testing.assert_close(found.nngp, wanted.nngp, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.ntk, wanted.ntk, rtol=1e-9, atol=0)


def test_a_registered_activation_has_the_compiled_engine_and_its_name_in_the_plan():
    plan = mlp(Snake(0.7)).plan((4, 5))
    assert plan.engine.startswith("numba")
    assert plan.duals == (("2", "Snake(0.7), closed form"),)


def test_a_trained_scale_goes_before_an_activation_with_its_formula():
    x = data(3, 5)
    found = kernel(linear(5), nn.LayerNorm(64), Called(b=0.7), linear(64, 1))
    torch.testing.assert_close(found.ntk(x, engine="numba"), found.ntk(x, engine="torch"), rtol=1e-9, atol=0)
    draws = []
    for seed in range(40):
        torch.manual_seed(seed)
        model = nn.Sequential(linear(5, 512), nn.LayerNorm(512), Called(b=0.7), linear(512, 1)).double()
        draws.append(ntkit.empirical_ntk(model, x, outputs="trace"))
    values = torch.stack(draws)
    error = (values.mean(0) - found.ntk(x)).abs()
    assert (error < 4 * values.std(0) / 40**0.5 + 0.01 * values.mean(0).max()).all()
    with pytest.raises(UnsupportedLayer, match=r"Snake.1.3. at '2' reads what a normalisation .*no rule for the"):
        kernel(linear(5), nn.LayerNorm(64), Snake(), linear(64, 1)).ntk(x, engine="torch")


def test_constants_tell_kernels_apart_and_equal_ones_are_equal():
    kernels = [mlp(Snake(0.7)), mlp(Snake(0.7)), mlp(Snake(0.8)), mlp(Called(b=0.7)), mlp(Called()), mlp(Called(b=1.3))]
    assert kernels[0] == kernels[1]
    assert kernels[4] == kernels[5]
    assert len(set(kernels)) == 4


def test_a_constant_factor_keeps_the_formulas():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * snake_of(3 * x)

    (activation,) = (op for op in mlp(Twice()).program.instructions if hasattr(op, "activation"))
    assert activation.activation == specs.Registered(snake_of, (1.3,))


def test_kernels_are_pickled_by_the_name_of_what_was_registered(tmp_path):
    x = data(3, 5)
    kernels = [mlp(Snake(0.7)), mlp(Called(b=0.7)), kernel(linear(5), Maxout(64), linear(32, 1))]
    (tmp_path / "kernels").write_bytes(pickle.dumps((kernels, x.numpy())))
    code = "import pickle, sys; kernels, x = pickle.load(open(sys.argv[1], 'rb'))\n"
    code += "print(*(float(k.ntk(x, engine='torch').sum()) for k in kernels))"
    command = [sys.executable, "-c", code, tmp_path / "kernels"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    for shown, here in zip(done.stdout.split(), kernels, strict=True):
        assert float(shown) == pytest.approx(float(here.ntk(x).sum()), rel=1e-11)


def test_a_spec_without_formulas_here_says_what_to_import():
    class Elsewhere(nn.Module):
        pass

    with pytest.raises(UnsupportedLayer, match=r"Elsewhere.2.0. has no formulas here; import the file that calls"):
        dual(specs.Registered(Elsewhere, (2.0,)), 1e-8)


@register_activation
class Clipped(nn.Module):
    """A branch on values, which cannot be traced."""

    def forward(self, x):
        return x.clamp(-1, 1) if bool((x == x).all()) else x


@register_activation
def clipped(x, most=1.0):
    return x.clamp(-most, most) if bool((x == x).all()) else x


def test_without_formulas_the_dual_is_found_by_quadrature():
    class Function(nn.Module):
        def __init__(self, *constants: float) -> None:
            super().__init__()
            self.constants = constants

        def forward(self, x):
            return clipped(x, *self.constants)

    x = data(3, 5)
    wanted = mlp(nn.Hardtanh()).ntk(x)
    for activation in (Clipped(), Function(), Function(1.0)):
        torch.testing.assert_close(mlp(activation).ntk(x), wanted, rtol=1e-7, atol=0)
    torch.testing.assert_close(mlp(Function(0.5)).ntk(x), mlp(nn.Hardtanh(-0.5, 0.5)).ntk(x), rtol=1e-7, atol=0)


def test_a_registered_function_is_still_a_function():
    x = torch.linspace(-2, 2, 7)
    torch.testing.assert_close(snake_of(x, b=2.0), x + (1 - torch.cos(2 * x)) / 2)
    assert snake_of.__name__ == "snake_of"


def test_a_module_that_holds_what_its_formulas_do_not_know_is_refused():
    @register_activation(**{name: (lambda *args: args[0]) for name in snake_formulas()})
    class Holds(nn.Module):
        def __init__(self, **held: object) -> None:
            super().__init__()
            for name, value in held.items():
                setattr(self, name, value)

        def forward(self, x):
            return x

    mlp(Holds())
    with pytest.raises(InvalidInput, match=r"Holds holds slope=2, of which its formulas are not told; name it in"):
        mlp(Holds(slope=2))
    with pytest.raises(InvalidInput, match=r"Holds holds inner=Tanh.., of which its formulas are not told"):
        mlp(Holds(inner=nn.Tanh()))
    with pytest.raises(UnsupportedLayer, match=r"Holds at '2' has parameters, and no rule for them"):
        mlp(Holds(weight=nn.Parameter(torch.ones(1))))
    with pytest.raises(InvalidInput, match=r"the constant 'b' of Snake must be an attribute that is a number, got"):
        mlp(Snake(torch.ones(1)))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (lambda q1, q2, d, b: torch.exp(-d), r"must be Tensor, not Symbol"),
        (lambda q1, q2, d, b: d**0.5, r"takes whole powers from 0, got 0.5"),
        (lambda q1, q2, d, b: 1.0 if d > 0 else 2.0, r"cannot branch on numbers; use where"),
        (lambda q1, q2, d, b: 1.0 if q1 == q2 else 2.0, r"cannot ask whether numbers are equal"),
    ],
)
def test_formulas_that_cannot_be_recorded_say_which_functions_there_are(unchecked, formula, text):
    formulas = snake_formulas() | {"derivative": formula}

    @register_activation(constants=("b",), **formulas)
    class Unrecorded(nn.Module):
        b = 1.0

        def forward(self, x):
            return x

    with pytest.raises(InvalidInput, match=rf"formula derivative of Unrecorded.1.0. .*{text}.*expm1, sin"):
        mlp(Unrecorded()).ntk(data(2, 5))


class New(nn.Module):
    pass


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        (3, {}, r"takes a torch.nn.Module class or a function, got 3"),
        (Snake(), {}, r"takes a torch.nn.Module class or a function, got Snake"),
        (functools.partial(torch.clamp, min=0), {}, r"takes a torch.nn.Module class or a function, got functools"),
        (int, {}, r"takes a torch.nn.Module class or a function, got <class 'int'>"),
        (nn.ReLU, {}, r"ReLU has a rule already, ntkit's own or a registered one"),
        (nn.Conv2d, {}, r"Conv2d has a rule already"),
        (ntkit.nn.Monomial, {}, r"Monomial has a rule already"),
        (torch.tanh, {}, r"tanh has a rule already"),
        (Snake, {}, r"Snake has a rule already"),
        (snake_of, {}, r"snake_of has a rule already"),
        (Maxout, {}, r"Maxout has a rule already"),
        (New, {"variance": lambda q: q}, r"given variance but not mean, distance, derivative; give all of"),
        (New, {"constants": ("a",)}, r"constants=.'a',. are for formulas, and none are given"),
        (New, snake_formulas(), r"the formula variance of New must be a function of .q., got .*'b'"),
        (New, {**snake_formulas(), "constants": ("b", "c")}, r"must be a function of .q, b, c., got .*too many"),
        (lambda x: x, {**snake_formulas(), "constants": ("b",)}, r"of a function its parameters after x count"),
    ],
)
def test_activations_that_cannot_be_registered(target, options, text):
    with pytest.raises(InvalidInput, match=text):
        register_activation(target, **options)
