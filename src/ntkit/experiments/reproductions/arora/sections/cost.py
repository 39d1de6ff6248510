"""The spectra of the training kernels, and what the kernels cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.arora.sections.series import DEPTH_COLOURS, kernels, threads
from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.gram_blocks import duration
from ntkit.report import Section, Table
from ntkit.report.axes import log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import HALF, frame, title
from ntkit.report.wording import count, number


def cost_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """Spectra on logarithmic axes, and the table of times."""
    figure = draw(
        "spectra",
        "Eigenvalues of the training kernels against their rank, logarithmic axes, one line a kernel and depth.",
        HALF,
        lambda canvas: _paint_spectra(canvas, findings, arrays),
    )
    rows = []
    for _, kernel in kernels(findings):
        for what in ("train", "test"):
            pairs, seconds = kernel[f"pairs_{what}"], kernel[f"seconds_{what}"]
            matrix = f"{kernel['title']}, {'training' if what == 'train' else 'test × training'}"
            rows.append((matrix, count(pairs), duration(seconds), f"{number(1e3 * seconds / pairs)} ms"))
    header = ("matrix, all depths in one pass", "entries computed", "time", "an entry")
    shares = {
        kernel["title"]: min(row["smallest_eigenvalue"] / row["largest_eigenvalue"] for row in kernel["depths"])
        for _, kernel in kernels(findings)
    }
    definite = all(share > 0 for share in shares.values())
    least = " and ".join(f"{number(share)} for {name}" for name, share in shares.items())
    sentence = (
        f"The training kernels are {'' if definite else 'not all '}positive definite: the smallest eigenvalue is "
        f"{least} times the largest"
    )
    rounding = "" if definite else "; float32 rounding of the entries alone moves eigenvalues by about 10⁻⁷ times it"
    caption = (
        f"Wall-clock time of the kernel calls on {threads(findings)}; an entry is one pair of images at every depth. "
        "Half of a symmetric matrix is computed."
    )
    return Section(
        "cost", "Is it well-posed, and what does it cost?", f"{sentence}{rounding}.", (figure,), caption,
        Table(header, tuple(rows)),
    )  # fmt: skip


def _paint_spectra(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    ax = frame(canvas, left=0.74, right=1.18)
    curves: list[tuple[np.ndarray, str, str, Any]] = []
    for (_, kernel), dash in zip(kernels(findings), ("-", (0, (3.5, 2))), strict=True):
        head = "flatten" if kernel["title"] == "CNTK-V" else "gap"
        for row, colour in zip(kernel["depths"], DEPTH_COLOURS, strict=False):
            values = arrays[f"eigenvalues_{head}_{row['depth']}"]
            name = f"{'V' if head == 'flatten' else 'GAP'}, depth {row['depth']}"
            curves.append((values / values[0], name, colour, dash))
    positive = np.concatenate([values[values > 0] for values, *_ in curves])
    log_axis(ax, "x", 1, max(len(values) for values, *_ in curves))
    log_axis(ax, "y", float(positive.min()) / 2, 2.0)
    labels = []
    for values, name, colour, dash in curves:
        shown = values[values > 0]
        ax.plot(np.arange(1, len(shown) + 1), shown, color=colour, linestyle=dash, linewidth=1.6)
        labels.append(EndLabel(float(shown[-1]), name, colour))
    label_right(ax, labels, size=9.0)
    ax.set_xlabel("rank")
    title(canvas, "Spectra of the training kernels", "eigenvalue over the largest")
