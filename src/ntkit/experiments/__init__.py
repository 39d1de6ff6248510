"""The study: how will this network learn these data? One function a question in `study_parts.py`. And published
experiments again, in `reproductions/`.

`training_runs.py` trains, `learning_rates.py`, `training_curves.py` and `kernel_machines.py` predict and compare,
`run_study.py` puts them together, `study_page.py` shows them.
"""

from ntkit.experiments.reproductions import EXPERIMENTS, Claim, Control, Reproduction, reproduce
from ntkit.experiments.run_study import StudyResult, study

__all__ = ["EXPERIMENTS", "Claim", "Control", "Reproduction", "StudyResult", "reproduce", "study"]
