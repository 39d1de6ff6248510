"""The network as data: `trace(model)` turns an nn.Module into a tuple of frozen layer specs.

`specs` says which layers exist, `windows` which positions they read, `expressions` what an elementwise function is and
`lowering` how it may be written, `layout` what the axes of a tensor hold. `dispatch` hands each recorded operation to
the read_* file that knows it, `outside` and `read_outside` hold what users declare and `probe` tries it, `sizes` says
which data fit, and `tracing` proves that no parameter was left out.
"""

from ntkit.architecture.expressions import VARIABLE, Expression, apply_expression
from ntkit.architecture.network import Network, Node
from ntkit.architecture.outside import register_elementwise
from ntkit.architecture.sizes import Sizes, sizes_of
from ntkit.architecture.tracing import trace

__all__ = [
    "VARIABLE",
    "Expression",
    "Network",
    "Node",
    "Sizes",
    "apply_expression",
    "register_elementwise",
    "sizes_of",
    "trace",
]
