"""Means of finite networks' kernels over random draws, with standard errors: what has no exact kernel.

`estimate.py` is the face. `networks.py` draws networks, `draw.py` takes the kernels of one, `moments.py` keeps mean and
scatter; `run.py` is what is known after some draws, `identity.py` what it was computed for, `checkpoint.py` its file.
"""

from ntkit.infinite.monte_carlo.estimate import monte_carlo_kernel
from ntkit.infinite.monte_carlo.run import MonteCarloKernels

__all__ = ["MonteCarloKernels", "monte_carlo_kernel"]
