"""Eigenvalues over the sphere of radius √d, of whose kernels spherical harmonics are the eigenfunctions.

A kernel Φ(x·x'/d) = Φ(cos θ) has, with the Gegenbauer polynomials P_k, P_k(1) = 1, that belong to sin^{d−2} θ (Funk
and Hecke)

    μ_k = ∫ Φ(cos θ) P_k(cos θ) sin^{d−2} θ dθ / ∫ sin^{d−2} θ dθ,     N(d, k) = C(d+k−1, k) − C(d+k−3, k−2) times.

In θ the kernels of ReLU networks are analytic up to both ends, in t = cos θ they are not: Gauss's rule on panels of
θ, which shrink towards the ends, where deep networks change fastest.
"""

from __future__ import annotations

from math import comb, lgamma, log, log2, pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntkit.architecture.specs import Activation
from ntkit.theory.degrees import Found, TheorySpectrum, by_degree, require_finite, until_it_stays, weights_of
from ntkit.theory.read import LARGEST, MOST_DEGREES, read_activation, read_scale, read_whole
from ntkit.theory.recursion import Kernels, Pairs, kernels_by_depth, relative_error

_NODES = 16  # of a panel
_SMALLEST = 2.0**-24  # panel, towards 0 and π, of π
_PANELS = (16, 32, 64, 128)  # of equal width, until the result stays


def sphere(
    activation: str | nn.Module, depth: int, w_std: float, b_std: float, d: int, *, degrees: int = 20
) -> TheorySpectrum:
    """The eigenvalues by degree of a fully connected network's kernels over the sphere of radius √d in d dimensions.

    Σ_k N(d, k) μ_k = K(x, x), over all k, for the uniform distribution.

    Args:
        activation: φ, by name ("relu", "erf", …) or as a module.
        depth: hidden layers, from 0 (a linear map) to 1,000.
        w_std: σ_w, standard deviation of √fan_in times a weight.
        b_std: σ_b, of a bias.
        d: dimensions, from 2 (the circle) to 1,000.
        degrees: the highest degree.

    Returns:
        A `TheorySpectrum`; arrays have degrees 0 … `degrees`. Noise floors include what a finer quadrature changed.

    Raises:
        InvalidInput: an argument is none of these, or kernels outgrow float64.
        UnsupportedLayer: exact kernels do not know the activation.

    Example:
        >>> import ntkit
        >>> found = ntkit.theory.sphere("relu", depth=1, w_std=2**0.5, b_std=0.0, d=3, degrees=2)
        >>> found.nngp.multiplicities.tolist(), found.nngp.fractional_variance.round(4).tolist()
        ([1.0, 3.0, 5.0], [0.375, 0.5, 0.1172])

    Reference:
        Yang & Salman, "A fine-grained spectral perspective on neural networks", 2019; Bietti & Mairal, "On the
        inductive bias of neural tangent kernels", NeurIPS 2019.
    """
    spec = read_activation(activation)
    depth, d = read_whole(depth, "depth", 0, LARGEST), read_whole(d, "d", 2, LARGEST)
    degrees = read_whole(degrees, "degrees", 0, MOST_DEGREES)
    scales = read_scale(w_std, "w_std"), read_scale(b_std, "b_std")
    counts = multiplicities(d, degrees)
    error = relative_error(spec, depth, recurrence_roundings(degrees))

    def with_panels(count: int) -> Found:
        theta, shares = angles(d, count + degrees // 4)
        kernels, itself = at_angles(spec, depth, scales, theta)
        nngp, ntk = weights_of(counts[:, None] * gegenbauer(d, degrees, theta) * shares, kernels, error)
        return nngp, ntk, (float(itself.nngp), float(itself.ntk))

    *found, traces = until_it_stays(with_panels, _PANELS)
    return TheorySpectrum(*(by_degree(own, counts, whole) for own, whole in zip(found, traces, strict=True)))


def at_angles(
    spec: Activation, depth: int, scales: tuple[Tensor, Tensor], theta: Float[np.ndarray, "r"]
) -> tuple[Kernels, Kernels]:
    """The kernels of unit inputs at angles θ, and those of an input with itself."""
    distance = 4 * torch.sin(torch.from_numpy(np.append(theta, 0.0)) / 2).square()
    first = torch.zeros(len(distance), dtype=torch.long)
    *_, kernels = kernels_by_depth(
        spec, depth, *scales, Pairs(torch.ones(1, dtype=torch.float64), first, first, distance)
    )
    require_finite(kernels)
    return Kernels(*(value[:-1] for value in kernels)), Kernels(*(value[-1] for value in kernels))


def angles(d: int, panels: int) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "r"]]:
    """Nodes θ and their shares of the sphere, which sum to 1."""
    ends = pi * 2.0 ** np.arange(log2(_SMALLEST), -log2(panels))
    edges = np.unique(np.concatenate([[0.0, pi], ends, pi - ends, pi * np.arange(1, panels) / panels]))
    nodes, shares = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges)[:, None] / 2
    theta = (edges[:-1, None] + half * (1 + nodes)).ravel()
    whole = lgamma((d - 1) / 2) + log(pi) / 2 - lgamma(d / 2)  # log ∫ sin^{d−2}
    return theta, (half * shares).ravel() * np.exp((d - 2) * np.log(np.sin(theta)) - whole)


def gegenbauer(d: int, degrees: int, theta: Float[np.ndarray, "r"]) -> Float[np.ndarray, "k r"]:
    """P_k(cos θ) by (k + d − 2) P_{k+1} = (2k + d − 2) t P_k − k P_{k−1}."""
    t = np.cos(theta)
    rows = [np.ones_like(t), t]
    for k in range(1, degrees):
        rows.append(((2 * k + d - 2) * t * rows[k] - k * rows[k - 1]) / (k + d - 2))
    return np.stack(rows[: degrees + 1])


def recurrence_roundings(degrees: int) -> Float[np.ndarray, "k"]:
    """Of P_k, in units of the last place."""
    return 4.0 * (1 + np.arange(degrees + 1))


def multiplicities(d: int, degrees: int) -> Float[np.ndarray, "k"]:
    """How many spherical harmonics each degree has."""
    return np.array([float(comb(d + k - 1, k) - (comb(d + k - 3, k - 2) if k > 1 else 0)) for k in range(degrees + 1)])
