"""The sections of arora-cntk's page, one file each; `series.py` holds what they share."""

from ntkit.experiments.reproductions.arora.sections.accuracy import accuracy_section
from ntkit.experiments.reproductions.arora.sections.cost import cost_section
from ntkit.experiments.reproductions.arora.sections.images import images_section

__all__ = ["accuracy_section", "cost_section", "images_section"]
