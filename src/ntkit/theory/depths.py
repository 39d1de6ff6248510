"""How the shares of degrees depend on depth and scales, over the Boolean cube."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from ntkit._memory import require_bytes
from ntkit.errors import InvalidInput
from ntkit.theory.degrees import require_finite, weights_of
from ntkit.theory.on_cube import corners, projection
from ntkit.theory.read import LARGEST, read_activation, read_scale, read_whole
from ntkit.theory.recursion import Pairs, kernels_by_depth, relative_error

Scales: TypeAlias = float | Sequence[float] | Float[np.ndarray, "_"]


@dataclass(frozen=True, eq=False)
class DepthGrid:
    """Fractional variances over depths and scales; axes are depth from 0, w_std, b_std, degree from 0.

    Attributes:
        w_std: (w,), the scales of weights.
        b_std: (b,), of biases.
        nngp: (l, w, b, k), shares of the conjugate kernel.
        ntk: (l, w, b, k), of the tangent kernel.
    """

    w_std: Float[np.ndarray, "w"]
    b_std: Float[np.ndarray, "b"]
    nngp: Float[np.ndarray, "l w b k"]
    ntk: Float[np.ndarray, "l w b k"]

    def maximum(self, kernel: Literal["nngp", "ntk"] = "ntk") -> Float[np.ndarray, "k"]:
        """The largest share that any depth and scales give each degree."""
        return self._of(kernel).max(axis=(0, 1, 2))

    def optimal_depth(self, kernel: Literal["nngp", "ntk"] = "ntk") -> Int[np.ndarray, "k"]:
        """The depth at which each degree has its largest share, the shallowest of equal ones.

        Example:
            >>> import ntkit
            >>> grid = ntkit.theory.depth_grid("relu", 12, 2**0.5, [0.0, 1.0], d=128, degrees=4)
            >>> grid.optimal_depth("ntk").tolist()[1:]
            [0, 1, 3, 4]
        """
        return self._of(kernel).max(axis=(1, 2)).argmax(axis=0)

    def _of(self, kernel: str) -> Float[np.ndarray, "l w b k"]:
        if kernel not in ("nngp", "ntk"):
            raise InvalidInput(f"kernel must be 'nngp' or 'ntk', got {kernel!r}")
        return self.nngp if kernel == "nngp" else self.ntk


def depth_grid(
    activation: str | nn.Module,
    max_depth: int,
    w_std: Scales,
    b_std: Scales,
    d: int,
    *,
    degrees: int | None = None,
) -> DepthGrid:
    """Fractional variances over the Boolean cube, for all depths up to one, all scales, and degrees up to one.

    Args:
        activation: φ, by name ("relu", "erf", …) or as a module.
        max_depth: hidden layers of the deepest network, from 0 to 1,000.
        w_std: σ_w, one or several.
        b_std: σ_b, one or several.
        d: bits, from 1 to 1,000.
        degrees: the highest degree, at most d; default 8, or d where that is less.

    Returns:
        A `DepthGrid`. Shares that the noise of their kernel's values hides are 0, as in `boolean_cube`.

    Raises:
        InvalidInput: an argument is none of these, or kernels outgrow float64 or are zero.
        MemoryLimitExceeded: the grid does not fit.

    Reference:
        Yang & Salman, "A fine-grained spectral perspective on neural networks", 2019, section 5.
    """
    spec = read_activation(activation)
    depth, d = read_whole(max_depth, "max_depth", 0, LARGEST), read_whole(d, "d", 1, LARGEST)
    degrees = min(8, d) if degrees is None else read_whole(degrees, "degrees", 0, d)
    w, b = _read_scales(w_std, "w_std"), _read_scales(b_std, "b_std")
    networks = len(w) * len(b)
    needed = 8 * networks * (2 * (depth + 1) * (degrees + 1) + 20 * (d + 1))
    require_bytes(needed, f"a grid of {networks} scales and {depth + 1} depths", "take fewer scales, depths or degrees")
    own = torch.arange(networks).repeat_interleave(d + 1)
    all_pairs = Pairs(torch.ones(networks, dtype=torch.float64), own, own, corners(d).distance.repeat(networks))
    of_networks = w.repeat_interleave(len(b)), b.repeat(len(w))
    table, shares = projection(d)[: degrees + 1], ([], [])
    for hidden, kernels in enumerate(kernels_by_depth(spec, depth, *of_networks, all_pairs)):
        require_finite(kernels, networks)
        found = weights_of(table, kernels, relative_error(spec, hidden, np.ones(len(table))))
        for weights, values, into in zip(found, (kernels.nngp, kernels.ntk), shares, strict=True):
            trace = values.numpy()[:: d + 1]
            into.append((weights.seen().reshape(networks, -1) / trace[:, None]).reshape(len(w), len(b), -1))
    return DepthGrid(w.numpy(), b.numpy(), *(np.stack(own) for own in shares))


def _read_scales(value: Any, name: str) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(several) == 0:
        raise InvalidInput(f"{name} must hold at least one standard deviation, got none")
    return torch.stack([read_scale(float(one) if isinstance(one, np.floating) else one, name) for one in several])
