"""The figures of yang-boolean."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ntkit.experiments.reproductions.experiment import Arrays, Findings
from ntkit.experiments.reproductions.yang.boolean_claims import PUBLISHED, PUBLISHED_DRAWS, cases, relu
from ntkit.experiments.reproductions.yang.boolean_draws import BITS, TITLES
from ntkit.report.axes import linear_axis, log_axis, signed_percent
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION, frame, ink, title

COLOURS = (BLUE, GREEN, ORANGE, VERMILION, PURPLE)  # of the architectures, in order
DASHES = ("-", "-", "-", "-", (0, (2, 2)))  # the last lies on the one before
MULTIPLICITY = np.array([comb(BITS, k) for k in range(BITS + 1)])
JUDGED = 1e-3  # smaller shares have no place in the deviations
BARS = 2  # standard errors that a bar reaches
_ASIDE = {"o": -0.18, "D": 0.18}  # of the degree, by marker
_SMALLEST = 2e-5  # share that is drawn
_RANKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)  # that the limit is drawn at
_LOWEST = 0.7  # of a function that comes once, where the axis of frequencies begins


def short(case: Findings) -> str:
    """An architecture as a label."""
    return f"{TITLES[case['activation']]} | {case['w_square']:g} | {case['b_square']:g} | {case['depth']}"


def paint_ranks(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    """Frequency against rank."""
    n = findings["networks"]
    ax = frame(canvas, left=0.74, right=0.2)
    log_axis(ax, "x", 0.85, 1.2 * n)
    log_axis(ax, "y", _LOWEST / n, 0.5)
    for (key, case), colour, dash in zip(cases(findings), COLOURS, DASHES, strict=True):
        counts, limit = arrays[f"ranks_{key}"] / n, arrays[f"limit_ranks_{key}"] / n
        ranks = np.arange(1, len(counts) + 1)
        ax.plot(ranks, counts, color=colour, linestyle=dash, drawstyle="steps-mid", label=short(case))
        shown = np.array([rank for rank in _RANKS if rank <= len(limit) and limit[rank - 1] > _LOWEST / n])
        circles = {"marker": "o", "markersize": 5.5, "markerfacecolor": "white", "linestyle": "none", "zorder": 3}
        ax.plot(shown, limit[shown - 1], color=colour, markeredgewidth=1.3, **circles)
    legend = ax.legend(
        loc="upper right", frameon=False, fontsize=9.5, title="activation | σ_w² | σ_b² | hidden layers",
        title_fontsize=9.0, labelcolor=[ink(colour) for colour in COLOURS],
    )  # fmt: skip
    legend.get_title().set_color(FAINT)
    ax.set_xlabel("rank of the function")
    title(canvas, "Frequency of Boolean functions", f"share of {n:,} networks; circles: infinite width")


def paint_widths(canvas: Canvas, findings: Findings) -> None:
    """Share of constant functions against the width."""
    rows, limit = relu(findings)["widths"], relu(findings)["limit"]
    other = findings["cases"][findings["control"]]["limit"]
    widths = np.array([row["width"] for row in rows])
    n = np.array([row["draws"] for row in rows])
    p = np.array([row["constants"] for row in rows]) / n
    bars = BARS * np.sqrt(p * (1 - p) / n)
    published = sum(PUBLISHED[:2]) / PUBLISHED_DRAWS
    its_bar = BARS * (published * (1 - published) / PUBLISHED_DRAWS) ** 0.5
    levels = [found["constants"] / found["draws"] for found in (limit, other)]
    ax = frame(canvas, left=0.62, right=1.28)
    log_axis(ax, "x", widths[0] / 1.35, widths[-1] * 1.35)
    ax.set_xticks(widths, [str(width) for width in widths])
    everything = [*(p + bars), *(p - bars), published + its_bar, *levels]
    linear_axis(ax, "y", min(everything) - 0.02, max(everything) + 0.02, percent=True)
    for at, colour in zip(levels, (INK, FAINT), strict=True):
        level(ax, at, colour)
    style = {"capsize": 4, "elinewidth": 1.6, "zorder": 3}
    ax.errorbar(widths, p, bars, color=BLUE, marker="o", linewidth=1.6, **style)
    diamond = {"marker": "D", "markerfacecolor": "white", "linestyle": "none"}
    ax.errorbar(widths[:1] / 1.15, [published], [its_bar], color=VERMILION, **diamond, **style)
    ax.annotate(
        "published", (widths[0] / 1.15, published), xytext=(9, 5), textcoords="offset points", fontsize=10,
        color=ink(VERMILION),
    )  # fmt: skip
    labels = [EndLabel(float(p[-1]), "networks", BLUE), EndLabel(levels[0], f"limit {100 * levels[0]:.1f}%", INK)]
    label_right(ax, [*labels, EndLabel(levels[1], "limit for\nσ_b² = 1", FAINT)])
    ax.set_xlabel("neurons in each hidden layer")
    title(canvas, "Constant functions, ReLU", "share of the networks")


def paint_shares(canvas: Canvas, findings: Findings) -> None:
    """One row an architecture: theory as dashes, the narrowest and the widest networks as points."""
    k = np.arange(BITS + 1)
    for ax, case, colour in _rows(canvas, findings):
        log_axis(ax, "y", _SMALLEST, 2.0, most=3)
        theory = np.array(case["theory"])
        seen = theory > _SMALLEST
        ax.hlines(theory[seen], k[seen] - 0.42, k[seen] + 0.42, color=INK, linewidth=1.4)
        for row, style in _narrow_and_wide(case, colour):
            share, bars = np.array(row["share"])[seen], BARS * np.array(row["share_error"])[seen]
            low = np.minimum(bars, share - _SMALLEST / 10)
            ax.errorbar(k[seen] + _ASIDE[style["marker"]], share, (low, bars), **style)
    title(canvas, "Shares of degrees", "of the variance; dashes: theory, ○ narrow, ◆ wide networks")


def paint_deviations(canvas: Canvas, findings: Findings) -> None:
    """One row an architecture: how far networks are from theory."""
    k = np.arange(BITS + 1)
    for ax, case, colour in _rows(canvas, findings):
        theory = np.array(case["theory"])
        seen = theory > JUDGED
        level(ax, 0.0, INK)
        reach = 0.0
        for row, style in _narrow_and_wide(case, colour):
            off = np.array(row["share"])[seen] / theory[seen] - 1
            bars = BARS * np.array(row["share_error"])[seen] / theory[seen]
            ax.errorbar(k[seen] + _ASIDE[style["marker"]], off, bars, **style)
            reach = max(reach, float((np.abs(off) + bars).max()))
        linear_axis(ax, "y", -1.15 * reach, 1.15 * reach)
        ax.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: signed_percent(x)))
    title(canvas, "How far from theory?", "share over theory, less one; ○ narrow, ◆ wide networks")


def _rows(canvas: Canvas, findings: Findings) -> Iterator[tuple[Axes, Findings, str]]:
    """Axes under each other, one an architecture, with the degrees along them."""
    found = cases(findings)
    top, bottom, gap = 0.7, 0.54, 0.3  # inches
    height = canvas.get_size_inches()[1]
    each = (height - top - bottom - (len(found) - 1) * gap) / len(found)
    for i, ((_, case), colour) in enumerate(zip(found, COLOURS, strict=True)):
        above = top + i * (each + gap)
        ax = frame(canvas, left=0.74, right=0.2, top=above, bottom=height - above - each)
        last = i == len(found) - 1
        ax.set_xlim(-0.6, BITS + 0.6)
        ax.set_xticks(range(BITS + 1), [str(k) if last else "" for k in range(BITS + 1)])
        if last:
            ax.set_xlabel("degree")
        widths = " and ".join(dict.fromkeys(str(case["widths"][j]["width"]) for j in (0, -1)))
        ax.annotate(
            f"{short(case)}, width {widths}", (1, 1), xycoords="axes fraction", xytext=(0, 2),
            textcoords="offset points", ha="right", fontsize=9, color=ink(colour),
        )  # fmt: skip
        yield ax, case, colour


def _narrow_and_wide(case: Findings, colour: str) -> list[tuple[Findings, dict[str, Any]]]:
    """The first and the last width, which may be one, and how their points are drawn."""
    style = {"color": colour, "linestyle": "none", "markersize": 4.5, "markeredgewidth": 1.2, "elinewidth": 1.2}
    narrow = style | {"marker": "o", "markerfacecolor": "white", "capsize": 2, "zorder": 3}
    rows = [(case["widths"][0], narrow)]
    if len(case["widths"]) > 1:
        rows.append((case["widths"][-1], narrow | {"marker": "D", "markerfacecolor": colour}))
    return rows


def paint_eigenvalues(canvas: Canvas, findings: Findings) -> None:
    """Normalised eigenvalues, one line an architecture; networks' own as points."""
    ax = frame(canvas, left=0.74, right=1.3)
    log_axis(ax, "y", 1e-6, 2.0, most=7)
    ax.set_xlim(-0.4, BITS + 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=BITS + 1))
    ends = []
    for (_, case), colour in zip(cases(findings), COLOURS, strict=True):
        theory, share = np.array(case["theory"]) / MULTIPLICITY, np.array(case["widths"][-1]["share"]) / MULTIPLICITY
        k = np.flatnonzero(theory)
        ax.plot(k, theory[k], color=colour, linewidth=1.5)
        ax.plot(k, share[k], color=colour, marker="D", markersize=5, linestyle="none", markerfacecolor="white")
        ends.append(EndLabel(float(theory[k[-1]]), short(case), colour))
    label_right(ax, ends, size=9.0)
    ax.set_xlabel("degree")
    title(canvas, "Eigenvalues of the conjugate kernel", "over the trace; diamonds: the widest networks")
