"""Networks of the exact rows as words, "conv relu conv relu gap dense", which every worker translates.

    dense           fully connected, NTK parameterisation; the last one is the read-out
    conv            3×3, stride 1, zero padding: the image keeps its size
    relu erf gelu   activations
    pool            average over 2×2 pixels, stride 2
    gap             average over all pixels or tokens, then flat
    token           fully connected, of every token of a sequence alone
    attend          self-attention, softmax of scores divided by the number of tied keys
    flatten
    [ … ]           x + f(x), f the words between

Hidden widths do not enter the limit and are 1. Knows no library, for it is read in every environment.
"""

from __future__ import annotations

from math import prod
from typing import TypeAlias

Step: TypeAlias = "str | tuple[Step, ...]"
Steps: TypeAlias = "tuple[Step, ...]"

FC = "dense {0} dense {0} dense {0} dense"
CNTK_GAP = "conv relu " * 5 + "gap dense"
CNTK_FLATTEN = "conv relu " * 5 + "flatten dense"
# Shankar et al. 2020, "Neural Kernels Without Tangents", configurations myrtle5 and myrtle10 of their released code:
# these convolutions and pools, the last pool over the 8×8 pixels that are left; here with a trained read-out on top.
MYRTLE_5 = "conv relu conv relu pool conv relu pool conv relu gap dense"
MYRTLE_10 = "conv relu conv relu conv relu pool " * 2 + "conv relu conv relu conv relu gap dense"
ATTENTION = "token attend relu gap dense"
TWO_ATTENTIONS = "token attend relu token attend relu gap dense"
# He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1b, without normalisation
RESNET_2 = "conv [ relu conv relu conv ] [ relu conv relu conv ] relu flatten dense"


def parse(network: str) -> Steps:
    """The words as steps, what stands between brackets as a tuple of its own."""
    open_levels: list[list[Step]] = [[]]
    for word in network.split():
        if word == "[":
            open_levels.append([])
        elif word == "]":
            inner = tuple(open_levels.pop())
            open_levels[-1].append(inner)
        else:
            open_levels[-1].append(word)
    (steps,) = open_levels
    return tuple(steps)


def shape_after(step: Step, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A sample's shape behind a step: (features,), (channels, height, width) or (channels, tokens)."""
    match step, shape:
        case "dense", (_,):
            return (1,)
        case "conv", (_, height, width):
            return (1, height, width)
        case "pool", (channels, height, width):
            return (channels, height // 2, width // 2)
        case (("token" | "attend"), (_, tokens)):
            return (1, tokens)
        case "gap", (channels, *_):
            return (channels,)
        case "flatten", _:
            return (prod(shape),)
        case ("relu" | "erf" | "gelu") | tuple(), _:  # x + f(x) keeps the shape by its meaning
            return shape
    raise ValueError(f"a sample of shape {shape} cannot enter the step {step!r}")


def entries_per_pair(network: str, shape: tuple[int, ...]) -> int:
    """Covariance entries of one pair of samples, summed over the hidden affine layers.

    Behind a convolution: all pairs of pixels where a pooling mixes them, else each pixel with itself alone, which is
    all that a flattened read-out asks for; behind a dense layer one. The read-out is not counted.
    """
    power = 2 if {"pool", "gap"} & set(network.split()) else 1
    entries = 0
    for step, before in _affine_steps(parse(network), shape):
        entries += prod(shape_after(step, before)[1:]) ** power
    return entries - 1


def _affine_steps(steps: Steps, shape: tuple[int, ...]) -> list[tuple[Step, tuple[int, ...]]]:
    """Every affine step in order, brackets opened, each with the shape before it."""
    found: list[tuple[Step, tuple[int, ...]]] = []
    for step in steps:
        if isinstance(step, tuple):
            found += _affine_steps(step, shape)
        elif step in ("dense", "conv", "token", "attend"):
            found.append((step, shape))
        shape = shape_after(step, shape)
    return found
