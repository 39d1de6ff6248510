"""How the error falls with the number of training samples: predicted from the kernel's spectrum, and measured."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.study_sections.series import EXACT, INITIAL, NETWORK, Arrays, Findings
from ntkit.report import Section, Table
from ntkit.report.axes import log_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import FAINT, HALF, INK, draw, frame, title
from ntkit.report.wording import count, number, percent

_FEW = 16  # samples, from whose kernel little is told of others
_LINES = {"exact": EXACT, "initial": INITIAL}


def data_needed_section(findings: Findings, arrays: Arrays) -> Section:
    """Error against the number of training samples, line and points."""
    needed = findings["data_needed"]
    sizes, measured = arrays["learning_sizes"], arrays["learning_measured"]
    label = (
        f"Test error of kernel regression against the number of training samples, predicted and measured, from "
        f"{number(float(measured[0]))} with {sizes[0]} to {number(float(measured[-1]))} with {sizes[-1]}."
    )
    return Section(
        "data",
        "How much data does it need?",
        sentence(findings),
        (draw("data", label, HALF, lambda canvas: _paint(canvas, findings, arrays)),),
        f"Line: predicted from the {_LINES[needed['key']].name} kernel and the labels of the training samples alone "
        f"(Simon et al. 2021), with the ridge that leave-one-out chose ({number(needed['ridge'], 2)} of the mean "
        f"diagonal). Points: that machine on random parts of them, error on the test samples, mean of "
        f"{needed['draws']} parts with two standard errors.",
        _table(arrays),
    )


def sentence(findings: Findings) -> str:
    """What the figure says, in one sentence."""
    needed, falls = findings["data_needed"], findings["data_needed"]["doubled_takes_off"]
    measured, predicted = (needed[what] / needed["guessing"] for what in ("measured", "predicted"))
    text = (
        f"With {count(needed['samples'])} samples kernel regression makes {percent(measured)} of the error of guessing"
    )
    text += f", predicted {percent(predicted)}"
    if falls is not None:
        text += f"; twice the data would take about {percent(falls, 2)} off" if falls > 0.005 else "; more hardly help"
    text += f"; predictions are off by at most {percent(needed['worst_gap'], 2)}"
    return f"{text}: a spectrum of so few samples tells little." if needed["samples"] < _FEW else f"{text}."


def _paint(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    needed, n = findings["data_needed"], findings["data"]["n_train"]
    line = _LINES[needed["key"]]
    sizes, predicted, measured, spread = (
        arrays[f"learning_{what}"] for what in ("sizes", "predicted", "measured", "spread")
    )
    everything = np.concatenate([predicted, measured, [needed["guessing"]]])
    shown = [*everything, needed["network"]] if 0 < needed["network"] < 3 * everything.max() else everything
    ax = frame(canvas, left=0.74, right=1.12)
    log_axis(ax, "x", sizes[0] / 1.2, n * 1.2, most=5)
    log_axis(ax, "y", min(shown) / 1.3, max(shown) * 1.3)
    level(ax, needed["guessing"], FAINT)
    ax.plot(sizes, predicted, **line.style)
    bars = np.minimum(2 * spread, 0.9 * measured)  # a logarithmic axis has no 0
    ax.errorbar(sizes, measured, bars, color=INK, marker="o", linestyle="none", capsize=3, markerfacecolor="white")
    ends = [
        EndLabel(needed["guessing"], "guessing", FAINT),
        EndLabel(float(predicted[-1]), f"{line.name} kernel,\npredicted", line.colour),
    ]
    if len(shown) > len(everything):
        ax.plot([n], [needed["network"]], marker=NETWORK.marker, color=NETWORK.colour, markersize=8, zorder=3)
        ends.append(EndLabel(needed["network"], "trained\nnetwork", NETWORK.colour))
    label_right(ax, ends)
    ax.set_xlabel("training samples")
    title(canvas, "Error by number of samples", "mean squared test error; circles: measured")


def _table(arrays: Arrays) -> Table:
    columns = (arrays[f"learning_{what}"] for what in ("sizes", "predicted", "measured", "spread"))
    rows = tuple(
        (count(int(n)), number(float(p), 4), number(float(m), 4), number(float(s), 2), number(float(p / m)))
        for n, p, m, s in zip(*columns, strict=True)
    )
    return Table(("training samples", "predicted error", "measured", "standard error", "predicted / measured"), rows)
