"""Rules: what each layer spec does to a kernel, as instructions. One layer family a file.

`rule(spec, inputs, builder)` is registered by the spec's type; adding a layer is one more registration.
"""

from ntkit.infinite.rules import affine, elementwise, normalization, sequences, structure
from ntkit.infinite.rules.base import Builder, compile_network, rule
from ntkit.infinite.rules.values import Block, Term, Value

__all__ = [
    "Block",
    "Builder",
    "Term",
    "Value",
    "affine",
    "compile_network",
    "elementwise",
    "normalization",
    "rule",
    "sequences",
    "structure",
]
