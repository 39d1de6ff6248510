"""Empirical tangent kernels: k(x, x') = ∂f(x)/∂θ · ∂f(x')/∂θᵀ of one network with the parameters it has now.

`kernel.py` is the face, `engine.py` what it calls. `network.py` is the model as a function of its parameters, and
`projection.py` what of its outputs is wanted; `graph.py` finds where its outputs read them, `rules.py` is what is known
of each operation. `assign.py` says which parameters rules cover, and `proof.py` proves it; `passes.py` and `costs.py`
choose how; `routes.py` and `groups.py` take derivatives, `contraction.py` multiplies them, `geometry.py` centres and
normalises.

Without the kernel's entries: `operator.py` is the kernel as a linear map, `tangent.py` the derivative it is made of.
`expansion.py` expands a model in its parameters, `gradients.py` gives per-sample gradients and their features.
"""

from ntkit.empirical.costs import ParameterPlan, Plan
from ntkit.empirical.expansion import linearize, taylor_expand
from ntkit.empirical.gradients import empirical_nngp, gradient_features, per_sample_gradients
from ntkit.empirical.kernel import EmpiricalKernel, empirical_ntk
from ntkit.empirical.operator import NTKOperator

__all__ = [
    "EmpiricalKernel",
    "NTKOperator",
    "ParameterPlan",
    "Plan",
    "empirical_nngp",
    "empirical_ntk",
    "gradient_features",
    "linearize",
    "per_sample_gradients",
    "taylor_expand",
]
