"""The sections of the page of `kopitkov`, one a file."""

from ntkit.experiments.reproductions.kopitkov.sections.alignment import alignment_section
from ntkit.experiments.reproductions.kopitkov.sections.depth import depth_section
from ntkit.experiments.reproductions.kopitkov.sections.edge import edge_section
from ntkit.experiments.reproductions.kopitkov.sections.eigenfunctions import eigenfunctions_section
from ntkit.experiments.reproductions.kopitkov.sections.first_order import first_order_section
from ntkit.experiments.reproductions.kopitkov.sections.others import others_section
from ntkit.experiments.reproductions.kopitkov.sections.output import output_section
from ntkit.experiments.reproductions.kopitkov.sections.picture import picture_section

__all__ = [
    "alignment_section",
    "depth_section",
    "edge_section",
    "eigenfunctions_section",
    "first_order_section",
    "others_section",
    "output_section",
    "picture_section",
]
