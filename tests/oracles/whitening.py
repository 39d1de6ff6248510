"""Whitening in textbook form: eigenvectors of the covariance, with 1/n, in float64."""

from __future__ import annotations

import numpy as np


def zca(x_train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(x − mean) C^(−½), C the covariance of x_train (of full rank)."""
    mean = x_train.mean(axis=0)
    covariance = (x_train - mean).T @ (x_train - mean) / len(x_train)
    values, vectors = np.linalg.eigh(covariance)
    return (x - mean) @ vectors @ np.diag(values**-0.5) @ vectors.T
