"""What a program's registers are made of: which pairs are needed of which, and where tangent kernels begin."""

from __future__ import annotations

from ntkit.infinite.program import Affine, Attend, Dual, Mix, Pool, Program, Read, ScaleAndShift


def holds_data(program: Program, register: int) -> bool:
    """Whether a register's values are the data, or sums of them over positions."""
    op = program.instructions[register]
    return isinstance(op, Read) or (isinstance(op, Mix) and holds_data(program, op.source))


def sources_of_pairs(program: Program, register: int) -> tuple[int, ...]:
    """Registers whose pairs those of a register are made of; keys of attention, and data, are each sample's own."""
    op = program.instructions[register]
    if holds_data(program, register):
        return ()
    return (op.source,) if isinstance(op, Mix) else op.sources


def needed_for_pairs(program: Program) -> frozenset[int]:
    """Registers that pairs of samples need."""
    needed = set(program.outputs)
    for i in range(len(program.instructions) - 1, -1, -1):
        if i in needed:
            needed.update(sources_of_pairs(program, i))
    return frozenset(needed)


def needed_alone(program: Program) -> frozenset[int]:
    """Registers whose pairs of each sample with itself tell what mixes positions what it takes from each sample."""
    needed: set[int] = set()
    for i in range(len(program.instructions) - 1, -1, -1):
        op = program.instructions[i]
        if isinstance(op, Attend):
            needed.add(op.keys)
        if i in needed or isinstance(op, (Mix, Pool)):
            needed.update(sources_of_pairs(program, i))
    return frozenset(needed)


def registers_with_tangents(program: Program, wanted: bool) -> list[bool]:
    """Which registers have a tangent kernel other than 0; none where it is not wanted."""
    found: list[bool] = []
    for i, op in enumerate(program.instructions):
        own = isinstance(op, Affine) and any(op.numbers[2:])
        own = own or isinstance(op, ScaleAndShift) or (isinstance(op, Dual) and op.scale is not None)
        found.append(wanted and (own or any(found[source] for source in sources_of_pairs(program, i))))
    return found
