"""Which networks have a limit, and that the limit is the one of real networks: sums, scales, parameterisations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.errors import InvalidInput, MissingScale, UnsupportedLayer
from oracles import recursion as oracle

Linear = ntkit.nn.Linear
relu = oracle.leaky_relu_dual(0.0)


def data(n=4, d=5, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Layers a, b, c and an output layer, joined by `body`."""

    def __init__(self, body, width=8, features=5):
        super().__init__()
        self.a, self.b = Linear(features, width, 1.3, 0.2), Linear(features, width, 0.9, 0.1)
        self.c, self.out = Linear(width, width, 1.1, 0.3), Linear(width, 1, 1.2, 0.1)
        self.body = body

    def forward(self, x):
        return self.out(self.body(self, x))


def net(body, unused=(), **sizes):
    model = Net(body, **sizes)
    for name in unused:
        delattr(model, name)
    return model


def first_layer(x1, x2, w, b):
    """(q1, q2, s, T) after a linear layer of the data."""
    d = x1.shape[1]
    q1, q2, s = (x1**2).sum(1)[:, None] / d, (x2**2).sum(1)[None, :] / d, x1 @ x2.T / d
    q1, q2, s = (w * w * k.numpy() + b * b for k in (q1, q2, s))
    return q1 + 0 * s, q2 + 0 * s, s, s


def linear(q1, q2, s, T, w, b):
    q1, q2, k = (w * w * v + b * b for v in (q1, q2, s))
    return q1, q2, k, k + w * w * T


def rectified(q1, q2, s, T):
    k, slope = relu(q1, q2, s)
    return q1 / 2, q2 / 2, k, T * slope


def added(*values):
    return tuple(sum(parts) for parts in zip(*values, strict=True))


def times(c, value):
    return tuple(c * c * part for part in value)


def check(model, value):
    x1, x2 = data(), data(3, seed=1)
    *_, s, T = linear(*value(x1, x2), 1.2, 0.1)
    both = ntkit.InfiniteKernel(model)(x1, x2)
    np.testing.assert_allclose(both.nngp, s, rtol=1e-11)
    np.testing.assert_allclose(both.ntk, T, rtol=1e-11)


# ---- sums that are Gaussian ------------------------------------------------------------------------------------------


def test_a_preactivation_skip_adds_covariances():
    def value(x1, x2):
        h = first_layer(x1, x2, 1.3, 0.2)
        return rectified(*added(h, linear(*rectified(*h), 1.1, 0.3)))

    def body(m, x):
        h = m.a(x)
        return F.relu(h + m.c(F.relu(h)))

    check(net(body, unused="b"), value)


def test_two_skips_in_a_row():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = Linear(5, 8, 1.3, 0.2), Linear(8, 1, 1.2, 0.1)
            self.c, self.d = Linear(8, 8, 1.1, 0.3), Linear(8, 8, 0.7)

        def forward(self, x):
            h = self.a(x)
            h = h + self.c(F.relu(h))
            h = h + 0.5 * self.d(F.relu(h))
            return self.out(F.relu(h))

    def value(x1, x2):
        h = first_layer(x1, x2, 1.3, 0.2)
        h = added(h, linear(*rectified(*h), 1.1, 0.3))
        h = added(h, times(0.5, linear(*rectified(*h), 0.7, 0.0)))
        return rectified(*h)

    check(Two(), value)


@pytest.mark.parametrize(
    ("body", "factor"),
    [
        (lambda m, h: h + h, 2.0),
        (lambda m, h: 0.5 * h, 0.5),
        (lambda m, h: h - 3 * h, -2.0),
        (lambda m, h: h / 4 + h, 1.25),
        (lambda m, h: -(h + h) - h, -3.0),
    ],
)
def test_multiples_of_one_value(body, factor):
    value = lambda x1, x2: times(factor, first_layer(x1, x2, 1.3, 0.2))  # noqa: E731
    check(net(lambda m, x: body(m, m.a(x)), unused="bc"), value)
    check(net(lambda m, x: F.relu(body(m, m.a(x))), unused="bc"), lambda x1, x2: rectified(*value(x1, x2)))


def test_two_branches_of_the_data_and_the_data_themselves():
    check(
        net(lambda m, x: F.relu(m.a(x) - 2 * m.b(x)), unused="c"),
        lambda x1, x2: rectified(*added(first_layer(x1, x2, 1.3, 0.2), times(2, first_layer(x1, x2, 0.9, 0.1)))),
    )
    raw = lambda x1, x2: (*first_layer(x1, x2, 1.0, 0.0)[:3], 0 * first_layer(x1, x2, 1.0, 0.0)[3])  # noqa: E731
    square = net(lambda m, x: x + m.b(x), unused="ac", width=5)
    check(square, lambda x1, x2: added(raw(x1, x2), first_layer(x1, x2, 0.9, 0.1)))
    check(net(lambda m, x: x + x, unused="abc", width=5), lambda x1, x2: times(2, raw(x1, x2)))


