"""The compiled engine in float32 against its own float64 runs on the same inputs, near duplicates foremost.

Every set holds random samples and a copy of each at distance 1e-4. A textbook recursion in float32 loses their gap, and
with it the sign of the smallest eigenvalue; the engine carries distances. What is left to lose is the rounding of the
results themselves, of which the smallest eigenvalue may lose four times as much:

    λ_min(K32) ≥ λ_min(K64) − 4 ‖round32(K64) − K64‖₂.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import ntkit
from golden.networks import COMPILED, NETWORKS, torch_model
from ntkit.infinite import Kernels
from ntkit.infinite.compiled.interpreter import CompiledInterpreter
from ntkit.infinite.placement import Placement

W, B = 1.4, 0.2  # w_std, b_std of a layer unless said
KINDS = ("nngp", "ntk")
DENSE, CONVOLUTIONAL = 2e-6, 5e-6  # largest errors of entries, in units of √(K_ii K_jj)
ACTIVATIONS = {
    "ReLU": nn.ReLU,
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "Abs": ntkit.nn.Abs,
    "mirrored ReLU": lambda: ntkit.nn.ABReLU(-1.3, 0.0),
    "scaled Abs": lambda: ntkit.nn.ABReLU(1.2, -1.2),
    "ABReLU": lambda: ntkit.nn.ABReLU(0.6, 1.1),
    "Erf": ntkit.nn.Erf,
    "GELU": nn.GELU,
    "Sin": ntkit.nn.Sin,
    "Cos": ntkit.nn.Cos,
    "Gaussian": lambda: ntkit.nn.Gaussian(1.0, -0.5),
    "Sign": ntkit.nn.Sign,
}


def near_duplicates(n, sample, seed=0, gap=1e-4):
    """n random samples, then a copy of each at distance `gap`, in float32."""
    rng = np.random.default_rng(seed)
    x, shift = rng.standard_normal((2, n, *sample))
    lengths = np.sqrt((shift**2).reshape(n, -1).sum(1)).reshape(n, *[1] * len(sample))
    return np.concatenate([x, x + gap * shift / lengths]).astype(np.float32)


def multilayer(activation, depth, features, w_std=W, b_std=B):
    """`depth` linear layers."""
    widths = [features, *[8] * (depth - 1), 1]
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [ntkit.nn.Linear(before, after, w_std, b_std), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional(depth, channels, pixels, head: type[nn.Module] = nn.Flatten):
    """`depth` − 1 convolutions of 3×3 with ReLU and a linear layer."""
    layers = []
    for k in range(depth - 1):
        layers += [ntkit.nn.Conv2d(channels if k == 0 else 4, 4, 3, padding=1, w_std=2**0.5), nn.ReLU()]
    return nn.Sequential(*layers, head(), ntkit.nn.Linear(4 * pixels, 1, 2**0.5))


class GlobalMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def in_both_precisions(model, x):
    """[(K32, K64) of each output] from the same float32 samples."""
    kernel = ntkit.InfiniteKernel(model)
    single, double = kernel(x, engine="numba"), kernel(x.astype(np.float64), engine="numba")
    single, double = ((k,) if isinstance(k, Kernels) else tuple(k) for k in (single, double))
    return list(zip(single, double, strict=True))


def samples_of(net, n):
    return near_duplicates(8 * n if net.fully_connected else n, net.shape)


def scale_of(k):
    root = np.sqrt(np.diagonal(k))
    return root[:, None] * root


def error_of(k32, k64):
    """The largest, in units of √(K_ii K_jj)."""
    assert k32.dtype == np.float32
    assert k64.dtype == np.float64
    return np.max(np.abs(k32 - k64) / scale_of(k64))


def smallest(k):
    return np.linalg.eigvalsh(k.astype(np.float64))[0]


def shortfall(k32, k64):
    """(λ_min(K64) − λ_min(K32)) / 4 ‖round32(K64) − K64‖₂, at most 1 where all is well."""
    rounding = np.linalg.norm(k64.astype(np.float32) - k64, 2)
    return (smallest(k64) - smallest(k32)) / (4 * rounding)


def errors_of(single, double):
    return {kind: error_of(getattr(single, kind), getattr(double, kind)) for kind in KINDS}


def shortfalls(single, double):
    return {kind: shortfall(getattr(single, kind), getattr(double, kind)) for kind in KINDS}


def bound_of(net):
    return DENSE if net.fully_connected else CONVOLUTIONAL


# ---- every network of the list ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=COMPILED, ids=lambda net: net.name)
def few(request):
    """(network, kernels of a few images and their copies)."""
    return request.param, in_both_precisions(torch_model(request.param), samples_of(request.param, 4))


def test_entries_of_near_duplicates_are_those_of_float64(few):
    net, outputs = few
    for pair in outputs:
        assert max(errors_of(*pair).values()) <= bound_of(net)


def test_smallest_eigenvalues_lose_no_more_than_rounding_takes(few):
    for pair in few[1]:
        assert max(shortfalls(*pair).values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("net", COMPILED, ids=lambda net: net.name)
def test_the_same_of_forty_images_and_forty_copies(net):
    for pair in in_both_precisions(torch_model(net), samples_of(net, 40)):
        assert max(errors_of(*pair).values()) <= bound_of(net)
        assert max(shortfalls(*pair).values()) <= 1


# ---- ReLU keeps the smallest eigenvalue itself -----------------------------------------------------------------------


@pytest.mark.parametrize("depth", [5, 20])
def test_relu_tangent_kernel_keeps_its_smallest_eigenvalue(depth):
    kernel = ntkit.InfiniteKernel(multilayer(nn.ReLU, depth, 20, 2**0.5, 0.0))
    x = near_duplicates(500, (20,))
    k32, k64 = kernel.ntk(x, engine="numba"), kernel.ntk(x.astype(np.float64), engine="numba")
    assert error_of(k32, k64) <= DENSE
    assert smallest(k32) > 0
    assert abs(smallest(k32) / smallest(k64) - 1) < 0.05


@pytest.mark.parametrize("depth", [5, 20])
def test_flattened_convolutional_tangent_kernel_keeps_its_smallest_eigenvalue(depth):
    kernel = ntkit.InfiniteKernel(convolutional(depth, 3, 16))
    x = near_duplicates(100, (3, 4, 4))
    k32, k64 = kernel.ntk(x, engine="numba"), kernel.ntk(x.astype(np.float64), engine="numba")
    assert error_of(k32, k64) <= CONVOLUTIONAL
    assert smallest(k32) > 0
    assert abs(smallest(k32) / smallest(k64) - 1) < 0.05


# ---- fully connected networks of every activation --------------------------------------------------------------------


@pytest.fixture(scope="module", params=itertools.product(ACTIVATIONS, (2, 5, 20)), ids=lambda p: f"{p[0]}-{p[1]}")
def multilayer_pair(request):
    name, depth = request.param
    (pair,) = in_both_precisions(multilayer(ACTIVATIONS[name], depth, 20), near_duplicates(50, (20,)))
    return pair


def test_entries_of_every_activation_at_every_depth(multilayer_pair):
    assert max(errors_of(*multilayer_pair).values()) <= DENSE


def test_smallest_eigenvalues_of_every_activation_at_every_depth(multilayer_pair):
    assert max(shortfalls(*multilayer_pair).values()) <= 1


@pytest.mark.parametrize("degree", [2, 3])
def test_monomials(degree):
    model = multilayer(lambda: ntkit.nn.Monomial(degree), 2, 20)
    (pair,) = in_both_precisions(model, near_duplicates(50, (20,)))
    assert max(errors_of(*pair).values()) <= DENSE
    assert max(shortfalls(*pair).values()) <= 1


# ---- hard inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ReLU", "Erf", "GELU"])
def test_samples_of_unequal_lengths(name):
    x = near_duplicates(20, (20,))
    x[10:20] *= 10
    (pair,) = in_both_precisions(multilayer(ACTIVATIONS[name], 5, 20), x)
    assert max(errors_of(*pair).values()) <= DENSE


@pytest.mark.parametrize("head", ["flatten", "mean"])
def test_copies_and_blank_images(head):
    """Equal samples have equal rows, and all entries stay those of float64."""
    pixels, last = (20, nn.Flatten) if head == "flatten" else (1, GlobalMean)
    x = near_duplicates(4, (3, 4, 5))
    x = np.concatenate([x[:4], x[:4], np.zeros_like(x[:1]), np.ones_like(x[:1])])
    (pair,) = in_both_precisions(convolutional(4, 3, pixels, last), x)
    for kind in KINDS:
        k32, k64 = (getattr(k, kind) for k in pair)
        eps = np.finfo(np.float32).eps * k64.max()
        assert np.all(np.abs(k64[8]) < 1e-15)  # no bias: a blank image gives 0
        assert np.all(np.abs(k32 - k64) <= CONVOLUTIONAL * scale_of(k64) + eps)
        assert np.all(np.abs(k32[:4] - k32[4:8]) <= 4 * eps)
        assert np.all(np.abs(k32[:4, 4:8].diagonal() - k32.diagonal()[:4]) <= 4 * eps)


@pytest.mark.parametrize("factor", [3.0, -1.0])
def test_samples_in_the_same_or_the_opposite_direction(factor):
    x = near_duplicates(10, (20,))
    x[10:] *= np.float32(factor)
    (pair,) = in_both_precisions(multilayer(nn.ReLU, 3, 20, 2**0.5, 0.0), x)
    assert max(errors_of(*pair).values()) <= DENSE


def test_pools_do_not_drown_a_change_of_one_pixel():
    x = np.repeat(near_duplicates(1, (2, 6, 6))[:1], 5, axis=0)
    for k in range(1, 5):
        x[k, 0, 0, 0] += np.float32(k * 1e-4)
    model = nn.Sequential(
        ntkit.nn.Conv2d(2, 4, 3, padding=1, w_std=W), nn.ReLU(), nn.AvgPool2d(2),
        ntkit.nn.Conv2d(4, 4, 3, padding=1, w_std=W), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(),
        ntkit.nn.Linear(4, 4, W), ntkit.nn.Sign(),
    )  # fmt: skip
    kernel = ntkit.InfiniteKernel(model)  # 1 − K = 2θ/π of the sign shows the angle
    k32 = kernel.nngp(x, engine="numba", out_dtype=np.float64)
    k64 = kernel.nngp(x.astype(np.float64), engine="numba")
    apart = ~np.eye(5, dtype=bool)
    assert np.all((1 - k64)[apart] > 1e-7)
    np.testing.assert_allclose((1 - k32)[apart], (1 - k64)[apart], rtol=0.02)


# ---- means over many positions ---------------------------------------------------------------------------------------


def conv(channels, kernel=3, dimensions=2):
    """A convolution to 4 channels."""
    layer = ntkit.nn.Conv1d if dimensions == 1 else ntkit.nn.Conv2d
    return layer(channels, 4, kernel, padding=kernel // 2, w_std=W)


def pooled(*layers):
    """The layers, a mean over all positions and a read-out."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), ntkit.nn.Linear(4, 1, W))


