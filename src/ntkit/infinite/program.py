"""What a kernel's computation is: a short list of instructions, each writing one register.

A register holds, for every pair of samples, the squared distance D and the tangent kernel T, and for every sample the
second moment q; the covariance is (q + q' − D)/2. Rules emit instructions, interpreters execute them; neither knows
the other's side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ntkit.architecture.specs import Activation


@dataclass(frozen=True)
class Instruction:
    """Writes the register whose number is its place in the program."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Registers that it reads."""
        return ()

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        return self


@dataclass(frozen=True)
class Read(Instruction):
    """The data: q = |x|²/d, D = |x − x'|²/d, T = 0.

    Args:
        features: d where a reshape or a linear layer states it, else None.
        flatten: whether the model flattens what comes.
    """

    features: int | None = field(compare=False)
    flatten: bool


@dataclass(frozen=True)
class OfOne(Instruction):
    """An instruction that reads one register.

    Args:
        source: register of x.
    """

    source: int

    @property
    def sources(self) -> tuple[int, ...]:
        """The register of x."""
        return (self.source,)

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        return replace(self, source=new[self.source])


@dataclass(frozen=True)
class Affine(OfOne):
    """z = W x + b: q ← w q + b, D ← w D, T ← weight_rate · s + bias_rate + w T.

    Args:
        source: register of x.
        weight_variance: w, variance of the weights times the fan-in.
        bias_variance: b.
        weight_rate: how fast trained weights move the output, per unit of the covariance s of x.
        bias_rate: the same for the bias.
    """

    weight_variance: float
    bias_variance: float
    weight_rate: float
    bias_rate: float


@dataclass(frozen=True)
class Dual(OfOne):
    """σ(x) for a Gaussian x: q and D by the dual activation, T ← T · E[σ'σ'].

    Args:
        source: register of x.
        activation: σ.
        path: where it stands in the model, for errors.
    """

    activation: Activation
    path: str = field(compare=False)


@dataclass(frozen=True)
class Combine(Instruction):
    """Σ cᵢ xᵢ of values that are independent: q ← Σ cᵢ² qᵢ, D ← Σ cᵢ² Dᵢ, T ← Σ cᵢ² Tᵢ, and products of means.

    Args:
        terms: registers of the xᵢ.
        coefficients: the cᵢ.
        with_mean: which of them may have a mean that is not 0 (outputs of activations).
    """

    terms: tuple[int, ...]
    coefficients: tuple[float, ...]
    with_mean: tuple[int, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """The registers of the xᵢ."""
        return self.terms

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        return replace(self, terms=tuple(new[t] for t in self.terms), with_mean=tuple(new[t] for t in self.with_mean))


@dataclass(frozen=True)
class Program:
    """Instructions in order, and the register that is the result."""

    instructions: tuple[Instruction, ...]
    output: int

    def without_dead_code(self) -> Program:
        """The same program without instructions that the output does not depend on."""
        needed = {self.output}
        for i in range(len(self.instructions) - 1, -1, -1):
            if i in needed:
                needed.update(self.instructions[i].sources)
        new = {old: place for place, old in enumerate(sorted(needed))}
        kept = tuple(self.instructions[old].renumbered(new) for old in sorted(needed))
        return Program(kept, new[self.output])

    def last_uses(self) -> dict[int, int]:
        """register -> the last instruction that reads it."""
        uses = {i: i for i in range(len(self.instructions))}
        for i, instruction in enumerate(self.instructions):
            uses.update(dict.fromkeys(instruction.sources, i))
        uses[self.output] = len(self.instructions)
        return uses

    def __str__(self) -> str:
        return "\n".join(f"r{i} = {instruction}" for i, instruction in enumerate(self.instructions))
