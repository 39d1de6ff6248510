"""The first eigenfunctions over the plane, at the start and late."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings
from ntkit.experiments.reproductions.kopitkov.sections.series import deepest, maps, on_grid
from ntkit.report import Section, Table
from ntkit.report.style import HALF, title
from ntkit.report.wording import count, percent

_DIVERGING = "RdBu_r"


def eigenfunctions_section(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    """Six maps at the start, six late, and how much of the image they span."""
    settings, key = findings["settings"], deepest(findings)
    moments = [0, settings["late"]]
    shares = _shares(arrays, key)
    count_of = shares.shape[1]
    rows = tuple((str(i + 1), *(percent(float(share[i])) for share in shares)) for i in range(count_of))
    return Section(
        "eigenfunctions",
        "What do the first eigenfunctions look like?",
        f"Over the plane the first {count_of} eigenfunctions span {percent(float(shares[0, -1]))} of the image's "
        f"variance at the start and {percent(float(shares[1, -1]))} at step {count(settings['late'])}, with "
        f"{settings['layers'][-1]} layers.",
        tuple(
            draw(
                f"eigenfunctions-{when}", f"The first {count_of} eigenfunctions over the plane at step {count(step)}.",
                HALF, lambda canvas, i=i, step=step: _paint(canvas, arrays[f"{key}_eigenfunctions"][i], step),
            )
            for i, (when, step) in enumerate(zip(("start", "late"), moments, strict=True))
        ),
        f"Eigenvectors on the {count(settings['n'])} samples, continued to a grid by Nyström's formula, "
        "v_i(x) = Σ_j g(x, x_j) v_ij / λ_i. Red is positive, blue negative, white zero; sign and size mean nothing.",
        Table(("first", "of the image at the start", f"at step {count(settings['late'])}"), rows),
    )  # fmt: skip


def _shares(arrays: Arrays, key: str) -> np.ndarray:
    """(moments, k): share of the image's variance over the grid in the span of a constant and the first k maps."""
    found = arrays[f"{key}_eigenfunctions"]
    image = on_grid(arrays["image"], found.shape[-1]).ravel()
    image = image - image.mean()
    shares = np.empty(found.shape[:2])
    for at, functions in enumerate(found):
        centred = functions.reshape(len(functions), -1) - functions.mean(axis=(1, 2))[:, None]
        basis, _ = np.linalg.qr(centred.T)
        shares[at] = np.cumsum((basis.T @ image) ** 2) / (image @ image)
    return shares


def _paint(canvas: Canvas, functions: np.ndarray, step: int) -> None:
    maps(canvas, list(functions), [f"{i + 1}" for i in range(len(functions))], 3, cmap=_DIVERGING)
    title(canvas, f"Eigenfunctions at step {count(step)}", "of the largest eigenvalues, in order")
