"""Published experiments again: `reproduce(name)`, one file an experiment.

`registry.py` is the list of them, `experiment.py` says what one is, `claims.py` what it is judged by.
`run_reproduction.py` runs one into a folder; `gram_blocks.py` and `working_folder.py` let a long one go on after an
interruption; `ridgeless.py` is kernel regression as the papers do it; `reproduction_page.py` writes the page.
"""

from ntkit.experiments.reproductions.claims import Claim, Control
from ntkit.experiments.reproductions.registry import EXPERIMENTS
from ntkit.experiments.reproductions.run_reproduction import Reproduction, reproduce

__all__ = ["EXPERIMENTS", "Claim", "Control", "Reproduction", "reproduce"]
