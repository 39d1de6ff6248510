"""Weights by Hermite degree of kernels over Gaussian inputs, x ~ N(0, I_d).

Kernels of networks depend on both lengths and the angle, so Hermite polynomials are no eigenfunctions: only rotations
are kept. What belongs to degree k is W_k = Σ_{|α|=k} ⟨h_α, K h_α⟩, the variance that a random function of the kernel
has in polynomials of exactly that degree; W_k over their number tends to the eigenvalue over the sphere and the cube
as d grows (Yang & Salman 2019). In polar coordinates, with u = |x|²/2 ~ Gamma(d/2), the polynomials of degree k = l +
2n are

    h = c u^{l/2} L_n^{(d/2−1+l)}(u) Y_l(x/|x|),     c² = n! Γ(d/2) / Γ(n + d/2 + l),

so W_k = Σ_{l+2n=k} N(d, l) E_{u,u'}[h h' κ_l(u, u')], where κ_l is the eigenvalue over the sphere for lengths u and u'.
"""

from __future__ import annotations

from math import comb, lgamma, log, sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from ntkit.theory.degrees import Found, TheorySpectrum, Weights, by_degree, require_finite, until_it_stays
from ntkit.theory.on_sphere import angles, gegenbauer, recurrence_roundings
from ntkit.theory.on_sphere import multiplicities as harmonics
from ntkit.theory.read import LARGEST, read_activation, read_scale, read_whole
from ntkit.theory.recursion import Pairs, kernels_by_depth, relative_error

_MOST_DEGREES = 30
_LENGTHS = (24, 36, 54)  # nodes of |x|, until the result stays
_REACH = 9.0  # of |x| to both sides of √d: its standard deviation is at most 1/√2


