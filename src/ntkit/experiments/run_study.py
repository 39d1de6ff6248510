"""`study`: one network, one data set, and a page that says how the network will learn."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ntkit import data as datasets
from ntkit._memory import require_bytes
from ntkit._progress import Reporter
from ntkit.data import Dataset
from ntkit.errors import InvalidInput
from ntkit.experiments import study_parts as parts
from ntkit.experiments.networks import build_network
from ntkit.experiments.result_folder import result_folder, write_arrays, write_json
from ntkit.experiments.scores import chance, metric_name
from ntkit.experiments.study_config import MOST_TEST, MOST_TRAIN, StudyConfig, environment
from ntkit.experiments.study_page import write_study_page


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study found.

    Args:
        folder: where index.html, results.json and arrays.npz are.
        findings: the numbers of results.json.
        arrays: the arrays of arrays.npz.
    """

    folder: Path
    findings: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def page(self) -> Path:
        """The page to open."""
        return self.folder / "index.html"


def study(
    model: str | nn.Module,
    data: str | Dataset,
    *,
    out: str | os.PathLike[str] = "study",
    n_train: int | None = None,
    n_test: int | None = None,
    classes: tuple[int | str, ...] | None = None,
    steps: int = StudyConfig.steps,
    rate: float = StudyConfig.rate,
    preprocessing: tuple[str, ...] = (),
    shuffle_labels: bool = False,
    w_std: float = StudyConfig.w_std,
    b_std: float = StudyConfig.b_std,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    exact: bool = True,
    progress: bool = True,
) -> StudyResult:
    """How will this network learn these data? A folder with index.html, results.json and arrays.npz.

    The page answers: the largest stable learning rate, predicted 2N/λ_max and found; predicted and actual training
    curves; lazy or rich; the spectrum and where the labels lie in it; the network against its kernel machines;
    how much data the task needs.

    Args:
        model: `mlp:DEPTHxWIDTH:ACTIVATION`, `FILE.py:FUNCTION` returning a module, or a module (which is copied).
        data: a name or file as `ntkit.data.load` takes it, or a `Dataset`.
        out: folder to write; an earlier study there is replaced.
        n_train: training samples; by default 500, or all where there are fewer.
        n_test: test samples; by default 1,000, or all where there are fewer.
        classes: classes to keep; None for all.
        steps: of gradient descent.
        rate: learning rate as a share of the predicted largest stable one, between 0 and 1.
        preprocessing: named steps of `ntkit.data.apply_steps`.
        shuffle_labels: permute the labels, which leaves nothing to learn: a check of the study itself.
        w_std: scale of an mlp's hidden layers.
        b_std: scale of an mlp's biases.
        seed: of data, network and shuffling; the same seed gives the same numbers on one machine.
        data_dir: folder of the data files; by default NTKIT_DATA.
        exact: whether to use the exact kernel; False studies a network that has none.
        progress: show progress bars.

    Returns:
        Folder, numbers and arrays.

    Raises:
        InvalidInput: an argument is out of range, the network does not fit the data, or `out` cannot be written.
        UnsupportedLayer: the network has no exact kernel; the message names the layer, `exact=False` goes on without.
        DataError: the data are unknown or broken.
        MemoryLimitExceeded: the kernels would not fit in memory.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> result = study("mlp:1x32:relu", "digits", out=folder, n_train=40, n_test=20, steps=5, progress=False)
        >>> result.page.name
        'index.html'

    Reference: Jacot et al. 2018; Lee et al. 2019; Lewkowycz et al. 2020 for the catapult range.
    """
    config = StudyConfig(
        n_train, n_test, classes, steps, rate, tuple(preprocessing), shuffle_labels, w_std, b_std, seed, exact
    )
    began = time.perf_counter()
    with result_folder(out) as folder:
        dataset = _load(data, config, data_dir)
        _check_memory(len(dataset.x_train), len(dataset.x_test), dataset.n_outputs)
        network = build_network(model, dataset.input_shape, dataset.n_outputs, seed=seed, w_std=w_std, b_std=b_std)
        with Reporter(progress).running() as reporter:
            job = parts.Study(config, network, dataset, reporter)
            _ask_everything(job)
        _describe(job, time.perf_counter() - began)
        write_json(folder, job.findings)
        write_arrays(folder, job.arrays)
        write_study_page(job.findings, job.arrays, folder / "index.html")
    return StudyResult(Path(out), job.findings, job.arrays)


