"""Averages over positions that come before anything but linear maps of channels: averages of the data, which are data.

Σ_p W[P, p] (A x_p + b) = A (Σ_p W[P, p] x_p) + b where Σ_p W[P, p] = 1. So an attention layer's weights, found from its
keys, may be put on the data themselves, whose pairs cost one product of as many numbers as there are channels, with
nothing that cancels, where W K W'ᵀ costs two products of as many as there are positions, for D and for T.
"""

from __future__ import annotations

from dataclasses import replace

from ntkit.infinite.flow import holds_data
from ntkit.infinite.program import Affine, Instruction, Mix, Program


def averages_first(program: Program) -> Program:
    """The same program with averages before linear maps where those read the data."""
    instructions: list[Instruction] = []
    new: dict[int, int] = {}
    for i, op in enumerate(program.instructions):
        op = op.renumbered(new)
        maps = _maps_before(Program(tuple(instructions), ()), op)
        if maps:
            assert isinstance(op, Mix)
            op = replace(op, source=maps[0].source)
        instructions.append(op)
        for linear in maps:
            instructions.append(replace(linear, source=len(instructions) - 1))
        new[i] = len(instructions) - 1
    return Program(tuple(instructions), tuple(new[output] for output in program.outputs)).without_dead_code()


def _maps_before(program: Program, op: Instruction) -> list[Affine]:
    """The linear maps of a program between the data and an average, in order; none where it is no average of such."""
    if not (isinstance(op, Mix) and op.is_average):
        return []
    maps: list[Affine] = []
    register = op.source
    while isinstance(linear := program.instructions[register], Affine):
        maps.insert(0, linear)
        register = linear.source
    return maps if holds_data(program, register) else []
