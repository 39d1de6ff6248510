"""Learning curves of kernel regression with a network's exact tangent kernel: predicted and measured.

Predicted from the kernel's spectrum and the target's power in it (Canatar et al. 2021, Simon et al. 2021): on the
circle and for images from the pool's own eigenpairs, on the sphere from the eigenvalues that theory gives by degree.
Measured: the mean over random training sets of the error on the rest of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings, Measurement, Story, Workbench
from ntkit.experiments.reproductions.learning_curves import tasks
from ntkit.experiments.reproductions.learning_curves.claims import make_claims
from ntkit.experiments.reproductions.learning_curves.regression import measure_regression
from ntkit.experiments.reproductions.learning_curves.tasks import Task


@dataclass(frozen=True)
class Sizes:
    """Of one kind of task: samples in the pool, training samples, and draws of them."""

    pool: int
    samples: tuple[int, ...]
    draws: int


@dataclass(frozen=True)
class LearningCurvesConfig:
    """All choices of this experiment.

    Args:
        circle: sizes on the circle.
        sphere: sizes on the sphere.
        images: sizes for images.
        ridge: for images, over the kernel's mean diagonal; none elsewhere.
        data: sets of images.
        stand_in: data set used where one of these is not found and no folder was named; None for an error.
        seed: of pools, targets and draws.
    """

    circle: Sizes
    sphere: Sizes
    images: Sizes
    ridge: float = 0.01
    data: tuple[str, ...] = ("mnist", "fashion-mnist")
    stand_in: str | None = None
    seed: int = 0


def measure(config: LearningCurvesConfig, bench: Workbench) -> Measurement:
    """Predictions and measurements of every target."""
    findings: Findings = {"tasks": {}, "ridge_over_mean_diagonal": config.ridge}
    arrays: Arrays = {}
    for task, sizes in _tasks(config, bench):
        findings["tasks"][task.key] = _compare(task, sizes, config.seed, bench, arrays)
    return Measurement(findings, arrays, make_claims(findings, arrays))


def _tasks(config: LearningCurvesConfig, bench: Workbench) -> Iterator[tuple[Task, Sizes]]:
    """One pool after the other, so that one kernel is held at a time."""
    yield tasks.circle(config.circle.pool, config.seed), config.circle
    yield tasks.sphere(config.sphere.pool, config.seed), config.sphere
    for name in tasks.image_sets(config.data, bench.data_dir, config.stand_in):
        bench.say(f"{tasks.TITLES.get(name, name)}: kernel and eigenpairs of {config.images.pool:,} images")
        pool = tasks.images(name, config.images.pool, config.ridge, config.seed, bench.data_dir, config.stand_in)
        yield pool, config.images


def _compare(task: Task, sizes: Sizes, seed: int, bench: Workbench, arrays: Arrays) -> Findings:
    """Curves into `arrays`, one row a target; what they are called comes back."""
    curves = [target.predict(sizes.samples) for target in task.targets]
    measured = measure_regression(task, sizes.samples, sizes.draws, seed, bench.reporter)
    arrays[f"{task.key}_samples"] = np.array(sizes.samples)
    arrays[f"{task.key}_predicted"] = np.stack([curve.test for curve in curves])
    arrays[f"{task.key}_control"] = np.stack([target.control(sizes.samples).test for target in task.targets])
    for name in ("error", "error_spread", "share", "share_spread"):
        arrays[f"{task.key}_{name}"] = getattr(measured, name)
    if all(target.eigenvalue is not None for target in task.targets):
        arrays[f"{task.key}_predicted_share"] = np.stack(
            [c.learnability(np.array([t.eigenvalue]))[:, 0] for c, t in zip(curves, task.targets, strict=True)]
        )
    return {
        "title": task.title, "targets": [target.name for target in task.targets], "control": task.control,
        "source": task.source, "stands_in": task.stands_in, "pool": sizes.pool, "draws": sizes.draws,
        "ridge": task.ridge,
    }  # fmt: skip


def _show(findings: Findings, arrays: Arrays, draw: Any) -> Story:
    from ntkit.experiments.reproductions.learning_curves.page import show  # draws with matplotlib

    return show(findings, arrays, draw)


def _doubling(first: int, last: int) -> tuple[int, ...]:
    return tuple(first << i for i in range((last // first).bit_length()))


LEARNING_CURVES = Experiment(
    name="learning-curves",
    summary="How much data a task needs: errors of kernel regression, predicted from spectra and measured.",
    reference="Canatar, Bordelon & Pehlevan 2021; Simon, Dickens, Karkada & DeWeese, The eigenlearning framework, 2021",
    scales={
        "smoke": LearningCurvesConfig(
            circle=Sizes(128, (8, 16, 32, 64), 20),
            sphere=Sizes(600, (32, 64, 128), 10),
            images=Sizes(400, (32, 64), 10),
            stand_in="digits",
        ),
        "laptop": LearningCurvesConfig(
            circle=Sizes(256, _doubling(4, 128), 200),
            sphere=Sizes(4000, _doubling(16, 1024), 40),
            images=Sizes(4000, _doubling(64, 1024), 20),
        ),
        "paper": LearningCurvesConfig(
            circle=Sizes(256, _doubling(4, 128), 1000),
            sphere=Sizes(8000, _doubling(16, 4096), 40),
            images=Sizes(12_000, _doubling(64, 2048), 40),
        ),
    },
    measure=measure,
    show=_show,
)
