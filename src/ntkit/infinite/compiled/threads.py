"""Jobs shared out over threads, without a pool: each call starts its own threads and waits for them.

So calls from several threads at once do not meet, a forked process has nothing left over from its parent, and
numba's own thread pools (of which one is not safe for several callers and another not after a fork) stay unused. A call
works in as many threads, its own among them, as other calls leave cores; where they leave less than two, its own works
alone. So there are never more threads at work than cores and callers. A forked child works with one thread until it
sets another number itself with `torch.set_num_threads`.

The calling thread works too, for systems tend to start two new threads on one core while the thread that starts them
is still at work on the other, and find out only milliseconds later. Where jobs call torch it works with one thread in
each: its own helpers would stand beside ours, and go on waiting, busily, long after their work is done.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Job = TypeVar("Job")


class _Workers:
    """How many threads are at work in all calls of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy = 0

    def begin(self, wanted: int) -> int:
        """How many threads a call may work in, at most `wanted`; 0 where its own, counted instead, does as well."""
        with self.lock:
            granted = min(wanted, available() - self.busy)
            granted = granted if granted > 1 else 0
            self.busy += max(granted, 1)
            return granted

    def end(self, granted: int) -> None:
        """Counts the threads of a call out."""
        with self.lock:
            self.busy -= max(granted, 1)


_workers = _Workers()


def _after_fork() -> None:
    """In a forked child the parent's threads do not exist: neither helpers, nor those that torch would wait for."""
    global _workers
    _workers = _Workers()
    torch.set_num_threads(1)  # with more, torch hangs where its parent has used OpenMP's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Own(threading.local):
    """Torch's setting in this thread before `torch_in_one_thread`; None outside of it."""

    setting: int | None = None


_own = _Own()


@contextlib.contextmanager
def torch_in_one_thread() -> Iterator[None]:
    """Torch works with one thread, here and in threads that begin meanwhile; `available` stays as it was."""
    if _own.setting is not None:
        yield
        return
    _own.setting = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_own.setting)
        _own.setting = None


@contextlib.contextmanager
def torch_as_set() -> Iterator[None]:
    """Within `torch_in_one_thread`, torch works with as many threads as its user has set."""
    setting = _own.setting
    if setting is None:
        yield
        return
    torch.set_num_threads(setting)
    try:
        yield
    finally:
        torch.set_num_threads(1)


def available() -> int:
    """Threads that may be used: torch's setting, within the cores that this process may run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_own.setting or torch.get_num_threads(), cores))


def parts(n: int, most: int, threads: int) -> list[slice]:
    """Parts of n equal pieces of work, at most so many each: ever shorter ones, so that all threads end together."""
    found, begin = [], 0
    while begin < n:
        found.append(slice(begin, begin + min(most, -(-(n - begin) // (2 * threads)))))
        begin = found[-1].stop
    return found


def equal_parts(n: int, count: int) -> list[slice]:
    """So many parts of n equal pieces of work, of nearly equal sizes."""
    return [slice(n * k // count, n * (k + 1) // count) for k in range(count)]


class _Helper(threading.Thread):
    """A thread of one call."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="ntkit helper", daemon=True)
        self.work, self.begun, self.finished = work, False, threading.Event()

    def run(self) -> None:
        """Does the work and says so."""
        self.begun = True
        try:
            self.work()
        finally:
            self.finished.set()

    def wait(self) -> None:
        """Returns when it has ended, or never began; up to Python 3.12 `join`, once interrupted, takes it for ended."""
        while not self.finished.wait(0.1) and self.begun:
            pass
        if self.begun:
            self.join()


def run_jobs(jobs: Sequence[Job], worker: Callable[[], Callable[[Job], None]], with_torch: bool = False) -> None:
    """Runs every job once; when it returns or raises, no thread of it is left.

    Args:
        jobs: in the order in which they are begun.
        worker: called once in each thread; gives the function that does a job (with the thread's own workspace).
        with_torch: whether jobs call torch.

    Raises:
        BaseException: the first error of any job, or an interruption; jobs not yet begun are then left out.
    """
    counter, errors = itertools.count(), []

    def work() -> None:
        try:
            run = worker()
            while not errors and (k := next(counter)) < len(jobs):
                run(jobs[k])
        except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
            errors.append(error)

    workers = _workers  # of this process, also if it forks meanwhile
    helpers: list[_Helper] = []
    granted = workers.begin(len(jobs))
    try:
        with torch_in_one_thread() if with_torch and granted else contextlib.nullcontext():
            helpers += [_Helper(work) for _ in range(granted - 1)]
            _start(helpers)
            work()
            _wait(helpers)
    except BaseException as error:  # an interruption between jobs
        errors.append(error)  # which ends the helpers
        _wait(helpers)
        raise
    finally:
        workers.end(granted)
    if errors:
        raise errors[0]


def _start(helpers: list[_Helper]) -> None:
    for k, helper in enumerate(helpers):
        try:
            helper.start()
        except RuntimeError:  # the system gives no more threads: the others do the work
            del helpers[k:]
            break


def _wait(helpers: list[_Helper]) -> None:
    for helper in helpers:
        helper.wait()
