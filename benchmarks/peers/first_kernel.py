"""The first kernel of this process: `python -m peers.first_kernel SAMPLES NETWORK SIZE…`, times as a line of JSON.

Does what a short script would, and imports no more than that before it does.
"""

from __future__ import annotations

import json
import sys
import time


def first_kernel(samples: int, words: str, shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds of `import torch`, of ntkit's import, and of the kernel; how many functions were compiled."""
    start = time.perf_counter()
    import torch

    torch_imported = time.perf_counter()
    from numba.core import event  # what counts compilations; the kernel needs numba in any case

    import ntkit
    from peers.torch_networks import network

    imported = time.perf_counter()
    x = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))
    with event.install_recorder("numba:compile") as recorder:
        ntkit.InfiniteKernel(network(words, shape)).ntk(x, engine="numba")
    computed = time.perf_counter()
    return {
        "kernel time": time.time(),
        "torch seconds": torch_imported - start,
        "ntkit seconds": imported - torch_imported,
        "kernel seconds": computed - imported,
        "functions compiled": len(recorder.buffer) // 2,  # an event for the beginning and one for the end
    }


if __name__ == "__main__":
    print(json.dumps(first_kernel(int(sys.argv[1]), sys.argv[2], tuple(map(int, sys.argv[3:])))))
