"""Predicted training and test curves beside the real run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter

from ntkit.experiments.study_sections.series import (
    EXACT,
    INITIAL,
    KEY,
    NETWORK,
    Arrays,
    Findings,
    chance_is,
    chance_label,
    metric_name,
    present,
    score,
)
from ntkit.report import Figure, Section, Table
from ntkit.report.axes import linear_axis, log_axis, signed_percent, step_axis
from ntkit.report.labels import EndLabel, label_right, level
from ntkit.report.style import FAINT, THIRD, Line, draw, frame, title
from ntkit.report.wording import count, number, percent

LINES = (("network", NETWORK), ("initial_kernel", INITIAL), ("exact_kernel", EXACT))
_GRADES = ((0.01, "follows closely"), (0.05, "follows"), (0.2, "follows roughly"), (np.inf, "does not follow"))


def curves_section(findings: Findings, arrays: Arrays) -> Section:
    """Training loss, test loss, and the test metric, predicted and actual."""
    metric = metric_name(findings["metric"])
    return Section(
        "curves",
        "Do the kernels predict its training?",
        sentence(findings),
        (
            _loss_figure("train", "Training loss", findings, arrays),
            _loss_figure("test", "Test loss", findings, arrays),
            draw(
                "metric",
                f"Test {metric} during training, predicted and actual; the network ends at "
                f"{score(findings['training']['metric_end'], findings['metric'])}.",
                THIRD,
                lambda canvas: _paint_metric(canvas, findings, arrays),
            ),
        ),
        f"{KEY} Small, below: predicted minus actual loss, as a share of the initial loss.",
        _table(findings, arrays),
    )


def sentence(findings: Findings) -> str:
    """What the figures say, in one sentence."""
    training, metric = findings["training"], findings["metric"]
    grade = next(words for limit, words in _GRADES if training["worst_gap_initial"] < limit or limit == np.inf)
    text = (
        f"Over {count(training['steps'])} steps at rate {number(training['lr'])} the network {grade} what its initial "
        f"kernel predicts, off by at most {percent(training['worst_gap_initial'])} of the initial loss"
    )
    if training["worst_gap_exact"] is not None:
        text += f" ({percent(training['worst_gap_exact'])} for the exact kernel)"
    change = "falls" if training["loss_end"] < training["loss_start"] else "rises"
    return (
        f"{text}; the training loss {change} from {number(training['loss_start'])} to {number(training['loss_end'])} "
        f"and the test {metric_name(metric)} ends at {score(training['metric_end'], metric)}, where "
        f"{chance_is(findings)}."
    )


def _loss_figure(part: str, name: str, findings: Findings, arrays: Arrays) -> Figure:
    network = arrays[f"{part}_loss_network"]
    label = (
        f"{name} over {count(int(arrays['steps'][-1]))} steps: the network goes from {number(float(network[0]))} to "
        f"{number(float(network[-1]))}; below, the gaps between predicted and actual."
    )
    return draw(f"{part}-loss", label, THIRD, lambda canvas: _paint_loss(canvas, part, name, arrays))


def _paint_loss(canvas: Canvas, part: str, name: str, arrays: Arrays) -> None:
    lines, steps = present(arrays, f"{part}_loss_", LINES), arrays["steps"]
    start = float(lines[0][1][0])
    upper = frame(canvas, left=0.72, right=0.78, bottom=1.62, top=0.66)
    step_axis(upper, float(steps[-1]))
    upper.tick_params(labelbottom=False)
    log_axis(upper, "y", *_loss_limits([values for _, values in lines], start))
    _paint_lines(upper, steps, [(line, np.where(values > 0, values, np.nan)) for line, values in lines])
    lower = frame(canvas, left=0.72, right=0.78, bottom=0.56, top=2.5)
    step_axis(lower, float(steps[-1]))
    gaps = [(line, (values - lines[0][1]) / start) for line, values in lines[1:]]
    finite = np.concatenate([gap[np.isfinite(gap)] for _, gap in gaps])
    size = min(max(1.15 * float(np.abs(finite).max(initial=0.0)), 1e-3), 2.0)
    linear_axis(lower, "y", -size, size)
    mark = _round_below(size)
    lower.yaxis.set_major_locator(FixedLocator([-mark, 0.0, mark]))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda y, _: signed_percent(y)))
    level(lower, 0.0, FAINT)
    _paint_lines(lower, steps, gaps)
    lower.set_xlabel("step")
    title(canvas, name, "loss (1/2N) Σ ‖f − y‖², and gap to the network")


def _round_below(size: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above `size`."""
    decade = 10.0 ** np.floor(np.log10(size))
    return float(max(m * decade for m in (1, 2, 5) if m * decade <= size * (1 + 1e-9)))


def _loss_limits(values: list[np.ndarray], start: float) -> tuple[float, float]:
    """All of the curves, but at most six decades down and two up from the start."""
    everything = np.concatenate(values)
    everything = everything[np.isfinite(everything) & (everything > 0)]
    low, high = float(everything.min()), float(everything.max())
    return max(low / 1.25, 1e-6 * start), min(max(high, start) * 1.25, 100 * start)


def _paint_lines(ax: Axes, steps: np.ndarray, lines: list[tuple[Line, np.ndarray]]) -> None:
    ends = []
    low, high = ax.get_ylim()
    for line, values in lines:
        ax.plot(steps, values, **line.style)
        finite = values[np.isfinite(values)]
        if len(finite):
            ends.append(EndLabel(float(np.clip(finite[-1], low, high)), line.name, line.colour))
    label_right(ax, ends)


def _paint_metric(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    lines, chance = present(arrays, "test_metric_", LINES), findings["chance"]
    is_share = findings["metric"] == "accuracy"
    ax = frame(canvas, left=0.66, right=0.78, bottom=0.56, top=0.66)
    step_axis(ax, float(arrays["steps"][-1]))
    everything = np.concatenate([values for _, values in lines])
    finite = everything[np.isfinite(everything)]
    ends = min(float(values[-1]) for _, values in lines if np.isfinite(values[-1]))
    low = 0.0 if is_share else min(max(float(finite.min(initial=chance)), min(-1.0, 2.5 * ends)), chance)
    room = 0.05 * (1.0 - low)
    linear_axis(ax, "y", low if is_share else low - room, 1.0 + room, percent=is_share)
    level(ax, chance, FAINT)
    _paint_lines(ax, arrays["steps"], lines)
    ax.annotate(
        chance_label(findings),
        (0.98, chance),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9.5,
        color=FAINT,
    )
    ax.set_xlabel("step")
    title(canvas, f"Test {metric_name(findings['metric'])}", "predicted and actual")


def _table(findings: Findings, arrays: Arrays) -> Table:
    names = {"network": "network (actual)", "initial_kernel": "initial kernel", "exact_kernel": "exact kernel"}
    rows = []
    for key, name in names.items():
        if f"train_loss_{key}" not in arrays:
            continue
        train, test, metric = (arrays[f"{kind}_{key}"] for kind in ("train_loss", "test_loss", "test_metric"))
        gap = {"initial_kernel": "worst_gap_initial", "exact_kernel": "worst_gap_exact"}.get(key)
        rows.append(
            (
                name,
                number(float(train[-1]), 4),
                number(float(test[-1]), 4),
                score(float(metric[-1]), findings["metric"]),
                percent(findings["training"][gap]) if gap else "–",
            )
        )
    header = ("at the end", "training loss", "test loss", f"test {metric_name(findings['metric'])}", "worst gap")
    return Table(header, tuple(rows))
