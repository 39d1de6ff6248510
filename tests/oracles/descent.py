"""Training on a kernel by definition, in float64 numpy: step by step, or one matrix exponential a moment."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm


def flattened(K):
    """(m, n, o, o) to (m·o, n·o) by its definition, entry by entry."""
    m, n, o, _ = K.shape
    out = np.zeros((m * o, n * o))
    for i in range(m):
        for j in range(n):
            for a in range(o):
                for b in range(o):
                    out[i * o + a, j * o + b] = K[i, j, a, b]
    return out


def simulate(K, y, rate, steps, momentum=0.0, f0=None, K_test=None, f0_test=None):
    """Heavy ball in the dual from v = 0, v ← m v + (f − y), f ← f − rate K v, at all of 0, …, steps."""
    f = np.zeros_like(y) if f0 is None else f0.copy()
    g = None
    if K_test is not None:
        g = np.zeros((len(K_test), *y.shape[1:])) if f0_test is None else f0_test.copy()
    v = np.zeros_like(y)
    train, test = [f.copy()], [None if g is None else g.copy()]
    for _ in range(steps):
        v = momentum * v + (f - y)
        f = f - rate * K @ v
        if g is not None:
            g = g - rate * K_test @ v
        train.append(f.copy())
        test.append(None if g is None else g.copy())
    return np.stack(train), None if g is None else np.stack(test)


def flow(K, y, speed, times, f0, K_test, f0_test):
    """The linear ODE d/dt (f − y) = −s K (f − y), dg/dt = −s K_test (f − y), as one matrix exponential."""
    n, m = len(K), len(K_test)
    generator = np.zeros((n + m, n + m))
    generator[:n, :n], generator[n:, :n] = -speed * K, -speed * K_test
    state = np.concatenate([f0 - y, f0_test])
    states = np.stack([expm(generator * t) @ state for t in times])
    return states[:, :n] + y, states[:, n:]
