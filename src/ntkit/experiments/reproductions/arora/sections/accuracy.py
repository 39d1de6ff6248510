"""Accuracy by depth, measured and published, with error bars."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.arora.claims import comparable
from ntkit.experiments.reproductions.arora.sections.series import error, kernels, published
from ntkit.experiments.reproductions.experiment import Draw, Findings
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLUE, FAINT, HALF, VERMILION, frame, title
from ntkit.report.wording import count, number, percent

MEASURED, PAPER = BLUE, VERMILION
ERRORS = 2  # standard errors that a bar reaches


def accuracy_section(findings: Findings, draw: Draw) -> Section:
    """Two figures, one a kernel, and the table of accuracies."""
    figures = tuple(
        draw(
            f"accuracy-{head}",
            f"{kernel['title']}: "
            + "; ".join(f"depth {row['depth']} {percent(row['accuracy'])}" for row in kernel["depths"]),
            HALF,
            lambda canvas, head=head: _paint_depths(canvas, findings, head),
        )
        for head, kernel in kernels(findings)
    )
    rows = []
    for head, kernel in kernels(findings):
        n, there = published(findings, head)
        for row in kernel["depths"]:
            beside = f"{percent(there[row['depth']], 4)} ({count(n)})" if row["depth"] in there else "–"
            rows.append((
                kernel["title"], str(row["depth"]), count(kernel["n_train"]), percent(row["accuracy"], 4),
                percent(row["error_test"]), percent(row["error_train"]), beside,
            ))  # fmt: skip
    header = ("kernel", "depth", "training images", "accuracy", "s.e. test", "s.e. training", "published (images)")
    question = "Do the exact kernels classify as published?" if comparable(findings) else "Do the exact kernels learn?"
    caption = (
        f"Bars: ± {ERRORS} standard errors, test and training images together. Dashed: guessing the commonest class."
    )
    return Section("accuracy", question, _depth_sentence(findings), figures, caption, Table(header, tuple(rows)))


def _depth_sentence(findings: Findings) -> str:
    sentences = []
    for head, kernel in kernels(findings):
        n, there = published(findings, head)
        rows = kernel["depths"]
        low, high = (f(row["accuracy"] for row in rows) for f in (min, max))
        text = f"{kernel['title']} classifies {percent(low, 4)} to {percent(high, 4)} right"
        if there and n == kernel["n_train"]:
            gaps = [row["accuracy"] - there[row["depth"]] for row in rows if row["depth"] in there]
            worst = max(gaps, key=abs)
            text += f", at most {number(100 * abs(worst), 2)} points from the published accuracies"
        elif there:
            lowest, highest = (percent(f(there.values()), 4) for f in (min, max))
            text += (
                f" with {count(kernel['n_train'])} training images, where {lowest} to {highest} are published for "
                f"{count(n)}: fewer images, so no equality is to be expected"
            )
        sentences.append(text)
    return f"{'; '.join(sentences)}."


def _paint_depths(canvas: Canvas, findings: Findings, head: str) -> None:
    kernel = findings["kernels"][head]
    n, there = published(findings, head)
    rows = kernel["depths"]
    places = np.arange(len(rows))
    accuracy = np.array([row["accuracy"] for row in rows])
    bars = ERRORS * np.array([error(row) for row in rows])
    ax = frame(canvas, left=0.62, right=1.18)
    everything = [*(accuracy + bars), *(accuracy - bars), *there.values(), kernel["chance"]]
    linear_axis(ax, "y", 0.0, min(1.03, 1.12 * max(everything)), percent=True)
    ax.set_xlim(-0.5, len(rows) - 0.5)
    ax.set_xticks(places, [str(row["depth"]) for row in rows])
    ax.set_xlabel("depth: convolutions + 1")
    level(ax, kernel["chance"], FAINT)
    ax.errorbar(places, accuracy, bars, color=MEASURED, marker="o", capsize=4, linewidth=1.6, elinewidth=1.6, zorder=3)
    labels = [
        EndLabel(float(accuracy[-1]), f"measured,\n{count(kernel['n_train'])} images", MEASURED),
        EndLabel(kernel["chance"], f"chance {percent(kernel['chance'])}", FAINT),
    ]
    if there:
        at = [i for i, row in enumerate(rows) if row["depth"] in there]
        values = [there[rows[i]["depth"]] for i in at]
        style = {"color": PAPER, "marker": "D", "markerfacecolor": "white", "markersize": 7, "linestyle": (0, (2, 2))}
        ax.plot(np.array(at) + 0.08, values, linewidth=1.2, zorder=4, **style)
        labels.append(EndLabel(values[-1], f"published,\n{count(n)} images", PAPER))
    label_right(ax, labels)
    pooled = "averaged over positions" if head == "gap" else "flattened"
    title(canvas, f"{kernel['title']}, {pooled}", "test accuracy")
