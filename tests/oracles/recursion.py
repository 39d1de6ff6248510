"""Exact kernels of fully connected networks as textbooks write them: covariances, float64 or mpmath, no shortcuts.

A dual maps a 2 x 2 covariance [[q1, s], [s, q2]] to (E[σσ'], E[σ̇σ̇']).
References: Cho & Saul 2009 (ReLU), Williams 1996 (erf), Jacot et al. 2018 and Lee et al. 2019 (the recursions).
"""

import math

import mpmath
import numpy as np
from scipy import special


def leaky_relu_dual(slope):
    def dual(q1, q2, s):
        p = np.sqrt(q1 * q2)
        c = np.clip(np.divide(s, p, out=np.zeros_like(p), where=p > 0), -1, 1)
        theta = np.arccos(c)
        j0 = (math.pi - theta) / (2 * math.pi)  # E[1(u>0) 1(v>0)]
        j1 = p * (np.sin(theta) + (math.pi - theta) * c) / (2 * math.pi)  # E[relu u relu v]
        opposite = p * (np.sin(theta) - theta * c) / (2 * math.pi)  # E[relu u relu(-v)]
        a = slope
        return (1 + a * a) * j1 - 2 * a * opposite, (1 + a * a) * j0 + 2 * a * (0.5 - j0)

    return dual


def ab_relu_dual(a, b):
    """Tsuchida, Roosta & Gallagher 2018."""

    def dual(q1, q2, s):
        theta = np.arccos(np.clip(s / np.sqrt(q1 * q2), -1, 1))
        slope = (a * a + b * b) / 2 - (a - b) ** 2 / (2 * math.pi) * theta
        return (a - b) ** 2 / (2 * math.pi) * np.sqrt(np.maximum(q1 * q2 - s * s, 0)) + slope * s, slope

    return dual


def arc_cosine_dual(n):
    """max(x, 0)ⁿ for n = 2 and 3; J_0, J_1 and J_2 stand in Cho & Saul 2009, J_3 follows by their equation 4."""

    def kernel(n, q1, q2, s):
        p = np.sqrt(q1 * q2)
        theta = np.arccos(np.clip(s / p, -1, 1))
        c, sine, rest = np.cos(theta), np.sin(theta), math.pi - theta
        j = {
            1: sine + rest * c,
            2: 3 * sine * c + rest * (1 + 2 * c**2),
            3: sine * (4 + 11 * c**2) + rest * (9 * c + 6 * c**3),
        }[n]
        return p**n * j / (2 * math.pi)

    return lambda q1, q2, s: (kernel(n, q1, q2, s), n**2 * kernel(n - 1, q1, q2, s))


def erf_dual(q1, q2, s):
    a = (1 + 2 * q1) * (1 + 2 * q2)
    return 2 / math.pi * np.arcsin(2 * s / np.sqrt(a)), 4 / math.pi / np.sqrt(a - 4 * s * s)


def sine_dual(a, b, c):
    def dual(q1, q2, s):
        minus, plus = np.exp(-(b**2) * (q1 + q2 - 2 * s) / 2), np.exp(-(b**2) * (q1 + q2 + 2 * s) / 2)
        half = a * a / 2
        return half * (minus - math.cos(2 * c) * plus), half * b * b * (minus + math.cos(2 * c) * plus)

    return dual


def cosine_dual(a, b, c):
    def dual(q1, q2, s):
        minus, plus = np.exp(-(b**2) * (q1 + q2 - 2 * s) / 2), np.exp(-(b**2) * (q1 + q2 + 2 * s) / 2)
        half = a * a / 2
        return half * (minus + math.cos(2 * c) * plus), half * b * b * (minus - math.cos(2 * c) * plus)

    return dual


def gaussian_dual(a, b):
    def dual(q1, q2, s):
        f = (1 - 2 * b * q1) * (1 - 2 * b * q2) - 4 * b * b * s * s
        return a * a / np.sqrt(f), 4 * a * a * b * b * s / f**1.5

    return dual


