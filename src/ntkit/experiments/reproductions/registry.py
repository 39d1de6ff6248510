"""The experiments by name. Adding one is writing its file and adding it here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ntkit.errors import InvalidInput
from ntkit.experiments.reproductions.arora.cntk import ARORA_CNTK
from ntkit.experiments.reproductions.experiment import SCALES, Experiment
from ntkit.experiments.reproductions.kopitkov.alignment import KOPITKOV
from ntkit.experiments.reproductions.learning_curves.measure import LEARNING_CURVES
from ntkit.experiments.reproductions.yang.boolean import YANG_BOOLEAN
from ntkit.experiments.reproductions.yang.depth import YANG_DEPTH
from ntkit.experiments.reproductions.yang.learning_rate import YANG_LEARNING_RATE

_ALL = (
    ARORA_CNTK,
    KOPITKOV,
    YANG_BOOLEAN,
    YANG_DEPTH,
    YANG_LEARNING_RATE,
    LEARNING_CURVES,
)
EXPERIMENTS: Mapping[str, Experiment] = {experiment.name: experiment for experiment in _ALL}


def find(name: str, scale: str) -> tuple[Experiment, Any]:
    """An experiment and its configuration at a scale.

    Raises:
        InvalidInput: there is no such experiment or scale.
    """
    if name not in EXPERIMENTS:
        close = get_close_matches(str(name), EXPERIMENTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InvalidInput(f"there is no experiment {name!r}; there are: {', '.join(EXPERIMENTS)}{hint}")
    if scale not in SCALES:
        raise InvalidInput(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    return EXPERIMENTS[name], EXPERIMENTS[name].scales[scale]
