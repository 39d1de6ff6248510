"""What convolutional kernels prefer over the Boolean cube, whose bits are the positions of a ring or of an image.

A kernel's share of the parity χ_S is χ_Sᵀ K χ_S / (2^d tr K); shares sum to one, as parities are a basis. Where the
positions are flattened, K(x, x') depends on the products x_i x'_i alone, so parities are its eigenfunctions as they are
of a fully connected network, whose shares depend on |S| only (Yang & Salman 2019); those of a convolutional network
depend on where the bits of S lie. Where positions are averaged, products of different positions enter, and parities are
no eigenfunctions; the shares of degrees are well defined all the same. What of K lies off them is

    1 − Σ_S (χ_Sᵀ K χ_S)² / (4^d ‖K‖_F²).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntkit._memory import require_bytes
from ntkit.experiments.reproductions.experiment import Findings, Workbench
from ntkit.experiments.reproductions.yang.learning_rate_layers import Domain, Kind, connected, convolutional
from ntkit.experiments.reproductions.yang.learning_rate_tasks import Scales, corners, degrees, parities
from ntkit.infinite import InfiniteKernel
from ntkit.theory import boolean_cube

LOW = 2  # degrees up to this one are low
KINDS: tuple[Kind, ...] = ("connected", "flatten", "gap")


@dataclass(frozen=True)
class ShareSize:
    """The inputs and depths.

    Args:
        ring: bits around a ring.
        image: height and width of an image of bits.
        depths: hidden layers, ascending.
    """

    ring: int
    image: tuple[int, int]
    depths: tuple[int, ...]


def measure_shares(size: ShareSize, scales: Scales, bench: Workbench) -> list[Findings]:
    """A row for each domain, architecture, depth and kernel."""
    shapes: dict[Domain, tuple[int, ...]] = {"ring": (1, size.ring), "image": (1, *size.image)}
    for shape in shapes.values():
        n = 2 ** math.prod(shape)
        require_bytes(8 * n * n * (2 * len(size.depths) + 3), f"kernels over {n:,} corners", "take fewer bits")
    jobs: list[tuple[Domain, Kind]] = [(domain, kind) for domain in shapes for kind in KINDS]
    rows: list[Findings] = []
    for domain, kind in bench.reporter.track(jobs, "convolutional kernels over the cube", len(jobs)):
        rows += _rows(domain, shapes[domain], kind, size.depths, scales)
    return rows


def _rows(
    domain: Domain, shape: tuple[int, ...], kind: Kind, depths: tuple[int, ...], scales: Scales
) -> Iterator[Findings]:
    bits = math.prod(shape)
    x, basis, of_degree = corners(bits).astype(np.float64), parities(bits), degrees(bits)
    if kind == "connected":
        results = InfiniteKernel(connected(bits, depths, scales))(x)
    else:
        results = InfiniteKernel(convolutional(domain, bits, depths, kind, scales))(x.reshape(-1, *shape))
    for depth, result in zip(depths, results, strict=True):
        theory = boolean_cube("relu", depth, scales.w_std, scales.b_std, bits)
        for name in ("nngp", "ntk"):
            shares, off = shares_of_parities(getattr(result, name), basis)
            by_degree = np.bincount(of_degree, weights=shares)
            yield {
                "domain": domain, "kind": kind, "depth": depth, "kernel": name, "bits": bits,
                "shares": by_degree.tolist(), "off": off, "high": float(by_degree[LOW + 1 :].sum()),
                "pairs": pairs_by_distance(shares, bits) if domain == "ring" else None,
                "theory": getattr(theory, name).fractional_variance.tolist(),
            }  # fmt: skip


def shares_of_parities(
    K: Float[np.ndarray, "n n"], basis: Float[np.ndarray, "n n"]
) -> tuple[Float[np.ndarray, "n"], float]:
    """The share of each parity in the trace, and the share of ‖K‖² that is off them.

    Example:
        >>> from ntkit.experiments.reproductions.yang.learning_rate_tasks import parities
        >>> shares, off = shares_of_parities(np.eye(4), parities(2))
        >>> shares.tolist(), off
        ([0.25, 0.25, 0.25, 0.25], 0.0)
    """
    turned = basis.T @ K @ basis / len(K)
    own = np.diagonal(turned)
    return own / np.trace(K), float(1 - (own**2).sum() / (turned**2).sum())


def pairs_by_distance(shares: Float[np.ndarray, "n"], bits: int) -> list[float]:
    """Of the parities of two bits of a ring, the mean share at distance 1, 2, … bits // 2.

    Example:
        >>> pairs_by_distance(np.arange(16.0), 4)  # {0,1}, {1,2}, {2,3}, {3,0}: 12, 6, 3, 9; {0,2}, {1,3}: 10, 5
        [7.5, 7.5]
    """
    one = 2 ** np.arange(bits - 1, -1, -1)  # the number of the set {i}
    return [float(shares[one + np.roll(one, distance)].mean()) for distance in range(1, bits // 2 + 1)]


def white_share(bits: int) -> float:
    """The share above degree 2 of a kernel that prefers nothing, K = I."""
    return 1 - sum(math.comb(bits, k) for k in range(LOW + 1)) / 2**bits
