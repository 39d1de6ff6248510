"""From specs to a program, with the Gaussian bookkeeping that says when a limit exists.

The dual of an activation assumes a Gaussian input. So every value carries where it comes from: a linear combination
Σ cᵢ xᵢ of outputs of affine layers (Gaussian, and independent of each other in the limit), of activations' outputs
(not Gaussian), and of the data. Only what is known to be right is compiled; everything else raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Literal

from ntkit.architecture.network import Network
from ntkit.architecture.specs import Spec
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.program import Affine, Combine, Instruction, Program

Kind = Literal["affine", "activation", "input"]


@dataclass(frozen=True)
class Term:
    """One summand: the value in a register.

    Args:
        register: where it is.
        kind: an affine layer's output, an activation's output, or the data.
        support: registers of the affine layers it is a function of; for the data, empty.
        path: where it stands in the model.
    """

    register: int
    kind: Kind
    support: frozenset[int]
    path: str = field(compare=False)


@dataclass(frozen=True)
class Value:
    """Σ coefficient · term, each term once."""

    terms: tuple[tuple[Term, float], ...]

    @property
    def is_gaussian(self) -> bool:
        """Whether every summand is an affine layer's output."""
        return all(term.kind == "affine" for term, _ in self.terms)

    @property
    def support(self) -> frozenset[int]:
        """Affine layers whose outputs it is a function of."""
        return frozenset().union(*(term.support for term, _ in self.terms))


class Builder:
    """Collects the instructions of one network; equal instructions share a register."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.path = ""

    def emit(self, instruction: Instruction, *, shared: bool = True) -> int:
        """The register that `instruction` writes; `shared` reuses an equal one (not for layers with parameters)."""
        if shared and instruction in self.instructions:
            return self.instructions.index(instruction)
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def single(self, instruction: Instruction, kind: Kind, support: frozenset[int] | None = None) -> Value:
        """The value that `instruction` computes, as one term; affine outputs are their own support."""
        register = self.emit(instruction, shared=kind != "affine")
        term = Term(register, kind, frozenset({register}) if support is None else support, self.path)
        return Value(((term, 1.0),))

    def settle(self, value: Value) -> int:
        """The register that holds `value`, after a proof that the covariances between its terms are known."""
        if len(value.terms) == 1 and value.terms[0][1] == 1.0:
            return value.terms[0][0].register
        ordered = sorted(value.terms, key=lambda pair: pair[0].register)  # x + y and y + x are the same program
        terms = [term for term, _ in ordered]
        for i, first in enumerate(terms):
            for second in terms[i + 1 :]:
                self._require_independent(first, second)
        with_mean = tuple(term.register for term in terms if term.kind == "activation")
        registers, coefficients = tuple(t.register for t in terms), tuple(c for _, c in ordered)
        return self.emit(Combine(registers, coefficients, with_mean if len(with_mean) > 1 else ()))

    def _require_independent(self, first: Term, second: Term) -> None:
        """Outputs of distinct affine layers are independent; so are functions of different ones, up to their means."""
        kinds = {first.kind, second.kind}
        if kinds == {"affine"} or kinds == {"affine", "input"}:
            return
        if "input" in kinds:
            raise UnsupportedLayer(
                f"'{self.path}' adds the data and the activation at '{self._name(first, second)}', whose covariance is "
                "not a function of kernels; put a linear layer on one of the branches"
            )
        if first.support & second.support:
            raise UnsupportedLayer(
                f"'{self.path}' adds two values that depend on the output of the same layer ('{first.path}' and "
                f"'{second.path}'), so their covariance is not known; put a linear layer on one of the branches"
            )

    @staticmethod
    def _name(first: Term, second: Term) -> str:
        return first.path if first.kind == "activation" else second.path


@singledispatch
def rule(spec: Spec, inputs: list[Value], builder: Builder) -> Value:
    """What a layer does to a kernel; registered by the spec's type.

    Args:
        spec: the layer.
        inputs: the values that it reads.
        builder: takes the instructions.

    Returns:
        The value that it computes.

    Raises:
        UnsupportedLayer: no rule is registered, or the limit does not exist.
    """
    raise UnsupportedLayer(
        f"{spec.name} at '{builder.path}' has no rule for its exact kernel; register one with "
        f"ntkit.infinite.rules.rule.register({type(spec).__name__})"
    )


def compile_network(network: Network) -> Program:
    """The program that computes the network's kernel.

    Args:
        network: a traced network whose scales are all known.

    Raises:
        UnsupportedLayer: a layer has no rule or no limit (the message names its path), or no layer has weights.
    """
    builder = Builder()
    values: list[Value] = []
    for node in network.nodes:
        builder.path = node.path
        values.append(rule(node.spec, [values[i] for i in node.inputs], builder))
    output = builder.settle(values[network.output])
    program = Program(tuple(builder.instructions), output).without_dead_code()
    if not any(isinstance(instruction, Affine) for instruction in program.instructions):
        raise UnsupportedLayer(
            "the model has no layer with weights between its input and its output, so it has no kernel; put a linear "
            "layer in it, such as ntkit.nn.Linear"
        )
    return program
