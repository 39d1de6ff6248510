"""Training predicted from a kernel: how outputs move, by flow or descent, and which rates are stable.

`problem.py` checks the inputs, `losses.py` says what a loss does to the speed, `modes.py` holds each
eigenmode's closed form, `flow.py` and `descent.py` the two public predictions, `stability.py` the largest
stable rate, `trajectory.py` what comes back. Nothing here asks where a kernel came from.
"""

from __future__ import annotations

from ntkit.dynamics.descent import gradient_descent
from ntkit.dynamics.flow import gradient_flow
from ntkit.dynamics.stability import max_learning_rate
from ntkit.dynamics.trajectory import Trajectory

__all__ = ["Trajectory", "gradient_descent", "gradient_flow", "max_learning_rate"]
