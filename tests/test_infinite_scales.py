"""How plain layers come by their scales and parameterisation, and that real networks have these kernels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from ntkit.errors import InvalidInput, MissingScale
from oracles import recursion as oracle

Linear = ntkit.nn.Linear
relu = oracle.leaky_relu_dual(0.0)


def data(n=4, d=5, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain(width=64, bias=True, features=5):
    return nn.Sequential(
        nn.Linear(features, width, bias=bias),
        nn.ReLU(),
        nn.Linear(width, width, bias=bias),
        nn.ReLU(),
        nn.Linear(width, 1, bias=bias),
    ).double()


@pytest.mark.parametrize("bias", [True, False])
def test_plain_layers_take_their_scales_from_the_options(bias):
    x1, x2 = data(), data(3, seed=1)
    both = ntkit.InfiniteKernel(plain(bias=bias), w_std=1.4, b_std=0.3)(x1, x2)
    expected = oracle.fully_connected(x1.numpy(), x2.numpy(), relu, 2, 1.4, 0.3 if bias else 0.0)
    np.testing.assert_allclose(both.nngp, expected[0], rtol=1e-11)
    np.testing.assert_allclose(both.ntk, expected[1], rtol=1e-11)


def test_standard_parameterisation_counts_real_widths_and_biases():
    x1, x2 = data(), data(3, seed=1)
    both = ntkit.InfiniteKernel(plain(width=64), w_std=1.4, b_std=0.3, parameterization="standard")(x1, x2)
    expected = oracle.fully_connected(x1.numpy(), x2.numpy(), relu, 2, 1.4, 0.3, widths=[5, 64, 64])
    np.testing.assert_allclose(both.nngp, expected[0], rtol=1e-11)
    np.testing.assert_allclose(both.ntk, expected[1], rtol=1e-11)


def test_torch_default_draw_is_the_variance_that_torch_draws():
    kernel = ntkit.InfiniteKernel(plain(width=600), w_std="torch", b_std="torch")
    for path, layer in (("0", plain(width=600)[0]), ("2", plain(width=600)[2])):
        scales = kernel.hyperparameters[path]
        assert scales["w_std"] / math.sqrt(layer.in_features) == pytest.approx(
            float(layer.weight.detach().std()), rel=0.05
        )
        assert scales["b_std"] == pytest.approx(float(layer.bias.detach().std()), rel=0.1)


def test_patterns_name_layers_and_own_layers_keep_their_scales():
    model = nn.Sequential(Linear(5, 8, 0.7, 0.1), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1, bias=False))
    kernel = ntkit.InfiniteKernel(model, w_std={"4": 2.0, "*": "torch"}, b_std={"[24]": 0.5})
    assert kernel.hyperparameters == {
        "0": {"w_std": 0.7, "b_std": 0.1},
        "2": {"w_std": 1 / math.sqrt(3), "b_std": 0.5},
        "4": {"w_std": 2.0, "b_std": 0.0},
    }
    same = nn.Sequential(
        Linear(5, 8, 0.7, 0.1), nn.ReLU(), Linear(8, 8, 1 / math.sqrt(3), 0.5), nn.ReLU(), Linear(8, 1, 2.0)
    )
    assert ntkit.InfiniteKernel(same) == kernel


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {},
            MissingScale,
            "Linear at '0' is a plain torch layer and states no w_std; give InfiniteKernel.model, w_std=...",
        ),
        ({"w_std": 1.0}, MissingScale, "Linear at '0' .* states no b_std"),
        ({"w_std": {"0": 1.0}, "b_std": 0.0}, MissingScale, "Linear at '2' .* states no w_std"),
        (
            {"w_std": {"7": 1.0}, "b_std": 0.0},
            InvalidInput,
            "pattern '7' in w_std matches no plain layer; the plain layers are '0', '2', '4'$",
        ),
        ({"w_std": -1.0, "b_std": 0.0}, InvalidInput, "w_std of the layer at '0' must be a number >= 0"),
        ({"w_std": math.nan, "b_std": 0.0}, InvalidInput, "w_std of the layer at '0' must be a number >= 0"),
        (
            {"w_std": "keras", "b_std": 0.0},
            InvalidInput,
            "must be a number >= 0, of finite square, or \"torch\", got 'keras'",
        ),
        (
            {"w_std": 1.0, "b_std": 0.0, "parameterization": "mup"},
            InvalidInput,
            'must be "ntk" or "standard", got \'mup\'',
        ),
        (
            {"w_std": 1.0, "b_std": 0.0, "tolerance": 1e-20},
            InvalidInput,
            "tolerance must be a float between 1e-13 and 1",
        ),
    ],
)
def test_bad_scales_name_the_layer_and_the_option(unchecked, options, error, text):
    with pytest.raises(error, match=text):
        ntkit.InfiniteKernel(plain(), **options)


def test_a_pattern_for_layers_that_all_state_their_own_scales_says_so():
    model = nn.Sequential(Linear(5, 8), nn.ReLU(), Linear(8, 1))
    with pytest.raises(InvalidInput, match=r"there are no plain layers: all of '0', '2' state their own scales$"):
        ntkit.InfiniteKernel(model, w_std={"0": 1.0})
    with pytest.raises(InvalidInput, match=r"matches no plain layer; the plain layers are '2'$"):
        ntkit.InfiniteKernel(nn.Sequential(Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)), w_std={"0": 1.0})
    with pytest.raises(InvalidInput, match=r"matches no plain layer; the model has no layers with weights$"):
        ntkit.InfiniteKernel(nn.Flatten(), w_std={"0": 1.0})


# ---- real networks ---------------------------------------------------------------------------------------------------


def draw(model, w_std, b_std):
    """A fresh standard draw, W ~ N(0, w²/fan_in), b ~ N(0, b²), of a plain model; "torch" for torch's own."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            if w_std == "torch" or isinstance(layer, Linear):
                layer.reset_parameters()
            else:
                nn.init.normal_(layer.weight, std=w_std / math.sqrt(layer.in_features))
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, std=b_std)
    return model


