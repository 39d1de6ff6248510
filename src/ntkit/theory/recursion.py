"""Kernels of a fully connected network, layer by layer, for chosen pairs of inputs.

    s⁰ = σ_w² x·x'/d + σ_b²,      sˡ = σ_w² E[φ(u)φ(v)] + σ_b²,      (u, v) ~ N(0, the sˡ⁻¹ of the pair)
    T⁰ = s⁰,                      Tˡ = sˡ + σ_w² E[φ'(u)φ'(v)] Tˡ⁻¹

s is the conjugate kernel (NNGP), T the tangent kernel (Yang & Salman 2019, after Jacot et al. 2018 and Lee et al.
2018). In place of s the squared distance of a pair is carried, which keeps its digits where inputs are close.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ntkit.architecture.specs import Activation
from ntkit.infinite.dual import ClosedForm, Dual, Samples, dual
from ntkit.theory.read import TOLERANCE

_BLOCK = 1 << 14  # pairs
_ROUNDINGS = 4  # of a layer, in units of the last place; tests hold closed forms in many digits against it


@dataclass(frozen=True)
class Pairs:
    """Pairs of inputs.

    Args:
        q: |x|²/d of every input.
        first: the input that stands first in a pair.
        second: the other.
        distance: |x − x'|²/d.
    """

    q: Float[Tensor, "u"]
    first: Int[Tensor, "n"]
    second: Int[Tensor, "n"]
    distance: Float[Tensor, "n"]


class Kernels(NamedTuple):
    """A network's kernels of pairs.

    Args:
        nngp: s.
        ntk: T.
        distance: of the pair in s, s(x, x) + s(x', x') − 2 s(x, x').
    """

    nngp: Float[Tensor, "n"]
    ntk: Float[Tensor, "n"]
    distance: Float[Tensor, "n"]


def kernels_by_depth(
    activation: Activation, depth: int, w_std: Float[Tensor, "*u"], b_std: Float[Tensor, "*u"], pairs: Pairs
) -> Iterator[Kernels]:
    """The kernels of networks with 0, 1, … `depth` hidden layers.

    Args:
        activation: φ.
        depth: hidden layers of the deepest.
        w_std: σ_w, one for all inputs or one each.
        b_std: σ_b, likewise; both inputs of a pair have the same.
        pairs: the inputs.
    """
    moments = dual(activation, TOLERANCE)
    w_square, b_square = (std.square().expand(pairs.q.shape) for std in (w_std, b_std))
    of_pair = w_square[pairs.first]
    q, distance = w_square * pairs.q + b_square, of_pair * pairs.distance
    nngp = ntk = (q[pairs.first] + q[pairs.second] - distance) / 2
    yield Kernels(nngp, ntk, distance)
    for _ in range(depth):
        samples = moments.samples(q)
        after, slope = _after(moments, samples, pairs, distance)
        q, distance = w_square * samples.variance + b_square, of_pair * after
        nngp = (q[pairs.first] + q[pairs.second] - distance) / 2
        ntk = nngp + of_pair * slope * ntk
        yield Kernels(nngp, ntk, distance)


def _after(
    moments: Dual, samples: Samples, pairs: Pairs, distance: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Distances behind the activation and E[φ'(u)φ'(v)], some pairs at a time: a series has a table for each side."""
    parts = []
    for start in range(0, len(distance), _BLOCK):
        rows = slice(start, start + _BLOCK)
        parts.append(moments.pairs(samples[pairs.first[rows]], samples[pairs.second[rows]], distance[rows], True))
    after, slope = zip(*parts, strict=True)
    return torch.cat(after), torch.cat(slope)


def relative_error(activation: Activation, depth: int, of_weights: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """What rounding, and a dual found by quadrature, may do to products of kernels and weights.

    Args:
        activation: φ.
        depth: hidden layers.
        of_weights: roundings of the weights of each degree.
    """
    moments = dual(activation, TOLERANCE)
    each = 0.0 if isinstance(moments, ClosedForm) else TOLERANCE
    return (depth + 1) * each + np.finfo(np.float64).eps * ((depth + 1) * _ROUNDINGS + of_weights)
