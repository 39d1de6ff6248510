"""Kopitkov & Indelman 2020: networks that learn a grey image, watched through their tangent kernels.

Least squares to an image over the unit square by gradient descent, for networks of 2 to 6 layers; the deepest also
with its rate halved midway, by mini-batches, by Adam, and by an unsupervised loss that learns the logarithm of a
density as bright as the image. With L = (1/N) Σ ½(f − y)², descent under a constant kernel is stable for
λ_max < 2N/δ, where δ is the learning rate and λ_max the largest eigenvalue of the kernel on the N samples.

Reference: Kopitkov & Indelman, Neural spectrum alignment: empirical study, ICANN 2020 (arXiv:1910.08720).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ntkit._memory import human_bytes, require_bytes
from ntkit.dynamics import gradient_descent
from ntkit.empirical import empirical_ntk
from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings, Measurement, Story, Workbench
from ntkit.experiments.reproductions.kopitkov.claims import make_claims
from ntkit.experiments.reproductions.kopitkov.image import SOURCE, density_of, load_image
from ntkit.experiments.reproductions.kopitkov.network import leaky_network
from ntkit.experiments.reproductions.kopitkov.observation import Observer, Watch
from ntkit.experiments.reproductions.kopitkov.summary import summarise
from ntkit.experiments.reproductions.kopitkov.tasks import DensityEstimation, Plane, Regression, Task
from ntkit.experiments.reproductions.kopitkov.training import Run, Training, recorded_steps, stacked

_MATRICES = 10  # of N × N in float64 at once: kernels, their copies, LAPACK's work for the linearised networks


@dataclass(frozen=True)
class Others:
    """The deepest network by other optimisers and another loss.

    Args:
        sgd_rate: learning rate of mini-batches.
        batch: their samples.
        adam_rate: Adam's.
        pso_rate: of PSO-LDE, by plain gradient steps on N/2 samples of either density.
        pso_alpha: its α.
        pso_floor: added to the brightness, from 0 to 1, to give a density without zeros.
        pso_pool: samples of the density in all.
    """

    sgd_rate: float = 0.1
    batch: int = 64
    adam_rate: float = 1e-3
    pso_rate: float = 4.0
    pso_alpha: float = 0.25
    pso_floor: float = 0.1
    pso_pool: int = 2**17


@dataclass(frozen=True)
class KopitkovConfig:
    """All choices of this experiment.

    Args:
        n: samples N, uniform on the unit square.
        width: neurons of every layer but the last.
        steps: of training.
        late: step at which eigenfunctions are drawn a second time.
        pixels: of the image, a side: about 1.4 √N, as samples show no finer detail.
        layers: of the networks, rising.
        rate: learning rate δ of gradient descent.
        slope: of leaky ReLU.
        top_target: directions for the target's energy.
        top_output: directions for the output's.
        eigenpairs: computed at each recorded step; None for all.
        records: steps watched, so many on a logarithmic and on a linear axis.
        shuffles: permutations of the target.
        grid: points a side of the maps.
        others: other optimisers and losses.
        seed: of the samples, the networks' weights and all other draws.
    """

    n: int
    width: int
    steps: int
    late: int
    pixels: int
    layers: tuple[int, ...] = (2, 3, 4, 5, 6)
    rate: float = 0.25
    slope: float = 0.01
    top_target: int = 20
    top_output: int = 100
    eigenpairs: int | None = None
    records: int = 20
    shuffles: int = 10
    grid: int = 64
    others: Others = Others()
    seed: int = 0


def measure(config: KopitkovConfig, bench: Workbench) -> Measurement:
    """Trains and watches all networks."""
    needed = _MATRICES * 8 * config.n**2
    bench.say(f"tangent kernels of {config.n:,} samples: {human_bytes(needed)} of memory")
    require_bytes(needed, f"spectra of kernels on {config.n:,} samples", "take a smaller --scale")
    image = load_image(config.pixels)
    plane = Plane(np.random.default_rng(config.seed).random((config.n, 2)))
    arrays: Arrays = {"image": image, "density": density_of(image, config.others.pso_floor), "points": plane.points}
    steps = recorded_steps(config.steps, config.records, (config.late, config.steps // 2))
    runs = list(_runs(config, image, plane))
    for run, task in runs:
        arrays |= {f"{run.key}_{name}": array for name, array in _watch(run, task, steps, config, bench).items()}
    regression = runs[0][1]
    arrays["target"] = regression.target
    for layers in bench.reporter.track(config.layers, "networks linearised", len(config.layers)):
        arrays[f"gd-{layers}_error_linearised"] = _linearised(layers, regression, steps, config)
    findings: Findings = {
        "source": SOURCE,
        "settings": asdict(config),
        "runs": {run.key: asdict(run) | summarise(run, arrays, config.top_target) for run, _ in runs},
    }
    return Measurement(findings, arrays, make_claims(findings))


def _runs(config: KopitkovConfig, image: Float[np.ndarray, "p p"], plane: Plane) -> Iterator[tuple[Run, Task]]:
    """Gradient descent at every depth, then the deepest network otherwise."""
    regression, deepest, others = Regression(image, plane), config.layers[-1], config.others
    for layers in config.layers:
        yield Run(f"gd-{layers}", f"{layers} layers", layers, config.rate), regression
    halved_at = config.steps // 2
    yield Run("halved", "rate halved", deepest, config.rate, halved_at=halved_at), regression
    yield Run("sgd", "mini-batches", deepest, others.sgd_rate), Regression(image, plane, others.batch)
    yield Run("adam", "Adam", deepest, others.adam_rate, "adam"), regression
    density = DensityEstimation(
        image, plane, alpha=others.pso_alpha, floor=others.pso_floor, pool=others.pso_pool, batch=config.n // 2,
        seed=config.seed,
    )  # fmt: skip
    yield Run("pso", "density, PSO", deepest, others.pso_rate), density


def _network(layers: int, config: KopitkovConfig) -> torch.nn.Sequential:
    return leaky_network(layers, config.width, config.slope, config.seed)


def _watch(run: Run, task: Task, steps: list[int], config: KopitkovConfig, bench: Workbench) -> Arrays:
    """Trains one network; what was seen, by quantity, over the recorded steps."""
    plain = run.key.startswith("gd") or run.halved_at is not None
    watch = Watch(config.top_target, config.top_output, config.eigenpairs, config.shuffles, config.grid, config.seed)
    observer = Observer(
        task,
        watch,
        start=_network(run.layers, config) if plain else None,
        eigenfunctions_at=(0, config.late) if run.key == f"gd-{config.layers[-1]}" else (),
        picture_at=config.steps,
    )
    training = Training(run, task, _network(run.layers, config), config.seed, bench.work)
    with bench.reporter.stage(f"{run.title}: {config.steps:,} steps", len(steps)) as advance:
        return stacked(training.watch(steps, observer, advance))


def _linearised(layers: int, task: Task, steps: list[int], config: KopitkovConfig) -> Float[np.ndarray, "t"]:
    """(1/N) Σ ½(f − y)² of the network whose kernel stays what it was at the start, by gradient descent."""
    model = _network(layers, config).double()
    x = torch.from_numpy(task.plane.standardised())
    with torch.no_grad():
        f0 = model(x)[:, 0].numpy()
    K = np.asarray(empirical_ntk(model, x, outputs="trace"))
    path = gradient_descent(K, task.target, lr=config.rate, steps=steps, f0=f0)
    return 0.5 * np.mean((np.asarray(path.train) - task.target) ** 2, axis=1)


def _show(findings: Findings, arrays: Arrays, draw: Any) -> Story:
    from ntkit.experiments.reproductions.kopitkov.page import show  # draws with matplotlib

    return show(findings, arrays, draw)


KOPITKOV = Experiment(
    name="kopitkov",
    summary="A network's tangent kernel turns towards an image that it learns (Kopitkov & Indelman 2020).",
    reference="Kopitkov & Indelman, Neural spectrum alignment: empirical study, ICANN 2020",
    scales={
        "smoke": KopitkovConfig(
            96, 32, 200, 200, 14, layers=(2, 4), top_target=5, top_output=40, records=5, grid=16,
            others=Others(batch=32, pso_pool=2000),
        ),
        "laptop": KopitkovConfig(512, 128, 10_000, 10_000, 32),
        "paper": KopitkovConfig(10_000, 256, 600_000, 20_000, 140, eigenpairs=200, records=30, grid=140),
    },
    measure=measure,
    show=_show,
)  # fmt: skip
