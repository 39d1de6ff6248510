"""What this machine's vector units and memory can do at most, measured by small compiled loops.

Each loop keeps one unit busy with independent work on arrays that stay in the first cache; how many instructions it
executes is counted from its own assembly, so no table of processors is needed. All cores run it at once, as a kernel
does. The fastest of several tries counts: a limit is what can be reached, not what usually is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numba import njit

from peers.instructions import hottest_loop

F = np.float32
LENGTH = 512  # entries of a row: 2 KiB, so that all rows of a loop fit in the smallest first-level cache
ROWS = 8
ALIGNMENT = 64  # bytes; a wide vector across two cache lines is read twice
TRY_SECONDS, TRIES = 0.02, 7
STREAM_BYTES = 1 << 28  # of each array of the stream, well beyond any cache

Inner = Callable[..., Any]


@dataclass(frozen=True)
class Speeds:
    """Highest rates seen, float32, all cores busy.

    Args:
        threads: cores that ran together.
        width: bytes of the widest vector register that the compiler used.
        vector: vector arithmetic instructions of any kind, per second and core.
        multiply: multiplications and fused multiply-adds, likewise.
        divide: divisions, likewise.
        sqrt: square roots, likewise.
        load: vector loads from the first cache, likewise.
        store: vector stores to it, likewise.
        bandwidth: bytes per second to and from memory, all cores together.
    """

    threads: int
    width: int
    vector: float
    multiply: float
    divide: float
    sqrt: float
    load: float
    store: float
    bandwidth: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@njit(nogil=True, fastmath={"contract"})
def multiply_adds(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """Four chains of fused multiply-adds for each entry; their constants keep the compiler from sharing terms."""
    for _ in range(repetitions):
        for i in range(out.size):
            v, p, q, r, s = x[0, i], F(0.1), F(0.2), F(0.3), F(0.4)
            for _ in range(8):
                p, q, r, s = p * v + F(0.5), q * v + F(0.6), r * v + F(0.7), s * v + F(0.8)
            out[i] = p * q + r * s


@njit(nogil=True)
def additions(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """Four chains of additions for each entry."""
    for _ in range(repetitions):
        for i in range(out.size):
            p = q = r = s = x[0, i]
            for _ in range(8):
                p, q, r, s = p + F(0.5), q + F(0.6), r + F(0.7), s + F(0.8)
            out[i] = (p + q) + (r + s)


@njit(nogil=True, fastmath={"contract"})
def mixture(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """Two chains of multiply-adds and two of additions: some processors add beside their multipliers."""
    for _ in range(repetitions):
        for i in range(out.size):
            v, p, q = x[0, i], F(0.1), F(0.2)
            r = s = v
            for _ in range(8):
                p, q, r, s = p * v + F(0.5), q * v + F(0.6), r + F(0.7), s + F(0.8)
            out[i] = (p + q) + (r + s)


@njit(nogil=True, error_model="numpy")
def quotients(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """One division an entry."""
    for _ in range(repetitions):
        for i in range(out.size):
            out[i] = x[0, i] / x[1, i]


@njit(nogil=True)
def roots(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """One square root an entry."""
    for _ in range(repetitions):
        for i in range(out.size):
            out[i] = math.sqrt(x[0, i])


@njit(nogil=True)
def loads(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """Eight loads an entry, summed."""
    for _ in range(repetitions):
        for i in range(out.size):
            left = (x[0, i] + x[1, i]) + (x[2, i] + x[3, i])
            out[i] = left + ((x[4, i] + x[5, i]) + (x[6, i] + x[7, i]))


@njit(nogil=True)
def stores(x: np.ndarray, out: np.ndarray, repetitions: int) -> None:
    """One store an entry, of a sum, because a plain copy becomes a call of memcpy."""
    for _ in range(repetitions):
        for i in range(out.size):
            out[i] = x[0, i] + F(0.5)


@njit(nogil=True, fastmath={"contract"})
def stream(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """McCalpin 1995, the STREAM triad: two numbers read and one written."""
    for i in range(out.size):
        out[i] = a[i] + F(3.0) * b[i]


def measure_speeds(threads: int) -> Speeds:
    """Measure all of it on `threads` cores: a few seconds, most of them compilation."""
    with ThreadPoolExecutor(threads) as pool:
        fused, sums, both, quotient, root, read, write = (
            (iterations_per_second(loop, threads, pool), hottest_loop(loop))
            for loop in (multiply_adds, additions, mixture, quotients, roots, loads, stores)
        )
        return Speeds(
            threads=threads,
            width=fused[1].width,
            vector=max(rate * loop.vector_work for rate, loop in (fused, sums, both)),
            multiply=fused[0] * (fused[1].counts["fma"] + fused[1].counts.get("mul", 0)),
            divide=quotient[0] * quotient[1].counts["div"],
            sqrt=root[0] * root[1].counts["sqrt"],
            load=read[0] * read[1].reads,
            store=write[0] * write[1].writes,
            bandwidth=bandwidth(threads, pool),
        )


def iterations_per_second(function: Inner, threads: int, pool: ThreadPoolExecutor) -> float:
    """Iterations of the unrolled vector loop, per second and core."""
    arrays = [(aligned(ROWS, LENGTH), aligned(1, LENGTH)[0]) for _ in range(threads)]

    def run(repetitions: int) -> float:
        return wall_seconds(pool, lambda i: function(*arrays[i], repetitions), threads)

    run(1)  # compiles
    repetitions = 64
    while run(repetitions) < TRY_SECONDS:
        repetitions *= 2
    fastest = min(run(repetitions) for _ in range(TRIES))
    return repetitions * LENGTH / hottest_loop(function).entries() / fastest


def bandwidth(threads: int, pool: ThreadPoolExecutor) -> float:
    """Bytes per second of the triad over arrays that no cache holds."""
    length = STREAM_BYTES // 4
    a, b, out = (np.ones(length, dtype=F) for _ in range(3))
    parts = list(zip(*(np.array_split(array, threads) for array in (a, b, out)), strict=True))

    def run() -> float:
        return wall_seconds(pool, lambda i: stream(*parts[i]), threads)

    run()
    return 3 * STREAM_BYTES / min(run() for _ in range(3))


def wall_seconds(pool: ThreadPoolExecutor, work: Callable[[int], Any], threads: int) -> float:
    """Seconds until all threads have done their part."""
    start = time.perf_counter()
    for _ in pool.map(work, range(threads)):
        continue
    return time.perf_counter() - start


def aligned(rows: int, length: int) -> np.ndarray:
    """Random float32 in [0.1, 0.5) of shape (rows, length) whose rows begin at a cache line."""
    space = np.empty(rows * length * 4 + ALIGNMENT, dtype=np.uint8)
    offset = -space.ctypes.data % ALIGNMENT
    array = space[offset : offset + rows * length * 4].view(F).reshape(rows, length)
    array[:] = np.random.default_rng(0).uniform(0.1, 0.5, array.shape)
    return array
