"""What a kernel prefers: its eigenpairs, how a target lies in them, and how far two kernels are apart.

`symmetric.py` checks and flattens kernels, `eigensolvers.py` is dense and Lanczos linear algebra, `eigen.py`
holds `spectrum`, `similarity.py` holds `alignment` and `kernel_distance`. Nothing here asks where a kernel
came from.
"""

from __future__ import annotations

from ntkit.spectra.eigen import Spectrum, spectrum
from ntkit.spectra.similarity import alignment, kernel_distance

__all__ = ["Spectrum", "alignment", "kernel_distance", "spectrum"]
