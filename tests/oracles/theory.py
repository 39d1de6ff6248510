"""Spectra of Yang & Salman 2019 as the text has them, in as many digits as asked, with mpmath."""

from itertools import pairwise

import mpmath as mp


def kernels(activation, t, depth, w_square, b_square):
    """(conjugate kernel, tangent kernel) of two inputs with x·x'/d = t and |x|²/d = 1."""
    q, s = w_square + b_square, w_square * t + b_square
    ntk = s
    for _ in range(depth):
        value, slope = DUALS[activation](s, q)
        itself, _ = DUALS[activation](q, q)
        s, q = w_square * value + b_square, w_square * itself + b_square
        ntk = s + w_square * slope * ntk
    return s, ntk


def relu(s, q):
    """Cho & Saul 2009."""
    c = min(max(s / q, mp.mpf(-1)), mp.mpf(1))
    angle = mp.pi - mp.acos(c)
    return q * (c * angle + mp.sqrt(1 - c * c)) / (2 * mp.pi), angle / (2 * mp.pi)


def erf(s, q):
    """Williams 1996."""
    value = 2 / mp.pi * mp.asin(s / (q + mp.mpf(1) / 2))
    return value, 4 / mp.pi / mp.sqrt((1 + 2 * q) ** 2 - 4 * s**2)


DUALS = {"relu": relu, "erf": erf}


def cube(activation, depth, w_square, b_square, d):
    """[(μ_k of the conjugate kernel, of the tangent kernel)] by k-th differences at steps of 2/d."""
    values = [
        kernels(activation, 1 - 2 * mp.mpf(r) / d, depth, mp.mpf(w_square), mp.mpf(b_square)) for r in range(d + 1)
    ]
    found = []
    for k in range(d + 1):
        averaged = []
        for which in (0, 1):
            row = [value[which] for value in values]
            for _ in range(k):
                row = [(left - right) / 2 for left, right in pairwise(row)]
            for _ in range(d - k):
                row = [(left + right) / 2 for left, right in pairwise(row)]
            averaged.append(row[0])
        found.append(tuple(averaged))
    return found


def sphere(activation, depth, w_square, b_square, d, k):
    """μ_k by Funk and Hecke's formula, for d from 3."""
    order = mp.mpf(d - 2) / 2
    at_one = mp.gegenbauer(k, order, 1)

    def density(theta):
        return mp.sin(theta) ** (d - 2)

    def part(which):
        def integrand(theta):
            c = mp.cos(theta)
            value = kernels(activation, c, depth, mp.mpf(w_square), mp.mpf(b_square))[which]
            return value * mp.gegenbauer(k, order, c) / at_one * density(theta)

        return mp.quad(integrand, mp.linspace(0, mp.pi, 9)) / mp.quad(density, mp.linspace(0, mp.pi, 9))

    return part(0), part(1)
