"""The compiled engine in processes: forked, spawned, workers of a data loader, and fresh ones with many threads."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from torch import nn

import ntkit

DEADLINE = 120  # seconds after which a process counts as hanging

FORKS = """
import json, multiprocessing, threading, time
import numpy as np, torch, ntkit
from numba.core.compiler_lock import global_compiler_lock
from torch import nn
from torch.utils.data import DataLoader, Dataset
from ntkit.infinite.compiled import threads

torch.set_num_threads(2)
model = nn.Sequential(ntkit.nn.Linear(20, 1, 1.4), nn.ReLU(), ntkit.nn.Linear(1, 1))
kernel = ntkit.InfiniteKernel(model)
x = np.random.default_rng(0).standard_normal((3000, 20)).astype(np.float32)  # torch shares out so many numbers
expected = kernel.ntk(x[:500], x)
found = {}

def alike(dtype):
    wanted = kernel.ntk(x[:500].astype(dtype), x.astype(dtype)) if dtype == np.float64 else expected
    return float(abs(wanted - expected).max() / abs(expected).max()), threads.available()

def fork(*args):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply_async(alike, args).get(60)

found["same type"] = fork(np.float32)
with multiprocessing.get_context("fork").Pool(1) as pool:
    found["computed"] = bool(np.array_equal(pool.apply_async(kernel.ntk, (x[:500], x)).get(60), expected))
found["helpers in the parent"] = threads._workers.busy

holding = threading.Event()
def compile_slowly():
    with global_compiler_lock:
        holding.set()
        time.sleep(0.5)
compiling = threading.Thread(target=compile_slowly)
compiling.start()
holding.wait()
found["other type, forked while another thread compiles"] = fork(np.float64)
compiling.join()

class Rows(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return threads.available(), kernel.ntk(x[i : i + 1], x)
loader = DataLoader(Rows(), batch_size=None, num_workers=2, multiprocessing_context="fork")
rows = list(loader)
found["worker threads"] = [number for number, _ in rows]
found["worker rows"] = float(abs(np.concatenate([row for _, row in rows]) - expected[:4]).max() / abs(expected).max())
print(json.dumps(found))
"""


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_processes_compute_as_their_parent_did():
    done = run_python(FORKS, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same type"] == [0.0, 1]
    assert found["computed"]
    assert found["helpers in the parent"] == 0
    error, available = found["other type, forked while another thread compiles"]
    assert error < 1e-6
    assert available == 1
    assert found["worker threads"] == [1] * 4
    assert found["worker rows"] < 1e-6


FIRST_CALLS = """
import json, threading
import numpy as np, ntkit
from torch import nn

layers = lambda n: [layer for _ in range(n) for layer in (ntkit.nn.Linear(6, 6, 1.4, 0.1), nn.ReLU())]
kernels = [ntkit.InfiniteKernel(nn.Sequential(*layers(n), ntkit.nn.Linear(6, 1))) for n in (1, 2, 3)]
x = np.random.default_rng(0).standard_normal((40, 6))
found, together = {}, threading.Barrier(6)

def work(k):
    together.wait()
    found[k] = kernels[k // 2].ntk(x.astype(["f4", "f8"][k % 2]))

callers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
[thread.start() for thread in callers]
[thread.join() for thread in callers]
again = [kernels[k // 2].ntk(x.astype(["f4", "f8"][k % 2])) for k in range(6)]
from numba.np.ufunc import parallel
print(json.dumps({
    "equal": [bool(np.array_equal(found[k], again[k])) for k in range(6)],
    "numba's own threads": parallel._is_initialized,
    "left": threading.active_count(),
}))
"""


def test_first_calls_of_a_process_from_several_threads():
    done = run_python(FIRST_CALLS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"equal": [True] * 6, "numba's own threads": False, "left": 1}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_new_processes_compute_as_their_parent_does(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    conv = ntkit.nn.Conv2d(2, 8, 3, padding=1, w_std=2**0.5)
    model = nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), ntkit.nn.Linear(8 * 3 * 2, 1))
    kernel = ntkit.InfiniteKernel(model)
    x = np.random.default_rng(0).standard_normal((9, 2, 6, 4)).astype(np.float32)
    expected = kernel.ntk(x)
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(kernel.ntk, (x,)).get(DEADLINE)
    assert np.array_equal(found, expected)
