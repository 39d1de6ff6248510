"""Which positions of its input an output position reads, axis by axis: convolution windows and pooling windows.

A convolution reads the taps p = stride · P − before + dilation · a of every output position P, a transposed one those
with stride · p = P + padding − dilation · a; a pooling layer takes the weighted sum Σ_p W[P, p]. Sizes of the input are
not known to a layer, so all are functions of them.
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

OUTSIDE = -1  # a tap that reads no position of the input: it lies in the padding, or between two positions


@dataclass(frozen=True)
class WindowAxis:
    """One axis of a window whose taps have weights of their own.

    Args:
        kernel: taps.
        stride: input positions between two output positions; of a transposed convolution the other way round.
        dilation: positions between two taps.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position reads just the input position of the same number."""
        return False

    def size(self, n: int) -> int:
        """Output positions of n input positions."""
        raise NotImplementedError

    def taps(self, n: int) -> Int[np.ndarray, "out kernel"]:
        """The input position of every tap, `OUTSIDE` where it has none."""
        raise NotImplementedError

    def counts(self, n: int) -> Float[np.ndarray, "out n"]:
        """How often each input position is read by each output position."""
        taps = self.taps(n)
        counts = np.zeros((len(taps), n))
        for tap in taps.T:
            inside = tap != OUTSIDE
            np.add.at(counts, (np.flatnonzero(inside), tap[inside]), 1.0)
        return counts


@dataclass(frozen=True)
class ConvAxis(WindowAxis):
    """One axis of a convolution's window.

    Args:
        kernel: taps.
        stride: input positions between two output positions.
        dilation: input positions between two taps.
        before: positions of padding before the first one; where negative, of the input left out.
        after: the same after the last one.
        circular: whether the padding wraps around; else it is zeros.
    """

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


@dataclass(frozen=True)
class TransposedAxis(WindowAxis):
    """One axis of a transposed convolution's window: the output position stride · p − padding + dilation · a reads p.

    So of an output position's taps about one in `stride` has an input. Sizes are those of torch.nn.ConvTranspose.

    Args:
        kernel: taps.
        stride: output positions between two input positions.
        dilation: output positions between two taps.
        padding: output positions left out at both ends.
        output_padding: output positions added at the end.
        output: output positions; None for as many as `output_padding` says.
    """

    padding: int = 0
    output_padding: int = 0
    output: int | None = None

    def size(self, n: int) -> int:
        """Output positions of n input positions.

        Raises:
            InvalidInput: none are left, or there cannot be as many as are wanted.
        """
        least = (n - 1) * self.stride - 2 * self.padding + self.dilation * (self.kernel - 1) + 1
        if self.output is not None and not least <= self.output < least + self.stride:
            raise InvalidInput(
                f"a transposed convolution makes {least} to {least + self.stride - 1} of {n} positions, and an "
                f"output_size of {self.output} is wanted; give one of these, or use images of another size"
            )
        out = least + self.output_padding if self.output is None else self.output
        if out < 1:
            raise InvalidInput(
                f"a transposed convolution with a padding of {self.padding} leaves none of {n} positions; use larger "
                "images or less padding"
            )
        return out

    def taps(self, n: int) -> Int[np.ndarray, "out kernel"]:
        """The input position of every tap, `OUTSIDE` where it lies between two positions or beyond them."""
        out, tap = np.arange(self.size(n)), np.arange(self.kernel)
        places = out[:, None] + self.padding - tap[None, :] * self.dilation
        inside = (places % self.stride == 0) & (places >= 0) & (places < n * self.stride)
        return np.where(inside, places // self.stride, OUTSIDE)


def transposed(axis: TransposedAxis) -> WindowAxis:
    """The window of a transposed convolution; with stride 1 that is a convolution's, whose taps come in reverse."""
    if axis.stride > 1 or axis.output is not None:
        return axis
    before = axis.dilation * (axis.kernel - 1) - axis.padding
    return ConvAxis(axis.kernel, 1, axis.dilation, before, before + axis.output_padding)


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


def size_after(window: WindowAxis | PoolAxis, n: int | None) -> int | None:
    """Positions after a window, as far as they are known without those before."""
    if isinstance(window, WholeAxis):
        return 1
    if isinstance(window, (AdaptiveAxis, ResizeAxis, TransposedAxis)) and window.output is not None:
        return window.output
    return None if n is None else window.size(n)


def changes_nothing(window: WindowAxis | PoolAxis) -> bool:
    """Whether an axis of one position stays as it is."""
    if isinstance(window, WindowAxis):
        return window.is_pointwise
    matrix = window.matrix(1)
    return matrix.shape == (1, 1) and matrix[0, 0] == 1.0
