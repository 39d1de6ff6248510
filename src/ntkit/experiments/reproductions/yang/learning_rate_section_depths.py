"""Test error and alignment of the exact tangent kernel by depth, on real data."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.yang.learning_rate_claims import title_of
from ntkit.experiments.reproductions.yang.learning_rate_series import DEPTH_COLOURS
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import HALF, frame, title
from ntkit.report.wording import count, number, percent

ERRORS = 2  # standard errors that a band reaches
_QUANTITIES = {"error": "test error", "squared": "squared test error over that of zero", "alignment": "alignment"}


def depths_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """Three figures a data set: wrong classes, squared error, centred alignment."""
    figures = []
    for row in findings["depths"]:
        for measure, words in _QUANTITIES.items():
            label = f"{title_of(row['set'])}: {words} of kernel regression against depth, one line a number of images."
            figures.append(
                draw(f"depths-{measure}-{row['set']}", label, HALF,
                     lambda canvas, row=row, measure=measure: _paint(canvas, row, arrays, measure))
            )  # fmt: skip
    first = findings["depths"][0]
    return Section(
        "depths",
        "Which depth is best on real data?",
        _sentence(findings),
        tuple(figures),
        f"Regression with the exact tangent kernel of ReLU networks, no ridge, centred one-hot labels; "
        f"{first['draws']} disjoint draws of training images, {count(first['n_test'])} test images. Bands: ± {ERRORS} "
        "standard errors over draws. Circle: the best depth. Alignment: both kernel and labels centred. In the table "
        "the ends are compared with the depth that is best on the other draws, in standard errors of the difference.",
        _table(findings),
    )


def _sentence(findings: Findings) -> str:
    parts = []
    for row in findings["depths"]:
        best = row["best"][-1]
        parts.append(
            f"on {title_of(row['set'])} with {count(best['n_train'])} images {best['error']} hidden layers err least "
            f"({percent(best['least'])}), {best['squared']} have the least squared error, and alignment is largest at "
            f"{best['alignment']}"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _table(findings: Findings) -> Table:
    rows = []
    for row in findings["depths"]:
        for best in row["best"]:
            for end, depth in (("shallowest", row["depths"][0]), ("deepest", row["depths"][-1])):
                excess = best["excess"][end]
                rows.append((
                    title_of(row["set"]), count(best["n_train"]), str(best["error"]), percent(best["least"]),
                    str(best["squared"]), str(best["alignment"]), str(depth),
                    f"{number(100 * excess['mean'])} ± {number(100 * excess['error'], 2)}",
                    number(best["excess_in_errors"][end]), number(best["shuffled_in_errors"][end]),
                ))  # fmt: skip
    header = (
        "data", "training images", "best depth", "test error there", "best, squared", "best, alignment", "end",
        "excess there, points", "in s.e.", "in s.e., shuffled labels",
    )  # fmt: skip
    return Table(header, tuple(rows))


def _paint(canvas: Canvas, row: Findings, arrays: Arrays, measure: str) -> None:
    ax = frame(canvas, left=0.62, right=1.1)
    depths = np.array(row["depths"])
    log_axis(ax, "x", depths[0] / 1.2, depths[-1] * 1.2)
    curves = {n: arrays[f"depths_{measure}_{row['set']}_{n}"] for n in row["sizes"]}
    means = {n: values.mean(axis=0) for n, values in curves.items()}
    low, high = min(m.min() for m in means.values()), max(m.max() for m in means.values())
    linear_axis(ax, "y", max(0.0, 1.15 * low - 0.15 * high), 1.08 * high, percent=measure == "error")
    labels = []
    for (n, values), colour in zip(curves.items(), DEPTH_COLOURS, strict=False):
        mean, half = means[n], ERRORS * values.std(axis=0, ddof=1) / np.sqrt(len(values))
        ax.fill_between(depths, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        ax.plot(depths, mean, color=colour, marker="o", markersize=4)
        at = int(mean.argmax() if measure == "alignment" else mean.argmin())
        ax.plot(depths[at], mean[at], "o", color=colour, markersize=10, markerfacecolor="none", markeredgewidth=1.6)
        labels.append(EndLabel(float(mean[-1]), f"{count(n)} images", colour))
    label_right(ax, labels)
    ax.set_xlabel("hidden layers")
    quantity = _QUANTITIES[measure] if measure != "alignment" else "alignment of kernel and labels"
    title(canvas, title_of(row["set"]), quantity)
