"""Which positions of its input an output position reads, axis by axis: convolution windows and pooling windows.

A convolution reads the taps p = stride · P − before + dilation · a of every output position P; a pooling layer takes
the weighted sum Σ_p W[P, p]. Sizes of the input are not known to a layer, so both are functions of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ntkit.errors import InvalidInput

OUTSIDE = -1  # the tap of a position that lies in the padding


@dataclass(frozen=True)
class ConvAxis:
    """One axis of a convolution's window.

    Args:
        kernel: taps.
        stride: input positions between two output positions.
        dilation: input positions between two taps.
        before: positions of padding before the first one.
        after: positions of padding after the last one.
        circular: whether the padding wraps around; else it is zeros.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    circular: bool = False

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position reads just the input position of the same number."""
        return (self.kernel, self.stride, self.before, self.after) == (1, 1, 0, 0)

    def size(self, n: int) -> int:
        """Output positions of n input positions.

        Raises:
            InvalidInput: the window does not fit, or circular padding would wrap more than once.
        """
        span = self.dilation * (self.kernel - 1) + 1
        if n + self.before + self.after < span:
            raise InvalidInput(
                f"a window of {span} positions does not fit into {n} with a padding of {self.before} and {self.after}; "
                "use larger images or a smaller kernel"
            )
        if self.circular and max(self.before, self.after) > n:
            raise InvalidInput(
                f"circular padding of {max(self.before, self.after)} wraps more than once around {n} positions; "
                "use larger images or less padding"
            )
        return (n + self.before + self.after - span) // self.stride + 1

    def taps(self, n: int) -> Int[np.ndarray, "out kernel"]:
        """The input position of every tap, `OUTSIDE` in zero padding."""
        out, tap = np.arange(self.size(n)), np.arange(self.kernel)
        positions = out[:, None] * self.stride - self.before + tap[None, :] * self.dilation
        if self.circular:
            return positions % n
        return np.where((positions >= 0) & (positions < n), positions, OUTSIDE)

    def counts(self, n: int) -> Float[np.ndarray, "out n"]:
        """How often each input position is read by each output position."""
        taps = self.taps(n)
        counts = np.zeros((len(taps), n))
        for tap in taps.T:
            inside = tap != OUTSIDE
            np.add.at(counts, (np.flatnonzero(inside), tap[inside]), 1.0)
        return counts


@dataclass(frozen=True)
class PoolAxis:
    """One axis of a pooling layer: the output is W x with a matrix W that depends on the size of x."""

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """W for n input positions."""
        raise NotImplementedError

    def size(self, n: int) -> int:
        """Output positions of n input positions."""
        return len(self.matrix(n))


@dataclass(frozen=True)
class KeepAxis(PoolAxis):
    """An axis that is not pooled."""

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """The identity."""
        return np.eye(n)


@dataclass(frozen=True)
class WholeAxis(PoolAxis):
    """Mean or sum over all positions.

    Args:
        average: whether it is the mean.
    """

    average: bool = True

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """One row."""
        return np.full((1, n), 1.0 / n if self.average else 1.0)


@dataclass(frozen=True)
class AdaptiveAxis(PoolAxis):
    """Means over windows ⌊i n/out⌋ … ⌈(i+1) n/out⌉, as in torch.nn.AdaptiveAvgPool.

    Args:
        output: output positions.
    """

    output: int

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """Windows may overlap and differ by one position in length."""
        i = np.arange(self.output)
        start, stop = i * n // self.output, -(-(i + 1) * n // self.output)
        p = np.arange(n)
        inside = (p >= start[:, None]) & (p < stop[:, None])
        return inside / (stop - start)[:, None]


@dataclass(frozen=True)
class PoolWindow(PoolAxis):
    """Means or sums over windows of equal length, as in torch.nn.AvgPool.

    Args:
        kernel: positions in a window.
        stride: input positions between two windows.
        padding: zeros on both sides.
        ceil: whether a last window that overhangs the end counts.
        count_padding: whether padded zeros count in a mean.
        average: whether it is the mean.
    """

    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False
    count_padding: bool = True
    average: bool = True

    def size(self, n: int) -> int:
        """Output positions of n input positions.

        Raises:
            InvalidInput: the window does not fit.
        """
        room = n + 2 * self.padding - self.kernel
        if room < 0 and not (self.ceil and room + self.stride > 0):
            raise InvalidInput(
                f"a pooling window of {self.kernel} positions does not fit into {n} with a padding of {self.padding}; "
                "use larger images or a smaller window"
            )
        out = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        # torch's rule: the last window must begin inside the input or its left padding
        return out - 1 if self.ceil and (out - 1) * self.stride >= n + self.padding else out

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """W for n input positions."""
        first = np.arange(self.size(n)) * self.stride - self.padding
        last = np.minimum(first + self.kernel, n + self.padding)
        p = np.arange(n)
        inside = (p >= first[:, None]) & (p < last[:, None])
        if not self.average:
            return inside.astype(float)
        length = last - first if self.count_padding else inside.sum(1)
        return inside / length[:, None]


@dataclass(frozen=True)
class PadAxis(PoolAxis):
    """More positions at both ends (or fewer, by negative numbers), as torch.nn.functional.pad makes them.

    Args:
        before: positions in front.
        after: positions behind.
        mode: "constant" for zeros, "reflect", "replicate" or "circular".
    """

    before: int
    after: int
    mode: str = "constant"

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """What torch makes of each unit vector.

        Raises:
            InvalidInput: the padding does not fit.
        """
        return _of_unit_vectors(lambda x: F.pad(x, (self.before, self.after), self.mode), n, "padded")


@dataclass(frozen=True)
class ResizeAxis(PoolAxis):
    """Another number of positions by interpolation, as torch.nn.functional.interpolate gives it.

    Args:
        output: output positions; None where a factor is given.
        factor: output positions over input positions; None where their number is given.
        mode: "nearest", "nearest-exact" or "linear".
        align_corners: whether the first and the last positions stay where they are.
    """

    output: int | None
    factor: float | None
    mode: str
    align_corners: bool | None = None

    def matrix(self, n: int) -> Float[np.ndarray, "out n"]:
        """What torch makes of each unit vector.

        Raises:
            InvalidInput: nothing would be left.
        """
        options = {"mode": self.mode, "align_corners": self.align_corners}
        return _of_unit_vectors(lambda x: F.interpolate(x, self.output, self.factor, **options), n, "resized")


def _of_unit_vectors(function: Callable[[Tensor], Tensor], n: int, what: str) -> np.ndarray:
    try:
        return function(torch.eye(n, dtype=torch.float64)[None])[0].T.contiguous().numpy()
    except RuntimeError as error:
        raise InvalidInput(f"an axis of {n} positions cannot be {what}: {str(error).splitlines()[0]}") from error


def size_after(window: ConvAxis | PoolAxis, n: int | None) -> int | None:
    """Positions after a window, as far as they are known without those before."""
    if isinstance(window, WholeAxis):
        return 1
    if isinstance(window, (AdaptiveAxis, ResizeAxis)) and window.output is not None:
        return window.output
    return None if n is None else window.size(n)


def changes_nothing(window: ConvAxis | PoolAxis) -> bool:
    """Whether an axis of one position stays as it is."""
    if isinstance(window, ConvAxis):
        return window.is_pointwise
    matrix = window.matrix(1)
    return matrix.shape == (1, 1) and matrix[0, 0] == 1.0
