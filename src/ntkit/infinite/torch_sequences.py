"""What the instructions of sequences do with torch: embeddings, and zeros by a mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.infinite import program as ops
from ntkit.infinite import torch_positions as positions
from ntkit.infinite.placement import Grid
from ntkit.infinite.torch_registers import Moments, Pairing, Place, Register, Side, Within
from ntkit.infinite.torch_steps import moments, pair_step
from ntkit.nn.sequences import position_covariance

# ---- zeros by a mask -------------------------------------------------------------------------------------------------


@moments.register
def _(op: ops.MaskedFill, side: Side, place: Place, found: Within | None) -> Moments:
    assert side.mask is not None
    before = side.registers[op.source]
    kept = side.mask.to(before.second)
    return Moments(kept * before.second, None if before.mean is None else kept * before.mean)


@pair_step.register
def _(
    op: ops.MaskedFill, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    before = registers[op.source].laid_out(place.diagonal)
    q1, q2 = positions.across(*pairing.second(op.source), before.distance)
    k1, k2 = positions.across(*pairing.kept(before.distance), before.distance)
    distance = k1 * k2 * before.distance + k1 * (1 - k2) * q1 + (1 - k1) * k2 * q2
    return Register(distance, None if before.ntk is None else k1 * k2 * before.ntk)


# ---- embeddings ------------------------------------------------------------------------------------------------------


@moments.register
def _(op: ops.EmbedTokens, side: Side, place: Place, found: Within | None) -> Moments:
    tokens = side.x.permute(0, *op.position_axes).flatten(1)
    if bool((tokens < 0).any()) or bool((tokens >= op.vocabulary).any()):
        raise InvalidInput(
            f"'{op.path}' has vectors for tokens 0 to {op.vocabulary - 1}, but {int(tokens.min())} to "
            f"{int(tokens.max())} arrive; make the vocabulary larger, or leave these tokens out"
        )
    second = torch.ones_like(tokens)
    if op.padding is not None:
        second = second.masked_fill(tokens == op.padding, 0.0)
    return Moments(second, tokens=tokens)


@pair_step.register
def _(
    op: ops.EmbedTokens, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    tokens = pairing.held(place.register, "tokens")
    shape = tokens[0][..., None] if place.diagonal else tokens[0][..., None, None]
    one, two = positions.across(*pairing.across(*tokens), shape)
    q1, q2 = positions.across(*pairing.second(place.register), shape)
    distance = (q1 + q2).masked_fill(one == two, 0.0)  # the vector of a padding token is 0, and so are its q and s
    return Register(distance, torch.zeros_like(distance) if want_ntk else None)


@moments.register
def _(op: ops.EmbedPositions, side: Side, place: Place, found: Within | None) -> Moments:
    return Moments(torch.ones_like(side.registers[op.source].second))


@pair_step.register
def _(
    op: ops.EmbedPositions, pairing: Pairing, place: Place, registers: Mapping[int, Register], want_ntk: bool
) -> Register:
    like = registers[op.source].laid_out(place.diagonal).distance
    covariance = _between_positions(place.grid, op.correlation_length, like)
    distance = (2 * (1 - covariance)).expand_as(like)
    return Register(distance, torch.zeros_like(like) if want_ntk else None)


def _between_positions(grid: Grid, correlation_length: float, like: Tensor) -> Tensor:
    if like.ndim == 3:
        return torch.ones(1, 1, 1, dtype=like.dtype, device=like.device)
    return position_covariance(grid, correlation_length).to(like)[None, :, None, :]
