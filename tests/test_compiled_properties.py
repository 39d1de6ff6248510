"""Properties of the compiled engine that need no reference values, and its agreement with the torch interpreter.

Symmetry, positive semi-definiteness, permutations, blocks, diagonals, independence of tiles, lanes and threads; results
in memory of the caller; networks drawn at random.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import ntkit
from golden.networks import COMPILED, NETWORKS, torch_model
from golden.torch_models import GlobalSum
from network_parts import Concatenated, Scaled, Several, Summed
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.infinite import Kernels
from ntkit.infinite.compiled import interpreter, pairs, runner, threads
from oracles import arora

BY_NAME = {net.name: net for net in NETWORKS}
# each way through the engine once: slices, classes of offsets, tensors, several stages, vectors
BRIEF = ("stride-2-1", "circular-strided", "pool-2-odd", "densenet-pool", "heads", "signal-pool", "dense-3")
brief_networks = pytest.mark.parametrize("name", BRIEF)
KINDS = ("nngp", "ntk")


def data(n, *sample, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((n, *sample)).astype(dtype)


class GlobalMean(nn.Module):
    def __init__(self, rank=2):
        super().__init__()
        self.axes = tuple(range(2, 2 + rank))

    def forward(self, x):
        return x.mean(self.axes)


def numba_kernel(model):
    """x1, x2, options -> (outputs, 2, n, m), of the compiled engine."""
    kernel = ntkit.InfiniteKernel(model)
    return lambda x1, x2=None, **options: stacked(kernel(x1, x2, engine="numba", **options))


def outputs_of(kernels):
    return (kernels,) if isinstance(kernels, Kernels) else tuple(kernels)


def stacked(kernels):
    return np.stack([np.stack([k.nngp, k.ntk]) for k in outputs_of(kernels)])


def close(found, expected, dtype=np.float64):
    """Equal up to roundings of the largest entry of each matrix."""
    return np.all(np.abs(found - expected) <= 64 * np.finfo(dtype).eps * np.abs(expected).max((-2, -1), keepdims=True))


# ---- every network of the list ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "dtype"),
    [
        *(pytest.param(net, np.float64, id=net.name) for net in COMPILED),
        *(pytest.param(BY_NAME[name], np.float32, id=f"{name}-float32") for name in BRIEF),
    ],
)
def test_symmetry_definiteness_permutations_blocks_and_diagonals(net, dtype):
    kernel, x = ntkit.InfiniteKernel(torch_model(net)), data(5, *net.shape, dtype=dtype)
    joint = stacked(kernel(x, engine="numba"))
    assert joint.dtype == dtype
    assert np.array_equal(joint, joint.swapaxes(-1, -2))
    assert np.linalg.eigvalsh(joint.astype(np.float64)).min() > -64 * np.finfo(dtype).eps * joint.max()

    order = [3, 0, 4, 1, 2]
    assert close(stacked(kernel(x[order], engine="numba")), joint[..., order, :][..., order], dtype)
    assert close(stacked(kernel(x[:3], x[3:], engine="numba")), joint[..., :3, 3:], dtype)

    diagonals = np.stack([np.stack([k.nngp, k.ntk]) for k in outputs_of(kernel.diagonal(x, engine="numba"))])
    assert diagonals.dtype == dtype
    assert close(diagonals[..., None], np.diagonal(joint, axis1=-2, axis2=-1)[..., None], dtype)


@brief_networks
def test_one_kernel_alone_is_the_same(name):
    net = BY_NAME[name]
    kernel, x = ntkit.InfiniteKernel(torch_model(net)), data(3, *net.shape)
    both = outputs_of(kernel(x, engine="numba"))
    for kind in KINDS:
        alone = getattr(kernel, kind)(x, engine="numba")
        for one, two in zip(alone if isinstance(alone, tuple) else (alone,), both, strict=True):
            np.testing.assert_array_equal(one, getattr(two, kind))


# ---- lanes, tiles, threads -------------------------------------------------------------------------------------------


@brief_networks
def test_any_number_of_samples_fills_lanes_alike(name):
    """1 to 18 samples with themselves are 1 to 171 pairs; 1 to 35 with 1 are as many lanes."""
    kernel, x = numba_kernel(torch_model(BY_NAME[name])), data(36, *BY_NAME[name].shape)
    joint = kernel(x[:18])
    for n in (1, 2, 5, 6, 17):
        assert close(kernel(x[:n]), joint[..., :n, :n])
    row = kernel(x[:1], x[1:])
    for n in (1, 15, 16, 17, 33):
        assert close(kernel(x[:1], x[1 : n + 1]), row[..., :n])
        assert close(kernel(x[1 : n + 1], x[:1]), row[..., :n].swapaxes(-1, -2))


def in_small_parts(monkeypatch):
    """The engine works on 16 samples, one tile and 5 rows at a time."""
    monkeypatch.setattr(interpreter, "_STATE_BYTES", 1)
    monkeypatch.setattr(runner, "_GROUP_BYTES", 1)
    monkeypatch.setattr(runner, "TILES_AT_ONCE", 1)
    monkeypatch.setattr(pairs, "_ROWS", 5)


@brief_networks
def test_sizes_of_tiles_do_not_matter(name, monkeypatch):
    kernel, x = numba_kernel(torch_model(BY_NAME[name])), data(23, *BY_NAME[name].shape)
    joint, block = kernel(x), kernel(x[:18], x[18:])
    in_small_parts(monkeypatch)
    assert close(kernel(x), joint)
    assert close(kernel(x[:18], x[18:]), block)


@brief_networks
def test_numbers_of_threads_do_not_matter(name, monkeypatch):
    """Few pairs, whose slices are shared out, and many, which are."""
    kernel, x = numba_kernel(torch_model(BY_NAME[name])), data(13, *BY_NAME[name].shape)
    found = {}
    for number in (1, 2, 7):
        for module in (threads, runner):
            monkeypatch.setattr(module, "available", lambda number=number: number)
        found[number] = kernel(x[:2]), kernel(x)
    for few, many in (found[2], found[7]):
        assert close(few, found[1][0])
        assert close(many, found[1][1])


# ---- results in memory of the caller ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["pool-2-odd", "heads", "dense-3"])
def test_memory_mapped_results(name, dtype, tmp_path, monkeypatch):
    net = BY_NAME[name]
    kernel, x1, x2 = ntkit.InfiniteKernel(torch_model(net)), data(19, *net.shape), data(5, *net.shape, seed=1)
    in_small_parts(monkeypatch)
    names = (tmp_path / str(k) for k in itertools.count())

    def mapped(shape):
        return np.memmap(next(names), dtype, "w+", shape=shape)

    for second in (None, x2):
        shape = (19, 19 if second is None else 5)
        expected = outputs_of(kernel(x1, second, engine="numba", out_dtype=dtype))
        out = [Kernels(mapped(shape), mapped(shape)) for _ in expected]
        given = out if len(out) > 1 else out[0]
        returned = outputs_of(kernel(x1, second, engine="numba", out_dtype=dtype, out=given))
        for one, two, three in zip(out, expected, returned, strict=True):
            for kind in KINDS:
                written = getattr(one, kind)
                assert getattr(three, kind) is written
                written.flush()
                np.testing.assert_array_equal(np.fromfile(written.filename, dtype).reshape(shape), getattr(two, kind))


def test_results_go_into_strided_arrays_and_tensors():
    kernel, x = ntkit.InfiniteKernel(torch_model(BY_NAME["pool-2"])), data(5, 3, 8, 6)
    expected = kernel.ntk(x, engine="numba")
    wide = np.full((10, 15), np.nan)
    kernel.ntk(x, engine="numba", out=wide[::2, ::3])
    np.testing.assert_array_equal(wide[::2, ::3], expected)
    assert np.isnan(np.delete(wide, np.s_[::2], 0)).all()
    tensor = torch.empty(5, 5, dtype=torch.float64).T
    kernel.ntk(torch.from_numpy(x), engine="numba", out=tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("small", [False, True], ids=["one part", "many parts"])
@pytest.mark.parametrize("columns", [None, 21])
@pytest.mark.parametrize("name", ["pool-2-odd", "heads", "dense-3"])
def test_parts_that_are_told_of_cover_the_matrix_once_and_are_complete(name, columns, small, monkeypatch):
    net = BY_NAME[name]
    kernel, x1 = ntkit.InfiniteKernel(torch_model(net)), data(23, *net.shape)
    x2 = None if columns is None else data(columns, *net.shape, seed=1)
    if small:
        in_small_parts(monkeypatch)
    expected = outputs_of(kernel(x1, x2, engine="numba"))
    shape = expected[0].ntk.shape
    out = [Kernels(np.full(shape, np.nan), np.full(shape, np.nan)) for _ in expected]
    seen = np.zeros(shape, dtype=int)

    def on_tile(rows, columns):
        seen[rows, columns] += 1
        for one, two in zip(out, expected, strict=True):
            for kind in KINDS:
                np.testing.assert_array_equal(getattr(one, kind)[rows, columns], getattr(two, kind)[rows, columns])

    kernel(x1, x2, engine="numba", out=out if len(out) > 1 else out[0], on_tile=on_tile)
    assert np.all(seen == 1)


# ---- several outputs -------------------------------------------------------------------------------------------------


class Named(nn.Module):
    """A dictionary of a flattened head after one layer and a pooled one after two."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second
        self.flat, self.mean = ntkit.nn.Linear(80, 1, 1.1, 0.2), ntkit.nn.Linear(4, 1, 0.9)

    def forward(self, x):
        early = self.first(x)
        late = self.second(early)
        return {"flat": self.flat(early.flatten(1)), "mean": self.mean(late.mean((2, 3)))}


