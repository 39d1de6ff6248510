"""Loops over what is known of samples, by position: numbers (positions, samples) in float64."""

from __future__ import annotations

from ntkit.infinite.compiled import cache
from ntkit.infinite.compiled.lanes import SIDE
from ntkit.infinite.compiled.machine import OPTIONS


@cache.kept(**OPTIONS)
def mean_squares(values, room, means):
    """means[p, s] = mean over channels of values[s, channel, p]²; `room` is for one sample's positions."""
    samples, channels, positions = values.shape
    for s in range(samples):
        room[:] = 0
        for c in range(channels):
            for p in range(positions):
                value = values[s, c, p] * room.dtype.type(1)
                room[p] += value * value
        for p in range(positions):
            means[p, s] = room[p] / channels


@cache.kept(**OPTIONS)
def add_taps(values, taps, sums):
    """sums[i, p] += Σ over taps of values[i, taps[p, k]], rows of numbers; negative taps are outside."""
    for i in range(len(values)):
        for p in range(taps.shape[0]):
            for k in range(taps.shape[1]):
                tap = taps[p, k]
                if tap >= 0:
                    for j in range(values.shape[2]):
                        sums[i, p, j] += values[i, tap, j]


@cache.kept(**OPTIONS)
def put_in_blocks(values, blocks, row):
    """blocks[b, row + p] = values[p] of `SIDE` samples; the last block is filled up with the last sample."""
    positions, samples = values.shape
    for b in range(len(blocks)):
        first = b * SIDE
        if first + SIDE <= samples:
            for p in range(positions):
                for side in range(SIDE):
                    blocks[b, row + p, side] = values[p, first + side]
        else:
            for p in range(positions):
                for side in range(SIDE):
                    blocks[b, row + p, side] = values[p, min(first + side, samples - 1)]
