"""The network as data: `trace(model)` turns an nn.Module into a tuple of frozen layer specs.

`specs` says which layers exist, `expressions` what an elementwise function is, `lowering` which torch modules,
functions and methods mean which of them, and `tracing` proves that no parameter was left out.
"""

from ntkit.architecture.expressions import VARIABLE, Expression, apply_expression
from ntkit.architecture.lowering import register_elementwise
from ntkit.architecture.network import Network, Node
from ntkit.architecture.tracing import trace

__all__ = ["VARIABLE", "Expression", "Network", "Node", "apply_expression", "register_elementwise", "trace"]