def conv(channels, kernel=3, w_std=1.3, b_std=0.2, **options):
    options = {"padding": "same", **options}
    return ntkit.nn.Conv2d(channels, 4, kernel, w_std=w_std, b_std=b_std, **options)


def test_outputs_by_name_are_those_of_networks_with_one():
    first, second = nn.Sequential(conv(3), nn.ReLU()), nn.Sequential(conv(4), ntkit.nn.Erf())
    model, x1, x2 = Named(first, second), data(5, 3, 4, 5), data(3, 3, 4, 5, seed=1)
    alone = {
        "flat": nn.Sequential(first, nn.Flatten(), model.flat),
        "mean": nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.mean),
    }
    for second_side in (None, x2):
        found = ntkit.InfiniteKernel(model)(x1, second_side, engine="numba")
        assert list(found) == ["flat", "mean"]
        for name, network in alone.items():
            assert close(stacked(found[name]), numba_kernel(network)(x1, second_side))


def test_groups_of_wide_layers_make_no_difference():
    """Channels of a wide layer are alike, so a group of them has the covariance of all."""
    x = data(4, 3, 5, 4)
    last = nn.ReLU(), GlobalMean(), ntkit.nn.Linear(4, 1)
    one, two = (nn.Sequential(conv(3), nn.ReLU(), conv(4, groups=groups), *last) for groups in (1, 2))
    assert close(numba_kernel(two)(x), numba_kernel(one)(x))


