"""Random functions on the cube {−1, 1}^d, drawn from networks of finite width or from their limit, and what they are.

    f(x) = Σ_S f̂_S χ_S(x),   χ_S(x) = Π_{i∈S} x_i

In the limit of infinite width f is a Gaussian process whose covariance is the conjugate kernel; its f̂_S are independent
with variance μ_|S| (Yang & Salman 2019, section 3).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt
from torch import Tensor

from ntkit.theory import boolean_cube
from ntkit.theory.degrees import DegreeSpectrum

BITS = 7
CORNERS = 2**BITS
_NUMBERS = 1 << 23  # of weights and activations held at a time
# functions that are equally probable, as a network's distribution knows no bit, no sign of a bit, no sign from another:
# what they are, and how many
KINDS = {
    "constants": ("constant", 2),
    "one_corner": ("constant but at one corner", 2 * CORNERS),
    "one_bit": ("one of the bits or its negative", 2 * BITS),
}
TITLES = {"relu": "ReLU", "erf": "erf"}
_FUNCTIONS = {"relu": torch.relu, "erf": torch.erf}


@dataclass(frozen=True)
class Architecture:
    """Which networks are drawn: every weight N(0, w_square/fan_in), every bias N(0, b_square), the last layer's too.

    Args:
        activation: "relu" or "erf".
        depth: hidden layers.
        w_square: σ_w².
        b_square: σ_b².
    """

    activation: str
    depth: int
    w_square: float
    b_square: float

    @property
    def key(self) -> str:
        """As a name in results."""
        return f"{self.activation}_{self.depth}_{self.w_square:g}_{self.b_square:g}"

    @property
    def title(self) -> str:
        """As people read it."""
        name = TITLES[self.activation]
        return f"{name}, σ_w² = {self.w_square:g}, σ_b² = {self.b_square:g}, {self.depth} hidden layers"

    @property
    def spectrum(self) -> DegreeSpectrum:
        """Of the conjugate kernel over the cube."""
        scales = self.w_square**0.5, self.b_square**0.5
        return boolean_cube(self.activation, self.depth, *scales, BITS).nngp


def corners() -> Float[np.ndarray, "x d"]:
    """All corners; bit i of a corner's number is set where x_i = −1."""
    bits = np.arange(CORNERS)[:, None] >> np.arange(BITS) & 1
    return 1.0 - 2.0 * bits


def parities() -> Float[np.ndarray, "x s"]:
    """χ_S at every corner; S is the set of bits of the column's number."""
    common = np.bitwise_count(np.arange(CORNERS)[:, None] & np.arange(CORNERS))
    return 1.0 - 2.0 * (common % 2)


def degrees() -> Int[np.ndarray, "s"]:
    """|S| of every column of `parities`."""
    return np.bitwise_count(np.arange(CORNERS)).astype(int)


def draw_networks(arch: Architecture, width: int, n: int, seed: int) -> Iterator[Float[Tensor, "m x"]]:
    """Outputs of n random networks on all corners, as many at a time as `at_once` says.

    Args:
        arch: what is drawn.
        width: of every hidden layer.
        n: networks.
        seed: of the draws; other architectures and widths have other draws.
    """
    generator = _generator(seed, f"{arch.key} width {width}")
    x = torch.from_numpy(corners()).float()
    for start in range(0, n, at_once(width)):
        m = min(at_once(width), n - start)
        h, fan_in = x.expand(m, -1, -1), BITS
        for _ in range(arch.depth):
            h = _FUNCTIONS[arch.activation](_affine(h, fan_in, width, arch, generator))
            fan_in = width
        yield _affine(h, fan_in, 1, arch, generator)[..., 0]


