"""What a kernel prefers: its eigenpairs, how a target lies in them, and how far two kernels are apart.

`symmetric.py` checks and flattens kernels, `maps.py` knows them by their products, `eigensolvers.py` has all their
eigenpairs, `block_lanczos.py` a few, `decompose.py` holds `spectrum`, `eigen.py` what it gives, `density.py` the
density of eigenvalues, `decay.py` how fast they fall, `similarity.py` `alignment` and `kernel_distance`. Nothing here
asks where a kernel came from.
"""

from __future__ import annotations

from ntkit.spectra.decay import PowerLaw
from ntkit.spectra.decompose import spectrum
from ntkit.spectra.density import SpectralDensity, spectral_density
from ntkit.spectra.eigen import Spectrum
from ntkit.spectra.similarity import alignment, kernel_distance

__all__ = [
    "PowerLaw",
    "SpectralDensity",
    "Spectrum",
    "alignment",
    "kernel_distance",
    "spectral_density",
    "spectrum",
]
