"""The spectra of exact, initial and final kernel, and the share of the labels in their top directions."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.study_sections.series import EXACT, FINAL, INITIAL, KEY, Arrays, Findings, present
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import FAINT, HALF, draw, frame, title
from ntkit.report.wording import count, number, percent

LINES = (("exact", EXACT), ("initial", INITIAL), ("final", FINAL))
_POINTS = 240  # drawn of each curve, evenly on a logarithmic axis
_DEPTH = 1e-9  # eigenvalues under this share of the largest are rounding


def spectra_section(findings: Findings, arrays: Arrays) -> Section:
    """Eigenvalues on log-log axes, and cumulative label energy."""
    spectrum = findings["spectrum"]
    k, n = spectrum["top_k"], len(arrays["eigenvalues_initial"])
    largest = ", ".join(f"{line.name} {number(float(v[0]))}" for line, v in present(arrays, "eigenvalues_", LINES))
    return Section(
        "spectra",
        "Where in its kernel do the labels lie?",
        sentence(findings),
        (
            draw(
                "eigenvalues",
                f"Eigenvalues against their rank on logarithmic axes; the largest: {largest}.",
                HALF,
                lambda canvas: _paint_spectra(canvas, arrays),
            ),
            draw(
                "energy",
                f"Share of the labels in the top directions, against their number. In the top {k}: initial "
                f"{percent(spectrum['energy_initial'])}, final {percent(spectrum['energy_final'])}, chance "
                f"{percent(spectrum['energy_chance'])}.",
                HALF,
                lambda canvas: _paint_energy(canvas, spectrum, arrays),
            ),
        ),
        f"{KEY} Directions are a kernel's eigenvectors on the {count(n)} training samples, largest eigenvalue first. "
        "Effective rank: exp(entropy of the eigenvalues).",
        _table(spectrum),
    )


def sentence(findings: Findings) -> str:
    """What the figures say, in one sentence."""
    spectrum, n = findings["spectrum"], findings["data"]["n_train"]
    k, before, after = spectrum["top_k"], spectrum["energy_initial"], spectrum["energy_final"]
    chance, rank0, rank1 = (
        spectrum["energy_chance"],
        spectrum["effective_rank_initial"],
        spectrum["effective_rank_final"],
    )
    shares = [f"{percent(before)} in the initial kernel", f"{percent(after)} in the final one"]
    if spectrum["energy_exact"] is not None:
        shares.append(f"{percent(spectrum['energy_exact'])} in the exact one")
    text = f"Of the labels, the top {k} of {count(n)} directions hold {', '.join(shares[:-1])} and {shares[-1]}"
    at_chance = max(before, after) - chance < 0.05 * (1 - chance)
    text += f", no more than chance ({percent(chance)})" if at_chance else f", where chance is {percent(chance)}"
    if abs(rank1 - rank0) < 0.02 * rank0:
        return f"{text}; the effective rank stays at {number(rank1)}."
    return (
        f"{text}; the effective rank {'falls' if rank1 < rank0 else 'rises'} from {number(rank0)} to {number(rank1)}."
    )


def _thin(n: int) -> np.ndarray:
    """Indices 0 … n − 1, evenly on a logarithmic axis of ranks 1 … n."""
    return np.unique(np.geomspace(1, n, min(n, _POINTS)).round().astype(int)) - 1


def _paint_spectra(canvas: Canvas, arrays: Arrays) -> None:
    lines = present(arrays, "eigenvalues_", LINES)
    n = len(lines[0][1])
    keep = _thin(n)
    everything = np.concatenate([values for _, values in lines])
    top = float(everything.max())
    ax = frame(canvas, left=0.74, right=0.72)
    log_axis(ax, "x", 1, max(int(np.sum(np.any([v > _DEPTH * top for _, v in lines], axis=0))), 2))
    ordinary = everything[everything > _DEPTH * top]
    log_axis(ax, "y", float(ordinary.min()) / 1.5, 2 * top)
    ends = []
    for line, values in lines:
        shown = np.where(values > _DEPTH * top, values, np.nan)
        ax.plot(keep + 1, shown[keep], **line.style)
        ends.append(EndLabel(float(shown[np.isfinite(shown)][-1]), line.name, line.colour))
    label_right(ax, ends)
    ax.set_xlabel("rank")
    title(canvas, "Spectrum", "eigenvalue of the kernel matrix")


def _paint_energy(canvas: Canvas, spectrum: Findings, arrays: Arrays) -> None:
    lines = present(arrays, "label_energy_", LINES)
    n, k = len(lines[0][1]), spectrum["top_k"]
    keep = _thin(n)
    ax = frame(canvas, left=0.62, right=1.12)
    log_axis(ax, "x", 1, max(n, 2))
    linear_axis(ax, "y", 0.0, 1.03, percent=True)
    ax.axvline(k, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
    ax.plot(keep + 1, (keep + 1) / n, color=FAINT, linestyle=(0, (4, 3)), linewidth=1.5)
    labels = [EndLabel(k / n, f"chance {percent(k / n)}", FAINT)]
    for line, energy in lines:
        ax.plot(keep + 1, energy[keep], **line.style)
        at_k = float(energy[min(k, n) - 1])
        ax.plot([k], [at_k], marker=line.marker, color=line.colour, markersize=7)
        labels.append(EndLabel(at_k, f"{line.name} {percent(at_k)}", line.colour))
    label_right(ax, labels)
    ax.set_xlabel("number k of top directions")
    title(canvas, "Labels in the top directions", f"share of ‖y‖²; at the right, the values at k = {k}")


def _table(spectrum: Findings) -> Table:
    rows = tuple(
        (name, number(spectrum[f"effective_rank_{key}"], 4), percent(spectrum[f"energy_{key}"]))
        for key, name in (("exact", "exact kernel"), ("initial", "initial kernel"), ("final", "final kernel"))
    )
    chance = ("chance", "–", percent(spectrum["energy_chance"]))
    return Table(("kernel", "effective rank", f"labels in the top {spectrum['top_k']}"), (*rows, chance))
