"""Exact kernels of convolutional networks as textbooks write them: covariances of all pairs of positions, by loops.

An array K has shape (…, *grid, *grid): the covariance between position P of one image and Q of another. A field holds
the covariances of each image of a side with itself, those between the sides, and the tangent kernel between the sides.
Everything is a covariance, in float64 or mpmath numbers; padding is `numpy.pad`, windows are slices and loops.
References: Arora et al. 2019 (CNTK), Novak et al. 2019 (vectorised and pooled read-outs), Yang 2019 (independent sums).
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np


@dataclass
class Field:
    k11: np.ndarray  # (n, *grid, *grid)
    k22: np.ndarray  # (m, *grid, *grid)
    k12: np.ndarray  # (n, m, *grid, *grid)
    t12: np.ndarray
    same: np.ndarray  # (n, m), whether two samples are one and the same
    m1: np.ndarray | None = None  # (n, *grid) means, where they are not 0
    m2: np.ndarray | None = None

    @property
    def rank(self):
        return (self.k12.ndim - 2) // 2

    @property
    def grid(self):
        return self.k12.shape[2 : 2 + self.rank]

    def linear(self, function):
        """The same linear map of all covariances."""
        return Field(*(function(k) for k in (self.k11, self.k22, self.k12, self.t12)), self.same)


def data(x1, x2=None):
    """Covariances of the raw pixels of (n, channels, *grid), summed over channels and divided by their number."""
    both = x1 if x2 is None else x2
    letters = "hij"[: x1.ndim - 2]
    c = x1.shape[1]
    within = f"nc{letters},nc{letters.upper()}->n{letters}{letters.upper()}"
    between = f"nc{letters},mc{letters.upper()}->nm{letters}{letters.upper()}"
    k12 = np.einsum(between, x1, both) / c
    same = np.eye(len(x1), dtype=bool) if x2 is None else np.zeros((len(x1), len(x2)), dtype=bool)
    return Field(np.einsum(within, x1, x1) / c, np.einsum(within, both, both) / c, k12, 0 * k12, same)


# ---- layers ----------------------------------------------------------------------------------------------------------


def affine(field, w_std=1.0, b_std=0.0, *, trained=True, rates=None):
    """z = W x + b in NTK parameterisation; `rates` of (weight, bias) otherwise; frozen layers have none."""
    rates = rates or ((w_std**2, b_std**2) if trained else (0.0, 0.0))
    out = field.linear(lambda k: w_std**2 * k)
    for name in ("k11", "k22", "k12"):
        setattr(out, name, getattr(out, name) + b_std**2)
    out.t12 = out.t12 + rates[0] * field.k12 + rates[1]
    return out


def window(field, kernel, stride: Any = 1, dilation: Any = 1, padding: Any = 0, circular=False):
    """The mean over joint shifts of both positions; padding an int or a (before, after) an axis."""
    r = field.rank
    kernel, stride, dilation = (_each(v, r) for v in (kernel, stride, dilation))
    padding = [(p, p) if isinstance(p, int) else p for p in _each(padding, r)]

    def moved(k):
        lead = k.ndim - 2 * r
        k = np.pad(k, [(0, 0)] * lead + padding * 2, mode="wrap" if circular else "constant")
        sizes = k.shape[lead : lead + r]
        out = [(n - d * (a - 1) - 1) // s + 1 for n, a, s, d in zip(sizes, kernel, stride, dilation, strict=True)]
        total = 0
        for tap in itertools.product(*(range(a) for a in kernel)):
            cut = tuple(
                slice(t * d, t * d + s * (o - 1) + 1, s) for t, d, s, o in zip(tap, dilation, stride, out, strict=True)
            )
            total = total + k[(slice(None),) * lead + cut + cut]
        return total / math.prod(kernel)

    return field.linear(moved)


def conv(field, kernel, w_std=1.0, b_std=0.0, *, stride=1, dilation=1, padding=0, circular=False, **options):
    return affine(window(field, kernel, stride, dilation, padding, circular), w_std, b_std, **options)


def activation(field, dual, mean=None):
    """σ(z) for Gaussian z; `dual(q1, q2, s) -> (E[σσ'], E[σ̇σ̇'])`, `mean(q) -> E[σ]`."""
    r, g = field.rank, field.grid
    q1, q2 = _variances(field.k11, r), _variances(field.k22, r)
    ones = (1,) * r

    def within(k, q):
        a, b = np.broadcast_arrays(q.reshape(-1, *g, *ones), q.reshape(-1, *ones, *g))
        return dual(a, b, _exact(k, a, b, np.eye(math.prod(g), dtype=bool).reshape(1, *g, *g)))[0]

    a, b = np.broadcast_arrays(q1.reshape(-1, 1, *g, *ones), q2.reshape(1, -1, *ones, *g))
    itself = field.same.reshape(*field.same.shape, *ones, *ones) & np.eye(math.prod(g), dtype=bool).reshape(*g, *g)
    k12, slope = dual(a, b, _exact(field.k12, a, b, itself))
    means = (None, None) if mean is None else (mean(q1), mean(q2))
    return Field(within(field.k11, q1), within(field.k22, q2), k12, field.t12 * slope, field.same, *means)


def pool(field, windows):
    """Weighted sums; `windows[axis]` is for each output position a list of (input position, weight)."""
    r = field.rank
    out = tuple(len(w) for w in windows)

    def summed(k):
        lead = k.ndim - 2 * r
        result = np.zeros(k.shape[:lead] + out + out, dtype=k.dtype)
        for position in itertools.product(*(range(n) for n in out + out)):
            here = [windows[i % r][p] for i, p in enumerate(position)]
            for entry in itertools.product(*here):
                at, weights = zip(*entry, strict=True)
                result[(..., *position)] += math.prod(weights) * k[(..., *at)]
        return result

    def of_means(m):
        if m is None:
            return None
        result = np.zeros(m.shape[:1] + out)
        for position in itertools.product(*(range(n) for n in out)):
            for entry in itertools.product(*(windows[i][p] for i, p in enumerate(position))):
                at, weights = zip(*entry, strict=True)
                result[(..., *position)] += math.prod(weights) * m[(..., *at)]
        return result

    return replace(field.linear(summed), m1=of_means(field.m1), m2=of_means(field.m2))


def windows_of(n, kernel, stride=None, padding=0, *, ceil=False, count_padding=True, average=True):
    """Windows of torch's AvgPool along an axis of n positions, by its own definition."""
    stride = stride or kernel
    windows, start = [], -padding
    while start + kernel <= n + padding or (ceil and start < n and start + kernel - stride < n + padding):
        end = min(start + kernel, n + padding)
        inside = [p for p in range(start, end) if 0 <= p < n]
        size = (end - start if count_padding else len(inside)) if average else 1
        windows.append([(p, 1 / size) for p in inside])
        start += stride
    return windows


