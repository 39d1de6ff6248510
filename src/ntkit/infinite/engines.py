"""Which engine computes a kernel: the one place that chooses.

"numba" is the compiled engine: CPU, all cores, float32 or float64. "torch" runs on any device and gives gradients with
respect to the inputs and the layers' scales, in float64. "auto" takes numba wherever it can.
"""

from __future__ import annotations

from typing import Literal

import torch

from ntkit.errors import InvalidInput
from ntkit.infinite import dual as duals
from ntkit.infinite import program as ops
from ntkit.infinite.placement import Placement

Engine = Literal["auto", "numba", "torch"]


def chosen(engine: str, placement: Placement, tolerance: float, *data: torch.Tensor) -> Literal["numba", "torch"]:
    """The engine to use for a placed program on these data.

    Raises:
        InvalidInput: no such engine, or the one asked for cannot compute this.
    """
    if engine not in ("auto", "numba", "torch"):
        raise InvalidInput(f'engine must be "auto", "numba" or "torch", got {engine!r}')
    if engine == "torch":
        return "torch"
    obstacle = _obstacle(placement, tolerance, data)
    if obstacle is None:
        return "numba"
    if engine == "numba":
        raise InvalidInput(f'engine="numba" cannot compute this kernel: {obstacle}; use engine="torch" or "auto"')
    return "torch"


def _obstacle(placement: Placement, tolerance: float, data: tuple[torch.Tensor, ...]) -> str | None:
    """Why the compiled engine cannot compute a kernel; None where it can."""
    for x in data:
        if x.requires_grad:
            return "the input requires grad"
        if x.device.type != "cpu":
            return f"the input is on {x.device}"
    if placement.program.requires_grad:
        return "a layer's scale requires grad"
    for i, op in enumerate(placement.program.instructions):
        if isinstance(op, ops.Dual) and not isinstance(duals.dual(op.activation, tolerance), duals.ClosedForm):
            return f"the dual of {op.activation.name} at '{op.path}' is found by quadrature"
        if isinstance(op, ops.Multiply):
            return "the model multiplies two branches"
        if isinstance(op, (ops.Mix, ops.MaskedFill, ops.EmbedTokens, ops.EmbedPositions)):
            return "the model has attention, embeddings or a mask"
        if isinstance(op, ops.Mask):
            return "the model has dropout in training mode"
        own = (isinstance(op, ops.ScaleAndShift) and not op.shared) or (isinstance(op, ops.Dual) and op.scale == "own")
        if own and not placement.is_diagonal(i):
            return "a normalisation layer has a trained scale or shift for every position"
        if isinstance(op, ops.Dual) and op.scale is not None and _scale_derivative(op, tolerance) is None:
            return f"{op.activation.name} at '{op.path}' has no rule for a trained scale before it"
        moves = isinstance(op, (ops.Window, ops.Pool))
        if moves and placement.positions(op.source) == 1 and placement.positions(i) > 1:
            return "a layer makes several positions of one"
    return None


def _scale_derivative(op: ops.Dual, tolerance: float) -> object:
    return getattr(duals.dual(op.activation, tolerance), "scale_derivative", None)