# ---- what is trained -------------------------------------------------------------------------------------------------


def frozen(model, trained):
    """The model with gradients at the named parameters alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


@pytest.mark.parametrize(("head", "features"), [(nn.Flatten, 48), (GlobalMean, 4)])
def test_the_tangent_kernel_is_the_sum_over_trained_parameters(head, features):
    last = head(), ntkit.nn.Linear(features, 1, 1.2, 0.1)
    model = nn.Sequential(conv(2), nn.ReLU(), nn.AvgPool2d(2, 1), conv(4, padding=1), ntkit.nn.Erf(), *last)
    x = data(5, 2, 5, 4)
    names = [name for name, _ in model.named_parameters()]
    nngp, whole = numba_kernel(frozen(model, names))(x)[0]
    parts = []
    for name in names:
        same, part = numba_kernel(frozen(model, [name]))(x)[0]
        assert close(same[None], nngp[None])
        assert np.linalg.eigvalsh(part).min() > -1e-13 * part.max()
        parts.append(part)
    assert len(parts) == 6
    assert close(np.sum(parts, axis=0)[None], whole[None])
    assert np.all(numba_kernel(frozen(model, []))(x)[0, 1] == 0)


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("fix", [False, True])
def test_the_kernel_of_arora_with_and_without_fixed_layers(gap, fix):
    """Depth 3 on 4×3 images. Their code gives the read-out 1/positions or none, and no bias."""
    root = 2**0.5
    layers = [
        conv(2, w_std=1.0, b_std=0.0, padding=1), nn.ReLU(), conv(4, w_std=root, b_std=0.0, padding=1), nn.ReLU(),
        GlobalMean() if gap else nn.Flatten(), ntkit.nn.Linear(4 if gap else 48, 1, root),
    ]  # fmt: skip
    model, x1, x2 = nn.Sequential(*layers), data(3, 2, 4, 3), data(2, 2, 4, 3, seed=1)
    if fix:
        frozen(model, [name for name, _ in model.named_parameters() if name.startswith("2.")])
    found, expected = numba_kernel(model)(x1, x2)[0, 1], arora.gram(x1, x2, 3, gap, fix)
    ratio = found / expected  # their units: no 1/9 and no 1/channels at the first layer, a trace for a mean
    assert np.ptp(ratio) < 1e-12 * abs(ratio[0, 0])


# ---- networks drawn at random ----------------------------------------------------------------------------------------


@st.composite
def convolutions(draw, rank, channels):
    """A convolution to four channels, or along one axis a transposed one.

    Its bias, and no pixel that periodic padding repeats or that no input reaches, keep values at different positions
    from being equal or multiples of each other: an angle of 0 that is found by cancellation is known to √eps only.
    """
    if rank == 1 and draw(st.booleans()):
        sizes = draw(st.sampled_from([(2, 2, 0), (3, 2, 1), (4, 2, 1), (3, 3, 0), (3, 1, 2), (5, 3, 1)]))
        return ntkit.nn.ConvTranspose1d(channels, 4, *sizes, w_std=1.3, b_std=0.3)
    kernel, stride = draw(st.tuples(*[st.integers(1, 3)] * rank)), draw(st.tuples(*[st.integers(1, 2)] * rank))
    dilation, padding = draw(st.integers(1, 2)), draw(st.tuples(*[st.integers(0, 2)] * rank))
    mode, groups = draw(st.sampled_from(["zeros", "zeros", "circular"])), draw(st.sampled_from([1, 1, 2]))
    if mode == "circular":
        padding = tuple(dilation * (k - 1) // 2 if k % 2 else 0 for k in kernel)
    layer = getattr(ntkit.nn, f"Conv{rank}d")
    made = layer(
        channels, 4, kernel, stride, padding, dilation, groups if channels == 4 else 1,
        w_std=1.3, b_std=0.3, padding_mode=mode,
    )  # fmt: skip
    return made.requires_grad_(draw(st.integers(0, 3)) > 0)


@st.composite
def blocks(draw, rank, channels):
    """A convolution, and around it what a limit allows: pools, branches, an activation."""
    activation = st.builds(lambda make: make(), st.sampled_from([nn.ReLU, ntkit.nn.Erf, lambda: nn.LeakyReLU(0.2)]))
    layers = [draw(convolutions(rank, channels))]
    kind = draw(st.sampled_from(["plain", "plain", "residual", "concatenation"]))
    convolution = getattr(ntkit.nn, f"Conv{rank}d")
    branch = nn.Sequential(draw(activation), convolution(4, 4, 3, padding=1, w_std=1.2, b_std=0.1))
    if kind == "residual":
        layers.append(Summed([Scaled(0.7), branch]))
    elif kind == "concatenation":
        layers += [Concatenated([nn.Sequential(), branch]), convolution(8, 4, 1, w_std=1.1)]
    layers.append(draw(activation))
    kernel = draw(st.integers(1, 3))
    pool = getattr(nn, f"AvgPool{rank}d")(
        kernel, draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2)), draw(st.booleans()), draw(st.booleans())
    )
    place = draw(st.sampled_from(["none", "after", "before"]))
    if place != "none":
        layers.insert(len(layers) - (place == "before"), pool)
    return layers


@st.composite
def networks(draw):
    rank = draw(st.integers(1, 3))
    most = {1: 9, 2: 4, 3: 3}[rank]
    shape = (draw(st.sampled_from([2, 3, 4])), *draw(st.tuples(*[st.integers(2, most)] * rank)))
    body = nn.Sequential(*draw(blocks(rank, shape[0])))
    for _ in range(draw(st.integers(0, 2 if rank < 3 else 1))):
        body.extend(draw(blocks(rank, 4)))
    try:
        size = body(torch.zeros(1, *shape)).flatten(1).shape[1]
    except RuntimeError:
        assume(False)  # torch refuses these sizes
    flat = nn.Sequential(nn.Flatten(), ntkit.nn.Linear(size, 1, 1.1, 0.2))
    mean = nn.Sequential(GlobalMean(rank), ntkit.nn.Linear(4, 3), nn.ReLU(), ntkit.nn.Linear(3, 1))
    total = nn.Sequential(GlobalSum(rank), ntkit.nn.Linear(4, 1, 1.1, 0.2))
    heads = draw(st.lists(st.sampled_from([flat, mean, total]), min_size=1, max_size=3, unique=True))
    n1, n2 = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    return body.append(Several(heads)), data(n1, *shape), data(n2, *shape, seed=1)


def assert_engines_agree(drawn):
    model, x1, x2 = drawn
    x, n = np.concatenate([x1, x2]), len(x1)
    try:
        kernel = ntkit.InfiniteKernel(model)
        kernel.plan(x.shape, engine="numba")
    except (UnsupportedLayer, InvalidInput):
        assume(False)
    expected = stacked(kernel(x, engine="torch"))
    lengths = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    bound = 1e-10 * lengths[..., :, None] * lengths[..., None, :]
    assert np.all(np.abs(stacked(kernel(x, engine="numba")) - expected) <= bound)
    block = stacked(kernel(x1, x2, engine="numba"))
    assert np.all(np.abs(block - expected[..., :n, n:]) <= bound[..., :n, n:])


draw_quietly = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


@settings(draw_quietly, max_examples=15)
@given(networks())
def test_random_networks_have_the_kernels_of_the_torch_interpreter(drawn):
    assert_engines_agree(drawn)


@pytest.mark.slow
@settings(draw_quietly, max_examples=400)
@given(networks())
def test_many_random_networks_have_the_kernels_of_the_torch_interpreter(drawn):
    assert_engines_agree(drawn)
