"""The layers of sequences as frozen data: embeddings, attention, and what a mask does."""

from __future__ import annotations

from dataclasses import dataclass, field

from ntkit.architecture.specs.base import Spec
from ntkit.architecture.specs.layers import Weighted


@dataclass(frozen=True)
class Embedding(Weighted):
    """A vector a token; the data are whole numbers.

    Args:
        vocabulary: how many tokens there are.
        channels: of a vector.
        padding: the token whose vector is 0; None for none.
    """

    vocabulary: int
    channels: int
    padding: int | None = None
    bias: bool = field(default=False, kw_only=True)

    @property
    def fan_in(self) -> int:
        """One entry of the table."""
        return 1

    @property
    def torch_scales(self) -> tuple[float, float]:
        """torch draws from N(0, 1)."""
        return 1.0, 0.0


@dataclass(frozen=True)
class PositionalEmbedding(Weighted):
    """A vector a position, the same for every sample; it reads a value for its positions only.

    Args:
        positions: along each axis.
        channels: of a vector.
        correlation_length: over which vectors of near positions agree.
    """

    positions: tuple[int, ...]
    channels: int
    correlation_length: float
    bias: bool = field(default=False, kw_only=True)

    @property
    def fan_in(self) -> int:
        """One vector a position."""
        return 1


@dataclass(frozen=True)
class SelfAttention(Weighted):
    """Attention with tied keys and queries, whose scores are divided by the number of keys.

    It reads the input of the values, and that of the keys.

    Args:
        in_channels: of the values' input.
        key_in_channels: of the keys' input.
        out_channels: of the output.
        mechanism: a name in ntkit.nn.mechanisms.
        score_scale: factor on the scores.
        masked: whether it leaves out tokens that are not there.
        trains_values: whether the values' weights train, besides the output's.
    """

    in_channels: int
    key_in_channels: int
    out_channels: int
    mechanism: str
    score_scale: float
    masked: bool
    trains_values: bool

    @property
    def fan_in(self) -> int:
        """Channels of the input."""
        return self.in_channels

    @property
    def reads_mask(self) -> bool:
        """Where it leaves out tokens."""
        return self.masked


@dataclass(frozen=True)
class MaskedMean(Spec):
    """The mean over the positions that the mask leaves."""

    @property
    def reads_mask(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class MaskedFill(Spec):
    """0 at positions that the mask does not leave."""

    @property
    def reads_mask(self) -> bool:
        """Always."""
        return True
