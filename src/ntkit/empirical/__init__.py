"""Empirical tangent kernels: k(x, x') = ∂f(x)/∂θ · ∂f(x')/∂θᵀ of one network with the parameters it has now.

`kernel.py` is the face, `engine.py` what it calls. `network.py` is the model as a function of its parameters,
`layer_rules.py` what is known of each layer family. `assign.py` proves which parameters a rule covers,
`routes.py` takes derivatives, `contraction.py` multiplies them, `costs.py` chooses how.
"""

from ntkit.empirical.costs import ParameterPlan, Plan
from ntkit.empirical.kernel import EmpiricalKernel, empirical_ntk
from ntkit.empirical.operator import NTKOperator

__all__ = ["EmpiricalKernel", "NTKOperator", "ParameterPlan", "Plan", "empirical_ntk"]
