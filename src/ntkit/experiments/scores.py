"""How good predictions are: accuracy for classes, R² for real targets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ntkit.data import Dataset


def metric_name(data: Dataset) -> str:
    """ "accuracy" or "R2"."""
    return "accuracy" if data.task == "classification" else "R2"


def chance(data: Dataset) -> float:
    """The test score of the best constant prediction: the commonest training class, or R² = 0."""
    if data.task == "regression":
        return 0.0
    commonest = np.bincount(data.y_train, minlength=len(data.classes)).argmax()
    return float((data.y_test == commonest).mean())


def score(data: Dataset, predicted: Float[np.ndarray, "m o"], targets: Float[np.ndarray, "m o"]) -> float:
    """The score of predictions for `targets` (one-hot rows, possibly centred, or real values)."""
    if data.task == "classification":
        return float((predicted.argmax(1) == targets.argmax(1)).mean())
    spread = ((targets - targets.mean(axis=0)) ** 2).sum()
    return float(1 - ((predicted - targets) ** 2).sum() / max(spread, np.finfo(np.float64).tiny))
