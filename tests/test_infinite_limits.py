"""Which networks have a limit: sums that are Gaussian, means that multiply, and what has none."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.errors import UnsupportedLayer
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
    check(net(lambda m, x: x + x, unused="abc", width=5), lambda x1, x2: times(2, raw(x1, x2)))


class Residual(nn.Module):
    """x + f(x), which is the output, or which layers read."""

    def __init__(self, width=0):
        super().__init__()
        self.f = Linear(5, 5, 0.9, 0.1)
        self.rest = nn.Sequential(Linear(5, width), nn.ReLU(), Linear(width, 1)) if width else nn.Identity()

    def forward(self, x):
        return self.rest(x + self.f(x))


def test_the_data_may_be_added_to_the_output():
    x = data()
    both, (*_, s, T) = ntkit.InfiniteKernel(Residual())(x), first_layer(x, x, 0.9, 0.1)
    np.testing.assert_allclose(both.nngp, (x @ x.T / 5).numpy() + s, rtol=1e-11)
    np.testing.assert_allclose(both.ntk, T, rtol=1e-11)
    exact = ntkit.EmpiricalKernel(Residual().double()).ntk(x)  # the same for every draw
    torch.testing.assert_close(exact[:, :, 0, 0], both.ntk, rtol=1e-11, atol=0)


def test_a_layer_that_reads_the_data_plus_a_layer_has_no_limit():
    """Wide layers behind the sum do not make its kernel less random: it is a mean over the data's channels."""
    torch.manual_seed(0)
    x = data(1)
    draws = torch.stack([ntkit.EmpiricalKernel(Residual(1024).double()).ntk(x).squeeze() for _ in range(20)])
    assert draws.std() > 0.2 * draws.mean()
    with pytest.raises(
        UnsupportedLayer, match=r"'add' adds the data and the layer at 'f', and 'rest\.0' reads the sum"
    ):
        ntkit.InfiniteKernel(Residual(1024))


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
