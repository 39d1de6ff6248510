"""ntkit shows how a neural network learns: exact and empirical tangent kernels, spectra, predicted training.

    kernel = ntkit.InfiniteKernel(model)       # the network's exact infinite-width kernel
    K = kernel.ntk(x)                          # (n, n)
    ntkit.dynamics.max_learning_rate(K)        # the largest stable learning rate

Names are loaded when first used, so that `import ntkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that holds it
_HOMES = {
    "EmpiricalKernel": "ntkit.empirical",
    "InfiniteKernel": "ntkit.infinite",
    "NTKOperator": "ntkit.empirical",
    "Spectrum": "ntkit.spectra",
    "alignment": "ntkit.spectra",
    "center": "ntkit.nn",
    "empirical_nngp": "ntkit.empirical",
    "empirical_ntk": "ntkit.empirical",
    "gradient_features": "ntkit.empirical",
    "kernel_distance": "ntkit.spectra",
    "linearize": "ntkit.empirical",
    "ntk_parameterize": "ntkit.nn",
    "per_sample_gradients": "ntkit.empirical",
    "spectrum": "ntkit.spectra",
    "study": "ntkit.experiments",
    "taylor_expand": "ntkit.empirical",
}
_FOLDERS = (
    "data", "dynamics", "empirical", "errors", "experiments", "infinite", "matrix_free", "nn", "spectra", "testing",
    "theory",
)  # fmt: skip

__all__ = ["__version__", *_FOLDERS, *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # the redundant aliases say that these are public
    from ntkit import data as data
    from ntkit import dynamics as dynamics
    from ntkit import empirical as empirical
    from ntkit import errors as errors
    from ntkit import experiments as experiments
    from ntkit import infinite as infinite
    from ntkit import matrix_free as matrix_free
    from ntkit import nn as nn
    from ntkit import spectra as spectra
    from ntkit import testing as testing
    from ntkit import theory as theory
    from ntkit.empirical import EmpiricalKernel as EmpiricalKernel
    from ntkit.empirical import NTKOperator as NTKOperator
    from ntkit.empirical import empirical_nngp as empirical_nngp
    from ntkit.empirical import empirical_ntk as empirical_ntk
    from ntkit.empirical import gradient_features as gradient_features
    from ntkit.empirical import linearize as linearize
    from ntkit.empirical import per_sample_gradients as per_sample_gradients
    from ntkit.empirical import taylor_expand as taylor_expand
    from ntkit.experiments import study as study
    from ntkit.infinite import InfiniteKernel as InfiniteKernel
    from ntkit.nn import center as center
    from ntkit.nn import ntk_parameterize as ntk_parameterize
    from ntkit.spectra import Spectrum as Spectrum
    from ntkit.spectra import alignment as alignment
    from ntkit.spectra import kernel_distance as kernel_distance
    from ntkit.spectra import spectrum as spectrum


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _FOLDERS:
        value = import_module(f"ntkit.{name}")
    else:
        raise AttributeError(f"module 'ntkit' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
