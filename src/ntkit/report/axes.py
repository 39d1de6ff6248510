"""Scales and round tick marks with labels for people, in place of matplotlib's powers in TeX."""

from __future__ import annotations

import math
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ntkit.report.wording import MINUS, Real, tick

_MOST = 6  # tick marks on a logarithmic axis


def log_ticks(low: Real, high: Real, most: int = _MOST) -> list[float]:
    """At most `most` round numbers between two positive ones: 1-2-5 steps, or whole decades, or every n-th decade.

    Example:
        >>> from ntkit.report.axes import log_ticks
        >>> [float(f"{x:.6g}") for x in log_ticks(0.3, 12.0)], log_ticks(0.5, 2e4)
        ([0.5, 1.0, 2.0, 5.0, 10.0], [1.0, 10.0, 100.0, 1000.0, 10000.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    steps = [m * 10.0**e for e in decades for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if 2 <= len(steps) <= most:
        return steps
    if len(steps) < 2:  # less than a factor of two: the marks of a linear axis
        return [t for t in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= t <= high]
    whole = [e for e in decades if low <= 10.0**e <= high]
    stride = math.ceil(len(whole) / most)
    return [10.0**e for e in whole if e % stride == 0] if len(whole) > 1 else steps[:: math.ceil(len(steps) / most)]


def log_axis(ax: Axes, which: Literal["x", "y"], low: Real, high: Real, *, most: int = _MOST) -> None:
    """A logarithmic axis from `low` to `high` > 0, with at most `most` marks."""
    axis, set_scale, set_limits = _parts(ax, which)
    set_scale("log")
    set_limits(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: tick(x)))
    axis.set_minor_locator(NullLocator())


def linear_axis(ax: Axes, which: Literal["x", "y"], low: Real, high: Real, *, percent: bool = False) -> None:
    """A linear axis; `percent` writes 0.25 as 25%."""
    axis, set_scale, set_limits = _parts(ax, which)
    set_scale("linear")
    set_limits(low, high)
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    write = (lambda x, _: f"{tick(round(100 * x, 10))}%") if percent else (lambda x, _: tick(round(x, 12)))
    axis.set_major_formatter(FuncFormatter(write))


def step_axis(ax: Axes, last: Real) -> None:
    """Training steps from 0 to `last`: linear up to 1, logarithmic from there, so that 0 is on it."""
    last = max(float(last), 1.0)
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.4)
    ax.set_xlim(0.0, last)
    decades = [10.0**e for e in range(math.floor(math.log10(last)) + 1)]
    marks = log_ticks(1.0, last) if last < 50 else decades[:: math.ceil(len(decades) / 5)]
    ax.xaxis.set_major_locator(FixedLocator([0.0, *marks]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{tick(x / 1000)}k" if x >= 1000 else tick(x)))
    ax.xaxis.set_minor_locator(NullLocator())


def signed_percent(x: Real) -> str:
    """A tick label of a deviation: +5%, −5%, 0.

    Example:
        >>> from ntkit.report.axes import signed_percent
        >>> signed_percent(0.05), signed_percent(-0.125), signed_percent(0.0)
        ('+5%', '−12.5%', '0')
    """
    size = tick(round(abs(100 * x), 10))
    return "0" if size == "0" else f"{'+' if x > 0 else MINUS}{size}%"


def _parts(ax: Axes, which: Literal["x", "y"]):
    return (ax.xaxis, ax.set_xscale, ax.set_xlim) if which == "x" else (ax.yaxis, ax.set_yscale, ax.set_ylim)
