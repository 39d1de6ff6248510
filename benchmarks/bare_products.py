"""How near empirical kernels come to the matrix products they consist of: `python benchmarks/bare_products.py`.

In one process, in turns: a row's kernel; and nothing but its products, of the same shapes, by the same library, with
nothing between them. *Bare* over *whole* is the part of the time that products alone take. What a peer's time is over
the bare time is the ratio that no code could exceed that multiplies the same matrices with this library: it bounds the
ratios that can be asked of a row. Symmetric products are made in the tiles that the kernel is made in, the upper ones.
Writes results/<date>-bare-products.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import median

from peers.limits import required_flops
from peers.machine import describe
from peers.process import limit_cores
from peers.report import results_folder, write_pair
from peers.rows import ROWS, EmpiricalRow

TURNS = {"small": 31, "large": 7}


def main() -> None:
    parser = argparse.ArgumentParser(description="Empirical rows beside the bare matrix products they consist of.")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works")
    arguments = parser.parse_args()
    limit_cores(arguments.threads)
    machine = describe(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    rows = [row.quick() if arguments.quick else row for row in ROWS if isinstance(row, EmpiricalRow)]
    from peers.worker_ntkit import peak

    found = [measured(row) for row in rows]
    result = {"machine": machine, "peak GFLOP/s": peak(), "rows": found}
    folder = results_folder(arguments.out, arguments.quick)
    peers = ratios_of_peers(folder)
    for path in write_pair(folder, f"{date.today().isoformat()}-bare-products", result, page(result, peers)):
        print(f"written: {path}")


def measured(row: EmpiricalRow) -> dict[str, float | str]:
    """Median seconds of the kernel and of its products, in turns."""
    import torch

    import ntkit
    from peers.torch_mlp import mlp

    torch.manual_seed(0)
    network, x = mlp(row), torch.randn(row.n, row.d)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, (2 / p.shape[-1]) ** 0.5 if p.dim() > 1 else 0.1)
    kernel = ntkit.EmpiricalKernel(network, outputs=row.outputs)
    products = bare_products(row)
    tasks: dict[str, Callable[[], object]] = {
        "whole": lambda: kernel.ntk(x),
        "bare": lambda: [product() for product in products],
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    turns = TURNS["small" if row.n <= 200 else "large"]
    for turn in range(turns + 2):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn >= 2:  # the first ones warm up
                seconds[name].append(time.perf_counter() - start)
    whole, bare = median(seconds["whole"]), median(seconds["bare"])
    return {
        "row": row.name, "heading": row.heading, "whole seconds": whole, "bare seconds": bare,
        "share of bare products": bare / whole, "required GFLOP": required_flops(row) / 1e9,
    }  # fmt: skip


def bare_products(row: EmpiricalRow) -> list[Callable[[], object]]:
    """The products of the passes, and of the Gram matrices of inputs and gradients of every layer."""
    import torch
    from torch import Tensor

    from ntkit._products import products_of_rows
    from ntkit.empirical.costs import Work

    def times(x: Tensor, y: Tensor) -> Callable[[], object]:
        return lambda: products_of_rows(x, y)

    n, o = row.n, row.n_outputs
    matrices = [torch.randn(after, before) for before, after in pairwise(row.widths)]
    inputs = [torch.randn(n, before) for before in row.widths[:-1]]
    gradients = [torch.randn(n * o, width) for width in row.widths[1:-1]]
    found = [times(x, w) for x, w in zip(inputs, matrices, strict=True)]
    found += [times(g, w.t()) for g, w in zip(gradients[1:], matrices[1:-1], strict=True)]
    tile = Work(n, o, n, n).at_most(n, row.outputs).tile  # samples
    found += [times(x[a], x[b]) for x in inputs for a, b in upper_tiles(n, tile, 1)]
    found += [times(g[a], g[b]) for g in gradients for a, b in upper_tiles(n, tile, o)]
    return found


def upper_tiles(n: int, tile: int, each: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices of `each` rows a sample, on and above the diagonal."""
    parts = -(-n // tile)
    ends = [n * i // parts * each for i in range(parts + 1)]
    slices = [slice(start, stop) for start, stop in pairwise(ends)]
    for i, rows in enumerate(slices):
        for columns in slices[i:]:
            yield rows, columns


def ratios_of_peers(folder: Path) -> dict[str, tuple[float, float]]:
    """{row: (the newest measured ratio to neural-tangents, the one asked)}, where there are results."""
    newest = sorted(folder.glob("*-empirical.json"))[-1:]
    found = {}
    for told in (entry for path in newest for entry in json.loads(path.read_text())["rows"]):
        ratio = told["contestants"].get("neural-tangents", {}).get("ratio to reference")
        if ratio is not None and told["row"]["target"] is not None:
            found[told["row"]["name"]] = (ratio, told["row"]["target"])
    return found


def page(result: dict[str, object], peers: dict[str, tuple[float, float]]) -> str:
    """The result for people."""
    machine, rows = result["machine"], result["rows"]
    assert isinstance(machine, dict)
    assert isinstance(rows, list)
    lines = [
        "# Empirical kernels beside their bare matrix products",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        f"- fastest product: {float(str(result['peak GFLOP/s'])):.0f} GFLOP/s",
        "",
        "*Bare* is the time of the products alone. *At most* is neural-tangents' ratio, from the newest "
        "`*-empirical.json`, if nothing but these products took time.",
        "",
        "| row | whole | bare | bare / whole | ratio measured | at most | asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        whole, bare = row["whole seconds"], row["bare seconds"]
        ratio, asked = peers.get(row["row"], (None, None))
        known = ["–"] * 3 if ratio is None else [f"{ratio:.2f}", f"{ratio * whole / bare:.2f}", f"{asked:g}"]
        cells = [row["row"], f"{whole * 1e3:.2f} ms", f"{bare * 1e3:.2f} ms", f"{bare / whole:.0%}", *known]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
