"""The study: how will this network learn these data? One function a question in `study_parts.py`.

`training_runs.py` trains, `learning_rates.py`, `training_curves.py` and `kernel_machines.py` predict and compare,
`run_study.py` puts them together, `study_page.py` shows them.
"""

from ntkit.experiments.run_study import StudyResult, study

__all__ = ["StudyResult", "study"]
