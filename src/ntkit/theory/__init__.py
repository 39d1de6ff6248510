"""Closed results: spectra of fully connected networks over the cube, the sphere and Gaussian inputs; learning curves.

`recursion.py` gives a network's kernels for pairs of inputs, `on_cube.py`, `on_sphere.py` and `on_gaussian.py` what
lies in each degree, `degrees.py` what comes back, `depths.py` how that depends on depth and scales. `learning.py`
predicts errors
from any spectrum.
"""

from __future__ import annotations

from ntkit.theory.degrees import DegreeSpectrum, TheorySpectrum
from ntkit.theory.depths import DepthGrid, depth_grid
from ntkit.theory.learning import LearningCurve, learning_curve, pool_learning_curve
from ntkit.theory.on_cube import boolean_cube
from ntkit.theory.on_gaussian import gaussian
from ntkit.theory.on_sphere import sphere

__all__ = [
    "DegreeSpectrum",
    "DepthGrid",
    "LearningCurve",
    "TheorySpectrum",
    "boolean_cube",
    "depth_grid",
    "gaussian",
    "learning_curve",
    "pool_learning_curve",
    "sphere",
]
