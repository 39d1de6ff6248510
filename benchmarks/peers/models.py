"""Networks of the model rows as tables: their affine layers, by the names that every worker's network gives them.

    cnn         three convolutions 3×3 without padding and ReLU, flattened, linear: PyTorch's NTK tutorial
    resnet18    ResNet-18 for CIFAR (He et al. 2015; no pooling in front), its batch normalisations in evaluation mode
    gpt2        GPT-2's blocks (Radford et al. 2019); the next token's logits, times one random vector

Arrays are drawn from the tables, and operations counted. Knows no library, for it is read in every environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.rows import ModelRow


@dataclass(frozen=True, kw_only=True)
class Affine:
    """One linear layer or convolution.

    Args:
        name: its weight is called name.weight, its bias name.bias.
        channels: before and after it.
        side: of a convolution's square window; None for a linear layer.
        positions: outputs of a sample that share the weight.
        norm: the batch normalisation behind it, in place of a bias; None where there is none.
        first: it reads the data, so no gradient passes through it.
        last: it gives the outputs, whose own gradient is the identity.
    """

    name: str
    channels: tuple[int, int]
    side: int | None = None
    positions: int = 1
    norm: str | None = None
    first: bool = False
    last: bool = False

    @property
    def fan_in(self) -> int:
        """Numbers that one output is a sum of."""
        return self.channels[0] * (self.side or 1) ** 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight, (out, in) or (out, in, height, width)."""
        before, after = self.channels
        return (after, before) if self.side is None else (after, before, self.side, self.side)


def affine_layers(row: ModelRow) -> list[Affine]:
    """The row's affine layers in the order in which a sample passes them."""
    return list({"cnn": _cnn, "resnet18": _resnet18, "gpt2": _gpt2}[row.network](row))


def _cnn(row: ModelRow) -> Iterator[Affine]:
    before, side = row.shape[0], row.shape[1]
    for index in range(3):
        side -= 2
        yield Affine(
            name=f"{2 * index}", channels=(before, row.width), side=3, positions=side**2, first=index == 0
        )  # activations take the odd names
        before = row.width
    yield Affine(name="7", channels=(row.width * side**2, row.n_outputs), last=True)


def _resnet18(row: ModelRow) -> Iterator[Affine]:
    before, side = row.width, row.shape[1]
    channels = (row.shape[0], before)
    yield Affine(name="stem", channels=channels, side=3, positions=side**2, norm="norm_stem", first=True)
    for block in range(8):
        after = row.width * 2 ** (block // 2)
        if after > before:
            side = (side + 1) // 2
        for name, channels, window in (
            ("one", (before, after), 3),
            ("two", (after, after), 3),
            *([("skip", (before, after), 1)] if after > before else []),
        ):
            norm = f"blocks.{block}.norm_{name}"
            yield Affine(name=f"blocks.{block}.{name}", channels=channels, side=window, positions=side**2, norm=norm)
        before = after
    yield Affine(name="last", channels=(before, row.n_outputs), last=True)


def _gpt2(row: ModelRow) -> Iterator[Affine]:
    """The blocks' linear layers alone; attention itself, embeddings and head are not among them."""
    (length,) = row.shape
    for block in range(row.depth):
        for name, times in (
            ("attn.c_attn", (1, 3)),
            ("attn.c_proj", (1, 1)),
            ("mlp.c_fc", (1, 4)),
            ("mlp.c_proj", (4, 1)),
        ):
            before, after = (row.width * factor for factor in times)
            yield Affine(name=f"transformer.h.{block}.{name}", channels=(before, after), positions=length)
