"""The study's questions, one function each: everything it takes in, numbers and arrays out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntkit._arrays import Array
from ntkit._progress import Reporter
from ntkit.data import Dataset
from ntkit.dynamics import max_learning_rate
from ntkit.empirical import EmpiricalKernel
from ntkit.empirical.operator import NTKOperator
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.experiments import kernel_machines, learning_rates, scores, training_curves
from ntkit.experiments.networks import StudiedNetwork
from ntkit.experiments.study_config import StudyConfig
from ntkit.experiments.training_runs import Problem
from ntkit.infinite import InfiniteKernel
from ntkit.spectra import Spectrum, alignment, kernel_distance, spectrum
from ntkit.theory import pool_learning_curve

TOP = 10  # directions whose share of the labels is told
DRAWS = 10  # training sets of each size on the learning curve


@dataclass
class Study:
    """What the questions share, and what they answer.

    Args:
        config: the choices.
        network: the network.
        data: the data.
        reporter: shows progress.
        findings: numbers, by question.
        arrays: arrays for the page, by name.
    """

    config: StudyConfig
    network: StudiedNetwork
    data: Dataset
    reporter: Reporter
    findings: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dtype = next(self.network.model.parameters()).dtype
        self.x, self.x_test = (torch.from_numpy(x).to(dtype) for x in (self.data.x_train, self.data.x_test))
        self.y, self.y_test = (np.asarray(t, dtype=np.float64) for t in self.data.targets(centered=True))
        self.centered = Problem.of(self.network.model, self.x, torch.from_numpy(self.y).to(dtype), centered=True)
        self.plain = Problem.of(self.network.model, self.x, self.centered.y, centered=False)
        _check_scale(self.x, self.plain)
        self.exact_ntk: np.ndarray | None = None
        self.exact_why_not = ""
        self.models: dict[int, nn.Module] = {}  # the network at the checkpoints of training


def _check_scale(x: Tensor, problem: Problem) -> None:
    """Data on which nothing can be learned, or whose squares leave the number type, are said at once."""
    if bool((x == x[:1]).all()):
        raise InvalidInput("all training samples are identical, so there is nothing to learn from; check the data")
    with torch.no_grad():
        loss = ((problem.model(problem.x) - problem.y) ** 2).sum()
    if not bool(torch.isfinite(loss)) or not bool(torch.isfinite((x**2).sum())):
        raise InvalidInput(
            f"the network's loss on these data overflows {x.dtype} (values up to {float(x.abs().max()):.3g}); bring "
            "them to a common scale with --step standardize"
        )


@dataclass(frozen=True)
class Pair:
    """A kernel on the training samples, and of test with training samples."""

    train: np.ndarray
    test: np.ndarray


def exact_kernels(study: Study) -> dict[str, Pair]:
    """NNGP and NTK in the limit; none where the study is asked to go on without them.

    Raises:
        UnsupportedLayer: the network has no such limit, and the study was not asked to do without.
    """
    if not study.config.exact:
        study.exact_why_not = "not asked for (exact=False)"
        return {}
    # plain torch layers are described as torch draws them; layers of ntkit.nn state their own scales
    try:
        kernel = InfiniteKernel(study.network.model, w_std="torch", b_std="torch", parameterization="standard")
        x, x_test = (np.asarray(t, dtype=np.float64) for t in (study.data.x_train, study.data.x_test))
        with study.reporter.stage("exact kernels", 2) as advance:
            train = kernel(x)
            advance()
            test = kernel(x_test, x)
            advance()
    except UnsupportedLayer as error:
        raise UnsupportedLayer(
            f"{error}. To study this network without its exact kernel: --no-exact, or exact=False"
        ) from None
    study.exact_ntk = train.ntk
    return {"nngp": Pair(train.nngp, test.nngp), "ntk": Pair(train.ntk, test.ntk)}


def empirical_kernel(study: Study, model: nn.Module, what: str) -> Pair:
    """The mean-over-outputs tangent kernel of a model, which tends to the exact one."""
    kernel = EmpiricalKernel(model, outputs="mean")
    pairs = ((study.x, None), (study.x_test, study.x))
    train, test = (_as_numpy(kernel.ntk(*pair)) for pair in study.reporter.track(pairs, what, 2))
    return Pair(train, test)


def ask_learning_rate(study: Study) -> float:
    """The largest stable rate, predicted and found; gives the rate to train at."""
    operator = NTKOperator(study.network.model, study.x)
    predicted = learning_rates.predicted_rate(operator)
    labels = learning_rates.label_spectrum(operator, study.centered.y, learning_rates.STEPS, study.reporter)
    exact = None if study.exact_ntk is None else max_learning_rate(study.exact_ntk)
    find = learning_rates.largest_stable_rate
    centered = find(study.centered, predicted, study.reporter, "largest stable rate, centred network")
    plain = find(study.plain, predicted, study.reporter, "largest stable rate, plain network")
    scan = learning_rates.scan_rates(study.centered, predicted, study.reporter)
    recovered = scan.multiples[scan.outcomes == learning_rates.RECOVERS]
    study.findings["learning_rate"] = {
        "predicted_initial": predicted,
        "predicted_exact": exact,
        "predicted_first_rise": labels.largest_stable_rate(learning_rates.STEPS),
        "found_centered": centered,
        "found_plain": plain,
        "recovers_up_to": float(recovered.max()) * predicted if len(recovered) else None,
        "steps": learning_rates.STEPS,
    }
    study.arrays.update(lr_scan_multiples=scan.multiples, lr_scan_loss=scan.losses, lr_scan_outcome=scan.outcomes)
    # targets that are large for the network take it out of the kernel regime, where less is stable than predicted
    return study.config.rate * min(predicted, exact or predicted, centered)


def ask_curves(study: Study, lr: float, exact: Pair | None) -> np.ndarray:
    """Predicted and actual curves; gives the trained network's test outputs."""
    steps = training_curves.recorded_steps(study.config.steps)
    checkpoints = sorted({0, *map(int, np.geomspace(1, study.config.steps, 9).round())})
    curve, study.models = training_curves.actual_curve(
        study.centered, study.x_test, study.y_test, lr, steps, study.reporter, checkpoints
    )
    if len(curve.train_loss) < len(steps):
        raise InvalidInput(
            f"training at the learning rate {lr:.3g}, {study.config.rate:g} of the largest one that was stable for "
            f"{learning_rates.STEPS} steps, diverges between steps {steps[len(curve.train_loss) - 1]} and "
            f"{steps[len(curve.train_loss)]}; take a smaller share, such as rate={study.config.rate / 4:g}, a wider "
            "network, or targets of a smaller scale"
        )
    curves = {
        "network": curve,
        "initial_kernel": training_curves.linearised_curve(
            study.centered, study.x_test, study.y_test, lr, steps, study.reporter
        ),
    }
    if exact is not None:
        curves["exact_kernel"] = training_curves.exact_curve(exact.train, exact.test, study.y, study.y_test, lr, steps)
    study.arrays["steps"] = np.array(steps)
    for name, c in curves.items():
        study.arrays[f"train_loss_{name}"] = np.array(c.train_loss)
        study.arrays[f"test_loss_{name}"] = np.array(c.test_loss)
        study.arrays[f"test_metric_{name}"] = np.array(
            [scores.score(study.data, outputs, study.y_test) for outputs in c.test_outputs]
        )
    start = curve.train_loss[0]
    gaps = {name: float(np.abs(np.array(c.train_loss) - curve.train_loss).max() / start) for name, c in curves.items()}
    study.findings["training"] = {
        "lr": lr,
        "steps": study.config.steps,
        "loss_start": start,
        "loss_end": curve.train_loss[-1],
        "worst_gap_initial": gaps["initial_kernel"],
        "worst_gap_exact": gaps.get("exact_kernel"),
        "metric_end": float(study.arrays["test_metric_network"][-1]),
    }
    return curve.test_outputs[-1]


