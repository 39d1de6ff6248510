"""Attention, embeddings of positions and masks in textbook form: covariances of all pairs of tokens, in float64.

All that reads the tokens of a sample with weights of the sample's own is K' = W₁ K W₂ᵀ: attention, the mean over the
tokens that are there, and zeros in place of the others. A grid has one axis, the tokens.
Reference: Hron, Bahri, Sohl-Dickstein & Novak 2020, "Infinite attention", theorems 3 and 4 and section 3.3.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from oracles.convolutional import Field


def mixed(field, weights):
    """Σ_a W[P, a] x_a of every sample; `weights` of both sides, each (samples, P, a)."""
    one, two = weights

    def between(k):
        return np.einsum("npa,nmab,mqb->nmpq", one, k, two, optimize=True)

    def within(k, w):
        return np.einsum("npa,nab,nqb->npq", w, k, w, optimize=True)

    means = (None, None)
    if field.m1 is not None:
        means = tuple(np.einsum("npa,na->np", w, m) for w, m in ((one, field.m1), (two, field.m2)))
    k11, k22 = within(field.k11, one), within(field.k22, two)
    return Field(k11, k22, between(field.k12), between(field.t12), field.same, *means)


def attention(field, keys, mechanism, score_scale, masks=(None, None)):
    """Values weighted by what the mechanism makes of the keys' covariances; no output layer yet."""
    covariances = (keys.k11, keys.k22)
    return mixed(
        field, [weights_of(k, mechanism, score_scale, mask) for k, mask in zip(covariances, masks, strict=True)]
    )


def weights_of(covariances, mechanism, score_scale, mask=None):
    """(n, p, p): how much of each token a token takes, none of those that are not there."""
    weights = np.zeros_like(covariances)
    for sample, token in itertools.product(*map(range, covariances.shape[:2])):
        there = np.ones(covariances.shape[1], dtype=bool) if mask is None else mask[sample]
        scores = score_scale * covariances[sample, token, there]
        weights[sample, token, there] = _MECHANISMS[mechanism](scores)
    return weights


def _softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


_MECHANISMS = {
    "softmax": _softmax,
    "identity": lambda scores: scores,
    "relu": lambda scores: np.where(scores > 0, scores, 0.0),
    "abs": abs,
}


def masked_mean(field, masks):
    """The mean over the tokens that are there, on a grid of one position."""
    return mixed(field, [(mask / mask.sum(1, keepdims=True))[:, None] for mask in masks])


def masked_fill(field, masks):
    """0 in place of tokens that are not there."""
    return mixed(field, [mask[:, None] * np.eye(mask.shape[1]) for mask in masks])


def positions(field, std, correlation_length, trained):
    """Random vectors of the grid's positions alone: std² exp(−|p − p'|²/(2 ℓ²)), the same for every sample."""
    grid = field.grid
    places = list(itertools.product(*map(range, grid)))
    bell = np.empty((len(places), len(places)))
    for (i, p), (j, q) in itertools.product(enumerate(places), repeat=2):
        square = sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
        bell[i, j] = math.exp(-square / (2 * correlation_length**2)) if correlation_length else float(i == j)
    covariance = std**2 * bell.reshape(*grid, *grid)
    k11, k22, k12 = (np.broadcast_to(covariance, k.shape) for k in (field.k11, field.k22, field.k12))
    return Field(k11, k22, k12, trained * k12, field.same)


def merged(field):
    """The same with all axes of positions as one, the tokens."""
    r, size = field.rank, math.prod(field.grid)

    def flat(k):
        return k.reshape(*k.shape[: k.ndim - 2 * r], size, size)

    out = field.linear(flat)
    if field.m1 is not None:
        out.m1, out.m2 = (m.reshape(len(m), size) for m in (field.m1, field.m2))
    return out
