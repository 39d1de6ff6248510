"""Arora et al. 2019: CIFAR-10 classified by the exact kernels of infinitely wide convolutional networks.

A network of depth d has d − 1 convolutions of 3×3 pixels, zero-padded, each followed by ReLU, and a dense layer.
CNTK-V flattens and trains every layer. CNTK-GAP averages over all positions and trains neither the first nor the last
layer. One network with a head at every depth gives all kernels from one pass over the pairs of images.

The published recursion uses Σ⁽¹⁾ = Σ over 9 taps without a factor, 2/9 in every later layer and no factor in the dense
one. ReLU is homogeneous, so a factor in one layer's variance multiplies Σ and Θ of all that follows alike: the kernels
here differ from the published ones by one constant, which cancels in K_test K⁻¹ Y.

Reference: Arora, Du, Hu, Li, Salakhutdinov & Wang, On exact computation with an infinitely wide neural net, 2019,
section 4 and Table 1; their code, github.com/ruosongwang/CNTK.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ntkit import data as datasets
from ntkit._memory import human_bytes, require_bytes
from ntkit.data import Dataset
from ntkit.experiments.reproductions.arora.claims import make_claims
from ntkit.experiments.reproductions.arora.network import ConvolutionalNetwork, Head
from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings, Measurement, Story, Workbench
from ntkit.experiments.reproductions.gram_blocks import BlockedGram, GramTask, compute_gram
from ntkit.experiments.reproductions.ridgeless import RidgelessMachine, binomial_error
from ntkit.experiments.reproductions.working_folder import digest
from ntkit.infinite import InfiniteKernel

Grams = tuple[BlockedGram, BlockedGram]
TITLES = {"flatten": "CNTK-V", "gap": "CNTK-GAP"}


@dataclass(frozen=True)
class Size:
    """Images for one kernel, and the rows and columns of its blocks."""

    n_train: int
    n_test: int
    block: int


@dataclass(frozen=True)
class AroraConfig:
    """All choices of this experiment.

    Args:
        flatten: sizes for CNTK-V.
        gap: sizes for CNTK-GAP; its images are the first of those for CNTK-V.
        depths: depths d of the networks.
        shrink: images are averaged over squares of so many pixels.
        stand_in: data set used where CIFAR-10 is not found and no folder was named; None for an error.
        halves: random halves of the training images for the jackknife.
        seed: of the choice of images and of the halves.
    """

    flatten: Size
    gap: Size
    depths: tuple[int, ...] = (3, 4, 6)
    shrink: int = 1
    stand_in: str | None = None
    halves: int = 20
    seed: int = 0

    @property
    def sizes(self) -> dict[Head, Size]:
        """Sizes by head."""
        return {"flatten": self.flatten, "gap": self.gap}


def measure(config: AroraConfig, bench: Workbench) -> Measurement:
    """Kernels, accuracies with their standard errors, spectra and times."""
    _announce(config, bench)
    data = load_images(config, bench)
    findings: Findings = {
        "data": {
            "name": data.name, "source": data.source, "stands_in": data.stands_in, "steps": list(data.steps),
            "input_shape": list(data.input_shape), "classes": list(data.classes),
        },
        "shrink": config.shrink,
        "threads": torch.get_num_threads(),
        "kernels": {},
    }  # fmt: skip
    arrays: Arrays = {}
    for head in config.sizes:
        kernel = _kernel(head, config, data)
        grams = _grams(head, kernel, config, data, bench)
        plan = str(kernel.plan((config.sizes[head].block, *data.input_shape))).splitlines()
        findings["kernels"][head] = _classify(head, config, data, grams, bench, arrays) | {"plan_of_a_block": plan}
    findings["comparison"] = _compare(config, arrays)
    return Measurement(findings, arrays, make_claims(findings))


def load_images(config: AroraConfig, bench: Workbench) -> Dataset:
    """CIFAR-10, class-balanced by the seed, each channel standardised by the training images that are used."""
    name = "cifar10"
    if config.stand_in and bench.data_dir is None and name not in datasets.sets_in():
        name = config.stand_in
    n_train, n_test = (max(getattr(s, part) for s in config.sizes.values()) for part in ("n_train", "n_test"))
    data = datasets.load(name, data_dir=bench.data_dir, n_train=n_train, n_test=n_test, seed=config.seed)
    if name == "cifar10" and config.shrink > 1:
        data = replace(data, x_train=_shrink(data.x_train, config.shrink), x_test=_shrink(data.x_test, config.shrink))
    data = datasets.apply_steps(data, ("standardize-channels",))
    x_train, x_test = (x.astype(np.float32) for x in (data.x_train, data.x_test))  # as published
    return replace(data, x_train=x_train, x_test=x_test, stands_in=name != "cifar10")


def _shrink(x: Float[np.ndarray, "n c h w"], by: int) -> Float[np.ndarray, "n c h2 w2"]:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // by, by, w // by, by).mean(axis=(3, 5))


def _announce(config: AroraConfig, bench: Workbench) -> None:
    """Says what is to be computed, and refuses what memory would not hold when it is solved."""
    for head, size in config.sizes.items():
        n, m = size.n_train, size.n_test
        entries = n * (n + m)
        on_disk = 4 * entries * len(config.depths)
        solving = 2 * 8 * n * n + 8 * n * m  # in float64, with a copy of the kernel that the solver overwrites
        bench.say(
            f"{TITLES[head]}: {entries - n * (n - 1) // 2:,} pairs of images at depths {config.depths}, "
            f"{human_bytes(on_disk)} on disk, {human_bytes(solving)} of memory to solve"
        )
        require_bytes(solving, f"kernel regression on {n:,} training images", "take a smaller --scale")


def _kernel(head: Head, config: AroraConfig, data: Dataset) -> InfiniteKernel:
    channels, height, width = data.input_shape
    return InfiniteKernel(ConvolutionalNetwork((channels, height, width), config.depths, head))


def _grams(head: Head, kernel: InfiniteKernel, config: AroraConfig, data: Dataset, bench: Workbench) -> Grams:
    """The tangent kernels of training images, and of test and training images, one matrix a depth."""
    size = config.sizes[head]
    x_train, x_test = data.x_train[: size.n_train], data.x_test[: size.n_test]
    names = tuple(f"depth-{depth}" for depth in config.depths)

    def pairs(x1: np.ndarray, x2: np.ndarray | None) -> Any:
        return kernel.ntk(x1, x2)

    grams = []
    for what, x1, x2 in (("training images", x_train, None), ("test images", x_test, x_train)):
        task = GramTask(f"{TITLES[head]}, {what}", names, x1, x2, size.block)
        folder = bench.work / f"{head}-{what.split()[0]}-{digest(x1, x_train)}"
        grams.append(compute_gram(pairs, task, folder, bench.reporter, bench.say))
    return grams[0], grams[1]


def _classify(
    head: Head, config: AroraConfig, data: Dataset, grams: Grams, bench: Workbench, arrays: Arrays
) -> Findings:
    """What the kernels of one head find and cost; curves and spectra go into `arrays`."""
    size, classes = config.sizes[head], len(data.classes)
    y, y_test = data.y_train[: size.n_train], data.y_test[: size.n_test]
    sizes = np.array([size.n_train >> k for k in (4, 3, 2, 1, 0)])
    arrays[f"sizes_{head}"] = sizes
    rows = []
    for depth in bench.reporter.track(config.depths, f"{TITLES[head]}, regression", len(config.depths)):
        K, K_test = (np.asarray(gram.matrices[f"depth-{depth}"]) for gram in grams)
        machine = RidgelessMachine(K, K_test, y, y_test, classes)
        right, spectrum = machine.learning_curve(sizes), machine.eigenvalues()
        accuracy = float(right[-1].mean())
        rows.append(
            {
                "depth": depth,
                "accuracy": accuracy,
                "error_test": binomial_error(accuracy, size.n_test),
                "error_train": machine.training_spread(config.halves, config.seed),
                "smallest_eigenvalue": float(spectrum[-1]),
                "largest_eigenvalue": float(spectrum[0]),
            }
        )
        arrays[f"right_{head}_{depth}"], arrays[f"eigenvalues_{head}_{depth}"] = right, spectrum
    chance = float((y_test == np.bincount(y, minlength=classes).argmax()).mean())
    return {"title": TITLES[head], **asdict(size), "chance": chance, **_costs(*grams), "depths": rows}


def _costs(train: BlockedGram, test: BlockedGram) -> Findings:
    return {
        "seconds_train": train.seconds,
        "seconds_test": test.seconds,
        "pairs_train": train.pairs,
        "pairs_test": test.pairs,
        "seconds_per_entry": (train.seconds + test.seconds) / (train.pairs + test.pairs),
    }


def _compare(config: AroraConfig, arrays: Arrays) -> list[Findings]:
    """Both kernels on the same images, as many as CNTK-GAP has: difference of accuracy and its standard error."""
    sizes, m = arrays["sizes_flatten"], config.gap.n_test
    if config.gap.n_train not in sizes or m > config.flatten.n_test:
        return []
    at = int(np.flatnonzero(sizes == config.gap.n_train)[0])
    rows = []
    for depth in config.depths:
        flat, gap = (arrays[f"right_{head}_{depth}"][i, :m].astype(int) for head, i in (("flatten", at), ("gap", -1)))
        difference = gap - flat
        error = float(difference.std() / np.sqrt(m))
        rows.append(
            {"depth": depth, "flatten": float(flat.mean()), "gap": float(gap.mean()),
             "difference": float(difference.mean()), "error": error, "n_train": config.gap.n_train, "n_test": m}
        )  # fmt: skip
    return rows


def _show(findings: Findings, arrays: Arrays, draw: Any) -> Story:
    from ntkit.experiments.reproductions.arora.page import show  # draws with matplotlib

    return show(findings, arrays, draw)


ARORA_CNTK = Experiment(
    name="arora-cntk",
    summary="CIFAR-10 by the exact tangent kernels of convolutional networks (Arora et al. 2019, Table 1).",
    reference="Arora et al., On exact computation with an infinitely wide neural net, NeurIPS 2019",
    scales={
        "smoke": AroraConfig(Size(96, 96, 40), Size(48, 48, 20), shrink=4, stand_in="digits", halves=4),
        "laptop": AroraConfig(Size(2000, 2000, 250), Size(500, 500, 25)),
        "paper": AroraConfig(Size(50_000, 10_000, 1000), Size(50_000, 10_000, 100), (3, 4, 6, 11, 21)),
    },
    measure=measure,
    show=_show,
)