def _ask_everything(job: parts.Study) -> None:
    exact = parts.exact_kernels(job)
    lr = parts.ask_learning_rate(job)
    trained = parts.ask_curves(job, lr, exact.get("ntk"))
    begin, end = parts.ask_lazy_or_rich(job)
    spectra = {"exact": exact["ntk"].train} if exact else {}
    eigenpairs = parts.ask_spectrum(job, spectra | {"initial": begin.train, "final": end.train})
    machines = {"nngp": ("NNGP", exact["nngp"]), "exact": ("exact NTK", exact["ntk"])} if exact else {}
    machines["initial"] = ("initial empirical NTK", begin)
    machines["final"] = ("final empirical NTK", end)
    parts.ask_machines(job, machines, trained)
    key = "exact" if exact else "initial"
    parts.ask_data(job, key, machines[key][1], eigenpairs[key])


def _load(data: str | Dataset, config: StudyConfig, data_dir: str | os.PathLike[str] | None) -> Dataset:
    if not isinstance(data, (str, Dataset)):
        raise InvalidInput(f"data must be a name or file such as 'mnist', or a Dataset, got {type(data).__name__}")
    if isinstance(data, Dataset):
        dataset = _subset(data, config)
    else:
        dataset = datasets.load(
            data,
            data_dir=data_dir,
            n_train=config.n_train,
            n_test=config.n_test,
            max_train=MOST_TRAIN,
            max_test=MOST_TEST,
            classes=config.classes,
            seed=config.seed,
        )
    dataset = datasets.apply_steps(dataset, config.preprocessing)
    return _with_shuffled_labels(dataset, config.seed) if config.shuffle_labels else dataset


def _subset(data: Dataset, config: StudyConfig) -> Dataset:
    if config.classes is not None:
        raise InvalidInput("classes choose from a data set by name; give a Dataset of the classes wanted")
    n, m = config.n_train or MOST_TRAIN, config.n_test or MOST_TEST
    for name, wanted, there in (("n_train", config.n_train, data.x_train), ("n_test", config.n_test, data.x_test)):
        if wanted is not None and wanted > len(there):
            raise InvalidInput(f"{name} is {wanted}, but {data.name} has {len(there)}; ask for at most as many")
    return replace(
        data, x_train=data.x_train[:n], y_train=data.y_train[:n], x_test=data.x_test[:m], y_test=data.y_test[:m]
    )


def _with_shuffled_labels(data: Dataset, seed: int) -> Dataset:
    generator = np.random.default_rng((seed, 1))
    return replace(data, y_train=generator.permutation(data.y_train), y_test=generator.permutation(data.y_test))


def _check_memory(n: int, m: int, outputs: int) -> None:
    """Two exact and two empirical kernels on training and test samples, and what their spectra take, in float64."""
    needed = 8 * (n * n * 12 + n * m * 5 + (n + m) * outputs * 200)
    require_bytes(needed, f"a study of {n} training and {m} test samples", "use fewer samples (--n-train, --n-test)")


def _describe(job: parts.Study, seconds: float) -> None:
    """The part of the findings that says what was studied."""
    data, network = job.data, job.network
    parameters = [p for p in network.model.parameters() if p.requires_grad]
    about = {
        "title": f"{network.name} on {data.name}",
        "metric": metric_name(data),
        "chance": chance(data),
        "data": {
            "name": data.name,
            "source": data.source,
            "fallback": data.stands_in,
            "notes": list(data.notes),
            "n_train": len(data.x_train),
            "n_test": len(data.x_test),
            "n_outputs": data.n_outputs,
            "input_shape": list(data.input_shape),
            "classes": list(data.classes),
            "steps": list(data.steps),
            "labels_shuffled": job.config.shuffle_labels,
        },
        "network": {
            "description": network.name,
            "parameterization": network.parameterization,
            "n_parameters": sum(p.numel() for p in parameters),
            "layers": str(network.model).splitlines(),
            "exact": job.exact_ntk is not None,
            "exact_why_not": job.exact_why_not,
        },
    }
    job.findings.update(about)
    job.findings.update(config=job.config.as_dict(), environment=environment(), seed=job.config.seed, seconds=seconds)
