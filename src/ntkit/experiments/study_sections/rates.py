"""The largest stable learning rate: 2N/λ_max of the kernels, and what training runs say.

Full-batch gradient descent on the linearised network is stable below 2N/λ_max. Up to about twice that a finite
network can recover after a rise of the loss, the catapult: Lewkowycz et al., "The large learning rate phase of deep
learning", 2020.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.study_sections.series import Arrays, Findings, compared
from ntkit.report import Figure, Section, Table
from ntkit.report.axes import log_axis, step_axis
from ntkit.report.labels import EndLabel, label_right, label_top
from ntkit.report.style import FAINT, GREEN, HALF, INK, ORANGE, VERMILION, Line, draw, frame, ink, title
from ntkit.report.wording import number

STABLE = Line("stable", GREEN, "-", "o", 1.6)
RECOVERS = Line("recovers", ORANGE, (0, (5, 1.5)), "^", 1.6)
DIVERGES = Line("diverges", VERMILION, (0, (1, 1.2)), "x", 1.8)
OUTCOMES = (STABLE, RECOVERS, DIVERGES)
BANDS = ("stable", "catapult", "diverges")


def rates_section(findings: Findings, arrays: Arrays) -> Section:
    """Predicted and found rates on one line, and the loss paths of the scan."""
    rates = findings["learning_rate"]
    return Section(
        "rates",
        "How large a learning rate can it take?",
        sentence(findings),
        (
            draw("rates", _describe(rates), HALF, lambda canvas: _paint_rates(canvas, rates, arrays)),
            _scan_figure(arrays),
        ),
        f"Stable: the loss never rises from one step to the next within {rates['steps']} steps of full-batch gradient "
        "descent; the scan, right, may run on. Centred: the network minus its untrained self, f − f₀. Linearised: the "
        "same test of the linearised network, beyond 2N/λₘₐₓ where little of the labels lies in the top direction. "
        "Catapult range: up to twice the prediction.",
        _table(rates),
    )


def sentence(findings: Findings) -> str:
    """What the figures say, in one sentence."""
    rates = findings["learning_rate"]
    predicted, found, plain = rates["predicted_initial"], rates["found_centered"], rates["found_plain"]
    text = (
        f"The centred network trains stably up to {number(found)}, {compared(found, predicted)} the predicted "
        f"2N/λₘₐₓ = {number(predicted)}"
    )
    if rates["predicted_exact"] is not None:
        text += f" ({number(rates['predicted_exact'])} by the exact kernel)"
    text += f"; the plain network up to {number(plain)}; "
    recovers = rates["recovers_up_to"]
    if recovers is None:
        return text + "no rate of the scan recovered once its loss had risen."
    inside = "below" if recovers < predicted else "inside" if recovers <= 2 * predicted else "beyond"
    return text + f"the scan recovers from a rise up to {number(recovers)}, {inside} the catapult range."


def _rows(rates: Findings) -> list[tuple[str, float, str, str]]:
    """(name, rate, marker, fill) of every single rate that is known."""
    rows = [
        ("predicted, initial", rates["predicted_initial"], "D", "white"),
        ("predicted, exact", rates["predicted_exact"], "s", "white"),
        ("linearised, found", rates.get("predicted_first_rise"), "p", "white"),
        ("found, centred", rates["found_centered"], "o", INK),
        ("found, plain", rates["found_plain"], "v", INK),
    ]
    return [(name, float(rate), marker, fill) for name, rate, marker, fill in rows if rate is not None]


def _paint_rates(canvas: Canvas, rates: Findings, arrays: Arrays) -> None:
    rows, predicted = _rows(rates), rates["predicted_initial"]
    scanned = arrays["lr_scan_multiples"] * predicted
    everything = np.concatenate([[rate for _, rate, _, _ in rows], scanned, [predicted / 1.6, 3.2 * predicted]])
    ax = frame(canvas, left=1.45, right=0.24, top=0.9)
    log_axis(ax, "x", everything.min() / 1.25, everything.max() * 1.25)
    ax.grid(visible=False)
    ax.set_ylim(-0.6, len(rows) + 0.6)
    _paint_bands(ax, predicted)
    heights = range(len(rows), 0, -1)
    for height, (_, rate, marker, fill) in zip(heights, rows, strict=True):
        ax.plot([rate], [height], marker=marker, markersize=8, color=INK, markerfacecolor=fill, markeredgewidth=1.6)
        _value_beside(ax, rate, height)
    for outcome, line in enumerate(OUTCOMES):
        x = scanned[arrays["lr_scan_outcome"] == outcome]
        ax.plot(x, np.zeros_like(x), line.marker, color=ink(line.colour), markersize=6, markeredgewidth=1.6)
    ax.set_yticks([*heights, 0], [*(name for name, *_ in rows), "tried"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("learning rate")
    title(canvas, "Stable, catapult, divergent", "bands: 2N/λₘₐₓ and twice it; tried: how it ended")


def _paint_bands(ax: Axes, predicted: float) -> None:
    low, high = ax.get_xlim()
    edges = [low, predicted, 2 * predicted, high]
    for line, left, right in zip(OUTCOMES, edges[:-1], edges[1:], strict=True):
        ax.axvspan(left, right, color=line.colour, alpha=0.16, linewidth=0)
    ax.axvline(predicted, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
    middles = [float(np.sqrt(a * b)) for a, b in pairwise(edges)]
    label_top(ax, middles, list(BANDS), [line.colour for line in OUTCOMES], size=10.5)


def _value_beside(ax: Axes, rate: float, height: int) -> None:
    """The rate in figures, right of its mark, or left of it near the right edge."""
    low, high = np.log(ax.get_xlim())
    right = (np.log(rate) - low) / (high - low) < 0.72
    place = {"xytext": (8, 0), "ha": "left"} if right else {"xytext": (-8, 0), "ha": "right"}
    ax.annotate(number(rate), (rate, height), textcoords="offset points", va="center", fontweight="bold", **place)


def _scan_figure(arrays: Arrays) -> Figure:
    outcome, last = arrays["lr_scan_outcome"], arrays["lr_scan_loss"].shape[1] - 1
    counts = [int(np.sum(outcome == kind)) for kind in range(3)]
    label = (
        f"Loss of the centred network over {last} steps at {len(outcome)} rates: {counts[0]} stable, "
        f"{counts[1]} rise and recover, {counts[2]} diverge."
    )
    return draw("scan", label, HALF, lambda canvas: _paint_scan(canvas, arrays))


def _paint_scan(canvas: Canvas, arrays: Arrays) -> None:
    losses, outcome, multiples = arrays["lr_scan_loss"], arrays["lr_scan_outcome"], arrays["lr_scan_multiples"]
    ax = frame(canvas, left=0.6, right=1.1, top=0.9)
    low, high = _scan_limits(losses, outcome)
    step_axis(ax, losses.shape[1] - 1)
    log_axis(ax, "y", low, high)
    ends: list[EndLabel] = []
    for kind in np.unique(outcome):
        line, paths = OUTCOMES[int(kind)], losses[outcome == kind]
        for path in paths:
            shown = np.where(path > 0, np.minimum(path, 1e3 * high), np.nan)
            ax.plot(np.arange(len(path)), shown, **line.style)
        rates = _range(multiples[outcome == kind])
        away = [_crossing(path, high) for path in paths if path[-1] > high]
        if len(away) == len(paths):
            label_top(ax, [float(np.median(away))], [f"{line.name} {rates}"], [line.colour])
        else:
            end = float(np.clip(np.nanmedian(paths[:, -1]), low, high))
            ends.append(EndLabel(end, f"{line.name}\n{rates}", line.colour))
    label_right(ax, ends)
    ax.set_xlabel("step")
    title(canvas, "Training at multiples of 2N/λₘₐₓ", "loss relative to the start, centred network")


def _range(multiples: np.ndarray) -> str:
    """0.25–0.95×, or a single 2×."""
    low, high = (number(float(x)) for x in (multiples.min(), multiples.max()))
    return f"{low}×" if low == high else f"{low}–{high}×"


def _scan_limits(losses: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """Room for every path that comes back; those that diverge leave through the top."""
    tame = losses[outcome < 2] if np.any(outcome < 2) else losses[:, :2]
    tame = tame[(tame > 0) & np.isfinite(tame)]
    low, high = (float(tame.min()), float(tame.max())) if len(tame) else (0.5, 1.0)
    return max(low / 1.5, 1e-8), max(3 * high, 5.0)


def _crossing(path: np.ndarray, high: float) -> float:
    """The step, between two whole ones, at which a path first crosses `high` on a logarithmic scale."""
    first = int(np.argmax(path > high))
    if first == 0 or path[first - 1] <= 0:
        return float(first)
    before, after = np.log(path[first - 1]), np.log(path[first])
    return first - 1 + float((np.log(high) - before) / (after - before))


def _describe(rates: Findings) -> str:
    marks = "; ".join(f"{name} {number(rate)}" for name, rate, _, _ in _rows(rates))
    return f"Learning rates on a line: {marks}. The catapult range ends at {number(2 * rates['predicted_initial'])}."


def _table(rates: Findings) -> Table:
    predicted = rates["predicted_initial"]
    named = {
        "predicted, 2N/λₘₐₓ of the initial kernel": predicted,
        "predicted, 2N/λₘₐₓ of the exact kernel": rates["predicted_exact"],
        "found by bisection, centred network": rates["found_centered"],
        "found by bisection, plain network": rates["found_plain"],
        "largest on the scan that recovered": rates["recovers_up_to"],
        "end of the catapult range, 4N/λₘₐₓ": 2 * predicted,
    }
    rows = tuple(
        (name, number(rate, 4), "–" if rate is None else number(rate / predicted)) for name, rate in named.items()
    )
    return Table(("learning rate", "value", "over the prediction"), rows)
