"""Yang & Salman 2019: the largest learning rate that a network bears, from the spectrum of its tangent kernel.

`learning_rate_tasks.py` says what is trained on what, `learning_rate_search.py` predicts and finds rates. Two questions
that the spectra raise have files of their own: which depth is best on real data (`learning_rate_depths.py`), and what
convolutional kernels prefer over the Boolean cube (`learning_rate_shares.py`).

Reference: Yang & Salman, A fine-grained spectral perspective on neural networks, 2019; Lewkowycz, Bahri, Dyer,
Sohl-Dickstein & Gur-Ari, The large learning rate phase of deep learning: the catapult mechanism, 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ntkit import data as datasets
from ntkit.data import Dataset
from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings, Measurement, Story, Workbench
from ntkit.experiments.reproductions.yang.learning_rate_claims import WIDE, make_claims
from ntkit.experiments.reproductions.yang.learning_rate_depths import DepthSize, measure_depths
from ntkit.experiments.reproductions.yang.learning_rate_search import Grid, members, scan_catapult, search_rates
from ntkit.experiments.reproductions.yang.learning_rate_shares import ShareSize, measure_shares
from ntkit.experiments.reproductions.yang.learning_rate_tasks import Scales, cube_task, image_task


@dataclass(frozen=True)
class LearningRateConfig:
    """All choices of this experiment.

    Args:
        grids: networks that are trained, on every data set.
        scan_widths: of networks that are trained beyond the largest stable rate.
        depths: the regression on real data.
        shares: the convolutional kernels over the cube.
        scan_depth: hidden layers of the networks that are scanned.
        sets: real data sets.
        n: images that networks are trained on.
        bits: of the cube, whose 2^bits corners are all trained on.
        w_std: σ_w of every layer.
        b_std: σ_b of every layer.
        stand_in: data set in place of those that are not found, where no folder was named; None for an error.
        seed: of data, targets and networks.
    """

    grids: tuple[Grid, ...]
    scan_widths: tuple[int, ...]
    depths: DepthSize
    shares: ShareSize
    scan_depth: int = 2
    sets: tuple[str, ...] = ("mnist", "cifar10")
    n: int = 256
    bits: int = 8
    w_std: float = math.sqrt(2)
    b_std: float = 0.1
    stand_in: str | None = None
    seed: int = 0


def measure(config: LearningRateConfig, bench: Workbench) -> Measurement:
    """Rates predicted and found, errors by depth, shares by degree."""
    data, scales = load_sets(config, bench), Scales(config.w_std, config.b_std)
    tasks = [cube_task(config.bits, config.seed), *(image_task(_first(one, config.n), config.seed) for one in data)]
    arrays: Arrays = {}
    shares = measure_shares(config.shares, scales, bench)
    depths = [measure_depths(one, config.depths, scales, config.seed, bench, arrays) for one in data]
    scans = scan_catapult(tasks, config.scan_depth, config.scan_widths, scales, config.seed, bench, arrays)
    limits, rates = search_rates(tasks, config.grids, scales, config.seed, bench)
    stands_in = any(one.stands_in for one in data)
    findings: Findings = {
        "data": [{"name": one.name, "source": one.source, "input_shape": list(one.input_shape),
                  "classes": len(one.classes)} for one in data],
        "stands_in": stands_in,
        "wide": min(WIDE, max(m.width for m in members(config.grids))),
        "n": config.n, "bits": config.bits, "w_std": config.w_std, "b_std": config.b_std,
        "threads": torch.get_num_threads(),
        "limits": limits, "rates": rates, "scans": scans, "depths": depths, "shares": shares,
    }  # fmt: skip
    return Measurement(findings, arrays, make_claims(findings))


def load_sets(config: LearningRateConfig, bench: Workbench) -> list[Dataset]:
    """The real data sets, as even over the classes as they can be, pixels from 0 to 1; or what stands in for them."""
    names = list(config.sets)
    stand_in = config.stand_in is not None and bench.data_dir is None and not set(names) <= set(datasets.sets_in())
    if stand_in:
        names = [str(config.stand_in)]
    n_train = max(config.n, config.depths.draws * max(config.depths.sizes))
    n_test = config.depths.n_test
    found = [datasets.load(name, data_dir=bench.data_dir, n_train=n_train, n_test=n_test, seed=config.seed)
             for name in names]  # fmt: skip
    return [replace(one, stands_in=one.stands_in or stand_in) for one in found]


def _first(data: Dataset, n: int) -> Dataset:
    """With the first n training images, which are as even over the classes as n can be."""
    return replace(data, x_train=data.x_train[:n], y_train=data.y_train[:n])


def _show(findings: Findings, arrays: Arrays, draw: Any) -> Story:
    from ntkit.experiments.reproductions.yang.learning_rate_page import show  # draws with matplotlib

    return show(findings, arrays, draw)


_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

YANG_LEARNING_RATE = Experiment(
    name="yang-learning-rate",
    summary="Largest learning rates predicted and found, and two questions on depth and convolutions "
    "(Yang & Salman 2019).",
    reference="Yang & Salman, A fine-grained spectral perspective on neural networks, 2019",
    scales={
        "smoke": LearningRateConfig(
            grids=(Grid("relu", (1, 2), (32, 128), 1),),
            scan_widths=(32,),
            depths=DepthSize((1, 2, 4), (30, 60), 3, 100),
            shares=ShareSize(8, (2, 3), (1, 2)),
            n=32,
            bits=4,
            stand_in="digits",
        ),
        "laptop": LearningRateConfig(
            grids=(
                Grid("relu", (1, 2, 3, 5), (64, 256, 1024), 2),
                Grid("relu", (1, 2), (2048,), 1),
                Grid("erf", (2,), (256, 1024), 1),
            ),
            scan_widths=(64, 256, 1024),
            depths=DepthSize(_DEPTHS, (256, 1000), 8, 1000),
            shares=ShareSize(10, (3, 3), (1, 2, 3, 4)),
        ),
        "paper": LearningRateConfig(
            grids=(
                Grid("relu", (1, 2, 3, 5, 10), (64, 256, 1024, 4096), 5),
                Grid("erf", (1, 2, 3, 5), (64, 256, 1024, 4096), 5),
            ),
            scan_widths=(64, 256, 1024, 4096),
            depths=DepthSize(_DEPTHS, (256, 1000, 5000), 10, 10_000),
            shares=ShareSize(12, (3, 4), (1, 2, 3, 4, 6, 8)),
            n=1000,
            bits=10,
        ),
    },
    measure=measure,
    show=_show,
)