def ask_lazy_or_rich(study: Study) -> tuple[Pair, Pair]:
    """How far kernel and weights moved; gives the kernels before and after training."""
    checkpoints = sorted(study.models)
    names = [name for name, p in study.network.model.named_parameters() if p.requires_grad]
    begin = empirical_kernel(study, study.models[checkpoints[0]], "tangent kernel before training")
    rows: list[tuple[float, float, float]] = []
    moved = []
    tracked = study.reporter.track(checkpoints[:-1], "tangent kernel during training", len(checkpoints) - 1)
    trains = [begin.train if step == 0 else _train_kernel(study, study.models[step]) for step in tracked]
    end = empirical_kernel(study, study.models[checkpoints[-1]], "tangent kernel after training")
    for step, K in zip(checkpoints, [*trains, end.train], strict=True):
        rows.append((kernel_distance(begin.train, K), alignment(K, study.y), _chance_alignment(K, study.y)))
        moved.append(_weights_moved(study.models[checkpoints[0]], study.models[step], names))
    distance, aligned, by_chance = np.array(rows).T
    by_layer = np.array(moved)
    study.arrays.update(
        checkpoints=np.array(checkpoints),
        kernel_distance=np.maximum(distance, 0.0),
        alignment=aligned,
        alignment_chance=by_chance,
        weights_moved=by_layer[:, -1],
        weights_moved_by_layer=by_layer[:, :-1],
        layer_names=np.array(names),
    )
    study.findings["lazy"] = {
        "distance_end": float(study.arrays["kernel_distance"][-1]),
        "alignment_start": float(aligned[0]),
        "alignment_end": float(aligned[-1]),
        "alignment_exact": None if study.exact_ntk is None else float(alignment(study.exact_ntk, study.y)),
        "alignment_chance": float(by_chance[0]),
        "weights_moved_end": float(by_layer[-1, -1]),
    }
    return begin, end