def assert_keeps_digits(model, x):
    (pair,) = in_both_precisions(model, x)
    assert max(errors_of(*pair).values()) <= CONVOLUTIONAL
    assert max(shortfalls(*pair).values()) <= 1


@pytest.mark.parametrize("positions", [9, 256, 1024])
@pytest.mark.parametrize("first", ["data", "3 taps", "4 taps"])
@pytest.mark.parametrize("last", ["read-out", "layers"])
def test_means_of_what_no_activation_has_read(first, last, positions):
    """Their covariance is small beside the distances that it is a difference of."""
    layers = [] if first == "data" else [conv(4, int(first[0]), dimensions=1)]
    more = [] if last == "read-out" else [ntkit.nn.Linear(4, 4, W), nn.ReLU(), ntkit.nn.Linear(4, 4, W), nn.ReLU()]
    pool = nn.AdaptiveAvgPool1d(1), nn.Flatten()
    assert_keeps_digits(nn.Sequential(*layers, *pool, *more, ntkit.nn.Linear(4, 1)), near_duplicates(4, (4, positions)))


@pytest.mark.parametrize("window", [2, 3, 4, 6, 12])
@pytest.mark.parametrize(
    "layers",
    [
        lambda pool: [conv(3), pool],
        lambda pool: [pool, conv(3)],
        lambda pool: [pool, conv(3), nn.ReLU(), conv(4)],
        lambda pool: [conv(3), conv(4), pool, nn.ReLU()],
        lambda pool: [conv(3), nn.ReLU(), pool],
        lambda pool: [conv(3), nn.ReLU(), pool, conv(4)],
        lambda pool: [conv(3), nn.ReLU(), conv(4), pool, nn.ReLU()],
    ],
)
def test_windows_of_every_size_between_layers(layers, window):
    assert_keeps_digits(pooled(*layers(nn.AvgPool2d(window))), near_duplicates(8, (3, 12, 12)))