def gaussian(
    activation: str | nn.Module, depth: int, w_std: float, b_std: float, d: int, *, degrees: int = 8
) -> TheorySpectrum:
    """The weights by Hermite degree of a fully connected network's kernels over Gaussian inputs, x ~ N(0, I_d).

    Σ_k C(d+k−1, k) μ_k = E K(x, x), over all k; μ_k is the mean of ⟨h, K h⟩ over the Hermite polynomials of degree k.
    Activations without a closed form, such as tanh, take minutes: a series for every pair of lengths.

    Args:
        activation: φ, by name ("relu", "erf", …) or as a module.
        depth: hidden layers, from 0 (a linear map) to 1,000.
        w_std: σ_w, standard deviation of √fan_in times a weight.
        b_std: σ_b, of a bias.
        d: dimensions, from 2 to 1,000.
        degrees: the highest degree, at most 30.

    Returns:
        A `TheorySpectrum`; arrays have degrees 0 … `degrees`. Noise floors include what a finer quadrature changed.

    Raises:
        InvalidInput: an argument is none of these, or kernels outgrow float64.
        UnsupportedLayer: exact kernels do not know the activation.

    Example:
        >>> import ntkit
        >>> found = ntkit.theory.gaussian("relu", depth=0, w_std=1.0, b_std=1.0, d=10, degrees=2)
        >>> (found.ntk.eigenvalues * found.ntk.multiplicities).round(6).tolist()
        [1.0, 1.0, 0.0]

    Reference:
        Yang & Salman, "A fine-grained spectral perspective on neural networks", 2019.
    """
    spec = read_activation(activation)
    depth, d = read_whole(depth, "depth", 0, LARGEST), read_whole(d, "d", 2, LARGEST)
    degrees = read_whole(degrees, "degrees", 0, _MOST_DEGREES)
    scales = read_scale(w_std, "w_std"), read_scale(b_std, "b_std")
    error = relative_error(spec, depth, recurrence_roundings(degrees))

    def with_lengths(count: int) -> Found:
        u, shares = lengths(d, count)
        theta, of_angles = angles(d, count // 2)
        first, second = np.triu_indices(count)
        q = 2 * u / d
        distance = (np.sqrt(q[first]) - np.sqrt(q[second]))[:, None] ** 2
        distance = distance + 4 * np.sqrt(q[first] * q[second])[:, None] * np.sin(theta / 2) ** 2
        one, two = (torch.from_numpy(np.repeat(side, len(theta))) for side in (first, second))
        *_, kernels = kernels_by_depth(
            spec, depth, *scales, Pairs(torch.from_numpy(q), one, two, torch.from_numpy(distance.ravel()))
        )
        require_finite(kernels)
        by_angle = gegenbauer(d, degrees, theta) * of_angles
        weights = [_weights(value.numpy(), by_angle, u, shares, d, error) for value in (kernels.nngp, kernels.ntk)]
        itself = torch.arange(count)
        *_, own = kernels_by_depth(
            spec, depth, *scales, Pairs(torch.from_numpy(q), itself, itself, torch.zeros(count, dtype=torch.float64))
        )
        return weights[0], weights[1], (float(shares @ own.nngp.numpy()), float(shares @ own.ntk.numpy()))

    *found, traces = until_it_stays(with_lengths, _LENGTHS)
    counts = np.array([float(comb(d + k - 1, k)) for k in range(degrees + 1)])
    return TheorySpectrum(*(by_degree(own, counts, whole) for own, whole in zip(found, traces, strict=True)))


def _weights(
    values: Float[np.ndarray, "_"],
    by_angle: Float[np.ndarray, "k a"],
    u: Float[np.ndarray, "i"],
    shares: Float[np.ndarray, "i"],
    d: int,
    error: Float[np.ndarray, "k"],
) -> Weights:
    """W_k of one kernel, known for every pair of lengths i ≤ j and every angle."""
    degrees, (first, second) = len(by_angle), np.triu_indices(len(u))
    table = values.reshape(len(first), -1)
    twice = np.where(first == second, 1.0, 2.0)
    of_harmonics, sizes = table @ by_angle.T, np.abs(table) @ np.abs(by_angle.T)  # κ_l
    found, floor = np.zeros(degrees), np.zeros(degrees)
    for degree, count in enumerate(harmonics(d, degrees - 1)):
        for n, radial in enumerate(radial_parts(d, degree, (degrees - 1 - degree) // 2, u)):
            part = twice * (radial * shares)[first] * (radial * shares)[second]
            found[degree + 2 * n] += count * (part @ of_harmonics[:, degree])
            floor[degree + 2 * n] += error[degree + 2 * n] * count * (np.abs(part) @ sizes[:, degree])
    return Weights(found, floor)


def lengths(d: int, count: int) -> tuple[Float[np.ndarray, "i"], Float[np.ndarray, "i"]]:
    """Nodes u = |x|²/2 and their shares, which sum to 1: Gauss's rule in |x|, in which kernels are smooth at 0."""
    low, high = max(0.0, sqrt(d) - _REACH), sqrt(d) + _REACH
    nodes, shares = np.polynomial.legendre.leggauss(count)
    r = low + (high - low) * (1 + nodes) / 2
    u = r**2 / 2
    density = np.exp((d - 1) * np.log(r) - u - (d / 2 - 1) * log(2) - lgamma(d / 2))
    return u, (high - low) / 2 * shares * density


def radial_parts(d: int, degree: int, most: int, u: Float[np.ndarray, "i"]) -> Float[np.ndarray, "n i"]:
    """c u^{l/2} L_n^{(d/2−1+l)}(u) for n = 0 … most, of mean square 1."""
    a = d / 2 - 1 + degree
    rows = [np.ones_like(u), 1 + a - u]
    for n in range(1, most):
        rows.append(((2 * n + 1 + a - u) * rows[n] - (n + a) * rows[n - 1]) / (n + 1))
    scales = [(lgamma(n + 1) + lgamma(d / 2) - lgamma(n + a + 1)) / 2 for n in range(most + 1)]
    return np.stack([row * np.exp(scale + degree / 2 * np.log(u)) for row, scale in zip(rows, scales, strict=False)])