def adaptive_windows(n, out):
    bounds = [(math.floor(i * n / out), math.ceil((i + 1) * n / out)) for i in range(out)]
    return [[(p, 1 / (stop - start)) for p in range(start, stop)] for start, stop in bounds]


def global_average(field):
    return pool(field, [[[(p, 1 / n) for p in range(n)]] for n in field.grid])


def flatten(field):
    """Mean over positions that both images share, on a grid of one position."""
    r, g = field.rank, field.grid

    def trace(k):
        lead = k.shape[: k.ndim - 2 * r]
        square = k.reshape(*lead, math.prod(g), math.prod(g))
        return (np.trace(square, axis1=-2, axis2=-1) / math.prod(g)).reshape(*lead, *(1,) * (2 * r))

    out = field.linear(trace)
    if math.prod(g) == 1:
        out.m1, out.m2 = field.m1, field.m2
    return out


def add(*fields):
    """The sum of independent values, each with mean 0 or known means."""
    names = ("k11", "k22", "k12", "t12")
    total = Field(*(sum(getattr(f, name) for f in fields) for name in names), fields[0].same)
    r, g = total.rank, total.grid
    ones = (1,) * r
    for one, two in itertools.permutations([f for f in fields if f.m1 is not None], 2):
        total.k11 = total.k11 + one.m1.reshape(-1, *g, *ones) * two.m1.reshape(-1, *ones, *g)
        total.k22 = total.k22 + one.m2.reshape(-1, *g, *ones) * two.m2.reshape(-1, *ones, *g)
        total.k12 = total.k12 + one.m1.reshape(-1, 1, *g, *ones) * two.m2.reshape(1, -1, *ones, *g)
    return total


def concatenate(*parts):
    """Channels side by side: (field, channels) each, weighted by their share."""
    channels = sum(c for _, c in parts)
    names = ("k11", "k22", "k12", "t12")
    return Field(*(sum(c / channels * getattr(f, name) for f, c in parts) for name in names), parts[0][0].same)


def scaled(field, factor):
    out = field.linear(lambda k: factor**2 * k)
    out.m1, out.m2 = (None if m is None else factor * m for m in (field.m1, field.m2))
    return out


def result(field):
    """(nngp, ntk), each (n, m), of a field with one position."""
    return field.k12.reshape(field.k12.shape[:2]), field.t12.reshape(field.k12.shape[:2])


# ---- duals in many digits --------------------------------------------------------------------------------------------


def mp_relu_dual(q1, q2, s):
    def one(q1, q2, s):
        p = mpmath.sqrt(q1 * q2)
        c = max(min(s / p, mpmath.mpf(1)), mpmath.mpf(-1)) if p else mpmath.mpf(0)
        theta = mpmath.acos(c)
        return p * (mpmath.sin(theta) + (mpmath.pi - theta) * c) / (2 * mpmath.pi), (mpmath.pi - theta) / (
            2 * mpmath.pi
        )

    return np.frompyfunc(one, 3, 2)(q1, q2, s)


def exact_numbers(x):
    """The array with mpmath numbers for entries."""
    return np.frompyfunc(lambda v: mpmath.mpf(float(v)), 1, 1)(x)


# ---- inside ----------------------------------------------------------------------------------------------------------


def _each(value, rank):
    return [value] * rank if isinstance(value, int) else list(value)


def _variances(k, r):
    g = k.shape[1 : 1 + r]
    return np.diagonal(k.reshape(len(k), math.prod(g), math.prod(g)), axis1=1, axis2=2).reshape(len(k), *g)


def _exact(k, a, b, itself):
    """Of a value with itself the covariance is the variance to the last digit, so that its angle is exactly 0."""
    return k if k.dtype == object else np.where(itself, np.sqrt(a * b), k)