@pytest.mark.parametrize("layers", [[], [nn.AvgPool2d(2), conv(4)], [nn.AvgPool2d(2), conv(4), nn.ReLU()]])
@pytest.mark.parametrize("level", [0.0, 1.0], ids=["noise", "nearly constant"])
def test_means_over_large_images(layers, level):
    x = near_duplicates(2, (3, 32, 32), gap=1e-4 if level == 0 else 1e-2)
    x = x if level == 0 else (level + 0.01 * x).astype(np.float32)
    assert_keeps_digits(pooled(conv(3), nn.ReLU(), *layers), x)


@pytest.mark.parametrize(
    ("dtype", "layers"),
    [
        ("float32", [conv(3), nn.ReLU()]),  # a mean over all positions, summed up in float64
        ("float32", [conv(3), nn.AvgPool2d(2), nn.ReLU()]),
        ("float32", [conv(3), nn.ReLU(), nn.AvgPool2d(2), conv(4), nn.ReLU(), nn.AvgPool2d(3)]),
        ("float32", [nn.ReflectionPad2d(1), conv(3), nn.ReLU()]),  # each position is one of those before
        ("float64", [conv(3), nn.ReLU(), nn.AvgPool2d(2), nn.AvgPool2d(2)]),  # two pools in a row are a larger one
        ("float64", [conv(3)]),
    ],
)
def test_only_networks_whose_pools_need_it_are_computed_in_float64(dtype, layers):
    kernel = ntkit.InfiniteKernel(pooled(*layers))
    placement = Placement(kernel.program, (3, 12, 12))
    assert CompiledInterpreter(placement, np.dtype(np.float32), True, kernel.tolerance).dtype == dtype


