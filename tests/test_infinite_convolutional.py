"""The torch interpreter on programs with positions: textbook covariances, gradients, near duplicates, properties."""

import itertools

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convolutional_networks import (
    NETWORKS,
    TANH,
    B,
    Instructions,
    Textbook,
    W,
    Wide,
    circular_residual,
    heads,
    smooth_mixture,
    sum_of_activations,
    two_convs,
)
from ntkit.architecture import specs, windows
from ntkit.errors import MemoryLimitExceeded
from ntkit.infinite import program as ops
from ntkit.infinite import torch_interpreter, torch_positions
from ntkit.infinite.placement import Placement
from ntkit.infinite.torch_interpreter import TorchInterpreter
from oracles import convolutional as oracle


def data(n, *sample, seed=0):
    return torch.randn(n, *sample, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def interpreter_of(network, sample, tolerance=1e-11):
    build = Instructions(len(sample) - 1)
    program = build.finish(network(build, build.read))
    return TorchInterpreter(program, tolerance, Placement(program, sample))


def expected_of(network, x1, x2):
    book = Textbook(x1.numpy(), None if x2 is None else x2.numpy())
    return [oracle.result(field) for field in network(book, book.read)]


def assert_equal_to_textbook(network, sample, sizes=(3, 2), tolerance=1e-10):
    interpreter = interpreter_of(network, sample)
    x1, x2 = data(sizes[0], *sample), data(sizes[1], *sample, seed=1)
    for second in (x2, None):
        got = interpreter.matrix(x1, second, True, True)
        for (nngp, ntk), (k, t) in zip(got, expected_of(network, x1, second), strict=True):
            np.testing.assert_allclose(nngp, k, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(ntk, t, rtol=tolerance, atol=tolerance)
            if second is None:
                assert torch.equal(nngp, nngp.T)
                assert torch.equal(ntk, ntk.T)


# ---- against the textbook --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_feature_equals_the_textbook(name):
    assert_equal_to_textbook(*NETWORKS[name])


def test_integrated_activations_take_positions():
    def network(b, x):
        return heads(b, b.act(b.conv(b.pool(b.act(b.conv(x, 2), TANH), kernel=2), 2, padding=1), TANH))

    interpreter = interpreter_of(network, (1, 3, 4))
    x1, x2 = data(2, 1, 3, 4), data(1, 1, 3, 4, seed=1)
    for (nngp, ntk), (k, t) in zip(interpreter.matrix(x1, x2, True, True), expected_of(network, x1, x2), strict=True):
        np.testing.assert_allclose(nngp, k, rtol=1e-9)
        np.testing.assert_allclose(ntk, t, rtol=1e-9)
    itself, diagonal = interpreter.matrix(x1, None, True, True), interpreter.diagonal(x1, True, True)
    for both, single in zip(itself, diagonal, strict=True):
        for matrix, vector in zip(both, single, strict=True):
            torch.testing.assert_close(matrix.diagonal(), vector, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("channel_axis", "position_axes", "moved"),
    [(3, (1, 2), (0, 2, 3, 1)), (1, (3, 2), (0, 1, 3, 2)), (2, (3, 1), (0, 3, 1, 2))],
)
def test_axes_of_the_data_may_come_in_any_order(channel_axis, position_axes, moved):
    network, sample = NETWORKS["stride"]
    x = data(3, *sample)
    stored = x.permute(*moved).contiguous()
    build = Instructions(2)
    outputs = network(build, build.read)
    build.ops[0] = ops.Read(None, False, channel_axis, position_axes)
    program = build.finish(outputs)
    got = TorchInterpreter(program, 1e-8, Placement(program, tuple(stored.shape[1:]))).matrix(stored, None, True, True)
    expected = interpreter_of(network, sample).matrix(x, None, True, True)
    for both, wanted in zip(got, expected, strict=True):
        for one, two in zip(both, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-13, atol=0)


@pytest.mark.parametrize("read", [ops.Read(None, True), ops.Read(None, False, None, (1, 2, 3))])
def test_flattened_images_and_images_without_channels_are_read(read):
    """A linear layer on the flattened image is a trace over its positions, whatever counts as a channel."""
    x1, x2 = data(3, 2, 3, 4), data(2, 2, 3, 4, seed=1)
    program = ops.Program((read, ops.Trace(0), ops.Affine(1, W**2, B**2, W**2, B**2)), (2,))
    nngp, ntk = TorchInterpreter(program, 1e-8, Placement(program, (2, 3, 4))).matrix(x1, x2, True, True)[0]
    expected = W**2 * x1.flatten(1) @ x2.flatten(1).T / 24 + B**2
    torch.testing.assert_close(nngp, expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(ntk, expected, rtol=1e-13, atol=1e-14)


windows_1d = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 2),
        "padding": st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "circular": st.booleans(),
    }
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(windows_1d, min_size=1, max_size=3), st.integers(1, 3), st.integers(3, 8), st.booleans())
def test_random_windows_equal_the_textbook(layers, pool, n, circular):
    def network(b, x):
        for layer in layers:
            x = b.act(b.conv(x, **layer))
        return heads(b, b.act(b.conv(b.pool(x, kernel=pool, stride=1, padding=pool // 2), 2, padding=1)))

    length = n
    for layer in layers:
        (before, after), span = layer["padding"][0], layer["dilation"] * (layer["kernel"] - 1) + 1
        if length + before + after < span or (layer["circular"] and max(before, after) > length):
            return  # such a window is refused: see the placement's own tests
        length = (length + before + after - span) // layer["stride"] + 1
    assert_equal_to_textbook(network, (1, n), sizes=(2, 2))


@pytest.mark.parametrize("network", [sum_of_activations, circular_residual])
def test_wide_networks_tend_to_the_kernel(network):
    """Means over drawn networks, within four standard errors.

    Of a read-out w·φ/√F the covariance given the features is w_std² φ·φ'/F + b_std², which has a smaller variance.
    """
    x, draws = data(2, 2, 7, 6), []
    for _ in range(30):
        wide = Wide(x, 128)
        kernels = []
        for features, output in network(wide, wide.read):
            nngp = W**2 * features @ features.T / features.shape[1] + B**2
            slopes = torch.stack([slope_of(f, wide.parameters) for f in output])
            kernels += [nngp.detach(), slopes @ slopes.T]
        draws.append(torch.stack(kernels))
    found = torch.stack(draws)
    exact = torch.stack([k for both in interpreter_of(network, (2, 7, 6)).matrix(x, None, True, True) for k in both])
    deviation = (found.mean(0) - exact).abs() / (found.std(0) / len(draws) ** 0.5)
    print("SE", (found.std(0) / len(draws) ** 0.5 / exact.abs()).amax((1, 2)), deviation.max())
    assert deviation.max() < 4


def slope_of(output, parameters):
    """The derivative by all parameters of the network, those of other read-outs left out."""
    slopes = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([slope.flatten() for slope in slopes if slope is not None])


# ---- pooling matrices against torch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_pooling_matrices_are_what_torch_does_to_one_hot_inputs(n, kernel, stride, ceil, counted):
    for padding in range(kernel // 2 + 1):
        if n + 2 * padding < kernel:
            continue
        axis = windows.PoolWindow(kernel, stride, padding, ceil, counted)
        one_hot = torch.eye(n, dtype=torch.float64)[:, None]
        torchs = F.avg_pool1d(one_hot, kernel, stride, padding, ceil, counted)[:, 0].T
        np.testing.assert_allclose(axis.matrix(n), torchs, rtol=1e-15)
        sums = windows.PoolWindow(kernel, stride, padding, ceil, counted, average=False).matrix(n)
        np.testing.assert_array_equal(sums != 0, torchs.numpy() != 0)
        images = torch.eye(3 * n, dtype=torch.float64).view(3 * n, 1, 3, n)
        flat = F.avg_pool2d(images, (1, kernel), (2, stride), (0, padding), ceil, counted).flatten(1).T
        rows = windows.PoolWindow(1, 2, 0, ceil, counted).matrix(3)
        np.testing.assert_allclose(np.kron(rows, axis.matrix(n)), flat, rtol=1e-15)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("out", [1, 2, 5])
def test_adaptive_matrices_are_what_torch_does_to_one_hot_inputs(n, out):
    torchs = F.adaptive_avg_pool1d(torch.eye(n, dtype=torch.float64)[:, None], out)[:, 0].T
    np.testing.assert_allclose(windows.AdaptiveAxis(out).matrix(n), torchs, rtol=1e-15)


# ---- accuracy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("head", ["mean", "flat"])
def test_near_duplicates_keep_their_distance_through_pools(gap, head):
    """sign gives 1 − K = 2 θ/π, which shows the distance; pools may lose twenty roundings of q, 4e-15/gap² of D."""

    def network(b, x):
        h = b.pool(b.act(b.conv(b.pool(b.act(b.conv(x, 3, padding=1)), kernel=2), 3, padding=1)), kernel=2)
        h = b.mean(h) if head == "mean" else b.flat(h)
        return (b.act(b.affine(h), specs.Sign()),) if isinstance(b, Instructions) else (b.affine(h),)

    x = data(1, 1, 8)
    near = x + gap * data(1, 1, 8, seed=1)
    nngp = interpreter_of(network, (1, 8)).matrix(x, near, True, False)[0][0]
    with mpmath.workdps(50):
        book = Textbook(oracle.exact_numbers(x.numpy()), oracle.exact_numbers(near.numpy()))
        book.act = lambda field: oracle.activation(field, oracle.mp_relu_dual)
        (field,) = network(book, book.read)
        k11, k22, k12 = (k.item() for k in (field.k11, field.k22, field.k12))
        angle = float(2 / mpmath.pi * mpmath.acos(k12 / mpmath.sqrt(k11 * k22)))
    assert abs((1 - nngp.item()) / angle - 1) < 4e-15 / gap**2 + 1e-15 / angle + 1e-13
    itself = interpreter_of(network, (1, 8)).matrix(x, x.clone(), True, False)[0][0]
    assert itself.item() == 1


@pytest.mark.parametrize("name", ["pools in a row, of the data too", "several outputs"])
def test_duplicates_agree_with_the_diagonal(name):
    """Their sums over windows differ in the last digit, which an angle of 0 would turn into 1e-8."""
    network, sample = NETWORKS[name][0], (2, 9, 11)
    x = data(1, *sample)
    x = torch.cat([x, x, torch.zeros(1, *sample, dtype=x.dtype), torch.ones(1, *sample, dtype=x.dtype)])
    interpreter = interpreter_of(network, sample)
    whole, single = interpreter.matrix(x, None, True, True), interpreter.diagonal(x, True, True)
    for matrices, vectors in zip(whole, single, strict=True):
        for matrix, vector in zip(matrices, vectors, strict=True):
            assert torch.isfinite(matrix).all()
            torch.testing.assert_close(matrix.diagonal(), vector, rtol=1e-13, atol=0)
            torch.testing.assert_close(matrix[0, 1], vector[0], rtol=1e-13, atol=0)
            smallest = torch.linalg.eigvalsh(matrix)[0]
            assert smallest > -1e-13 * vector.max()


@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 2, 1, 2)])
def test_rounding_makes_no_distance_negative_nor_equal_images_differ(shape):
    half, below, above = torch.full((1, 2, 1), 0.5, dtype=torch.float64), 1 - 2.0**-53, 1 + 2.0**-48
    one = torch.ones(1, 2, 1, dtype=torch.float64)
    weights, sides, same = (one, one), (half, half), torch.ones(1, 1, dtype=torch.bool)

    def distance(summed, same):
        full = torch.full(shape, summed, dtype=torch.float64)
        found = torch_positions.pool_distance(full, weights, sides, sides, same)
        return torch_positions.equal_positions(found).flatten().tolist()

    assert distance(below, ~same) == [0, 0]
    assert distance(1 + 2.0**-52, ~same) == [0, 0]  # equal sums may differ by a unit
    assert distance(above, ~same) == [2.0**-48, 2.0**-48]
    assert distance(above, same) == [0, 0]


# ---- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pools in a row, of the data too", "residual", "sum of activations"])
def test_blocks_permutations_and_diagonals_agree(name, monkeypatch):
    network, sample = NETWORKS[name]
    interpreter, x = interpreter_of(network, sample), data(4, *sample)
    order = torch.tensor([3, 0, 1, 2])
    whole = interpreter.matrix(x, None, True, True)
    permuted = interpreter.matrix(x[order], None, True, True)
    apart = interpreter.matrix(x[:2], x[2:], True, True)
    single = interpreter.diagonal(x, True, True)
    monkeypatch.setattr(torch_interpreter, "_BLOCK_ENTRIES", 1)  # a pair at a time
    monkeypatch.setattr(torch_interpreter, "_ITSELF_ENTRIES", 1)
    pairwise, pairwise_diagonal = interpreter.matrix(x, None, True, True), interpreter.diagonal(x, True, True)
    close = {"rtol": 1e-12, "atol": 1e-13}
    for k, which in itertools.product(range(len(whole)), (0, 1)):
        matrix = whole[k][which]
        torch.testing.assert_close(permuted[k][which], matrix[order][:, order], **close)
        torch.testing.assert_close(apart[k][which], matrix[:2, 2:], **close)
        torch.testing.assert_close(single[k][which], matrix.diagonal(), **close)
        torch.testing.assert_close(pairwise[k][which], matrix, **close)
        torch.testing.assert_close(pairwise_diagonal[k][which], matrix.diagonal(), **close)
        assert torch.linalg.eigvalsh(matrix)[0] > -1e-13 * matrix.max()


def test_only_what_is_wanted_is_given():
    network, sample = NETWORKS["pool"]
    interpreter, x = interpreter_of(network, sample), data(3, *sample)
    both, diagonal = interpreter.matrix(x, None, True, True), interpreter.diagonal(x, True, True)
    for k in range(2):
        nngp, ntk = interpreter.matrix(x, None, True, False)[k], interpreter.matrix(x, None, False, True)[k]
        assert nngp[1] is None
        assert ntk[0] is None
        assert torch.equal(nngp[0], both[k][0])
        assert torch.equal(ntk[1], both[k][1])
        one, two = interpreter.diagonal(x, True, False)[k], interpreter.diagonal(x, False, True)[k]
        assert one[1] is None
        assert two[0] is None
        assert torch.equal(one[0], diagonal[k][0])
        assert torch.equal(two[1], diagonal[k][1])


def test_flattened_networks_carry_equal_positions_only():
    network, sample = two_convs(kernel=3, padding=1), (2, 5, 4)
    flat = interpreter_of(lambda b, x: network(b, x)[:1], sample)
    assert max(flat.entries) == 20
    x = data(3, *sample)
    both = interpreter_of(network, sample).matrix(x, None, True, True)[0]
    for one, two in zip(flat.matrix(x, None, True, True)[0], both, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=0)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [smooth_mixture, sum_of_activations], ids=["erf", "relu"])
def test_gradients_equal_finite_differences(network):
    sample = (2, 4, 3)
    interpreter = interpreter_of(network, sample)
    x1, x2 = data(2, *sample).requires_grad_(), data(1, *sample, seed=1).requires_grad_()

    def kernels(one, two):
        return tuple(part for both in interpreter.matrix(one, two, True, True) for part in both)

    assert torch.autograd.gradcheck(kernels, (x1, x2), atol=1e-6, rtol=1e-5, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: kernels(x, None), (x1,), atol=1e-6, rtol=1e-5, fast_mode=True)

    def diagonals(x):
        return tuple(part for both in interpreter.diagonal(x, True, True) for part in both)

    assert torch.autograd.gradcheck(diagonals, (x1,), atol=1e-6, rtol=1e-5, fast_mode=True)


def test_slopes_are_finite_at_duplicates_and_blank_images():
    network, sample = NETWORKS["pools in a row, of the data too"]
    x = data(1, *sample)
    x = torch.cat([x, x, torch.zeros_like(x), torch.ones_like(x)]).requires_grad_()
    for nngp, ntk in interpreter_of(network, sample).matrix(x, None, True, True):
        (slope,) = torch.autograd.grad((nngp + ntk).sum(), x, retain_graph=True)
        assert torch.isfinite(slope).all()


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_pair_that_does_not_fit_is_refused_before_it_is_computed():
    interpreter = interpreter_of(NETWORKS["pool"][0], (1, 512, 512))
    with pytest.raises(MemoryLimitExceeded, match=r"one pair of samples between every two positions .* use smaller"):
        interpreter.matrix(torch.zeros(1, 1, 512, 512, dtype=torch.float64), None, True, True)
    interpreter, x = interpreter_of(NETWORKS["pool"][0], (1, 16, 16)), torch.zeros(2000, 1, 16, 16, dtype=torch.float64)
    with pytest.raises(MemoryLimitExceeded, match=r"4000000 pairs of samples with gradients .* use fewer samples"):
        interpreter.matrix(x.requires_grad_(), None, True, True)
