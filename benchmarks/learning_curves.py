"""Predicted and measured errors of kernel regression: `python benchmarks/learning_curves.py [--quick]`.

The exact tangent kernel of a fully connected network (three ReLU layers) on a pool of M = 12,000 images of MNIST and of
Fashion-MNIST, centred one-hot targets, a stated ridge. The prediction takes the pool's kernel and labels alone
(`ntkit.theory.pool_learning_curve`); measured is the mean over draws of N training samples of the squared error on
those of the pool that were not drawn. Asked: within 10 % from N = 64 to 2,048. A control predicts from shuffled
labels.

Writes results/<date>-learning-curves.json and .md. The data come from NTKIT_DATA.
"""

from __future__ import annotations

import argparse
import os
from datetime import date
from pathlib import Path
from typing import Any

from peers.machine import describe
from peers.process import limit_cores
from peers.report import results_folder, write_pair

POOL, SAMPLES, DRAWS, ASKED = 12_000, (64, 128, 256, 512, 1024, 2048), 20, 0.10
RIDGE = 0.01  # of the kernel's mean diagonal


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted and measured errors of kernel regression.")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how well")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    arguments = parser.parse_args()
    limit_cores(arguments.threads)
    machine = describe(arguments.threads)
    pool, samples = (600, (32, 64)) if arguments.quick else (POOL, SAMPLES)
    tasks = [task(name, pool, samples) for name in ("mnist", "fashion-mnist")]
    result = {"machine": machine, "pool": pool, "draws": DRAWS, "ridge over mean diagonal": RIDGE, "tasks": tasks}
    folder = results_folder(arguments.out, arguments.quick)
    for path in write_pair(folder, f"{date.today().isoformat()}-learning-curves", result, page(result)):
        print(f"written: {path}")


def task(name: str, pool: int, samples: tuple[int, ...]) -> dict[str, Any]:
    """One data set."""
    import numpy as np
    from torch import nn

    import ntkit
    from ntkit.data import load, one_hot
    from ntkit.theory import pool_learning_curve

    data = load(name, n_train=pool, n_test=10, seed=0)
    x = np.asarray(data.x_train, np.float64).reshape(pool, -1)
    x /= np.sqrt((x**2).mean(1, keepdims=True))
    labels = np.asarray(data.y_train)
    y = np.asarray(one_hot(labels, 10, centered=True), np.float64) if labels.ndim == 1 else labels.astype(np.float64)
    model = nn.Sequential(
        nn.Linear(x.shape[1], 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
    )
    K = ntkit.InfiniteKernel(model, w_std=2**0.5, b_std=0.1).ntk(x)
    ridge = RIDGE * float(K.diagonal().mean())
    shuffled = np.random.default_rng(1).permutation(pool)
    predicted = pool_learning_curve(K, y, list(samples), ridge=ridge)
    control = pool_learning_curve(K, y[shuffled], list(samples), ridge=ridge)
    rows = []
    for i, n in enumerate(samples):
        errors = [measured(K, y, n, ridge, draw) for draw in range(DRAWS)]
        mean, error = float(np.mean(errors)), float(np.std(errors, ddof=1) / DRAWS**0.5)
        rows.append({
            "samples": n, "predicted": float(predicted.test[i]), "measured": mean, "standard error": error,
            "predicted over measured": float(predicted.test[i]) / mean,
            "shuffled labels over measured": float(control.test[i]) / mean,
        })  # fmt: skip
        print(name, rows[-1], flush=True)
    return {"data": name, "source": "original files" if "mnist" in data.source.lower() else data.source, "rows": rows}


def measured(K: Any, y: Any, n: int, ridge: float, draw: int) -> float:
    """Mean squared error, Σ over outputs, on the samples of the pool that are not drawn."""
    import numpy as np
    from scipy.linalg import solve

    at = np.random.default_rng([draw, n]).permutation(len(K))
    used, unused = at[:n], at[n:]
    alpha = solve(K[np.ix_(used, used)] + ridge * np.eye(n), y[used], assume_a="pos")
    return float(((K[np.ix_(unused, used)] @ alpha - y[unused]) ** 2).sum(1).mean())


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        "# Learning curves: predicted and measured",
        "",
        *(f"- {k}: {v}" for k, v in result["machine"].items()),
        "",
    ]
    lines += [
        f"- pool: {result['pool']:,} images; ridge: {result['ridge over mean diagonal']:g} of the mean diagonal; "
        f"draws: {result['draws']}", "",
    ]  # fmt: skip
    for found in result["tasks"]:
        worst = max(found["rows"], key=lambda row: abs(row["predicted over measured"] - 1))
        off = abs(worst["predicted over measured"] - 1)
        lines += [
            f"## {found['data']}", "",
            f"Worst point: N = {worst['samples']:,}, off by {off:.1%} (asked: within {ASKED:.0%}; "
            f"{'met' if off <= ASKED else '**missed**'}).", "",
            "| N | predicted | measured | standard error | predicted / measured | shuffled labels / measured |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in found["rows"]:
            lines.append(
                f"| {row['samples']:,} | {row['predicted']:.4f} | {row['measured']:.4f} | "
                f"{row['standard error']:.4f} | {row['predicted over measured']:.3f} | "
                f"{row['shuffled labels over measured']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
