"""Layers beyond convolutions in textbook form: covariances of all pairs of positions, in float64, by their definitions.

Each takes and gives a `Field` of `oracles/convolutional.py`. Any linear map of positions (pooling, padding,
interpolation) is the matrix that torch itself applies to unit images. Moments of smooth activations are trapezoidal
sums over the plane, whose error falls as exp(−2π a/h) for functions analytic within a of the real axis.
Reference: Trefethen & Weideman 2014 for the trapezoidal rule; chain rule and law of large numbers for the rest.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from oracles.convolutional import Field

_STEP, _REACH = 0.2, 8.0  # of the trapezoidal rule, in standard deviations; exp(−8²/2) is 1e-14
_AT_ONCE = 32  # pairs, whose planes stay in cache
_ONE = 1e-12  # 1 − |ρ| that is rounding: see `settled`


# ---- maps of positions -----------------------------------------------------------------------------------------------


def matrix_of(layer, grid):
    """(out grid, W) with W[P, p] what torch's layer makes at P of an image that is 1 at p."""
    units = torch.eye(math.prod(grid), dtype=torch.float64).reshape(-1, 1, *grid)
    images = layer(units)
    return tuple(images.shape[2:]), images.reshape(len(units), -1).T.numpy()


def mapped(field, layer):
    """K' = W K Wᵀ of all covariances, and W m of means."""
    r, (out, w) = field.rank, matrix_of(layer, field.grid)

    def of_covariances(k):
        lead = k.shape[: k.ndim - 2 * r]
        return (w @ k.reshape(*lead, w.shape[1], w.shape[1]) @ w.T).reshape(*lead, *out, *out)

    result = field.linear(of_covariances)
    if field.m1 is not None:
        result.m1, result.m2 = ((m.reshape(len(m), -1) @ w.T).reshape(len(m), *out) for m in (field.m1, field.m2))
    return result


def equal_positions(field):
    """(1, 1, *grid, *grid): 1 between a position and itself."""
    return np.eye(math.prod(field.grid)).reshape(1, 1, *field.grid, *field.grid)


# ---- normalisation ---------------------------------------------------------------------------------------------------


def normalized(field, eps, over_positions):
    """x / √(Q + ε), Q the second moment of each position or its mean over all."""
    r, g = field.rank, field.grid
    ones = (1,) * r

    def norms(k):
        q = np.diagonal(k.reshape(len(k), math.prod(g), -1), axis1=1, axis2=2)
        q = np.repeat(q.mean(1, keepdims=True), q.shape[1], axis=1) if over_positions else q
        return np.sqrt(q + eps).reshape(len(k), *g)

    r1, r2 = norms(field.k11), norms(field.k22)
    across = r1.reshape(-1, 1, *g, *ones) * r2.reshape(1, -1, *ones, *g)
    k11, k22 = (
        k / (s.reshape(-1, *g, *ones) * s.reshape(-1, *ones, *g)) for k, s in ((field.k11, r1), (field.k22, r2))
    )
    m1, m2 = (None, None) if field.m1 is None else (field.m1 / r1, field.m2 / r2)
    return Field(k11, k22, field.k12 / across, field.t12 / across, field.same, m1, m2)


def trained(field, amount, shared):
    """Parameters of each channel add their covariance to T: between all positions, or only of one with itself."""
    field.t12 = field.t12 + (amount if shared else amount * equal_positions(field))
    return field


def behind_scale(before, after, product, shared):
    """T of σ(γ u) with γ = 1 trained: E[uσ'(u) vσ'(v)] on top of T, for `after` = σ(`before`)."""
    r, g = before.rank, before.grid
    ones = (1,) * r
    q1, q2 = (
        np.diagonal(k.reshape(len(k), math.prod(g), -1), axis1=1, axis2=2).reshape(len(k), *g)
        for k in (before.k11, before.k22)
    )
    a, b = np.broadcast_arrays(q1.reshape(-1, 1, *g, *ones), q2.reshape(1, -1, *ones, *g))
    return trained(after, product(a, b, before.k12), shared)


# ---- dropout, products, shares ---------------------------------------------------------------------------------------


def dropped(field, rate, whole_channels):
    """x m/k, P(m = 1) = k: masks of one sample at one position, or at all positions, are the same one."""
    one_mask = np.ones_like(equal_positions(field)) if whole_channels else equal_positions(field)
    more = 1 / (1 - rate) - 1
    itself = field.same.reshape(*field.same.shape, *(1,) * 2 * field.rank)
    within, between = 1 + more * one_mask[0], 1 + more * one_mask * itself
    return Field(
        field.k11 * within, field.k22 * within, field.k12 * between, field.t12 * between, field.same, field.m1, field.m2
    )


def multiplied(one, two):
    """x y of independent values."""
    tangent = one.t12 * two.k12 + one.k12 * two.t12
    means = (None, None) if one.m1 is None or two.m1 is None else (one.m1 * two.m1, one.m2 * two.m2)
    return Field(one.k11 * two.k11, one.k22 * two.k22, one.k12 * two.k12, tangent, one.same, *means)


# ---- moments ---------------------------------------------------------------------------------------------------------


def settled(q1, q2, s):
    """s, or ±√(q1 q2) where 1 − |ρ| is rounding: textbook angles of 1e-8 would enter derivatives as they are.

    Positions hold the very same value where an image was repeated, or where windows see only padding.
    """
    p = np.sqrt(q1 * q2)
    return np.where(p - np.abs(s) <= _ONE * p, np.copysign(p, s), s)


def plane(q1, q2, s, *functions):
    """[E[f(u) f(v)] for each f], by the trapezoidal rule in the plane of independent normals."""
    entries = [np.ravel(a) for a in np.broadcast_arrays(q1, q2, s)]
    found = np.empty((len(functions), entries[0].size))
    for start in range(0, entries[0].size, _AT_ONCE):
        a, b, c = (part[start : start + _AT_ONCE, None] for part in entries)
        g, weight = _rule(np.maximum(a, b))
        c = np.clip(correlation(a, b, c), -1, 1)
        u = np.sqrt(a) * g
        v = np.sqrt(b)[..., None] * (c[..., None] * g[:, None] + np.sqrt(1 - c * c)[..., None] * g)
        for values, f in zip(found, functions, strict=True):
            values[start : start + _AT_ONCE] = ((f(v) @ weight) * f(u)) @ weight
    return found.reshape(len(functions), *np.broadcast_shapes(np.shape(q1), np.shape(q2), np.shape(s)))


def correlation(q1, q2, s):
    """s/√(q1 q2), and 0 of a value that is always 0, as of a token that is not there."""
    p = np.sqrt(q1 * q2)
    return np.divide(s, p, out=np.zeros(np.broadcast_shapes(p.shape, np.shape(s))), where=p > 0)


def line(q, function):
    """E[f(u)] by the trapezoidal rule."""
    g, weight = _rule(q)
    return function(np.sqrt(q)[..., None] * g) @ weight


def _rule(q):
    """Nodes and weights for variances up to the largest q, of which the function's own scale is a part."""
    step = _STEP / math.sqrt(max(1.0, q.max()))
    g = np.arange(-_REACH, _REACH + step / 2, step)
    return g, step * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
