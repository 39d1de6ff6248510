"""Layers with weights, drawn to fit the place in a network where they stand."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

from random_architectures.steps import (
    Attention,
    Conv,
    ConvTranspose,
    Dense,
    Grid,
    Layer,
    Positions,
    Step,
    Tokens,
    grid_after,
)

MOST_POSITIONS = 36
UNBOUNDED = ("identity", "relu", "abs")  # mechanisms whose weights grow with the scores


@dataclass(frozen=True)
class Place:
    """Where a network has come to.

    Args:
        grid: positions.
        is_data: whether nothing but maps of positions was done to the data.
        blocks: whether channels of different layers stand side by side.
        merged: whether the one axis of positions was several, which convolutions and pools then cannot read.
    """

    grid: Grid
    is_data: bool = False
    blocks: bool = False
    merged: bool = False

    @property
    def positions(self) -> int:
        return math.prod(self.grid)

    def behind(self, *steps: Step) -> Place:
        """The same with the grid behind steps."""
        grid, merged = self.grid, self.merged
        for step in steps:
            merged = merged or (isinstance(step, Tokens) and len(grid) > 1)
            grid = grid_after(step, grid)
        return replace(self, grid=grid, merged=merged and bool(grid))


class LayerDrawing:
    """Draws layers; what a whole network has in common stands in its attributes.

    Args:
        rng: random numbers.
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.standard = 0.5 if self.chance(0.25) else 0.0  # share of plain layers
        self.is_sequence = self.of_tokens = False  # data of (n, tokens, features); layers of tokens
        self.mask: Grid | None = None  # the grid of the tokens of which a mask tells
        self.attentions = 0  # that may still come: tokens come nearer to each other with each, and the oracle rounds
        self.bounded = False  # whether scores may be bounded only: of two others values grow to the ninth power

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.rng.random() < p

    def has_mask(self, place: Place) -> bool:
        """Whether the mask tells of the positions of a place."""
        return self.mask is not None and place.grid == self.mask

    def can_attend(self, place: Place) -> bool:
        """Whether an attention layer may come, which reads one axis of tokens."""
        return len(place.grid) == 1 and self.attentions > 0

    def layer(self, place: Place, keeps: bool = False, units: int = 1) -> Layer:
        """Any layer that fits; `keeps`: of the grid."""
        scales = self._scales(units)
        keeps = keeps or (self.has_mask(place) and self.chance(0.9))
        if not place.grid:
            return Dense(**scales)
        if self.can_attend(place) and self.chance(0.05 if place.is_data else 0.25):
            return self.attention(place, units)
        images = place.is_data and not self.is_sequence
        if place.merged or self.chance(0.0 if images else 0.4 if place.is_data else 0.15):
            return Dense(**scales)
        groups = 2 if not place.is_data and not place.blocks and self.chance(0.12) else 1
        if self.chance(0.2):
            return self._transposed(place, keeps, {**scales, "groups": groups})
        windows = [self._kept(n) if keeps else self._window(n) for n in place.grid]
        kernel, stride, dilation, padding = zip(*windows, strict=True)
        wraps = any(padding) and self.chance(0.25)
        return Conv(
            kernel=kernel, stride=stride, dilation=dilation, padding=padding, circular=wraps, groups=groups, **scales
        )

    def attention(self, place: Place, units: int = 1) -> Attention:
        """Over the tokens of a place."""
        self.attentions -= 1
        bounded = self.bounded or self.chance(0.4)
        self.bounded = self.bounded or not bounded
        mechanism = "softmax" if bounded else self.rng.choice(UNBOUNDED)
        scales = (0.6, 1.0) if bounded else (1 / place.positions, 2 / place.positions)
        return Attention(
            **{**self._scales(units), "standard": False},
            mechanism=mechanism,
            score_scale=self.rng.choice(scales),
            heads=self.rng.choice((1, 2, 4)),
            masked=self.has_mask(place) and self.chance(0.85),
            trains_values=not self.chance(0.12),
            positions=None if place.blocks or self.chance(0.6) else self.positional(place),
        )

    def positional(self, place: Place, beside: bool = False) -> Positions:
        """Vectors of the positions of a place."""
        alone = place.merged or 1 in place.grid or self.chance(0.4)
        length = 0.0 if alone else self.rng.choice((0.7, 1.5))
        return Positions(self.rng.choice((0.5, 1.0)), length, not self.chance(0.2), beside)

    def _scales(self, units: int) -> dict[str, Any]:
        return {
            "w_std": self.rng.choice((1.0, 1.2, 1.4)),
            "b_std": self.rng.choice((0.0, 0.2, 0.5)),
            "units": units,
            "trains_weight": not self.chance(0.12),
            "trains_bias": not self.chance(0.12),
            "standard": self.chance(self.standard),
        }

    def _transposed(self, place: Place, keeps: bool, options: dict[str, Any]) -> ConvTranspose:
        def with_windows(windows: list[tuple[int, int, int, int, int]]) -> ConvTranspose:
            kernel, stride, dilation, padding, added = zip(*windows, strict=True)
            return ConvTranspose(
                kernel=kernel, stride=stride, dilation=dilation, padding=padding, output_padding=added, **options
            )

        step = with_windows([self._spread(n) for n in place.grid])
        if not keeps and place.behind(step).positions <= MOST_POSITIONS:
            return step
        return with_windows([(*self._kept(n), 0) for n in place.grid])

    def _spread(self, n: int) -> tuple[int, int, int, int, int]:
        """(kernel, stride, dilation, padding, output padding) of a transposed axis, that leaves a position at least."""
        kernel, stride = self.rng.choice((1, 2, 3, 3)), self.rng.choice((1, 2, 2))
        dilation = 2 if kernel > 1 and self.chance(0.15) else 1
        added = 1 if max(stride, dilation) > 1 and self.chance(0.4) else 0
        reach = (n - 1) * stride + dilation * (kernel - 1) + added
        return kernel, stride, dilation, self.rng.randint(0, min(1, reach // 2)), added

    def _kept(self, n: int) -> tuple[int, int, int, int]:
        kernel = self.rng.choice((1, 3))
        dilation = 2 if kernel == 3 and n >= 3 and self.chance(0.15) else 1
        return kernel, 1, dilation, dilation * (kernel - 1) // 2

    def _window(self, n: int) -> tuple[int, int, int, int]:
        """(kernel, stride, dilation, padding) of an axis, that leaves a position at least."""
        kernel, padding = self.rng.choice((1, 2, 3, 3)), self.rng.choice((0, 1, 1))
        padding = padding if kernel > 1 else 0
        dilation = 2 if kernel > 1 and self.chance(0.15) else 1
        if dilation * (kernel - 1) + 1 > n + 2 * padding:
            return 1, 1, 1, 0
        return kernel, 2 if n >= 4 and self.chance(0.2) else 1, dilation, padding