def sign_dual(q1, q2, s):
    p = np.sqrt(q1 * q2)
    c = np.divide(s, p, out=np.zeros_like(p), where=p > 0)  # sign(0) is 0
    return 1 - 2 * np.arccos(np.clip(c, -1, 1)) / math.pi, 0 * s


def gauss_hermite_dual(function, slope, nodes=120):
    """By tensor Gauss–Hermite quadrature: exact to rounding for polynomials and entire functions of low growth."""
    g, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / math.sqrt(2 * math.pi)
    return _plane(function, slope, g, w)


def panel_dual(function, slope, step=0.02, reach=9.0):
    """By Gauss–Legendre panels on |g| ≤ 9: for functions that are smooth on a scale of about 0.02 or more."""
    edges = np.arange(-reach, reach + step / 2, 10 * step)
    t, w = np.polynomial.legendre.leggauss(10)
    g = ((edges[:-1] + edges[1:])[:, None] / 2 + 10 * step / 2 * t).ravel()
    weight = np.tile(10 * step / 2 * w, len(edges) - 1) * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    return _plane(function, slope, g, weight)


def _plane(function, slope, g, w):
    def one(q1, q2, s):
        u = math.sqrt(q1) * g
        c = s / math.sqrt(q1 * q2)
        v = math.sqrt(q2) * (c * g[:, None] + math.sqrt(max(1 - c * c, 0.0)) * g[None, :])
        value = (w * function(u)) @ (function(v) @ w)
        return value, (w * slope(u)) @ (slope(v) @ w)

    def dual(q1, q2, s):
        pairs = [one(*map(float, entry)) for entry in np.broadcast(q1, q2, s)]
        return tuple(
            np.array(part).reshape(np.broadcast_shapes(q1.shape, q2.shape, s.shape))
            for part in zip(*pairs, strict=True)
        )

    return dual


def kinked_dual(function, slope, kinks):
    """E over u, with the inner expectation over v given u cut exactly at the kinks: one fine panel rule each way.

    The inner integral over v | u ~ N(c r2 g, r2² (1 − c²)) ends its panels at the kinks; the outer is smooth between
    the kinks of σ(u) but for a boundary layer of width √(1 − c²), which the panels resolve for |c| < 0.99.
    """
    t, w = np.polynomial.legendre.leggauss(20)

    def rule(edges):
        left, right = edges[..., :-1, None], edges[..., 1:, None]
        nodes = (left + right) / 2 + (right - left) / 2 * t
        weights = (right - left) / 2 * w * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
        return nodes.reshape(*edges.shape[:-1], -1), weights.reshape(*edges.shape[:-1], -1)

    kinks = np.array(kinks)

    def one(q1, q2, s):
        r1, r2 = math.sqrt(q1), math.sqrt(q2)
        c = s / (r1 * r2)
        away = math.sqrt(1 - c * c)
        base = np.arange(-9.0, 9.01, 0.25)
        g, weight = rule(np.union1d(base, np.clip(kinks / r1, -9, 9)))
        cuts = np.clip((kinks / r2 - c * g[:, None]) / away, -9, 9)
        inner = np.sort(np.concatenate([np.broadcast_to(base, (len(g), len(base))), cuts], axis=1), axis=1)
        e, inner_weight = rule(inner)
        v = r2 * (c * g[:, None] + away * e)
        value = (weight * function(r1 * g) * (function(v) * inner_weight).sum(1)).sum()
        return value, (weight * slope(r1 * g) * (slope(v) * inner_weight).sum(1)).sum()

    def dual(q1, q2, s):
        pairs = [one(*map(float, entry)) for entry in np.broadcast(q1, q2, s)]
        return tuple(
            np.array(part).reshape(np.broadcast_shapes(q1.shape, q2.shape, s.shape))
            for part in zip(*pairs, strict=True)
        )

    return dual


