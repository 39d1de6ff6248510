"""What theory says of errors, beside what was measured.

Where errors have sunk to a thousandth of the target's power their relative deviation says little: it is judged where
they are larger.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from ntkit.experiments.reproductions.claims import Claim, Control
from ntkit.experiments.reproductions.experiment import Arrays, Findings

WITHIN = 10.0  # percent
QUARTER = 0.25
JUDGED = 1e-3  # of the target's power: smaller errors are not judged
SOURCE = "Canatar et al. 2021; Simon et al. 2021: errors follow from spectrum and power"


def make_claims(findings: Findings, arrays: Arrays) -> tuple[Claim, ...]:
    """Of every task its worst error; of every wave on the circle how many samples it takes."""
    return (*_errors(findings, arrays), *_halves(findings, arrays))


def worst_point(predicted: Float[np.ndarray, "t s"], measured: Float[np.ndarray, "t s"]) -> tuple[int, int, float]:
    """Which prediction is farthest from what was measured: target, place, and predicted/measured − 1 in percent."""
    off = np.where(measured >= JUDGED, predicted / measured - 1, 0.0)
    t, i = np.unravel_index(int(np.abs(off).argmax()), off.shape)
    return int(t), int(i), 100 * float(off[t, i])


def half_learned(samples: Int[np.ndarray, "s"], share: Float[np.ndarray, "s"]) -> float | None:
    """The number of samples at which half of a target is learned, between two of those tried; None where it is not."""
    above = np.flatnonzero(share >= 0.5)
    if len(above) == 0 or above[0] == 0:
        return None
    i = int(above[0])
    return float(np.exp(np.interp(0.5, share[i - 1 : i + 1], np.log(samples[i - 1 : i + 1]))))


def _errors(findings: Findings, arrays: Arrays) -> Iterator[Claim]:
    for key, task in findings["tasks"].items():
        samples = arrays[f"{key}_samples"]
        predicted, control, measured = (arrays[f"{key}_{what}"] for what in ("predicted", "control", "error"))
        t, i, off = worst_point(predicted, measured)
        yield Claim(
            f"{task['title']}: predicted errors from N = {samples[0]:,} to {samples[-1]:,}, the worst of which is that "
            f"of {task['targets'][t]} at {samples[i]:,}",
            SOURCE, WITHIN, abs(off), 0.0, "at most", "%",
            Control(task["control"], abs(worst_point(control, measured)[2])),
        )  # fmt: skip


def _halves(findings: Findings, arrays: Arrays) -> Iterator[Claim]:
    task, samples = findings["tasks"]["circle"], arrays["circle_samples"]
    curves = zip(task["targets"], arrays["circle_predicted_share"], arrays["circle_share"], strict=True)
    known: list[tuple[str, float, float]] = []
    for name, predicted, measured in curves:
        expected, found = half_learned(samples, predicted), half_learned(samples, measured)
        if expected is not None and found is not None:
            known.append((name, expected, found))
    for i, (name, expected, found) in enumerate(known):
        other, control, _ = known[i - 1]  # the one before; of the first, the last
        if len(known) > 1:
            yield Claim(
                f"the circle, {name}: samples that half of it takes, predicted over measured",
                SOURCE, 1.0, expected / found, QUARTER, control=Control(f"prediction for {other}", control / found),
            )  # fmt: skip
