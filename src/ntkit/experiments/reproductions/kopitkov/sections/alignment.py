"""The target's energy in the top directions over training, and the spectra at several times."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.claims import descents, growth
from ntkit.experiments.reproductions.kopitkov.sections.series import deepest, depth_lines, over_steps
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import BLUE, FAINT, GREEN, HALF, ORANGE, VERMILION, frame, title
from ntkit.report.wording import count, number, percent

_TIMES = ((0.0, BLUE, (0, (1, 1))), (0.01, GREEN, (0, (5, 1.5, 1, 1.5))), (0.1, ORANGE, (0, (3.5, 2))),
          (1.0, VERMILION, "-"))  # fmt: skip
_NOISE = 1e-9  # of the largest eigenvalue: below, eigenvalues are rounding


def alignment_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """Energy curves by depth, spectra of the deepest network."""
    runs, k = descents(findings), findings["settings"]["top_target"]
    n = count(findings["settings"]["n"])
    late = "; ".join(f"{run['title']} {percent(run['energy_late'])}" for run in runs)
    deep = runs[-1]
    grown = ", ".join(
        f"from {percent(run['energy_start'])} to {percent(run['energy_late'])} with {run['title']}" for run in runs
    )
    rows = tuple(
        (
            run["title"], percent(run["energy_start"]), percent(run["energy_late"]), percent(growth(run)),
            percent(run["shuffled_start"]), percent(run["shuffled_late"]), number(run["largest_late"]),
        )
        for run in runs
    )  # fmt: skip
    header = ("network", "energy at the start", "energy late", "growth", "shuffled, start", "shuffled, late",
              "λ_max late")  # fmt: skip
    return Section(
        "alignment",
        "Does the kernel turn towards the target?",
        f"The share of the target in the top {k} of {n} eigenvectors goes {grown}. Of the same values in random "
        f"order they hold {percent(deep['shuffled_late'])} late, where {percent(k / findings['settings']['n'])} is "
        "chance.",
        (
            draw(
                "alignment", f"Energy of the target in the top {k} eigenvectors over the steps; late: {late}.", HALF,
                lambda canvas: _paint_energy(canvas, findings, arrays),
            ),
            draw(
                "spectra",
                f"Eigenvalues of the kernel of {deep['layers']} layers against their rank, logarithmic axes, at four "
                "times of training.", HALF, lambda canvas: _paint_spectra(canvas, findings, arrays),
            ),
        ),
        f"Energy: cos²α(y, k) = Σ ⟨y, v_i⟩²/‖y‖² over the top k = {k} eigenvectors of the kernel at that step. Grey: "
        f"the target with its values in random order, mean of {findings['settings']['shuffles']}. Late: mean over the "
        "last quarter of training.",
        Table(header, rows),
    )  # fmt: skip


def _paint_energy(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    k, key = findings["settings"]["top_target"], deepest(findings)
    shuffled = arrays[f"{key}_energy_shuffled"].mean(axis=1)
    ax = over_steps(
        canvas, arrays, depth_lines(findings), lambda key: arrays[f"{key}_energy_target"][:, k - 1], _shares,
        [EndLabel(float(shuffled[-1]), "shuffled", FAINT)],
    )  # fmt: skip
    ax.plot(arrays[f"{key}_step"], shuffled, color=FAINT, linewidth=1.4)
    title(canvas, "Target in the top directions", f"energy in the top {k} eigenvectors")


def _shares(ax: Axes, curves: list[np.ndarray]) -> None:
    linear_axis(ax, "y", 0.0, min(1.03, 1.15 * max(float(curve.max()) for curve in curves)), percent=True)


def _paint_spectra(canvas: Canvas, findings: Findings, arrays: Arrays) -> None:
    key = deepest(findings)
    steps, spectra = arrays[f"{key}_step"], arrays[f"{key}_eigenvalues"]
    chosen = [int(np.abs(steps - share * steps[-1]).argmin()) for share, *_ in _TIMES]
    top = float(spectra[chosen].max())
    floor = max(_NOISE * top, float(spectra[chosen][spectra[chosen] > 0].min()) / 2)
    ax = frame(canvas, left=0.74, right=0.95)
    log_axis(ax, "x", 1, spectra.shape[1])
    log_axis(ax, "y", floor, 2 * top)
    labels = []
    for at, (_, colour, dash) in zip(chosen, _TIMES, strict=True):
        values = spectra[at][spectra[at] > floor]
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, linestyle=dash)
        labels.append(EndLabel(float(values[-1]), f"step {count(int(steps[at]))}", colour))
    label_right(ax, labels, size=9.0)
    ax.set_xlabel("rank")
    title(canvas, f"Spectra of {findings['settings']['layers'][-1]} layers", "eigenvalue of the kernel matrix")
