"""Rates found against rates predicted, and what stands between the exact kernel's prediction and the rate found."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from ntkit.experiments.learning_rates import STEPS
from ntkit.experiments.reproductions.experiment import Draw, Findings
from ntkit.experiments.reproductions.yang.learning_rate_claims import (
    PREDICTIONS,
    deviation,
    other_set,
    sets_of,
    title_of,
    wide_rows,
)
from ntkit.experiments.reproductions.yang.learning_rate_series import (
    BAND,
    colour_of,
    depths_of,
    main_rows,
    markers_of,
    ratios,
    real_sets,
)
from ntkit.report import Figure, Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import FAINT, HALF, INK, RULE, frame, title
from ntkit.report.wording import count, number, percent

SHORT = {"exact": "exact\nkernel", "averaged": "mean over\noutputs", "own": "own\nkernel", "first_rise": "first\nrise"}


def rates_section(findings: Findings, draw: Draw) -> Section:
    """Two figures, by the exact and by the own kernel, and the table of the networks that are judged."""
    figures = tuple(_scatter(findings, draw, prediction) for prediction in ("exact", "own"))
    rows = []
    for name, targets in sets_of(findings).items():
        for labels in targets:
            of_depth: dict[tuple[str, int], list[Findings]] = {}
            for row in wide_rows(findings, name, labels):
                of_depth.setdefault((row["activation"], row["depth"]), []).append(row)
            for (activation, depth), group in sorted(
                of_depth.items(), key=lambda item: (item[0][0] != "relu", item[0])
            ):
                found = np.mean([row["found"] for row in group])
                cells = (_spread(ratios(group, prediction)) for prediction in PREDICTIONS)
                rows.append((title_of(name), labels, activation, str(depth), number(float(found)), *cells))
    header = ("data", "targets", "activation", "depth", "rate found", *PREDICTIONS.values())
    caption = (
        f"Centred networks f − f₀. Found: the largest rate at which the loss never rises within {STEPS} steps. Line: "
        f"predicted = found; band: ± {percent(BAND)}. The table has predicted over found at widths from "
        f"{count(findings['wide'])}, lowest to highest."
    )
    return Section(
        "rates", "Is the largest learning rate 2N/λₘₐₓ?", _sentence(findings), figures, caption,
        Table(header, tuple(rows)),
    )  # fmt: skip


def _spread(values: np.ndarray) -> str:
    low, high = (f"{value:.3f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low}–{high}"


def _sentence(findings: Findings) -> str:
    parts = []
    for prediction, words in (("own", "the network's own kernel"), ("exact", "the exact kernel")):
        worst = {name: deviation(wide_rows(findings, name, main_rows(findings, name)[0]["labels"]), prediction)
                 for name in sets_of(findings)}  # fmt: skip
        told = ", ".join(f"{number(value, 2)}% on {title_of(name)}" for name, value in worst.items())
        parts.append(f"by {words} at most {told}")
    return (
        f"At widths from {count(findings['wide'])} the predicted rate is off the one found {parts[0]}, and {parts[1]}."
    )


def _scatter(findings: Findings, draw: Draw, prediction: str) -> Figure:
    rows = [row for name in sets_of(findings) for row in main_rows(findings, name)]
    label = (
        f"Found against predicted largest learning rates of {len(rows)} networks, {PREDICTIONS[prediction]}, "
        "logarithmic axes; the closer to the line, the better the prediction."
    )
    return draw(f"rates-{prediction}", label, HALF, lambda canvas: _paint_scatter(canvas, findings, prediction))


def _paint_scatter(canvas: Canvas, findings: Findings, prediction: str) -> None:
    ax = frame(canvas, left=0.62, right=1.1)
    markers = markers_of(findings)
    every = [row for name in sets_of(findings) for row in main_rows(findings, name)]
    values = np.array([[row[prediction], row["found"]] for row in every])
    low, high = values.min() / 1.5, values.max() * 1.5
    log_axis(ax, "x", low, high)
    log_axis(ax, "y", low, high)
    ends = np.array([low, high])
    ax.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color=FAINT, alpha=0.25, linewidth=0)
    ax.plot(ends, ends, color=FAINT, linewidth=1.0)
    labels = []
    for name in sets_of(findings):
        rows = main_rows(findings, name)
        for row in rows:
            ax.plot(
                row[prediction], row["found"], markers[row["width"]], color=colour_of(name), markersize=5.5,
                markerfacecolor="none" if row["width"] < findings["wide"] else colour_of(name), markeredgewidth=1.2,
            )  # fmt: skip
        labels.append(
            EndLabel(float(np.exp(np.mean(np.log([row["found"] for row in rows])))), title_of(name), colour_of(name))
        )
    label_right(ax, labels)
    width_key(ax, findings)
    ax.set_xlabel("predicted rate")
    words = {"exact": "the exact kernel", "own": "the network's own kernel"}[prediction]
    title(canvas, f"By {words}", "found rate; filled: the networks judged")


def width_key(ax: Axes, findings: Findings) -> None:
    """Which mark is which width, in the lower right corner."""
    marks = [
        Line2D([], [], color=INK, marker=marker, linestyle="none", markersize=5.5, label=count(width),
               markerfacecolor="none" if width < findings["wide"] else INK)
        for width, marker in markers_of(findings).items()
    ]  # fmt: skip
    ax.legend(handles=marks, title="width", loc="lower right", frameon=False, fontsize=8.5, title_fontsize=8.5,
              handletextpad=0.1, labelspacing=0.25, borderaxespad=0.1)  # fmt: skip


# ------------------------------------------------------------------------------------------------ between both


def ladder_section(findings: Findings, draw: Draw) -> Section:
    """From prediction to prediction, for each real data set and target; and what wrong predictions would give."""
    figures = []
    for name in real_sets(findings):
        for labels in sets_of(findings)[name]:
            label = (
                f"{title_of(name)}, {labels} labels: predicted over found by four predictions, one line a network of "
                f"width {count(findings['wide'])} or more, coloured by depth."
            )
            figures.append(
                draw(f"ladder-{name}-{labels}", label, HALF,
                     lambda canvas, name=name, labels=labels: _paint_ladder(canvas, findings, name, labels))
            )  # fmt: skip
    header = (
        "data", "depth", "λ₁/λ₂", "labels in the top direction", "conjugate kernel", "shuffled pixels", "other data",
        "N/λₘₐₓ",
    )  # fmt: skip
    return Section(
        "ladder",
        "What stands between the exact kernel and the rate found?",
        _ladder_sentence(findings),
        tuple(figures),
        "From left to right: 2N/λₘₐₓ of the exact kernel; of the network's own kernel, averaged over its outputs; of "
        "its own kernel with all outputs, whose λₘₐₓ is the largest of several; the rate at which the linearised "
        f"network's loss first rises within {STEPS} steps, which depends on how much of the labels lies in the top "
        "direction. The table has those shares, and predicted over found by wrong predictions, for ReLU networks on "
        "the main target.",
        Table(header, tuple(_wrong_rows(findings))),
    )


def _ladder_sentence(findings: Findings) -> str:
    name = real_sets(findings)[-1]
    parts = []
    for labels in sets_of(findings)[name]:
        rows = wide_rows(findings, name, labels)
        shares = [row["top_share"][labels] for row in findings["limits"] if row["set"] == name]
        own, rise = (float(np.median(ratios(rows, prediction))) for prediction in ("own", "first_rise"))
        parts.append(
            f"with {labels} labels, {percent(float(np.mean(shares)), 2)} of which lie in the top direction, 2N/λₘₐₓ of "
            f"the own kernel is {number(own)} of the rate found in the median and the first rise {number(rise)}"
        )
    return f"On {title_of(name)}, {'; '.join(parts)}."


def _wrong_rows(findings: Findings) -> list[tuple[str, ...]]:
    rows = []
    for name in sets_of(findings):
        targets = main_rows(findings, name)[0]["labels"]
        for depth in depths_of(findings):
            group = [row for row in wide_rows(findings, name, targets)
                     if row["depth"] == depth and row["activation"] == "relu"]  # fmt: skip
            limit = next(row for row in findings["limits"]
                         if (row["set"], row["activation"], row["depth"]) == (name, "relu", depth))  # fmt: skip
            if not group:
                continue
            scrambled = "–" if limit["scrambled"] is None else _spread(
                np.array([limit["scrambled"] / row["found"] for row in group])
            )  # fmt: skip
            shares = ", ".join(f"{key} {percent(share, 2)}" for key, share in limit["top_share"].items())
            rows.append((
                title_of(name), str(depth), number(limit["gap"]), shares, _spread(ratios(group, "conjugate")),
                scrambled, _spread(ratios(other_set(findings, group), "own")), _spread(ratios(group, "own") / 2),
            ))  # fmt: skip
    return rows


def _paint_ladder(canvas: Canvas, findings: Findings, name: str, labels: str) -> None:
    rows = wide_rows(findings, name, labels)
    colours = depths_of(findings)
    ax = frame(canvas, left=0.6, right=0.95, bottom=0.62)
    values = np.array([[row[prediction] / row["found"] for prediction in PREDICTIONS] for row in rows])
    pad = 0.1 * max(float(np.ptp(values)), BAND)
    linear_axis(ax, "y", min(float(values.min()), 1 - BAND) - pad, max(float(values.max()), 1 + BAND) + pad)
    ax.axhspan(1 - BAND, 1 + BAND, color=RULE, alpha=0.6, linewidth=0)
    level(ax, 1.0, FAINT)
    places = np.arange(len(PREDICTIONS))
    ax.set_xlim(-0.3, len(places) - 0.7)
    ends: dict[int, list[float]] = {}
    for row, path in zip(rows, values, strict=True):
        erf = row["activation"] != "relu"
        colour = INK if erf else colours[row["depth"]]
        ax.plot(places, path, color=colour, marker="o", markersize=4.5, linewidth=1.1, linestyle=":" if erf else "-")
        ends.setdefault(0 if erf else row["depth"], []).append(float(path[-1]))
    label_right(ax, [
        EndLabel(float(np.mean(at)), f"depth {depth}" if depth else "erf", colours[depth] if depth else INK)
        for depth, at in ends.items()
    ])  # fmt: skip
    ax.set_xticks(places, list(SHORT.values()), fontsize=9)
    title(canvas, f"{title_of(name)}, {labels} labels", "predicted over found")
