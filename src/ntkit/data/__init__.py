"""Data sets by name: read from local files or shipped samples, checked, and preprocessed by named steps.

    data = ntkit.data.load("mnist", n_train=1000, classes=[0, 1])
    data = ntkit.data.apply_steps(data, ["flatten", "standardize"])

`registry.py` turns a name into a loader; there is one file a format (`idx`, `cifar`, `arrays_file`, `tables`,
and `samples` for what libraries ship); `selection.py` chooses the samples, `steps.py` holds the
preprocessing.
"""

from __future__ import annotations

from ntkit.data.dataset import Dataset, one_hot
from ntkit.data.registry import KNOWN_SETS, load, sets_in
from ntkit.data.steps import STEPS, Fitted, apply_steps

__all__ = ["KNOWN_SETS", "STEPS", "Dataset", "Fitted", "apply_steps", "load", "one_hot", "sets_in"]
