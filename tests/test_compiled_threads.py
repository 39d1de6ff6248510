"""The compiled engine among threads: what their number may not change, calls at once, interruptions."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ntkit
from ntkit.infinite.compiled import runner, threads

LAYER = {"w_std": 2**0.5, "b_std": 0.1}
DEADLINE = 60  # seconds after which a test counts as hanging


def conv(*size: Any, **more: Any) -> nn.Module:
    return ntkit.nn.Conv2d(*size, **LAYER, **more)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(2, 8, 3, padding=1), conv(8, 8, 3, padding=1, padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return x + self.second(torch.relu(x))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vectors": (lambda: nn.Sequential(ntkit.nn.Linear(6, 8, **LAYER), nn.ReLU(), ntkit.nn.Linear(8, 1, **LAYER)), (6,)),
    "pooled": (
        lambda: nn.Sequential(
            conv(2, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), conv(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), ntkit.nn.Linear(8, 1, **LAYER),
        ),
        (2, 6, 4),
    ),
    "flattened": (
        lambda: nn.Sequential(Residual(), nn.ReLU(), nn.Flatten(), ntkit.nn.Linear(8 * 5 * 3, 1, **LAYER)), (2, 5, 3)
    ),
}  # fmt: skip


def kernel_of(name: str) -> ntkit.InfiniteKernel:
    return ntkit.InfiniteKernel(NETWORKS[name][0]())


def data(name: str, n: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *NETWORKS[name][1], generator=generator, dtype=torch.float64).to(dtype)


class Recorded(threads._Workers):
    """Counts as the original, and remembers how many threads and how many helpers were at work at most."""

    def __init__(self) -> None:
        super().__init__()
        self.helpers, self.most, self.most_helpers = 0, 0, 0  # of `most` calling threads that work alone are part

    def begin(self, wanted: int) -> int:
        granted = super().begin(wanted)
        with self.lock:
            self.helpers += granted
            self.most, self.most_helpers = max(self.most, self.busy), max(self.most_helpers, self.helpers)
        return granted

    def end(self, granted: int) -> None:
        with self.lock:
            self.helpers -= granted
        super().end(granted)


@pytest.fixture
def cores(monkeypatch) -> Callable[[int], Recorded]:
    """Sets the number of threads that may be used, whatever the machine has; gives the record of what was used."""

    def set_cores(number: int) -> Recorded:
        recorded = Recorded()
        monkeypatch.setattr(threads, "_workers", recorded)
        for module in (threads, runner):
            monkeypatch.setattr(module, "available", lambda: number)
        return recorded

    return set_cores


def helpers_alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ntkit helper"]


# ---- the number of threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_results_do_not_depend_on_the_number_of_threads(name, dtype, cores):
    kernel, x1, x2 = kernel_of(name), data(name, 19, 0, dtype), data(name, 7, 1, dtype)

    def results() -> list[torch.Tensor]:
        square, block, own = kernel(x1), kernel(x1, x2), kernel.diagonal(x1)
        return [square.nngp, square.ntk, block.nngp, block.ntk, own.nngp, own.ntk]

    alone = cores(1)
    expected = results()
    assert alone.most == 1
    for number in (2, 3, 64):
        recorded = cores(number)
        for one, two in zip(results(), expected, strict=True):
            assert torch.equal(one, two)
        assert recorded.most <= number
        assert recorded.busy == recorded.helpers == 0
        if name != "vectors":  # so few vectors are one job
            assert recorded.most > 1


def test_torch_s_setting_holds(monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr(threads, "_workers", recorded)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert threads.available() == 1
        kernel_of("pooled").ntk(data("pooled", 20, 0))
        assert recorded.most == 1
        torch.set_num_threads(64)
        assert threads.available() <= (os.cpu_count() or 1)
    finally:
        torch.set_num_threads(before)


# ---- calls at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 4])
def test_calls_from_several_threads_at_once(number, cores):
    calls = [(name, dtype, seed) for seed, name in enumerate(NETWORKS) for dtype in (torch.float32, torch.float64)]
    kernels = {name: kernel_of(name) for name in NETWORKS}

    def compute(call: tuple[str, torch.dtype, int]) -> torch.Tensor:
        name, dtype, seed = call
        return kernels[name].ntk(data(name, 21 + seed, seed, dtype))

    expected = [compute(call) for call in calls]
    recorded, together, found = cores(number), threading.Barrier(len(calls)), {}

    def work(k: int) -> None:
        together.wait()
        found[k] = [compute(calls[k]) for _ in range(4)]

    callers = [threading.Thread(target=work, args=(k,)) for k in range(len(calls))]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    for k, wanted in enumerate(expected):
        assert all(torch.equal(one, wanted) for one in found[k])
    assert recorded.most_helpers <= number  # of all calls together
    assert recorded.busy == recorded.helpers == 0
    assert not helpers_alive()


def test_helpers_are_given_only_while_cores_are_free(cores):
    recorded, inside, go_on = cores(3), threading.Barrier(2), threading.Event()
    seen: list[int] = []

    def first() -> None:
        def run(job: int) -> None:
            if job == 0:
                inside.wait()
                go_on.wait(DEADLINE)

        threads.run_jobs([0, 1], lambda: run)

    other = threading.Thread(target=first)
    other.start()
    inside.wait()  # the other call has two helpers of three cores
    threads.run_jobs(range(10), lambda: lambda job: seen.append(threading.get_ident()))
    assert set(seen) == {threading.get_ident()}  # the third core is this thread's
    assert len(seen) == 10
    go_on.set()
    other.join()
    assert recorded.most == 3
    assert recorded.busy == 0


@pytest.mark.parametrize("number", [2, 3])
def test_the_calling_thread_works_too(number, cores):
    cores(number)
    together, seen = threading.Barrier(number), []

    def worker() -> Callable[[int], None]:
        together.wait(DEADLINE)
        seen.append(threading.current_thread())
        return lambda job: None

    threads.run_jobs(range(9), worker)
    assert threading.current_thread() in seen
    assert len(set(seen)) == number


def test_torch_works_with_one_thread_in_helpers_and_its_setting_stays(cores):
    cores(3)
    before, settings = torch.get_num_threads(), []
    together = threading.Barrier(3)

    def worker() -> Callable[[int], None]:
        together.wait()
        settings.append(torch.get_num_threads())
        return lambda job: None

    try:
        torch.set_num_threads(2)
        threads.run_jobs(range(9), worker, with_torch=True)
        later = threading.Thread(target=lambda: settings.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert settings == [1, 1, 1, 2]


# ---- interruptions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_on_tile_raises_comes_out_and_the_next_call_works(error, cores):
    recorded, kernel, x = cores(4), kernel_of("pooled"), data("pooled", 9, 0)
    expected = kernel.ntk(x)

    def on_tile(rows: slice, columns: slice) -> None:
        raise error("stop")

    with pytest.raises(error, match="stop"):
        kernel.ntk(x, on_tile=on_tile)
    assert not helpers_alive()
    assert recorded.busy == 0
    assert torch.equal(kernel.ntk(x), expected)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("with_torch", [False, True])
@pytest.mark.parametrize("number", [1, 3])
def test_what_a_job_raises_ends_all_threads(number, with_torch, error, cores):
    recorded, begun, raised, done = cores(number), threading.Barrier(number), threading.Lock(), []

    def worker() -> Callable[[int], None]:
        begun.wait()  # every thread has its first job

        def run(job: int) -> None:
            if raised.acquire(blocking=False):
                raise error("stop")
            done.append(job)

        return run

    with pytest.raises(error, match="stop"):
        threads.run_jobs(range(10**6), worker, with_torch)
    assert len(done) < 10**6
    assert not helpers_alive()
    assert recorded.busy == 0


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no way to interrupt a waiting thread on this system")
@pytest.mark.parametrize("with_torch", [False, True])  # whether the caller waits or works
def test_an_interruption_ends_all_threads(with_torch, cores):
    recorded, caller, begun = cores(2), threading.get_ident(), threading.Barrier(2)

    def worker() -> Callable[[int], None]:
        begun.wait()

        def run(job: int) -> None:
            time.sleep(0.2)  # until the caller waits, where it does
            if job == 0:
                signal.pthread_kill(caller, signal.SIGINT)  # Ctrl-C
                time.sleep(0.2)

        return run

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run_jobs([0, 1], worker, with_torch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not helpers_alive()
    assert recorded.busy == 0


@pytest.mark.parametrize("with_torch", [False, True])
def test_a_workspace_that_cannot_be_had_is_an_error_of_the_call(with_torch, cores):
    recorded = cores(3)

    def worker() -> Callable[[int], None]:
        raise MemoryError("no workspace")

    with pytest.raises(MemoryError, match="no workspace"):
        threads.run_jobs(range(5), worker, with_torch)
    assert recorded.busy == 0


@pytest.mark.parametrize("with_torch", [False, True])
def test_without_threads_to_be_had_the_caller_works_alone(with_torch, cores, monkeypatch):
    recorded, done = cores(4), []

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    threads.run_jobs(range(5), lambda: done.append, with_torch)
    assert done == list(range(5))
    assert recorded.busy == 0
