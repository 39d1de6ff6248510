"""How the prediction depends on width, and beside it the plain network and the catapult range."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.learning_rates import DIVERGES, RECOVERS, STABLE
from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.yang.learning_rate_claims import sets_of, title_of
from ntkit.experiments.reproductions.yang.learning_rate_series import BAND, depths_of, main_rows, ratios
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import BLUE, FAINT, GREEN, HALF, ORANGE, RULE, VERMILION, frame, title
from ntkit.report.wording import count, number

_ENDS = {STABLE: ("stable", GREEN, "o"), RECOVERS: ("recovers", ORANGE, "^"), DIVERGES: ("diverges", VERMILION, "x")}


def widths_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """For each data set the ratio against width, and what happens at rates around the prediction."""
    figures = []
    for name in sets_of(findings):
        figures.append(
            draw(f"widths-{name}", f"{title_of(name)}: predicted over found largest rates against width, one line a "
                 "depth.", HALF, lambda canvas, name=name: _paint_widths(canvas, findings, name))
        )  # fmt: skip
        figures.append(
            draw(f"catapult-{name}", f"{title_of(name)}: rates around the prediction at every width, how training "
                 "ends, and the largest stable rates of the centred and of the plain network.", HALF,
                 lambda canvas, name=name: _paint_catapult(canvas, findings, arrays, name))
        )  # fmt: skip
    scans = findings["scans"]
    return Section(
        "widths",
        "How wide must it be, and what lies beyond?",
        _sentence(findings),
        tuple(figures),
        "Left: the network's own 2N/λₘₐₓ over the largest stable rate, mean over draws, ReLU networks on the main "
        f"target. Right: depth {scans[0]['depth']}, rates in units of the own 2N/λₘₐₓ; each was tried for "
        f"{scans[0]['steps']} steps. Recovers: the loss rises and ends below its start. Dashed: 2N/λₘₐₓ and twice it.",
        _table(findings),
    )


def _sentence(findings: Findings) -> str:
    parts = []
    for name in sets_of(findings):
        rows = [row for row in findings["scans"] if row["set"] == name]
        widest = max(rows, key=lambda row: row["width"])
        plain = [row for row in main_rows(findings, name) if row["plain"] is not None]
        low, high = (number(1 / float(f(ratios(plain, "own", "plain")))) for f in (np.max, np.min))
        upto = widest["recovers_up_to"]
        after = f"recover from a rise up to {number(upto)}×" if upto else "never recover from a rise"
        parts.append(
            f"{title_of(name)} networks of width {count(widest['width'])} {after}, and plain networks are stable up to "
            f"{low} to {high}×"
        )
    return f"In units of the own 2N/λₘₐₓ: {'; '.join(parts)}."


def _table(findings: Findings) -> Table:
    rows = []
    for scan in findings["scans"]:
        same = [row for row in main_rows(findings, scan["set"])
                if (row["depth"], row["width"], row["activation"], row["draw"])
                == (scan["depth"], scan["width"], "relu", 0)]  # fmt: skip
        found, plain = (number(same[0][key] / same[0]["own"]) if same else "–" for key in ("found", "plain"))
        rows.append((
            title_of(scan["set"]), count(scan["width"]), number(scan["own"]), found, plain,
            number(scan["stable_up_to"]), number(scan["recovers_up_to"]) if scan["recovers_up_to"] else "none",
        ))  # fmt: skip
    header = (
        "data", "width", "own 2N/λₘₐₓ", "found, centred", "found, plain", "stable on the scan", "recovers on the scan"
    )  # fmt: skip
    return Table(header, tuple(rows))


def _paint_widths(canvas: Canvas, findings: Findings, name: str) -> None:
    ax = frame(canvas, left=0.6, right=0.85)
    rows = [row for row in main_rows(findings, name) if row["activation"] == "relu"]
    widths = sorted({row["width"] for row in rows})
    values = ratios(rows, "own")
    log_axis(ax, "x", widths[0] / 1.4, widths[-1] * 1.4)
    ax.set_xticks(widths, [count(width) for width in widths])
    pad = 0.08 * max(float(np.ptp(values)), 2 * BAND)
    linear_axis(ax, "y", min(float(values.min()), 1 - BAND) - pad, max(float(values.max()), 1 + BAND) + pad)
    ax.axhspan(1 - BAND, 1 + BAND, color=RULE, alpha=0.6, linewidth=0)
    level(ax, 1.0, FAINT)
    labels = []
    for depth, colour in depths_of(findings).items():
        mine = [row for row in rows if row["depth"] == depth]
        at = sorted({row["width"] for row in mine})
        means = [float(ratios([row for row in mine if row["width"] == width], "own").mean()) for width in at]
        ax.plot(at, means, color=colour, linewidth=1.6)
        ax.plot([row["width"] for row in mine], ratios(mine, "own"), "o", color=colour, markersize=4.5)
        labels.append(EndLabel(means[-1], f"depth {depth}", colour))
    label_right(ax, labels)
    ax.set_xlabel("width")
    title(canvas, f"{title_of(name)}: own kernel", "predicted over found")


def _paint_catapult(canvas: Canvas, findings: Findings, arrays: Arrays, name: str) -> None:
    ax = frame(canvas, left=0.6, right=1.15)
    scans = [row for row in findings["scans"] if row["set"] == name]
    multiples = arrays["scan_multiples"]
    widths = [row["width"] for row in scans]
    plain = [row for row in main_rows(findings, name) if row["plain"] is not None and row["width"] in widths
             and row["activation"] == "relu" and row["depth"] == scans[0]["depth"]]  # fmt: skip
    relative = {row["width"]: (row["found"] / row["own"], row["plain"] / row["own"]) for row in plain}
    highest = max([*multiples, *(value for _, value in relative.values())])
    log_axis(ax, "x", widths[0] / 1.6, widths[-1] * 1.6)
    ax.set_xticks(widths, [count(width) for width in widths])
    log_axis(ax, "y", float(multiples.min()) / 1.15, float(highest) * 1.15)
    for height in (1.0, 2.0):
        level(ax, height, FAINT)
    ends: dict[int, float] = {}
    for row in scans:
        outcomes = arrays[f"scan_outcomes_{name}_{row['width']}"]
        for kind, (_, colour, marker) in _ENDS.items():
            here = multiples[outcomes == kind]
            ax.plot(np.full(len(here), row["width"]), here, marker, color=colour, markersize=5.5)
            if len(here):
                ends[kind] = float(np.exp(np.log(here).mean()))
    labels = [EndLabel(at, _ENDS[kind][0], _ENDS[kind][1]) for kind, at in ends.items()]
    if relative:
        at = np.array(sorted(relative))
        ax.plot(at * 1.16, [relative[w][1] for w in at], color=BLUE, marker="s", markerfacecolor="white", linewidth=1.2,
                linestyle=":", zorder=4)  # fmt: skip
        labels.append(EndLabel(relative[int(at[-1])][1], "plain,\nlargest stable", BLUE))
    label_right(ax, labels, size=9.0)
    ax.set_xlabel("width")
    title(canvas, f"{title_of(name)}: beyond the prediction", "rate over the own 2N/λₘₐₓ")