# ---- dtypes of results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense-3", "pool-2", "resnet-gap", "heads"])
def test_float64_results_of_float32_samples_are_the_same_before_rounding(name):
    net = next(net for net in NETWORKS if net.name == name)
    kernel, x = ntkit.InfiniteKernel(torch_model(net)), samples_of(net, 6)
    long, short = kernel(x, engine="numba", out_dtype=np.float64), kernel(x, engine="numba")
    longs, shorts = ((k,) if isinstance(k, Kernels) else tuple(k) for k in (long, short))
    for one, two, (_, double) in zip(longs, shorts, in_both_precisions(torch_model(net), x), strict=True):
        for kind in KINDS:
            wide, narrow, exact = (getattr(k, kind) for k in (one, two, double))
            assert wide.dtype == np.float64
            np.testing.assert_array_equal(wide.astype(np.float32), narrow)
            assert np.max(np.abs(wide - exact) / scale_of(exact)) <= CONVOLUTIONAL


def test_dtypes_of_results_are_those_asked_for():
    model = multilayer(nn.ReLU, 3, 4)
    kernel, x = ntkit.InfiniteKernel(model), near_duplicates(3, (4,))
    double = x.astype(np.float64)
    assert kernel.ntk(x).dtype == np.float32
    assert kernel.ntk(double).dtype == np.float64
    np.testing.assert_array_equal(kernel.ntk(double, out_dtype=np.float32), kernel.ntk(double).astype(np.float32))
    tensor = torch.from_numpy(x)
    assert kernel.nngp(tensor, out_dtype=torch.float64).dtype == torch.float64
    assert kernel.diagonal(tensor, out_dtype=torch.float64).ntk.dtype == torch.float64
    assert kernel.diagonal(x).nngp.dtype == np.float32