def gelu(x):
    return x * special.ndtr(x)


def gelu_slope(x):
    return special.ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def fully_connected(x1, x2, dual, depth, w_std, b_std, *, widths=None, diagonal_dual=None):
    """(nngp, ntk) of `depth` hidden layers; NTK parameterisation, or the standard one where `widths` are given.

    widths: fan-ins of all depth + 1 layers. diagonal_dual: for E[σ(u)²], where `dual` cannot take correlation 1.
    """
    diagonal_dual = diagonal_dual or dual
    d = x1.shape[1]
    q1, q2, s = (x1**2).sum(1)[:, None] / d, (x2**2).sum(1)[None, :] / d, x1 @ x2.T / d
    ntk = np.zeros_like(s)
    for layer in range(depth + 1):
        if layer:
            s, slope = dual(q1, q2, s)
            ntk = ntk * slope
            q1, q2 = diagonal_dual(q1, q1, q1)[0], diagonal_dual(q2, q2, q2)[0]
        rates = (w_std**2, b_std**2) if widths is None else (widths[layer], 1.0)
        ntk = rates[0] * s + rates[1] + w_std**2 * ntk
        q1, q2, s = (w_std**2 * k + b_std**2 for k in (q1, q2, s))
    return s, ntk


def mp_distance(name, r1, r2, angle):
    """E[(σu − σv)²] in 60 digits for standard deviations r1, r2 and an angle, as strings or numbers."""
    with mpmath.workdps(60):
        r1, r2, angle = map(mpmath.mpf, (r1, r2, angle))
        q1, q2, s = r1**2, r2**2, r1 * r2 * mpmath.cos(angle)
        kernel = MP[name]
        return kernel(q1, q1, q1) + kernel(q2, q2, q2) - 2 * kernel(q1, q2, s)


def _mp_angle(q1, q2, s):
    return mpmath.acos(min(s / mpmath.sqrt(q1 * q2), mpmath.mpf(1)))


def _mp_relu(q1, q2, s):
    theta = _mp_angle(q1, q2, s)
    return mpmath.sqrt(q1 * q2) * (mpmath.sin(theta) + (mpmath.pi - theta) * mpmath.cos(theta)) / (2 * mpmath.pi)


def _mp_erf(q1, q2, s):
    return 2 / mpmath.pi * mpmath.asin(2 * s / mpmath.sqrt((1 + 2 * q1) * (1 + 2 * q2)))


def _mp_gelu(q1, q2, s):
    outer = (1 + q1) * (1 + q2)
    arcs = 2 / mpmath.pi * mpmath.asin(s / mpmath.sqrt(outer))
    density = 2 / mpmath.pi / mpmath.sqrt(outer - s**2)
    return (s + s * arcs + density * (q1 * q2 + s**2 * (1 - q1 * q2) / outer)) / 4


def _mp_sine(q1, q2, s):
    return (mpmath.exp(-(q1 + q2 - 2 * s) / 2) - mpmath.exp(-(q1 + q2 + 2 * s) / 2)) / 2


def _mp_cosine(q1, q2, s):
    return (mpmath.exp(-(q1 + q2 - 2 * s) / 2) + mpmath.exp(-(q1 + q2 + 2 * s) / 2)) / 2


def _mp_gaussian(q1, q2, s):
    return 1 / mpmath.sqrt((1 + 2 * q1) * (1 + 2 * q2) - 4 * s**2)  # exp(−x²)


def _mp_cube(q1, q2, s):
    return 9 * q1 * q2 * s + 6 * s**3  # Isserlis