def _train_kernel(study: Study, model: nn.Module) -> np.ndarray:
    return _as_numpy(EmpiricalKernel(model, outputs="mean").ntk(study.x))


def _as_numpy(K: Array) -> np.ndarray:
    return K.double().cpu().numpy() if isinstance(K, Tensor) else K.astype(np.float64)


def _chance_alignment(K: np.ndarray, y: np.ndarray) -> float:
    """The mean of the alignment over all orders of the labels.

    For labels with mean m and the rest of size R² = ‖y − m‖², permutations give E tr(yᵀKy) =
    |m|² 1ᵀK1 + R² (tr K − 1ᵀK1/n)/(n − 1).
    """
    n, mean = len(K), y.mean(axis=0)
    total = K.sum()
    rest = ((y - mean) ** 2).sum()
    expected = (mean**2).sum() * total + rest * (np.trace(K) - total / n) / (n - 1)
    return float(expected / (np.linalg.norm(K) * np.linalg.norm(y.T @ y)))


def _weights_moved(start: nn.Module, now: nn.Module, names: list[str]) -> list[float]:
    """|θ − θ₀|/|θ₀| of each parameter, and of all together at the end."""
    before, after = dict(start.named_parameters()), dict(now.named_parameters())
    moves = [float((after[n] - before[n]).detach().double().norm()) for n in names]
    sizes = [float(before[n].detach().double().norm()) for n in names]
    tiny = np.finfo(np.float64).tiny
    together = float(np.linalg.norm(moves)) / max(float(np.linalg.norm(sizes)), tiny)
    # a parameter that starts at zero has no size to compare with: its own move is told against all weights
    each = [m / (s or max(float(np.linalg.norm(sizes)), tiny)) for m, s in zip(moves, sizes, strict=True)]
    return [*each, together]