def finite_ntk(model, x):
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(y, parameters, retain_graph=True)]) for y in model(x)[:, 0]
    ]
    J = torch.stack(rows)
    return J @ J.T


def ntk_layers(width=512):
    return nn.Sequential(
        Linear(5, width, 1.4, 0.3), nn.ReLU(), Linear(width, width, 1.4), nn.Tanh(), Linear(width, 1, 1.1, 0.5)
    ).double()


def frozen(model):
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (ntk_layers, {}),
        (lambda: plain(512), {"w_std": 1.4, "b_std": 0.3, "parameterization": "standard"}),
        (lambda: plain(512, bias=False), {"w_std": 1.4, "parameterization": "standard"}),
        (lambda: plain(512), {"w_std": "torch", "b_std": "torch", "parameterization": "standard"}),
        (lambda: frozen(plain(512)), {"w_std": 1.4, "b_std": 0.3, "parameterization": "standard"}),
    ],
)
def test_wide_networks_have_the_exact_kernel_on_average(make, options):
    x, draws = data(3), 12
    exact = ntkit.InfiniteKernel(make(), **options).ntk(x)
    samples = torch.stack(
        [finite_ntk(draw(make(), options.get("w_std"), options.get("b_std")), x) for _ in range(draws)]
    )
    error = samples.std(0) / math.sqrt(draws)
    scale = exact.diagonal().max()
    assert (error < 0.1 * scale).all()
    assert ((samples.mean(0) - exact).abs() < 4 * error + 0.01 * scale).all()


def test_frozen_parameters_enter_nngp_and_not_ntk():
    x = data(3)
    options = {"w_std": 1.4, "b_std": 0.3}
    free, held = ntkit.InfiniteKernel(plain(), **options), ntkit.InfiniteKernel(frozen(plain()), **options)
    assert torch.equal(free.nngp(x), held.nngp(x))
    assert (held.ntk(x).diagonal() < free.ntk(x).diagonal()).all()
    nothing = ntkit.InfiniteKernel(plain().requires_grad_(False), **options)
    assert torch.equal(nothing.ntk(x), torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(nothing.nngp(x), free.nngp(x))