def _mp_polynomial(coefficients):
    """Isserlis: E[uⁱvʲ] counts the pairings of i u's and j v's, k of them mixed."""

    def pairings(n):
        return mpmath.fac2(n - 1) if n % 2 == 0 else 0

    def moment(i, j, q1, q2, s):
        return sum(
            mpmath.binomial(i, k) * mpmath.binomial(j, k) * mpmath.factorial(k) * s**k
            * pairings(i - k) * mpmath.sqrt(q1) ** (i - k) * pairings(j - k) * mpmath.sqrt(q2) ** (j - k)
            for k in range(min(i, j) + 1)
        )  # fmt: skip

    def kernel(q1, q2, s):
        return sum(
            a * b * moment(i, j, q1, q2, s) for i, a in enumerate(coefficients) for j, b in enumerate(coefficients)
        )

    return kernel


def _mp_hermite_4(q1, q2, s):
    return _mp_polynomial((3, 0, -6, 0, 1))(q1, q2, s) / 24


def _mp_rectified_square(q1, q2, s):
    theta = _mp_angle(q1, q2, s)
    c = mpmath.cos(theta)
    return q1 * q2 * (3 * mpmath.sin(theta) * c + (mpmath.pi - theta) * (1 + 2 * c**2)) / (2 * mpmath.pi)


def _mp_rectified_cube(q1, q2, s):
    theta = _mp_angle(q1, q2, s)
    c, sine = mpmath.cos(theta), mpmath.sin(theta)
    j = sine * (4 + 11 * c**2) + (mpmath.pi - theta) * (9 * c + 6 * c**3)
    return mpmath.sqrt(q1 * q2) ** 3 * j / (2 * mpmath.pi)


def _mp_exponential(q1, q2, s):
    return mpmath.exp((q1 + q2) / 2 + s)


def _mp_sign(q1, q2, s):
    return 1 - 2 * _mp_angle(q1, q2, s) / mpmath.pi


MP = {  # name -> (q1, q2, s) -> E[σσ] in mpmath numbers
    "relu": _mp_relu,
    "erf": _mp_erf,
    "gelu": _mp_gelu,
    "sin": _mp_sine,
    "cos": _mp_cosine,
    "gaussian": _mp_gaussian,
    "cube": _mp_cube,
    "sign": _mp_sign,
    "polynomial": _mp_polynomial((3, -2, 1, 4)),
    "hermite 4": _mp_hermite_4,
    "rectified square": _mp_rectified_square,
    "rectified cube": _mp_rectified_cube,
    "exp": _mp_exponential,
}


def close_pair_moments(function, slope, r1, r2, gap, opposite):
    """(E[σσ'], E[σ̇σ̇']) of one pair with correlation ρ = ±(1 − gap): over v at fixed u, then over u.

    Panels are halved towards x = 0, where `function` may be steep or have a kink, from 2048 down to 1/16.
    """
    rho, apart = (gap - 1 if opposite else 1 - gap), math.sqrt(gap * (2 - gap))
    powers = 2.0 ** np.arange(-4, 12)
    x = np.concatenate([-powers, [0.0], powers])
    line = np.linspace(-9, 9, 37)
    z, weight = _normal_nodes(np.concatenate([line, apart * line, x / r1])[None])
    total = np.zeros(2)
    for zz, ww in zip(np.array_split(z[0], 12), np.array_split(weight[0], 12), strict=True):
        edges = (x / r2 - rho * zz[:, None]) / apart
        e, inner = _normal_nodes(np.concatenate([np.broadcast_to(line[::2], (len(zz), 19)), edges], axis=1))
        v = r2 * (rho * zz[:, None] + apart * e)
        for k, f in enumerate((function, slope)):
            total[k] += (ww * f(r1 * zz) * (f(v) * inner).sum(axis=1)).sum()
    return total


def _normal_nodes(edges):
    """Gauss-Legendre nodes between edges (n, k), cut at ±9, and weights times the standard normal density."""
    t, w = np.polynomial.legendre.leggauss(16)
    edges = np.sort(np.clip(edges, -9, 9), axis=1)
    half = np.diff(edges)[..., None] / 2
    g = (edges[:, :-1, None] + half + half * t).reshape(len(edges), -1)
    return g, (half * w).reshape(len(edges), -1) * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
