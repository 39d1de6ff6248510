"""Kernels of one network at other scales."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import ntkit
from ntkit.errors import InvalidInput


def model(w: float = 1.0, b: float = 0.3, last: float = 1.0) -> nn.Module:
    first = ntkit.nn.Conv2d(2, 8, 3, padding=1, w_std=w, b_std=b)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), ntkit.nn.Linear(8 * 12, 1, w_std=last))


def test_a_kernel_at_other_scales_is_that_of_a_model_made_with_them():
    kernel, x = ntkit.InfiniteKernel(model()), torch.randn(3, 2, 3, 4, dtype=torch.float64)
    before = dict(kernel.hyperparameters)
    other = kernel.with_hyperparameters({"0": {"w_std": 1.7, "b_std": 0.1}, "3": {"w_std": 0.5}})
    assert other == ntkit.InfiniteKernel(model(1.7, 0.1, 0.5))
    assert torch.equal(other.ntk(x), ntkit.InfiniteKernel(model(1.7, 0.1, 0.5)).ntk(x))
    assert dict(kernel.hyperparameters) == before
    assert kernel.with_hyperparameters(kernel.hyperparameters) == kernel
    assert kernel.with_hyperparameters({}) == kernel
    assert pickle.loads(pickle.dumps(other)) == other


def test_patterns_name_several_layers_and_the_first_one_counts():
    kernel = ntkit.InfiniteKernel(model())
    found = kernel.with_hyperparameters({"3": {"w_std": 2.0}, "*": {"w_std": 0.7}}).hyperparameters
    assert (found["0"]["w_std"], found["3"]["w_std"]) == (0.7, 2.0)


def test_plain_layers_keep_their_parameterization():
    plain = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    kernel = ntkit.InfiniteKernel(plain, w_std="torch", b_std="torch", parameterization="standard")
    other = ntkit.InfiniteKernel(plain, w_std=1.2, b_std=0.4, parameterization="standard")
    assert kernel.with_hyperparameters({"*": {"w_std": 1.2, "b_std": 0.4}}) == other


WRONG = {
    "no layer": ({"7": {"w_std": 1.0}}, r"the pattern '7' matches no layer; the layers are '0', '3'"),
    "no text": ({0: {"w_std": 1.0}}, r"the pattern 0 matches no layer"),
    "no scale": ({"0": {"lr": 1.0}}, r"the scales of a layer are w_std and b_std, got \['lr'\]"),
    "negative": (
        {"0": {"w_std": -1.0}},
        r"w_std of the layer at '0' must be a number >= 0, of finite square, got -1.0",
    ),
    "text": ({"0": {"b_std": "torch"}}, r"b_std of the layer at '0' must be a number >= 0"),
    "not finite": ({"0": {"w_std": float("nan")}}, r"must be a number >= 0"),
    "no bias": ({"3": {"b_std": 0.1}}, r"the layer at '3' has no bias, and b_std=0.1 is given for it"),
    "a number": ({"0": 1.0}, r"the scales must be .path pattern: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, unchecked):
    values, text = WRONG[name]
    with pytest.raises(InvalidInput, match=text):
        ntkit.InfiniteKernel(model()).with_hyperparameters(values)
