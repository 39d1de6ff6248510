"""Empirical tangent kernels: k(x, x') = ∂f(x)/∂θ · ∂f(x')/∂θᵀ of one network with the parameters it has now.

`kernel.py` is the face, `engine.py` what it calls. `network.py` is the model as a function of its parameters;
`graph.py` finds where its outputs read them, `rules.py` is what is known of each operation. `assign.py` says which
parameters rules cover, and `proof.py` proves it; `routes.py` and `groups.py` take derivatives, `contraction.py`
multiplies them, `costs.py` chooses how.
"""

from ntkit.empirical.costs import ParameterPlan, Plan
from ntkit.empirical.kernel import EmpiricalKernel, empirical_ntk
from ntkit.empirical.operator import NTKOperator

__all__ = ["EmpiricalKernel", "NTKOperator", "ParameterPlan", "Plan", "empirical_ntk"]
