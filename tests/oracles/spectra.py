"""Spectral quantities by their textbook definitions, in float64 numpy."""

from __future__ import annotations

import numpy as np


def alignment(K, Y, centered=False):
    """⟨K, YYᵀ⟩ / (‖K‖ ‖YYᵀ‖) with the n×n matrices written out; Y is (n, o)."""
    if centered:
        H = np.eye(len(K)) - np.full_like(K, 1 / len(K))
        K, Y = H @ K @ H, H @ Y
    target = Y @ Y.T
    return np.sum(K * target) / np.sqrt(np.sum(K * K) * np.sum(target * target))


def kernel_distance(K1, K2):
    """1 minus the cosine."""
    return 1 - np.sum(K1 * K2) / np.sqrt(np.sum(K1 * K1) * np.sum(K2 * K2))


def energy(K, phi):
    """‖P_k φ‖² / ‖φ‖² with the projectors P_k on the top k eigenvectors written out."""
    values, vectors = np.linalg.eigh(K)
    vectors = vectors[:, np.argsort(values)[::-1]]
    out = []
    for k in range(1, len(K) + 1):
        projector = vectors[:, :k] @ vectors[:, :k].T
        out.append(np.sum((projector @ phi) ** 2) / np.sum(phi**2))
    return np.array(out)


def effective_rank(K):
    """exp of the entropy of the normalised eigenvalues of a positive definite kernel."""
    p = np.linalg.eigvalsh(K)
    p = p / p.sum()
    return np.exp(-np.sum(p * np.log(p)))