def ask_spectrum(study: Study, kernels: dict[str, np.ndarray]) -> dict[str, Spectrum]:
    """Spectra, and how much of the labels lies in the top directions."""
    spectra: dict[str, Spectrum] = {}
    findings: dict[str, Any] = {"top_k": min(TOP, len(study.y)), "energy_chance": min(TOP, len(study.y)) / len(study.y)}
    findings.update(effective_rank_exact=None, energy_exact=None)
    for name, K in kernels.items():
        result = spectra[name] = spectrum(K)
        energy = np.asarray(result.energy(study.y))
        study.arrays[f"eigenvalues_{name}"] = np.asarray(result.eigenvalues)
        study.arrays[f"label_energy_{name}"] = energy
        findings[f"effective_rank_{name}"] = result.effective_rank()
        findings[f"energy_{name}"] = float(energy[findings["top_k"] - 1])
    study.findings["spectrum"] = findings
    return spectra


def ask_machines(study: Study, kernels: dict[str, tuple[str, Pair]], trained: np.ndarray) -> None:
    """The network against the kernel machines it corresponds to."""
    rows = []
    for key, (name, pair) in study.reporter.track(kernels.items(), "kernel machines", len(kernels)):
        machine = kernel_machines.fit_machine(pair.train, pair.test, study.y)
        rows.append(
            {
                "name": name,
                "key": key,
                "test": scores.score(study.data, machine.test, study.y_test),
                "ridge": machine.ridge,
                "loo": scores.score(study.data, machine.train_loo, study.y),
            }
        )
    test = scores.score(study.data, trained, study.y_test)
    rows.append({"name": "trained network", "key": "network", "test": test, "ridge": None, "loo": None})
    study.findings["machines"] = rows


def ask_data(study: Study, key: str, pair: Pair, eigenpairs: Spectrum) -> None:
    """The learning curve of a kernel's machine: predicted from the training samples' kernel and labels, and measured.

    Args:
        study: the study.
        key: of the kernel, among the machines.
        pair: the kernel.
        eigenpairs: of the kernel of the training samples.
    """
    sizes = kernel_machines.learning_sizes(len(study.y))
    share = next(row["ridge"] for row in study.findings["machines"] if row["key"] == key)
    ridge = share * float(np.trace(pair.train)) / len(pair.train)
    predicted = pool_learning_curve(eigenpairs, study.y, sizes, ridge=ridge).test
    data = pair.train, pair.test, study.y, study.y_test
    tracked = study.reporter.track(sizes, "learning curve", len(sizes))
    errors = np.stack([kernel_machines.errors_of_parts(*data, n, ridge, DRAWS) for n in tracked])
    measured, spread = errors.mean(axis=1), errors.std(axis=1, ddof=1) / np.sqrt(DRAWS)
    study.arrays.update(
        learning_sizes=np.array(sizes), learning_predicted=predicted, learning_measured=measured, learning_spread=spread
    )
    study.findings["data_needed"] = {
        "key": key,
        "ridge": share,
        "draws": DRAWS,
        "guessing": float((study.y_test**2).sum(axis=1).mean()),
        "network": 2 * float(study.arrays["test_loss_network"][-1]),  # L is half of it
        "samples": sizes[-1],
        "predicted": float(predicted[-1]),
        "measured": float(measured[-1]),
        "doubled_takes_off": _doubled_takes_off(sizes, predicted),
        "worst_gap": float(np.abs(predicted / measured - 1).max()),
    }


def _doubled_takes_off(sizes: tuple[int, ...], errors: np.ndarray) -> float | None:
    """The share of the error that twice the data take off, if it goes on falling as between the last two sizes."""
    if len(sizes) < 2:
        return None
    slope = np.log(errors[-1] / errors[-2]) / np.log(sizes[-1] / sizes[-2])
    return float(1 - 2**slope)
