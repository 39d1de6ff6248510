"""Products of independent branches: against covariances, wide networks, and what is not independent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ntkit
from layer_cases import B, W, assert_limit, conv, data, linear, readout_kernel
from ntkit.errors import InvalidInput, UnsupportedLayer


class Joined(nn.Module):
    """join(one(x), two(x)), and a layer behind it."""

    def __init__(self, join: Any, one: nn.Module, two: nn.Module, last: nn.Module | None) -> None:
        super().__init__()
        self.join, self.one, self.two, self.last = join, one, two, last

    def forward(self, x: torch.Tensor) -> Any:
        h = self.join(self.one(x), self.two(x))
        return h if self.last is None else self.last(h)


def gate(width: int = 64) -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(linear(5, width), nn.ReLU()), nn.Sequential(linear(5, width), nn.Sigmoid())


def test_the_kernel_of_a_product_is_the_product_of_kernels():
    x, y = data(4, 5), data(3, 5, seed=1)
    one, two = gate()
    both = ntkit.InfiniteKernel(Joined(lambda a, b: a * b, one, two, linear(64, 1)))
    for second in (None, y):
        # the branches' own kernels, of which a layer without bias of scale 1 gives the covariance and T + s
        a, b = (
            ntkit.InfiniteKernel(nn.Sequential(branch, ntkit.nn.Linear(64, 1, 1.0)))(x, second) for branch in (one, two)
        )
        (sa, ta), (sb, tb) = ((k.nngp, k.ntk - k.nngp) for k in (a, b))
        nngp = W**2 * sa * sb + B**2
        found = both(x, second)
        torch.testing.assert_close(found.nngp, nngp, rtol=1e-9, atol=0)
        torch.testing.assert_close(found.ntk, nngp + W**2 * (ta * sb + sa * tb), rtol=1e-9, atol=0)


def test_factors_come_out():
    one, two = gate()
    x, last = data(3, 5), ntkit.nn.Linear(64, 1, 1.0)
    plain = ntkit.InfiniteKernel(Joined(lambda a, b: a * b, one, two, last))
    scaled = ntkit.InfiniteKernel(Joined(lambda a, b: (0.5 * a) * (-3 * b), one, two, last))
    torch.testing.assert_close(scaled.nngp(x), 2.25 * plain.nngp(x))
    torch.testing.assert_close(scaled.ntk(x), 2.25 * plain.ntk(x))


def test_nearly_equal_samples_keep_their_distance():
    model = Joined(lambda a, b: a * b, linear(5), linear(5), ntkit.nn.Linear(64, 1, 1.0))
    x = data(1, 5)
    near = torch.cat([x, x + 1e-7 * data(1, 5, seed=1)])
    s = W**2 * near @ near.T / 5 + B**2
    d = W**2 * ((near[0] - near[1]) ** 2).mean()
    q, r = s[0, 0], s[1, 1]
    expected = ((q - r) ** 2 + 2 * (q + r) * d - d * d) / 2
    gram = ntkit.InfiniteKernel(model).nngp(near)
    assert abs(gram[0, 0] + gram[1, 1] - 2 * gram[0, 1] - expected) < 1e-14
    assert torch.linalg.eigvalsh(ntkit.InfiniteKernel(model).ntk(data(9, 5))).min() > 0


@pytest.mark.parametrize("pooled", [False, True])
def test_wide_networks_with_gates_tend_to_the_exact_kernel(pooled):
    """A gated residual block of images: h + relu(f(h)) · sigmoid(g(h)), whose factors have means."""

    def forward(first: Any, f: Any, g: Any, x: torch.Tensor) -> torch.Tensor:
        h = first(x)
        h = torch.relu(h) + torch.relu(f(torch.relu(h))) * torch.sigmoid(g(torch.relu(h)))
        return h.mean((2, 3)) if pooled else h.flatten(1)

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.f, self.g = conv(2, padding=1), conv(64, padding=1), conv(64, padding=1)
            self.last = linear(64 if pooled else 64 * 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(forward(self.first, self.f, self.g, x))

    x, draws = data(3, 2, 2, 3), []
    exact = ntkit.InfiniteKernel(Gated()).nngp(x)
    for seed in range(48):
        torch.manual_seed(seed)
        layers = (
            conv(2, 512, padding=1).double(),
            conv(512, 512, padding=1).double(),
            conv(512, 512, padding=1).double(),
        )
        with torch.no_grad():
            h = forward(*layers, x)
        draws.append(readout_kernel(h))
    assert_limit(draws, exact)


@pytest.mark.slow
def test_tangent_kernels_of_wide_gated_networks_tend_to_the_exact_one():
    x, draws = data(3, 5), []
    exact = ntkit.InfiniteKernel(Joined(lambda a, b: a * b, *gate(), linear(64, 1))).ntk(x)
    for seed in range(48):
        torch.manual_seed(seed)
        model = Joined(lambda a, b: a * b, *gate(1024), linear(1024, 1)).double()
        draws.append(ntkit.empirical_ntk(model, x, outputs="trace"))
    assert_limit(draws, exact)


def test_gradients_in_the_inputs():
    kernel = ntkit.InfiniteKernel(Joined(lambda a, b: a * b, linear(5), linear(5), linear(64, 1)))
    x, y = data(2, 5).requires_grad_(), data(2, 5, seed=1)
    assert torch.autograd.gradcheck(lambda v: kernel.ntk(v, y), (x,))


def test_compiled_engine_says_why_it_cannot():
    kernel = ntkit.InfiniteKernel(Joined(lambda a, b: a * b, *gate(), linear(64, 1)))
    with pytest.raises(
        InvalidInput, match=r'engine="numba" cannot compute this kernel: the (model multiplies|dual of)'
    ):
        kernel.ntk(data(2, 5), engine="numba")


REFUSED = {
    "activation of a product": (
        lambda: Joined(lambda a, b: torch.relu(a * b), linear(5), linear(5), linear(64, 1)),
        r"reads the product at 'mul', which is not Gaussian",
    ),
    "the data": (
        lambda: Joined(lambda a, b: a * b, nn.Identity(), linear(5, 5), linear(5, 1)),
        r"multiplies the data, whose few features differ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_limit_is_refused(name):
    make, text = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=text):
        ntkit.InfiniteKernel(make())


def test_widths_that_differ_are_said():
    with pytest.raises(InvalidInput, match=r"'mul' multiplies tensors of one shape, of 64 features"):
        ntkit.InfiniteKernel(Joined(lambda a, b: a * b, linear(5), linear(5, 32), linear(64, 1)))


def test_two_functions_of_one_layer_are_not_independent():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = conv(2, padding=1), linear(64, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            return self.last(h.mean((2, 3)) * torch.relu(h).mean((2, 3)))

    with pytest.raises(UnsupportedLayer, match=r"multiplies two functions of the output of one layer"):
        ntkit.InfiniteKernel(Pooled())


class SumOfSums(nn.Module):
    """relu(a) + norm or drop(relu(b) + relu(c)), or the product of that sum with relu(d)."""

    def __init__(self, change: nn.Module | None, last: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([linear(5) for _ in range(4)])
        self.change, self.last, self.adds = change, linear(64, 1), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c, d = (torch.relu(layer(x)) for layer in self.layers)
        h = (b + c) * d if self.change is None else self.change(b + c)
        return self.last(a + h if self.adds else h)


@pytest.mark.parametrize("change", [None, nn.RMSNorm(64, elementwise_affine=False), nn.Dropout(0.3)])
def test_sums_whose_mean_is_not_known_are_refused_only_where_it_matters(change):
    x = data(3, 5)
    assert ntkit.InfiniteKernel(SumOfSums(change, False)).ntk(x).shape == (3, 3)
    with pytest.raises(UnsupportedLayer, match=r"'add' adds .* and the product of their means is not known"):
        ntkit.InfiniteKernel(SumOfSums(change, True))


@pytest.mark.parametrize("change", [nn.RMSNorm(64, elementwise_affine=False), nn.Dropout(0.3)])
def test_means_go_through_norms_and_dropout(change):
    """relu(a) + change(relu(b)): the product of means is 2 m_a m_b, of which the norm divides m_b."""

    class OfOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.change, self.last = linear(5), linear(5), change, ntkit.nn.Linear(64, 1, 1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.a(x)) + self.change(torch.relu(self.b(x))))

    x = data(3, 5)
    q = W**2 * (x @ x.T).diagonal() / 5 + B**2
    mean = (q / (2 * torch.pi)).sqrt()
    norm = (q / 2 + torch.finfo(torch.float32).eps).sqrt() if isinstance(change, nn.RMSNorm) else torch.ones(3)
    alone = ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.ReLU(), ntkit.nn.Linear(64, 1, 1.0))).nngp(x)
    changed = ntkit.InfiniteKernel(nn.Sequential(linear(5), nn.ReLU(), change, ntkit.nn.Linear(64, 1, 1.0))).nngp(x)
    cross = mean[:, None] * (mean / norm)[None, :]
    torch.testing.assert_close(ntkit.InfiniteKernel(OfOne()).nngp(x), alone + changed + cross + cross.T)
