"""Kernels of gradients moved and scaled: without their mean over samples, and of unit length.

With r(x) = (1/n) Σ_k k(x_k, x) and r̄ = (1/n) Σ_k r(x_k) over the samples x_k of reference, gradients without their mean
have the kernel k(x, x') − r(x') − r(x) + r̄; those of unit length k(x, x') / √(k(x, x) k(x', x')). For "full" and
"diagonal" outputs each output has a mean and a length of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit.empirical.contraction import Outputs
from ntkit.errors import InvalidInput

_PROMISED = 1e-3  # the relative accuracy of centred kernels
_CANCELLED = 10  # roundings of k(x, x) that a centred one may be made of


@dataclass(frozen=True)
class Moved:
    """A kernel and what belongs to it.

    Args:
        kernel: k(x1, x2).
        first: k(x, x) of the rows' samples.
        second: of the columns'.
        scale: the largest numbers that these were made of, where they are differences; 0 otherwise.
    """

    kernel: Float[Tensor, "n m *o"]
    first: Float[Tensor, "n *o"]
    second: Float[Tensor, "m *o"]
    scale: float = 0.0


def centered(
    kernel: Float[Tensor, "n m *o"],
    reference: Float[Tensor, "n n *o"],
    second: Float[Tensor, "m *o"] | None,
    outputs: Outputs,
) -> Moved:
    """The kernel of gradients without their mean over the first side's samples.

    Args:
        kernel: k(x1, x2).
        reference: k(x1, x1).
        second: k(x, x) of x2; None where x2 is x1.
        outputs: layout.
    """
    mean = reference.double().mean(0)  # r(x1_j)
    whole = mean.mean(0)
    if outputs == "full":
        whole = (whole + whole.mT) / 2
    first = own_entries(reference)
    moved_first = first - mean - _turned(mean, outputs) + whole
    scale = float(first.abs().max())
    across, moved_second = mean, moved_first  # r(x2_j)
    if second is not None:
        across = kernel.double().mean(0)
        moved_second = second - across - _turned(across, outputs) + whole
        scale = max(scale, float(second.abs().max()))
    moved = kernel - (across[None] + _turned(mean, outputs)[:, None]) + whole
    _require_digits(moved, scale, kernel.dtype)
    return Moved(moved.to(kernel.dtype), moved_first, moved_second, scale)


def _require_digits(moved: Tensor, scale: float, dtype: torch.dtype) -> None:
    """Raise `InvalidInput` where what is left of numbers of size `scale` is mostly their rounding."""
    size = float(moved.abs().max())
    if 0 < _PROMISED * size < 2 * torch.finfo(dtype).eps * scale:
        remedy = "take model.double() and x.double()" if dtype == torch.float32 else "leave repeated samples out"
        raise InvalidInput(
            "centered=True wants gradients that differ between samples by more than rounding, but the centred kernel "
            f"is {size / scale:.1e} of the kernel, of which {dtype} keeps less than three digits; {remedy}"
        )


def normalized(moved: Moved, outputs: Outputs) -> Float[Tensor, "n m *o"]:
    """Cosines between gradients.

    Raises:
        InvalidInput: a gradient has no length.
    """
    least = _CANCELLED * torch.finfo(moved.kernel.dtype).eps * moved.scale
    one, two = (_lengths(side, outputs, least) for side in (moved.first, moved.second))
    lengths = one[:, None, :, None] * two[None, :, None, :] if outputs == "full" else one[:, None] * two[None]
    return (moved.kernel / lengths).to(moved.kernel.dtype)


def _lengths(own: Tensor, outputs: Outputs, least: float) -> Tensor:
    squares = torch.diagonal(own, dim1=-2, dim2=-1) if outputs == "full" else own
    short = squares <= least
    if bool(short.any()):
        n = int(torch.nonzero(short)[0, 0])
        raise InvalidInput(
            f"normalized=True wants gradients with a length, but sample {n} of {len(squares)} has one that is zero "
            "(or, centred, the mean of all); leave that sample out, or take normalized=False"
        )
    return squares.double().sqrt()


def own_entries(kernel: Float[Tensor, "n n *o"]) -> Float[Tensor, "n *o"]:
    """k(x_n, x_n) of a kernel of samples with themselves."""
    return torch.diagonal(kernel.double(), dim1=0, dim2=1).movedim(-1, 0)


def _turned(mean: Tensor, outputs: Outputs) -> Tensor:
    """The mean over the other side: outputs change places."""
    return mean.mT if outputs == "full" else mean
