"""Convolutional networks as data: each a function of a builder, which makes a program, covariances or a wide network.

`Instructions` builds a program, `Textbook` computes covariances (`oracles/convolutional.py`), `Wide` draws a network.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

from ntkit.architecture import specs, windows
from ntkit.architecture.expressions import VARIABLE, Expression
from ntkit.infinite import program as ops
from oracles import convolutional as oracle
from oracles import recursion

W, B = 1.4, 0.3  # w_std, b_std of every layer
RELU, ERF, TANH = specs.LeakyReLU(0.0), specs.Erf(), specs.Elementwise(Expression("tanh", (VARIABLE,)))
DUALS = {
    RELU: (recursion.leaky_relu_dual(0.0), lambda q: np.sqrt(q / (2 * math.pi))),
    ERF: (recursion.erf_dual, None),
    TANH: (recursion.panel_dual(np.tanh, lambda x: 1 / np.cosh(x) ** 2, step=0.05), None),
}


class Instructions:
    """Builds a program; values are registers."""

    def __init__(self, rank):
        self.rank = rank
        self.ops = []
        self.read = self._emit(ops.Read(None, False, 1, tuple(range(2, 2 + rank))))

    def _emit(self, op):
        self.ops.append(op)
        return len(self.ops) - 1

    def affine(self, x, trained=True):
        rates = (W**2, B**2) if trained else (0.0, 0.0)
        return self._emit(ops.Affine(x, W**2, B**2, *rates))

    def conv(self, x, kernel, stride=1, dilation=1, padding=0, circular=False, trained=True):
        kernel, stride, dilation, padding = (
            [v] * self.rank if isinstance(v, int) else v for v in (kernel, stride, dilation, padding)
        )
        sides = [(p, p) if isinstance(p, int) else p for p in padding]
        axes = [
            windows.ConvAxis(k, s, d, *p, circular) for k, s, d, p in zip(kernel, stride, dilation, sides, strict=True)
        ]
        return self.affine(self._emit(ops.Window(x, tuple(axes))), trained)

    def act(self, x, activation=RELU):
        return self._emit(ops.Dual(x, activation, f"act{x}"))

    def pool(self, x, factor=1.0, **options):
        axis = windows.PoolWindow(**{"stride": options["kernel"], **options})
        return self._emit(ops.Pool(x, (axis,) * self.rank, factor))

    def adaptive(self, x, *sizes):
        return self._emit(ops.Pool(x, tuple(windows.AdaptiveAxis(n) for n in sizes)))

    def mean(self, x):
        return self._emit(ops.Pool(x, (windows.WholeAxis(),) * self.rank))

    def flat(self, x):
        return self._emit(ops.Trace(x))

    def add(self, *terms, coefficients=(1.0, 1.0, 1.0), with_means=False):
        scaled = list(zip(terms, coefficients, strict=False))
        pairs = tuple((i, j, c * d) for (i, c), (j, d) in itertools.combinations(scaled, 2)) if with_means else ()
        return self._emit(ops.Combine(terms, tuple(c**2 for _, c in scaled), pairs))

    def cat(self, *parts):
        total = sum(channels for _, channels in parts)
        return self._emit(ops.Combine(tuple(x for x, _ in parts), tuple(c / total for _, c in parts)))

    def finish(self, outputs):
        return ops.Program(tuple(self.ops), outputs)


class Textbook:
    """Computes covariances; values are fields."""

    def __init__(self, x1, x2):
        self.read = oracle.data(x1, x2)

    def affine(self, x, trained=True):
        return oracle.affine(x, W, B, trained=trained)

    def conv(self, x, kernel, stride=1, dilation=1, padding=0, circular=False, trained=True):
        return self.affine(oracle.window(x, kernel, stride, dilation, padding, circular), trained)

    def act(self, x, activation=RELU):
        return oracle.activation(x, *DUALS[activation])

    def pool(self, x, factor=1.0, **options):
        return oracle.scaled(oracle.pool(x, [oracle.windows_of(n, **options) for n in x.grid]), factor)

    def adaptive(self, x, *sizes):
        return oracle.pool(x, [oracle.adaptive_windows(n, out) for n, out in zip(x.grid, sizes, strict=True)])

    def mean(self, x):
        return oracle.global_average(x)

    def flat(self, x):
        return oracle.flatten(x)

    def add(self, *terms, coefficients=(1.0, 1.0, 1.0), with_means=False):
        return oracle.add(*(oracle.scaled(x, c) for x, c in zip(terms, coefficients, strict=False)))

    def cat(self, *parts):
        return oracle.concatenate(*parts)


class Wide:
    """Draws a wide network; values are its activations (n, channels, *grid) on two axes of positions."""

    def __init__(self, x, width):
        self.read, self.width = x, width
        self.parameters = []

    def _draw(self, *shape, trained):
        parameter = torch.randn(*shape, dtype=torch.float64, requires_grad=trained)
        if trained:
            self.parameters.append(parameter)
        return parameter

    def affine(self, x, trained=True):
        """A read-out of one output: what it reads, and its value."""
        features = x.flatten(1)
        weight, bias = self._draw(features.shape[1], trained=trained), self._draw(1, trained=trained)
        return features, W * features @ weight / features.shape[1] ** 0.5 + B * bias

    def conv(self, x, kernel, stride=1, padding=0, circular=False, trained=True):
        fan_in = x.shape[1] * kernel**2
        weight = self._draw(self.width, x.shape[1], kernel, kernel, trained=trained)
        bias = self._draw(self.width, trained=trained)
        padded = F.pad(x, [padding] * 4, mode="circular" if circular else "constant")
        return F.conv2d(padded, W / fan_in**0.5 * weight, B * bias, stride)

    def act(self, x):
        return torch.relu(x)

    def pool(self, x, kernel, stride=None, padding=0, count_padding=True):
        return F.avg_pool2d(x, kernel, stride, padding, False, count_padding)

    def mean(self, x):
        return x.mean(dim=(2, 3))

    def flat(self, x):
        return x.flatten(1)

    def add(self, *terms, coefficients=(1.0, 1.0, 1.0), with_means=False):
        return sum(c * x for x, c in zip(terms, coefficients, strict=False))

    def cat(self, *parts):
        return torch.cat([x[:, : self.width * channels // 8] for x, channels in parts], dim=1)


# ---- networks --------------------------------------------------------------------------------------------------------


def heads(b, h):
    """Both read-outs of a network: flattened, and of the mean over positions."""
    return b.affine(b.flat(h)), b.affine(b.mean(h))


def two_convs(**options):
    return lambda b, x: heads(b, b.act(b.conv(b.act(b.conv(x, **options)), **options)))


def conv_pool_conv(**options):
    def network(b, x):
        return heads(b, b.act(b.conv(b.pool(b.act(b.conv(x, 3, padding=1)), **options), 3, padding=1)))

    return network


def pre_activation_residual(b, x):
    h = b.conv(x, 3, padding=1)
    h = b.add(h, b.conv(b.act(h), 3, padding=1))
    h = b.add(b.conv(b.act(h), 1, stride=2), b.conv(b.act(b.conv(b.act(h), 3, stride=2, padding=1)), 3, padding=1))
    return heads(b, b.act(h))


def sum_of_activations(b, x):
    """Independent branches with means, pooled and added, before the next layer."""
    one, two, three = (b.act(b.conv(x, k, padding=k // 2)) for k in (1, 3, 3))
    pools = (b.pool(h, kernel=2) for h in (one, two, three))
    h = b.add(*pools, coefficients=(1.0, 2.0, -0.5), with_means=True)
    return heads(b, b.act(b.conv(h, 3, padding=1)))


def sum_of_pooled_vectors(b, x):
    """Global means of two activations, as vectors, added before a layer."""
    one, two = (b.flat(b.mean(b.act(b.conv(x, k, padding=1)))) for k in (2, 3))
    return (b.affine(b.act(b.affine(b.add(one, two, with_means=True)))),)


def dense_block(b, x):
    h = b.conv(x, 3, padding=1)
    h = b.cat((h, 5), (b.conv(b.act(h), 3, padding=1), 3))
    return heads(b, b.act(b.conv(b.pool(b.act(h), kernel=2), 3, padding=1)))


def frozen_layers(b, x):
    h = b.act(b.conv(b.act(b.conv(x, 3, padding=1, trained=False)), 3, padding=1))
    return b.affine(b.flat(h), trained=False), b.affine(b.mean(h), trained=False)


def heads_at_every_depth(b, x):
    one = b.act(b.conv(x, 3, padding=1))
    two = b.act(b.conv(b.pool(one, kernel=2), 3, padding=1))
    return (*heads(b, one), *heads(b, two), b.affine(b.act(b.affine(b.mean(two)))))


def pooled_three_times(b, x):
    h = b.act(b.conv(b.pool(x, kernel=2, stride=1), 2, padding=1))
    h = b.act(b.conv(b.pool(h, kernel=3, stride=1), 3, padding=1))
    return heads(b, b.pool(b.act(b.conv(b.pool(h, kernel=2), 3, padding=1)), kernel=2, stride=1))


def circular_residual(b, x):
    h = b.conv(x, 3, stride=2, padding=1, circular=True)
    h = b.add(h, b.conv(b.act(b.conv(b.act(h), 3, padding=1)), 1, trained=False))
    h = b.pool(b.act(h), kernel=3, stride=2, padding=1, count_padding=False)
    return heads(b, b.act(b.conv(h, 3, padding=1)))


def smooth_mixture(b, x):
    h = b.act(b.conv(x, 3, padding=1, stride=(2, 1)), ERF)
    h = b.add(b.conv(h, 1), b.conv(b.act(b.conv(h, 2, padding=((1, 0), (0, 1)))), 3, padding=1))
    h = b.pool(b.act(h), kernel=2, stride=1, padding=1, count_padding=False)
    return heads(b, b.act(b.conv(h, 3, padding=1, circular=True)))


NETWORKS = {
    "same padding": (two_convs(kernel=3, padding=1), (2, 5, 4)),
    "valid": (two_convs(kernel=2), (3, 4, 5)),
    "even kernel, unequal padding": (two_convs(kernel=(2, 4), padding=((1, 0), (2, 1))), (2, 4, 5)),
    "stride": (two_convs(kernel=3, stride=(2, 3), padding=1), (2, 7, 9)),
    "dilation": (two_convs(kernel=3, dilation=2, padding=(2, 1)), (2, 5, 7)),
    "dilation with stride": (two_convs(kernel=(3, 2), dilation=(2, 3), stride=2, padding=2), (1, 7, 8)),
    "circular": (two_convs(kernel=3, padding=1, circular=True), (2, 5, 4)),
    "circular with stride": (two_convs(kernel=3, padding=((1, 2), (2, 0)), stride=2, circular=True), (2, 7, 6)),
    "pointwise, strided": (two_convs(kernel=1, stride=2), (2, 5, 6)),
    "kernel larger than the image": (two_convs(kernel=5, padding=2), (2, 3, 2)),
    "padding beyond the kernel": (two_convs(kernel=2, padding=3), (2, 2, 1)),
    "only padding after": (two_convs(kernel=1, stride=2, padding=((0, 1), (0, 1))), (2, 2, 3)),
    "many channels": (two_convs(kernel=3, padding=1), (12, 3, 2)),
    "1-D": (two_convs(kernel=3, stride=2, padding=2), (2, 11)),
    "3-D": (two_convs(kernel=(2, 1, 3), padding=(1, 0, 1)), (1, 2, 3, 2)),
    "one row": (two_convs(kernel=(1, 3), padding=(1, 1), circular=True), (2, 1, 5)),
    "pool": (conv_pool_conv(kernel=2), (2, 5, 4)),
    "pool, overlapping": (conv_pool_conv(kernel=3, stride=1), (2, 5, 4)),
    "pool, padded": (conv_pool_conv(kernel=3, stride=2, padding=1), (2, 5, 4)),
    "pool, padding not counted": (conv_pool_conv(kernel=3, stride=2, padding=1, count_padding=False), (2, 4, 5)),
    "pool, ceil": (conv_pool_conv(kernel=3, stride=2, padding=1, ceil=True), (2, 4, 6)),
    "pool with a divisor": (conv_pool_conv(kernel=2, average=False, factor=1 / 3), (2, 5, 4)),
    "sum pool": (conv_pool_conv(kernel=2, stride=1, padding=1, average=False), (2, 3, 4)),
    "pool of single positions": (conv_pool_conv(kernel=1, stride=2), (2, 5, 4)),
    "pool of one position and its padding": (conv_pool_conv(kernel=3, stride=1, padding=1), (2, 1, 1)),
    "pool in 1-D": (conv_pool_conv(kernel=3, stride=2, padding=1, ceil=True), (2, 10)),
    "pools in a row, of the data too": (pooled_three_times, (2, 7, 6)),
    "adaptive": (lambda b, x: heads(b, b.adaptive(b.act(b.conv(x, 3, padding=1)), 3, 2)), (2, 5, 5)),
    "adaptive, larger": (
        lambda b, x: heads(b, b.act(b.conv(b.adaptive(b.act(b.conv(x, 2)), 3, 2), 2))),
        (2, 2, 3),
    ),
    "residual": (pre_activation_residual, (2, 5, 4)),
    "sum of activations": (sum_of_activations, (2, 5, 4)),
    "sum of pooled vectors": (sum_of_pooled_vectors, (2, 4, 5)),
    "concatenation": (dense_block, (2, 5, 4)),
    "frozen": (frozen_layers, (2, 4, 5)),
    "several outputs": (heads_at_every_depth, (2, 4, 5)),
    "erf": (
        lambda b, x: heads(b, b.act(b.conv(b.pool(b.act(b.conv(x, 3, padding=1), ERF), kernel=2), 2), ERF)),
        (2, 5, 4),
    ),
}
