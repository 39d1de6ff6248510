"""Exact kernels with transposed convolutions: covariances by unit impulses, both engines, finite networks."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import ntkit
from golden.torch_models import GlobalSum
from layer_cases import B, W, assert_limit, data, readout_kernel, up
from network_parts import Concatenated, Scaled, Several, Summed
from ntkit.errors import InvalidInput
from oracles import convolutional as book
from oracles import jacobian, recursion
from oracles import transposed as oracle


def conv(inputs: int, outputs: int = 8, kernel: Any = 3, **options: Any) -> nn.Module:
    return ntkit.nn.Conv2d(inputs, outputs, kernel, w_std=W, b_std=B, **{"padding": 1, **options})


class GlobalMean(nn.Module):
    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.axes = tuple(range(2, 2 + rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axes)


def with_heads(body: nn.Module, sample: tuple[int, ...]) -> nn.Module:
    """A flattened and a pooled read-out behind the body."""
    with torch.no_grad():
        channels, *grid = body(torch.zeros(1, *sample)).shape[1:]
    flat = nn.Sequential(nn.Flatten(), ntkit.nn.Linear(channels * math.prod(grid), 1, W, B))
    mean = nn.Sequential(GlobalMean(len(grid)), ntkit.nn.Linear(channels, 1, W, B))
    return nn.Sequential(body, Several([flat, mean]))


def stacked(kernels: Any) -> torch.Tensor:
    """(outputs, 2, n, m)."""
    outputs = (kernels,) if isinstance(kernels, ntkit.infinite.Kernels) else tuple(kernels)
    return torch.stack([torch.stack([k.nngp, k.ntk]) for k in outputs])


# ---- covariances by unit impulses ------------------------------------------------------------------------------------


def expected(layers: list[dict[str, Any]], x1: torch.Tensor, x2: torch.Tensor | None) -> torch.Tensor:
    """(outputs, 2, n, m) of transposed convolutions with ReLU and both heads, by covariances of all positions."""
    field = book.data(x1.numpy(), None if x2 is None else x2.numpy())
    for layer in layers:
        field = book.affine(oracle.window(field, **layer), W, B)
        field = book.activation(field, recursion.leaky_relu_dual(0.0))
    heads = (book.flatten(field), book.global_average(field))
    return torch.stack([torch.from_numpy(np.stack(book.result(book.affine(head, W, B)))) for head in heads])


def network(layers: list[dict[str, Any]], sample: tuple[int, ...]) -> nn.Module:
    modules: list[nn.Module] = []
    for i, layer in enumerate(layers):
        modules += [up(8 if i else sample[0], rank=len(sample) - 1, **layer), nn.ReLU()]
    return with_heads(nn.Sequential(*modules), sample)


def assert_equal_to_covariances(
    layers: list[dict[str, Any]], sample: tuple[int, ...], engines: tuple[str, ...]
) -> None:
    kernel = ntkit.InfiniteKernel(network(layers, sample))
    x1, x2 = data(3, *sample), data(2, *sample, seed=1)
    for second in (None, x2):
        wanted = expected(layers, x1, second)
        for engine in engines:
            torch.testing.assert_close(stacked(kernel(x1, second, engine=engine)), wanted, rtol=1e-9, atol=1e-10)


SPACES: dict[str, tuple[list[dict[str, Any]], tuple[int, ...]]] = {
    "no padding": ([{"kernel": 3, "stride": 2}, {"kernel": 2, "stride": 2}], (2, 2, 3)),
    "doubling": ([{"kernel": 3, "stride": 2, "padding": 1, "output_padding": 1}], (3, 3, 2)),
    "dilated": ([{"kernel": (2, 3), "stride": (2, 3), "dilation": (3, 2), "padding": (2, 1)}], (1, 3, 3)),
    "sparse": ([{"kernel": 1, "stride": 2}, {"kernel": (1, 2), "stride": 3, "output_padding": (2, 1)}], (2, 2, 2)),
    "stride 1": ([{"kernel": (2, 3), "padding": (0, 2)}, {"kernel": 2, "dilation": 2, "output_padding": 1}], (2, 3, 4)),
    "cropped by stride 1": ([{"kernel": 1, "padding": 1}, {"kernel": 2, "padding": 2}], (2, 6, 7)),
    "signal": ([{"kernel": 4, "stride": 2, "padding": 1}, {"kernel": 5, "stride": 3, "padding": 2}], (2, 4)),
    "volume": ([{"kernel": (1, 2, 3), "stride": (2, 1, 2), "padding": (0, 0, 1)}], (1, 2, 1, 3)),
}


@pytest.mark.parametrize("name", SPACES)
def test_kernels_are_those_of_covariances_mapped_tap_by_tap(name):
    assert_equal_to_covariances(*SPACES[name], ("numba", "torch"))


windows = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "output_padding": st.integers(0, 2),
    }
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(windows, min_size=1, max_size=2), st.integers(2, 4))
def test_random_windows_have_the_kernels_of_covariances(layers, n):
    length = n
    for layer in layers:
        assume(layer["output_padding"] < max(layer["stride"], layer["dilation"]))
        reach = layer["dilation"] * (layer["kernel"] - 1) - 2 * layer["padding"] + layer["output_padding"]
        length = (length - 1) * layer["stride"] + reach + 1
        assume(length >= 1)
    assert_equal_to_covariances(layers, (2, n), ("auto", "torch"))


def test_a_grid_made_of_one_position():
    """A generator: (n, channels, 1, 1) becomes an image, which the compiled engine leaves to torch."""
    layers = [{"kernel": 2}, {"kernel": 4, "stride": 2, "padding": 1}]
    assert_equal_to_covariances(layers, (3, 1, 1), ("auto",))
    with pytest.raises(InvalidInput, match="a layer makes several positions of one"):
        ntkit.InfiniteKernel(network(layers, (3, 1, 1)))(data(2, 3, 1, 1), engine="numba")


def test_positions_that_no_input_reaches_are_zero_without_bias():
    body = nn.Sequential(ntkit.nn.ConvTranspose1d(2, 8, 1, 3, w_std=W), nn.ReLU(), ntkit.nn.Conv1d(8, 8, 2), nn.ReLU())
    x = data(3, 2, 4)
    field = book.affine(oracle.window(book.data(x.numpy()), 1, stride=3), W)
    field = book.activation(field, recursion.leaky_relu_dual(0.0))
    field = book.activation(book.conv(field, 2, 1.0), recursion.leaky_relu_dual(0.0))
    kernel = ntkit.InfiniteKernel(with_heads(body, (2, 4)))
    wanted = np.stack([book.result(book.affine(head(field), W, B)) for head in (book.flatten, book.global_average)])
    for engine in ("numba", "torch"):
        torch.testing.assert_close(stacked(kernel(x, engine=engine)), torch.from_numpy(wanted), rtol=1e-9, atol=1e-10)


# ---- beside other layers ---------------------------------------------------------------------------------------------

HALVED = [nn.ReLU(), conv(8, 8, 2, stride=2, padding=0), nn.ReLU(), up(8, 8, 2, stride=2)]
BODIES: dict[str, list[nn.Module]] = {
    "u-net": [conv(2), Summed([nn.Sequential(), nn.Sequential(*HALVED)]), nn.ReLU(), conv(8)],
    "skip by concatenation": [
        conv(2, stride=2), nn.ReLU(),
        Concatenated([up(8, 8, 3, stride=2), nn.Sequential(up(8, 4, 3, stride=2), nn.ReLU())]), conv(12),
    ],
    "pools around": [
        conv(2), nn.AvgPool2d(2), nn.ReLU(), up(8, stride=2), nn.ReLU(), nn.AvgPool2d(3, 2), conv(8),
    ],
    "circular around": [
        conv(2, padding_mode="circular"), nn.ReLU(), up(8, stride=2), nn.ReLU(), conv(8, padding_mode="circular"),
    ],
    "norms around": [
        conv(2), nn.GroupNorm(1, 8), nn.ReLU(), up(8, 8, (3, 2), stride=(2, 1)), nn.GroupNorm(2, 8), ntkit.nn.Erf(),
        conv(8),
    ],
    "strides around": [
        conv(2, stride=2), nn.ReLU(), up(8, 8, 4, stride=3, padding=1), Scaled(0.7), nn.ReLU(), conv(8, stride=2),
    ],
    "frozen": [conv(2), nn.ReLU(), up(8, stride=2).requires_grad_(False), nn.ReLU(), up(8, stride=2)],
    "one axis alone": [
        conv(2), nn.ReLU(), up(8, 8, (1, 3), stride=(1, 2)), nn.ReLU(), up(8, 8, (3, 1), stride=(2, 1)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_both_engines_agree_beside_other_layers(name):
    """With both heads; and with one, where the compiled engine takes equal positions only, or all."""
    body, sample = nn.Sequential(*BODIES[name], nn.ReLU()), (2, 4, 6)
    both = with_heads(body, sample)
    x, y = data(5, *sample), data(3, *sample, seed=1)
    for second in (None, y):
        wanted = stacked(ntkit.InfiniteKernel(both)(x, second, engine="torch"))
        found = stacked(ntkit.InfiniteKernel(both)(x, second, engine="numba"))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
        for k, head in enumerate(both[1].branches):
            alone = stacked(ntkit.InfiniteKernel(nn.Sequential(body, head))(x, second, engine="numba"))
            torch.testing.assert_close(alone, wanted[k : k + 1], rtol=1e-10, atol=0)
    gram = ntkit.InfiniteKernel(both)(x, engine="numba")
    assert all(torch.linalg.eigvalsh(k).min() > 0 for k in stacked(gram).flatten(0, 1))


def test_sums_over_positions_of_the_layer_itself():
    """Totals that read it without an activation between, and an output of one position."""
    x = data(4, 2, 3, 4)
    for last in (GlobalSum(2), GlobalMean(2), nn.Flatten()):
        body = nn.Sequential(conv(2), nn.ReLU(), up(8, 8, stride=2), last)
        kernel = ntkit.InfiniteKernel(body.append(ntkit.nn.Linear(8 * (63 if isinstance(last, nn.Flatten) else 1), 1)))
        torch.testing.assert_close(kernel.ntk(x, engine="numba"), kernel.ntk(x, engine="torch"), rtol=1e-11, atol=0)
    single = nn.Sequential(
        conv(2), nn.ReLU(), up(8, 8, 3, stride=2, padding=(3, 4)), nn.Flatten(), ntkit.nn.Linear(8, 1)
    )
    kernel = ntkit.InfiniteKernel(single)
    torch.testing.assert_close(kernel.ntk(x, engine="numba"), kernel.ntk(x, engine="torch"), rtol=1e-11, atol=0)


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_near_duplicates_keep_their_distance(gap):
    """sign gives 1 − K = 2 θ/π, whose angle is compared in fifty digits."""
    x = data(1, 1, 3)
    near = x + gap * data(1, 1, 3, seed=1)
    with mpmath.workdps(50):
        w, b = mpmath.mpf(W), mpmath.mpf(B)
        field = book.data(book.exact_numbers(x.numpy()), book.exact_numbers(near.numpy()))
        for kernel, stride in ((3, 2), (2, 3)):
            field = book.affine(oracle.window(field, kernel, stride=stride), w, b)
            field = book.activation(field, book.mp_relu_dual)
        field = book.affine(book.flatten(field), w, b)
        k11, k22, k12 = (k.item() for k in (field.k11, field.k22, field.k12))
        angle = float(2 / mpmath.pi * mpmath.acos(k12 / mpmath.sqrt(k11 * k22)))
    body = [up(1, 8, 3, 1, stride=2), nn.ReLU(), up(8, 8, 2, 1, stride=3), nn.ReLU(), nn.Flatten()]
    last = [ntkit.nn.Linear(8 * 20, 8, W, B), ntkit.nn.Sign(), ntkit.nn.Linear(8, 1, 1.0)]
    kernel = ntkit.InfiniteKernel(nn.Sequential(*body, *last))
    for engine in ("numba", "torch"):
        assert abs((1 - kernel.nngp(x, near, engine=engine).item()) / angle - 1) < 1e-15 / angle + 1e-13


def test_gradients_in_the_inputs():
    kernel = ntkit.InfiniteKernel(network([{"kernel": 3, "stride": 2, "padding": 1}], (2, 2, 3)))
    x, y = data(2, 2, 2, 3).requires_grad_(), data(1, 2, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: stacked(kernel(a, b)), (x, y), atol=1e-6, rtol=1e-5, fast_mode=True)


# ---- finite networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 3, "groups": 4}])
def test_wide_networks_tend_to_the_exact_kernel(options):
    x = data(3, 2, 2, 3)
    body = nn.Sequential(conv(2, 16), nn.ReLU(), up(16, 16, **options), nn.ReLU(), GlobalMean())
    exact = ntkit.InfiniteKernel(body.append(ntkit.nn.Linear(16, 1, W, B))).nngp(x)
    draws = []
    for seed in range(32):
        torch.manual_seed(seed)
        wide = nn.Sequential(conv(2, 512), nn.ReLU(), up(512, 512, **options), nn.ReLU(), GlobalMean()).double()
        with torch.no_grad():
            draws.append(readout_kernel(wide(x)))
    assert_limit(draws, exact)


def plain(channels: tuple[int, int]) -> nn.Module:
    """Torch's own layers with torch's own draw; the widths enter the tangent kernel."""
    first, second = channels
    last = [nn.ReLU(), nn.Flatten(), nn.Linear(second * 6, 1)]
    return nn.Sequential(nn.Conv1d(2, first, 2), nn.ReLU(), nn.ConvTranspose1d(first, second, 3, 2, 1, 1), *last)


PARAMETERS = ("2.weight", "2.bias", "0.*")


@pytest.mark.parametrize(
    ("own", "channels"),
    [
        (True, (96, 192)), (False, (192, 96)),
        pytest.param(True, (512, 256), marks=pytest.mark.slow), pytest.param(False, (256, 512), marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_tangent_kernels_of_wide_networks_tend_to_the_exact_one(own, channels):
    """Parameter by parameter: the others are frozen in the exact kernel, and not asked for in the finite one."""
    x = data(3, 2, 4)
    draws: dict[str, list[torch.Tensor]] = {name: [] for name in PARAMETERS}
    for seed in range(32):
        torch.manual_seed(seed)
        model = plain(channels)
        model = (ntkit.ntk_parameterize(model, W, B) if own else model).double()
        for name, kernels in draws.items():
            kernels.append(ntkit.empirical_ntk(model, x, outputs="trace", parameters=name))
    scales = {} if own else {"w_std": "torch", "b_std": "torch", "parameterization": "standard"}
    for name, kernels in draws.items():
        for path, parameter in model.named_parameters():
            parameter.requires_grad_(path.startswith(name.strip("*")))
        assert_limit(kernels, ntkit.InfiniteKernel(model, **scales).ntk(x))


def test_empirical_kernels_take_the_exact_generic_route():
    model = nn.Sequential(nn.ConvTranspose1d(2, 4, 3, 2), nn.ReLU(), up(4, 2, 2, 1, stride=3), nn.Flatten()).double()
    x = data(3, 2, 2)
    slopes = jacobian.jacobian(model, x)
    torch.testing.assert_close(ntkit.empirical_ntk(model, x), jacobian.kernel(slopes, slopes, "full"))
