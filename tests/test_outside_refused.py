"""What users register is tried before it is believed: formulas, functions and rules that are none say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.errors import InvalidInput
from ntkit.infinite import Layer, register_activation, register_layer
from ntkit.infinite.program import Affine, Combine

pytestmark = pytest.mark.usefixtures("unchecked")


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def kernel(function: Any) -> ntkit.InfiniteKernel:
    return ntkit.InfiniteKernel(nn.Sequential(linear(5), Calls(function), linear(64, 1)))


# ---- formulas --------------------------------------------------------------------------------------------------------

RIGHT = {
    "variance": lambda q: 3 * q**2,
    "mean": lambda q: q,
    "distance": lambda q1, q2, d: 2 * (q1 - q2) ** 2 + (2 * (q1 + q2) - d) * d,
    "derivative": lambda q1, q2, d: 2 * (q1 + q2 - d),
    "scale_derivative": lambda q1, q2, d: 2 * (q1 + q2 - d) ** 2 + 4 * q1 * q2,
}


def square_with(**formulas: Any) -> Any:
    @register_activation(**RIGHT | formulas)
    def square(x):
        return x * x

    return square


NOTHING = {
    "None": (None, "NoneType"),
    "text": ("a", "'a'"),
    "a list": ([1.0, 2.0, 3.0], "list"),
    "an array": (np.ones(3), "ndarray"),
    "a complex number": (1j, "1j"),
    "a truth value": (True, "True"),
    "nan": (math.nan, "nan"),
    "infinity": (math.inf, "inf"),
    "another shape": (torch.ones(7).double(), r"a tensor of shape \(7,\) and dtype torch.float64"),
}


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("name", NOTHING)
def test_formulas_of_samples_must_give_a_number_each(name, engine):
    value, told = NOTHING[name]
    text = (
        rf"at '1.square': the formula variance of square must give a finite number, or a tensor of real numbers of its "
        rf"arguments' shape \(3,\), got {told}; return one number for every entry of the arguments"
    )
    with pytest.raises(InvalidInput, match=text):
        kernel(square_with(variance=lambda q: value)).ntk(data(3, 5), engine=engine)


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("formula", ["distance", "derivative", "scale_derivative"])
@pytest.mark.parametrize("name", NOTHING)
def test_formulas_of_pairs_must_give_a_number_each(name, formula, engine):
    value, told = NOTHING[name]
    text = (
        rf"the formula {formula} of square must give one finite number for a pair, but of symbols, to be recorded for "
        rf"the compiled engine, it makes {told}; write it over .*ntkit.infinite.dual.elementary: exp, expm1"
    )
    with pytest.raises(InvalidInput, match=text):
        kernel(square_with(**{formula: lambda q1, q2, d: value})).ntk(data(3, 5), engine=engine)


def test_a_formula_that_gives_symbols_and_no_tensors_is_told_too():
    formula = lambda q1, q2, d: torch.ones(7) if isinstance(d, torch.Tensor) else d  # noqa: E731
    text = r"distance of square must give .* of its arguments' shape \(.*3\), got a tensor of shape \(7,\)"
    with pytest.raises(InvalidInput, match=text):
        kernel(square_with(distance=formula)).ntk(data(3, 5).requires_grad_(True))


@pytest.mark.parametrize(
    ("formulas", "text"),
    [
        (
            {"variance": lambda q: q + torch.ones(7)},
            r"the formula variance of square is given tensors of shape \(3,\) and fails: The size of tensor a \(3\)",
        ),
        ({"variance": lambda q: q.foo}, r"variance of square is given tensors .* fails: 'Tensor' object has no attr"),
        ({"distance": lambda q1, q2, d: 1 / 0}, r"distance of square is given symbols, .* fails: division by zero; w"),
        ({"distance": lambda q1, q2, d: d + np.ones(7)}, r"distance of square is given symbols, .* ambiguous"),
        (
            {"derivative": lambda q1, q2, d: d + math.nan},
            r"derivative .* fails: a recorded formula cannot compute with",
        ),
    ],
)
def test_formulas_that_fail_are_named(formulas, text):
    with pytest.raises(InvalidInput, match=text):
        kernel(square_with(**formulas)).ntk(data(3, 5))


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("formula", ["variance", "distance", "derivative", "scale_derivative"])
def test_formulas_that_are_random_are_refused(formula, engine):
    right = RIGHT[formula]
    noisy = lambda *args: right(*args) + torch.rand(()).item()  # noqa: E731
    text = rf"the formula {formula} of square must give the same whenever it is given the same, and gives another"
    with pytest.raises(InvalidInput, match=text):
        kernel(square_with(**{formula: noisy})).ntk(data(3, 5), engine=engine)


def test_numbers_that_change_are_random_too():
    with pytest.raises(InvalidInput, match=r"the formula variance of square must give the same whenever it is given"):
        kernel(square_with(variance=lambda q: torch.rand(()).item())).ntk(data(3, 5))


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_formulas_may_give_a_number_for_all_or_one_of_a_smaller_shape(engine):
    """x and its formulas: the mean is 0 and the slope 1, of whatever pair."""

    @register_activation(
        variance=lambda q: q, mean=lambda q: 0, distance=lambda q1, q2, d: d, derivative=lambda q1, q2, d: 1.0
    )
    def same(x):
        return 1.0 * x

    @register_activation(
        variance=lambda q: 1.0, mean=lambda q: 1, distance=lambda q1, q2, d: 0.0, derivative=lambda q1, q2, d: 0 * q1
    )
    def one(x):
        return torch.ones_like(x)

    x = data(3, 5)
    wanted = ntkit.InfiniteKernel(nn.Sequential(linear(5), linear(64, 1)))(x)
    found = kernel(same)(x, engine=engine)
    torch.testing.assert_close(found.nngp, wanted.nngp)
    torch.testing.assert_close(found.ntk, wanted.ntk)
    found = kernel(one)(x, engine=engine)
    torch.testing.assert_close(found.nngp, torch.full((3, 3), 1.3**2 + 0.04).double())
    torch.testing.assert_close(found.ntk, torch.full((3, 3), 1.3**2 + 0.04).double())


# ---- functions -------------------------------------------------------------------------------------------------------

NO_FUNCTIONS = {
    "None": (lambda x: None, r"of its argument's shape \(3, 17\), got NoneType; return one value for every entry"),
    "text": (lambda x: "a", r"must give a tensor of real numbers .* got str; return"),
    "a number": (lambda x: 1.0, r"must give a tensor .* got float; return"),
    "an array": (lambda x: x.detach().numpy(), r"must give a tensor .* got ndarray; return"),
    "a sum": (lambda x: x.sum(-1), r"must give a tensor .* got shape \(3,\) of torch.float64; return"),
    "complex": (lambda x: x * 1j, r"must give a tensor of real .* got shape \(3, 17\) of torch.complex128; return"),
    "an error": (lambda x: x.foo, r"must take real numbers in a tensor of any shape, and fails for shape \(3, 17\): '"),
    "a branch": (
        lambda x: x if x.item() > 0 else -x,
        r"and fails for .*; write it so that it acts on each entry alone",
    ),
    "in place": (lambda x: x.mul_(2), r"overwrites its argument; write it with operations that are not in place"),
    "noise": (lambda x: x + torch.randn_like(x), r"must give the same values of the same numbers, .* the second time"),
    "dropout": (lambda x: nn.functional.dropout(x, 0.5, True), r"no kernel; take out what is random; for dropout the"),
    "a logarithm": (
        torch.Tensor.log,
        r"must be finite for every number, got nan at x = -2.9; use a function that is d",
    ),
    "a centred value": (lambda x: x - x.mean(), r"must act on each entry alone, .*a rule with ntkit.infinite.register"),
    "a rank": (
        lambda x: x.argsort(0).argsort(0).double(),
        r"gives other values of a part of a tensor than of the whole",
    ),
    "a sum so far": (lambda x: x.cumsum(-1), r"gives other values of a part of a tensor than of the whole"),
    "sorted": (lambda x: x.sort(-1).values, r"gives other values of a part of a tensor than of the whole"),
    "moved": (lambda x: x.roll(1, 0), r"gives other values of a part of a tensor than of the whole"),
    "a softmax": (lambda x: torch.softmax(x, -1), r"gives other values of a part of a tensor than of the whole"),
    "a batch norm": (
        lambda x: x / x.std(0, keepdim=True, correction=0),
        r"gives other values of a part of a tensor than of the whole",
    ),
}


@pytest.mark.parametrize("name", NO_FUNCTIONS)
def test_functions_that_are_not_of_each_entry_alone_are_refused(name):
    given, text = NO_FUNCTIONS[name]

    @register_activation
    def strange(x):
        return given(x)

    @register_activation
    class Strange(nn.Module):
        def forward(self, x):
            return given(x)

    with pytest.raises(InvalidInput, match=rf"'1.strange' .*{text}|'1.strange' {text}"):
        kernel(strange)
    with pytest.raises(InvalidInput, match=rf"Strange at '1' .*{text}|Strange at '1' {text}"):
        ntkit.InfiniteKernel(nn.Sequential(linear(5), Strange(), linear(64, 1)))


def test_functions_with_formulas_are_tried_as_well():
    @register_activation(**RIGHT)
    def noisy_square(x):
        return x * x + torch.rand_like(x)

    with pytest.raises(InvalidInput, match=r"'1.noisy_square' must give the same values of the same numbers"):
        kernel(noisy_square)


def test_trying_a_function_leaves_the_callers_random_numbers():
    @register_activation
    def noisy(x):
        return x + torch.randn_like(x)

    model = nn.Sequential(linear(5), Calls(noisy), linear(64, 1))
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    with pytest.raises(InvalidInput, match=r"take out what is random"):
        ntkit.InfiniteKernel(model)
    assert torch.rand(1) == wanted


def test_a_step_may_come_in_another_dtype_and_a_smooth_function_may_not():
    @register_activation
    def step(x):
        return (x > 0).float()

    @register_activation
    def single(x):
        return torch.tanh(x.float())

    x = data(3, 5)
    cov = 1.3**2 * x @ x.T / 5 + 0.04
    scale = cov.diagonal().sqrt()
    both = 0.5 - torch.arccos((cov / scale[:, None] / scale).clamp(-1, 1)) / (2 * math.pi)  # Sheppard
    torch.testing.assert_close(kernel(step).nngp(x), 1.3**2 * both + 0.04, rtol=1e-7, atol=0)
    with pytest.raises(
        InvalidInput, match=r"single.x. computes in torch.float32, .*dtype of its argument, torch.float64"
    ):
        kernel(single).nngp(x)


# ---- layers ----------------------------------------------------------------------------------------------------------


def layer_of(rule: Any, **read: Any) -> ntkit.InfiniteKernel:
    """A network with a new layer between two linear ones."""

    class Mine(nn.Module):
        def forward(self, x):
            return x

    @dataclass(frozen=True)
    class MySpec(Layer):
        pass

    register_layer(Mine, MySpec, **{"read": lambda module: MySpec()} | read)(rule)
    return ntkit.InfiniteKernel(nn.Sequential(linear(5), Mine(), linear(64, 1)))


def affine(**changed: Any) -> Any:
    numbers = {"weight_variance": 1.0, "bias_variance": 0.0, "weight_rate": 1.0, "bias_rate": 0.0}
    return lambda spec, inputs, builder: builder.single(
        Affine(**{"source": builder.settle(inputs[0])} | numbers | changed), "affine"
    )


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (3, r"the rule of MySpec must be a function of \(spec, inputs, builder\), got 3: 3 is not a callable"),
        (lambda spec: None, r"the rule of MySpec must be a function of .*: too many positional arguments"),
        (lambda s, i, b: 1 / 0, r"the rule of MySpec at '1' fails: ZeroDivisionError: division by zero; it takes \(sp"),
        (lambda s, i, b: b.settle(i), r"MySpec at '1' fails: AttributeError: .* inputs a list of values, and returns"),
        (
            lambda s, i, b: b.single(None, "affine"),
            r"at '1' must emit instructions of ntkit.infinite.program, got None",
        ),
        (lambda s, i, b: b.single("z", "affine"), r"at '1' must emit instructions of ntkit.infinite.program, got 'z'"),
        (affine(source=99), r"emits Affine, which reads the register 99, and there are 0 to 1; take registers from"),
        (affine(source=-1), r"emits Affine, which reads the register -1, and there are 0 to 1"),
        (affine(source="x"), r"emits Affine, which reads the register 'x', and there are 0 to 1"),
        (affine(weight_variance="a"), r"emits Affine, whose weight_variance must be a finite number >= 0, got 'a'"),
        (affine(bias_variance=None), r"emits Affine, whose bias_variance must be a finite number >= 0, got None"),
        (affine(weight_rate=math.nan), r"emits Affine, whose weight_rate must be a finite number >= 0, got nan"),
        (affine(bias_rate=-1.0), r"emits Affine, whose bias_rate must be a finite number >= 0, got -1.0"),
        (
            lambda s, i, b: b.single(Combine((0, 1), (1.0,)), "mixed"),
            r"emits Combine, which takes one weight for each of 2 registers, got 1",
        ),
    ],
)
def test_rules_that_are_none_are_named(rule, text):
    with pytest.raises(InvalidInput, match=text):
        layer_of(rule)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (3, r"read= of Mine must be a function of \(module\), got 3: 3 is not a callable object"),
        (lambda: None, r"read= of Mine must be a function of \(module\), got .*: too many positional arguments"),
        (
            lambda m: m.foo,
            r"Mine at '1' cannot be read into a spec, as the function given as read= fails: Attribute.*foo",
        ),
    ],
)
def test_functions_that_read_no_spec_are_named(read, text):
    with pytest.raises(InvalidInput, match=text):
        layer_of(affine(), read=read)


@pytest.mark.parametrize("constants", ["b", 3])
def test_constants_are_a_tuple_of_names(constants):
    with pytest.raises(InvalidInput, match=r"constants= must be a tuple of names of attributes, as in \('b',\), got"):
        register_activation(Calls, **RIGHT, constants=constants)
