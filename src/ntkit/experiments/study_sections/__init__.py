"""The study's page, one file a question: each makes its sentence, its figures and its table from the findings.

They draw with matplotlib, so they are imported only when a page is written.
"""

from ntkit.experiments.study_sections.curves import curves_section
from ntkit.experiments.study_sections.data_needed import data_needed_section
from ntkit.experiments.study_sections.machines import machines_section
from ntkit.experiments.study_sections.rates import rates_section
from ntkit.experiments.study_sections.regime import regime_section
from ntkit.experiments.study_sections.spectra import spectra_section

SECTIONS = (rates_section, curves_section, regime_section, spectra_section, machines_section, data_needed_section)

__all__ = [
    "SECTIONS",
    "curves_section",
    "data_needed_section",
    "machines_section",
    "rates_section",
    "regime_section",
    "spectra_section",
]
