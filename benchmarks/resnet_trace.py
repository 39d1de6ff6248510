"""ResNet-18's empirical kernel of many images in little memory: `python benchmarks/resnet_trace.py [--width 16]`.

The trace over 10 outputs of ResNet-18 for CIFAR, N = 1,000, limited to 3 GiB for ntkit (the process has PyTorch and
the data beside it; 4 GiB are asked). In a process of its own: time, the peak of its memory, and the operations of the
plan. Writes results/<date>-resnet-trace-<width>.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from peers.machine import describe
from peers.memory import resident_bytes
from peers.process import limit_cores, worker_variables
from peers.report import human_bytes, results_folder, write_pair
from peers.rows import ROWS, ModelRow

OUTPUTS, LIMIT, ASKED = 10, 3 << 30, 4 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of ResNet-18's trace kernel.")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage; ResNet-18 has 64")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    parser.add_argument("--alone", action="store_true", help="compute in this process and print what was found")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(compute(arguments.width, arguments.samples)))
        return
    limit_cores(arguments.threads)
    machine = describe(arguments.threads)
    command = [sys.executable, __file__, "--alone", f"--width={arguments.width}", f"--samples={arguments.samples}"]
    found = subprocess.run(
        command, env=worker_variables(arguments.threads), capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise SystemExit(found.stderr or f"ended with status {found.returncode}")
    result = {"machine": machine, **json.loads(found.stdout.splitlines()[-1])}
    stem = f"{date.today().isoformat()}-resnet-trace-{arguments.width}"
    for path in write_pair(results_folder(arguments.out, False), stem, result, page(result)):
        print(f"written: {path}")


def compute(width: int, samples: int) -> dict[str, float | int | str]:
    """Time, peak memory and operations; the numbers are checked to be a kernel's."""
    import torch

    import ntkit
    from peers.torch_models import model

    (row,) = (row for row in ROWS if isinstance(row, ModelRow) and row.network == "resnet18")
    torch.manual_seed(0)
    network = model(replace(row, width=width)).eval()
    with torch.no_grad():  # as a trained network's: nothing is symmetric
        for name, value in network.named_parameters():
            value.normal_(0, (2 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.1)
            value.add_(float(value.dim() == 1 and name.endswith("weight")))
    x = torch.randn(samples, 3, 32, 32)
    kernel = ntkit.EmpiricalKernel(network, outputs="trace", memory_limit=LIMIT)
    plan = kernel.plan(x)
    start = time.perf_counter()
    found = kernel.ntk(x)
    seconds = time.perf_counter() - start
    eigenvalues = torch.linalg.eigvalsh(found.double())
    assert torch.equal(found, found.T)
    assert float(eigenvalues[0]) > -1e-4 * float(eigenvalues[-1])
    return {
        "width": width, "samples": samples, "outputs": OUTPUTS,
        "parameters": sum(p.numel() for p in network.parameters()), "seconds": seconds,
        "peak bytes of the process": resident_bytes("VmHWM"), "memory limit": LIMIT, "asked bytes": ASKED,
        "GFLOP of products": plan.flops / 1e9, "smallest eigenvalue": float(eigenvalues[0]),
        "largest eigenvalue": float(eigenvalues[-1]),
    }  # fmt: skip


def page(result: dict[str, object]) -> str:
    """The result for people."""
    machine = result["machine"]
    assert isinstance(machine, dict)
    peak, asked = int(str(result["peak bytes of the process"])), int(str(result["asked bytes"]))
    seconds = float(str(result["seconds"]))
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    return "\n".join(
        [
            f"# Trace kernel of ResNet-18, width {result['width']}, N = {result['samples']}",
            "",
            *lines,
            "",
            f"- parameters: {result['parameters']}",
            f"- time: {seconds:.0f} s",
            f"- peak memory of the process: {human_bytes(peak)} (asked: under {human_bytes(asked)}; "
            f"{'met' if peak < asked else '**missed**'})",
            f"- operations of the products (passes through the network come on top): "
            f"{float(str(result['GFLOP of products'])):.0f} GFLOP",
            "",
        ]
    )


if __name__ == "__main__":
    main()
