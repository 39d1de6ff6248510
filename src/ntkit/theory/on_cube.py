"""Eigenvalues over the Boolean cube {−1, 1}^d, of whose kernels the parities Π_{i∈S} x_i are the eigenfunctions.

A kernel Φ(x·x'/d) has μ_k = E[Φ χ_S] for all S of k bits. Of the pairs of corners C(d, r) 2^{−d} differ in r bits,
where Φ = Φ(1 − 2r/d), and the parities of k bits sum to the Krawtchouk polynomial K_k(r):

    C(d, k) μ_k = Σ_r 2^{−d} C(d, r) K_k(r) Φ(1 − 2r/d)

Yang & Salman 2019, section 3, take k-th differences of Φ instead; this is the same number. Weights here are rounded
once,
from whole numbers, so only the roundings of Φ count.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from ntkit.theory.degrees import TheorySpectrum, by_degree, require_finite, weights_of
from ntkit.theory.read import LARGEST, read_activation, read_scale, read_whole
from ntkit.theory.recursion import Pairs, kernels_by_depth, relative_error


def boolean_cube(activation: str | nn.Module, depth: int, w_std: float, b_std: float, d: int) -> TheorySpectrum:
    """The eigenvalues by degree of a fully connected network's kernels over the Boolean cube {−1, 1}^d.

    Σ_k C(d, k) μ_k = K(x, x), where K(x, x') = Σ_k μ_k Σ_{|S|=k} χ_S(x) χ_S(x').

    Args:
        activation: φ, by name ("relu", "erf", …) or as a module.
        depth: hidden layers, from 0 (a linear map) to 1,000.
        w_std: σ_w, standard deviation of √fan_in times a weight.
        b_std: σ_b, of a bias.
        d: bits, from 1 to 1,000.

    Returns:
        A `TheorySpectrum`; arrays have degrees 0 … d. As a matrix over all 2^d corners, K has the eigenvalues 2^d μ_k.

    Raises:
        InvalidInput: an argument is none of these, or kernels outgrow float64.
        UnsupportedLayer: exact kernels do not know the activation.

    Example:
        >>> import ntkit
        >>> found = ntkit.theory.boolean_cube("relu", depth=2, w_std=2**0.5, b_std=2**0.5, d=7)
        >>> round(float(found.nngp.fractional_variance[0]), 4)
        0.8388

    Reference:
        Yang & Salman, "A fine-grained spectral perspective on neural networks", 2019.
    """
    spec = read_activation(activation)
    depth, d = read_whole(depth, "depth", 0, LARGEST), read_whole(d, "d", 1, LARGEST)
    scales = read_scale(w_std, "w_std"), read_scale(b_std, "b_std")
    *_, kernels = kernels_by_depth(spec, depth, *scales, corners(d))
    require_finite(kernels)
    multiplicities = np.array([float(comb(d, k)) for k in range(d + 1)])
    found = weights_of(projection(d), kernels, relative_error(spec, depth, np.ones(d + 1)))
    traces = float(kernels.nngp[0]), float(kernels.ntk[0])
    return TheorySpectrum(*(by_degree(own, multiplicities, trace) for own, trace in zip(found, traces, strict=True)))


def corners(d: int) -> Pairs:
    """A corner and those that differ from it in 0, 1, … d bits."""
    first = torch.zeros(d + 1, dtype=torch.long)
    return Pairs(torch.ones(1, dtype=torch.float64), first, first, 4 * torch.arange(d + 1, dtype=torch.float64) / d)


@lru_cache(maxsize=8)
def projection(d: int) -> Float[np.ndarray, "k r"]:
    """2^{−d} C(d, r) K_k(r), from Σ_k K_k(r) z^k = (1 − z)^r (1 + z)^{d−r} in whole numbers."""
    binomials = [comb(d, k) for k in range(d + 1)]
    table, whole = np.empty((d + 1, d + 1)), 2**d
    row = binomials
    for r in range(d + 1):
        table[:, r] = [binomials[r] * value / whole for value in row]
        after: list[int] = []
        for k, value in enumerate(row):  # times 1 − z, divided by 1 + z
            after.append(value - row[k - 1] - after[k - 1] if k else value)
        row = after
    table.flags.writeable = False
    return table
