"""Accuracy by the number of training images."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.arora.sections.series import DEPTH_COLOURS, kernels, published
from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import FAINT, HALF, frame, title
from ntkit.report.wording import count, number, percent


def images_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """Two figures, one a kernel, and what pooling changes on the same images."""
    figures = tuple(
        draw(
            f"images-{head}",
            f"{kernel['title']}: test accuracy against the number of training images, one line a depth.",
            HALF,
            lambda canvas, head=head: _paint_images(canvas, findings, arrays, head),
        )
        for head, kernel in kernels(findings)
    )
    rows = []
    for head, kernel in kernels(findings):
        for row in kernel["depths"]:
            curve = arrays[f"right_{head}_{row['depth']}"].mean(axis=1)
            shares = (percent(float(share)) for share in curve)
            rows.append((kernel["title"], str(row["depth"]), *shares))
    header = ("kernel", "depth", "1/16", "1/8", "1/4", "1/2", "all training images")
    caption = "Each point uses the first of the training images, which are as even over the classes as they can be."
    return Section(
        "images", "How fast does it learn from more images?", _images_sentence(findings, arrays), figures, caption,
        Table(header, tuple(rows)),
    )  # fmt: skip


def _images_sentence(findings: Findings, arrays: Arrays) -> str:
    gains = []
    for head, kernel in kernels(findings):
        curves = [arrays[f"right_{head}_{row['depth']}"].mean(axis=1) for row in kernel["depths"]]
        gain = 100 * float(np.mean([(curve[-1] - curve[0]) / 4 for curve in curves]))
        gains.append(f"{number(gain, 2)} points for {kernel['title']}")
    text = f"Each doubling of the training images brings {' and '.join(gains)}, on average over four doublings"
    rows = findings["comparison"]
    if not rows:
        return f"{text}."
    best = ", ".join(f"{number(100 * row['difference'], 2)} ± {number(100 * row['error'], 2)}" for row in rows)
    n = count(rows[0]["n_train"])
    return (
        f"{text}. On the same {n} training images global average pooling changes the accuracy by {best} points "
        f"(depths {', '.join(str(row['depth']) for row in rows)})."
    )


def _paint_images(canvas: Canvas, findings: Findings, arrays: Arrays, head: str) -> None:
    kernel, sizes = findings["kernels"][head], arrays[f"sizes_{head}"]
    n, there = published(findings, head)
    ax = frame(canvas, left=0.62, right=1.18)
    curves = [arrays[f"right_{head}_{row['depth']}"].mean(axis=1) for row in kernel["depths"]]
    log_axis(ax, "x", float(sizes[0]) / 1.15, 1.25 * max(float(sizes[-1]), n))
    linear_axis(ax, "y", 0.0, min(1.03, 1.15 * max(*(c.max() for c in curves), *there.values(), 0)), percent=True)
    level(ax, kernel["chance"], FAINT)
    labels = [EndLabel(kernel["chance"], f"chance {percent(kernel['chance'])}", FAINT)]
    for row, curve, colour in zip(kernel["depths"], curves, DEPTH_COLOURS, strict=False):
        ax.plot(sizes, curve, color=colour, marker="o", markersize=4.5)
        end = float(curve[-1])
        if row["depth"] in there:
            end = there[row["depth"]] if n > sizes[-1] else end
            ax.plot([n], [there[row["depth"]]], color=colour, marker="D", markerfacecolor="white", linestyle="none")
        labels.append(EndLabel(end, f"depth {row['depth']}", colour))
    label_right(ax, labels)
    ax.set_xlabel("training images")
    diamond = "; diamonds: published" if there else ""
    title(canvas, f"{kernel['title']}: more images", f"test accuracy{diamond}")