def draw_process(arch: Architecture, n: int, seed: int) -> Iterator[Float[Tensor, "m x"]]:
    """n draws on all corners from the Gaussian process that networks of infinite width are, `at_once(0)` at a time."""
    generator = _generator(seed, f"{arch.key} process")
    scales = np.sqrt(arch.spectrum.eigenvalues)[degrees()]
    mix = torch.from_numpy(scales[:, None] * parities().T).float()
    for start in range(0, n, at_once(0)):
        yield torch.randn(min(at_once(0), n - start), CORNERS, generator=generator) @ mix


def at_once(width: int) -> int:
    """Networks of a width that are drawn together; of width 0, functions of the process."""
    return max(1, _NUMBERS // (max(width, 1) * (CORNERS + width)))


def _affine(
    h: Float[Tensor, "m x i"], fan_in: int, fan_out: int, arch: Architecture, generator: torch.Generator
) -> Float[Tensor, "m x o"]:
    m = len(h)
    weight = torch.randn(m, fan_in, fan_out, generator=generator).mul_((arch.w_square / fan_in) ** 0.5)
    bias = torch.randn(m, 1, fan_out, generator=generator).mul_(arch.b_square**0.5)
    return torch.baddbmm(bias, h, weight)


def _generator(seed: int, what: str) -> torch.Generator:
    state = np.random.SeedSequence([seed, zlib.crc32(what.encode())]).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def functions(f: Float[Tensor, "m x"]) -> UInt[np.ndarray, "m 2"]:
    """The Boolean functions f > 0, 128 bits each: corner x is bit x."""
    bits = (f > 0).contiguous().numpy()
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def energies(f: Float[Tensor, "m x"]) -> Float[np.ndarray, "m k"]:
    """Σ_{|S| = k} f̂_S² of each function, for k = 0 … d."""
    coefficients = (f @ torch.from_numpy(parities()).float() / CORNERS).double().square().numpy()
    table = degrees()[:, None] == np.arange(BITS + 1)
    return coefficients @ table


def shares(energy: Float[np.ndarray, "m k"]) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """The share of each degree in the variance of random functions, E Σ f̂_S² / E Σ f̂², and its standard error.

    The error is that of a ratio of two means to first order.
    """
    total = energy.sum(1)
    share = energy.mean(0) / total.mean()
    off = energy - share * total[:, None]
    return share, off.std(0, ddof=1) / (total.mean() * len(energy) ** 0.5)


@dataclass(frozen=True, eq=False)
class Counted:
    """Different functions among some draws, the most frequent first; of equally frequent ones the smaller number.

    Args:
        codes: (f, 2), as `functions` gives them.
        counts: (f,), how often each was drawn.
    """

    codes: UInt[np.ndarray, "f 2"]
    counts: Int[np.ndarray, "f"]

    @property
    def pairs(self) -> int:
        """Pairs of draws that are the same function."""
        return int((self.counts * (self.counts - 1) // 2).sum())


def count(codes: UInt[np.ndarray, "m 2"]) -> Counted:
    """How often each function occurs."""
    ordered = codes[np.lexsort((codes[:, 0], codes[:, 1]))]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(1)])
    counts = np.diff(np.r_[first, len(ordered)])
    order = np.argsort(-counts, kind="stable")
    return Counted(ordered[first[order]], counts[order])


def ones(codes: UInt[np.ndarray, "m 2"]) -> Int[np.ndarray, "m"]:
    """At how many corners each function is +1."""
    return np.bitwise_count(codes).sum(1, dtype=int)


def count_kinds(codes: UInt[np.ndarray, "m 2"]) -> dict[str, int]:
    """How many functions are of each kind of `KINDS`."""
    n = ones(codes)
    bits = torch.from_numpy(corners())
    one_bit = functions(torch.cat([bits, -bits], 1).T)
    return {
        "constants": int(np.isin(n, (0, CORNERS)).sum()),
        "one_corner": int(np.isin(n, (1, CORNERS - 1)).sum()),
        "one_bit": int(sum((codes == code).all(1).sum() for code in one_bit)),
    }