def two_rectified(m, x):
    return F.relu(m.a(x)) + 0.5 * F.relu(m.b(x))


def test_activations_of_independent_layers_add_products_of_means():
    def value(x1, x2):
        a, b = rectified(*first_layer(x1, x2, 1.3, 0.2)), times(0.5, rectified(*first_layer(x1, x2, 0.9, 0.1)))
        # E[relu u] = √(q/2π), and rectified() holds q/2; the coefficient 1/2 is inside b
        (a1, a2), (b1, b2) = ((np.sqrt(v[0] / math.pi), np.sqrt(v[1] / math.pi)) for v in (a, b))
        q1, q2, s, T = added(a, b)
        return q1 + 2 * a1 * b1, q2 + 2 * a2 * b2, s + a1 * b2 + a2 * b1, T

    check(net(two_rectified, unused="c"), value)


def test_products_of_means_are_those_of_wide_networks():
    x, width, draws = data(3), 4096, 16
    exact = ntkit.InfiniteKernel(net(two_rectified, unused="c")).nngp(x)
    hidden = [net(two_rectified, unused=["c", "out"], width=width).double().requires_grad_(False) for _ in range(draws)]
    features = torch.stack([two_rectified(model, x) for model in hidden])
    estimate = 1.2**2 * (features @ features.mT / width).mean(0) + 0.1**2
    torch.testing.assert_close(estimate, exact, rtol=0.02, atol=0.0)
    without_means = (
        1.2**2
        * sum(
            c * c * (h @ h.mT / width).mean(0)
            for c, h in (
                (1.0, torch.stack([F.relu(m.a(x)) for m in hidden])),
                (0.5, torch.stack([F.relu(m.b(x)) for m in hidden])),
            )
        )
        + 0.1**2
    )
    assert ((exact - without_means) / exact).min() > 0.1


def test_a_value_and_its_activation_are_one_elementwise_function():
    def with_relu(m, x):
        h = m.a(x)
        return h + F.relu(h)

    # x + relu(x) is 2x for x > 0 and x else: twice the leaky ReLU of slope 1/2
    def leaky(m, x):
        return 2 * F.leaky_relu(m.a(x), 0.5)

    one, two = (ntkit.InfiniteKernel(net(body, unused="bc"), tolerance=1e-10) for body in (with_relu, leaky))
    x1, x2 = data(), data(3, seed=1)
    for which in ("nngp", "ntk"):
        torch.testing.assert_close(getattr(one, which)(x1, x2), getattr(two, which)(x1, x2), rtol=1e-9, atol=1e-9)


# ---- what has no limit -----------------------------------------------------------------------------------------------

NO_LIMIT = {
    "activation after an activation and a skip": (
        lambda m, x: F.relu(m.a(x) + F.relu(m.b(x))),
        "c",
        "^ReLU at 'relu' reads the activation at 'relu'",
    ),
    "activation of a sum of activations": (
        lambda m, x: F.tanh(F.relu(m.a(x)) + F.relu(m.b(x))),
        "c",
        "reads the activation at 'relu', which is not Gaussian",
    ),
    "activation of the data": (
        lambda m, x: m.a(F.relu(x)),
        "bc",
        "^ReLU at 'relu' reads the data, which is not Gaussian",
    ),
    "absolute value of the data": (lambda m, x: m.a(torch.abs(x)), "bc", "^Abs at 'abs' reads the data"),
    "leaky": (lambda m, x: m.a(F.leaky_relu(x, 0.2)), "bc", r"^LeakyReLU\(0.2\) at 'leaky_relu' reads the data"),
    "tanh": (lambda m, x: m.a(F.tanh(x)), "bc", r"^tanh\(x\) at 'tanh' reads the data"),
    "activation of data plus layer": (lambda m, x: F.relu(x + m.b(x)), "ac", "reads the data"),
    "data plus an activation": (
        lambda m, x: x + F.relu(m.b(x)),
        "ac",
        "'add' adds the data and the activation at 'relu'",
    ),
    "dependent activations": (lambda m, x: _dependent(m, x), "b", "depend on the output of the same layer"),
}


def _dependent(m, x):
    h = m.a(x)
    return F.relu(h + m.c(F.relu(h))) + F.relu(h)


@pytest.mark.parametrize("name", NO_LIMIT)
def test_what_has_no_limit_raises_with_its_path(name):
    body, unused, text = NO_LIMIT[name]
    with pytest.raises(UnsupportedLayer, match=text):
        ntkit.InfiniteKernel(net(body, unused=unused, width=5))


def test_a_difference_that_cancels_raises():
    def body(m, x):
        h = m.a(x)
        return F.relu(h - h)

    with pytest.raises(UnsupportedLayer, match=r"cancels to exactly 0, which has no kernel"):
        ntkit.InfiniteKernel(net(body, unused="bc"))


# ---- scales ----------------------------------------------------------------------------------------------------------


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
