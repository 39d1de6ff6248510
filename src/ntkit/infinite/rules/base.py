"""From specs to a program, with the Gaussian bookkeeping that says when a limit exists.

The dual of an activation assumes a Gaussian input. So every value carries where it comes from. It is a list of blocks
of channels (`cat` puts them side by side); in a block each channel is a linear combination Σ cᵢ xᵢ of outputs of affine
layers (Gaussian, and independent of each other in the limit), of activations' outputs (not Gaussian), and of the data.
Only what is known to be right is compiled; everything else raises. The books themselves are in `values.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch
from itertools import combinations
from typing import Any

from torch import Tensor

from ntkit.architecture.network import Network
from ntkit.architecture.specs import Layer, Spec
from ntkit.errors import InvalidInput, NtkitError, UnsupportedLayer
from ntkit.infinite.averages import averages_first
from ntkit.infinite.program import Affine, Combine, Instruction, OfOne, Program, ScaleAndShift
from ntkit.infinite.rules.values import Block, Kind, Support, Term, Value, covariance_of, single


class Builder:
    """Collects the instructions of one network; equal instructions share a register."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.path = ""
        self._shared: dict[tuple[Instruction, object], int] = {}

    def emit(self, instruction: Instruction, *, shared: bool = True, of: object = None) -> int:
        """The register that `instruction` writes.

        Args:
            instruction: what to compute.
            shared: whether an equal instruction's register is reused (not for layers with parameters).
            of: what the register holds, where equal kernels may belong to different values (h − g and h + g).
        """
        self._require_instruction(instruction)
        if shared and (instruction, of) in self._shared:
            return self._shared[instruction, of]
        self.instructions.append(instruction)
        self._shared[instruction, of] = len(self.instructions) - 1
        return len(self.instructions) - 1

    def _require_instruction(self, instruction: Any) -> None:
        """Rules come from outside too."""
        who, number = f"the rule of the layer at '{self.path}'", len(self.instructions)
        if not isinstance(instruction, Instruction):
            raise InvalidInput(f"{who} must emit instructions of ntkit.infinite.program, got {instruction!r}")
        wrong = [source for source in instruction.sources if not isinstance(source, int) or not 0 <= source < number]
        if wrong:
            raise InvalidInput(
                f"{who} emits {type(instruction).__name__}, which reads the register {wrong[0]!r}, and there are 0 to "
                f"{number - 1}; take registers from builder.emit, builder.settle or builder.gaussian"
            )
        if isinstance(instruction, Combine) and len(instruction.terms) != len(instruction.weights):
            raise InvalidInput(
                f"{who} emits Combine, which takes one weight for each of {len(instruction.terms)} registers, got "
                f"{len(instruction.weights)}"
            )
        if isinstance(instruction, Affine):
            for name in ("weight_variance", "bias_variance", "weight_rate", "bias_rate"):
                value = getattr(instruction, name)
                if not isinstance(value, Tensor) and not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                    raise InvalidInput(f"{who} emits Affine, whose {name} must be a finite number >= 0, got {value!r}")

    def single(
        self, instruction: Instruction, kind: Kind, support: Support | None = None, channels: int | None = None
    ) -> Value:
        """The value that `instruction` computes, as one term; affine outputs are their own support."""
        register = self.emit(instruction, shared=kind != "affine")
        support = frozenset({(register, 0)}) if support is None else support
        return single(Term(register, kind, support, f"the {_NOUNS[kind]} at '{self.path}'"), channels)

    def each_term(self, value: Value, instruction: OfOne, verb: str) -> Value:
        """A linear map of positions, applied to every term alone so that the books stay right.

        Args:
            value: what is mapped.
            instruction: the map; its source is set for every term.
            verb: what it does, for errors.
        """

        def mapped(term: Term) -> Term:
            if term.scale is not None and term.scale[1] == "own":
                term = self._with_scale(term)
            register = self.emit(replace(instruction, source=term.register))
            return replace(term, register=register, what=f"{term.what}, {verb} at '{self.path}'")

        return value.mapped(mapped)

    def settle(self, value: Value, *, is_output: bool = False) -> int:
        """The register with the mean covariance over all channels of `value`.

        Args:
            value: what is read.
            is_output: whether it is the model's output, and no layer reads it.

        Raises:
            UnsupportedLayer: the covariance between two of its terms is not known, or it does not settle down to a
                number as layers get wide.
        """
        value = value.mapped(self._with_scale)
        (first, *others) = value.blocks
        if not others and len(first.terms) == 1 and first.terms[0][1] == 1.0:
            return first.terms[0][0].register
        for block in value.blocks:
            self._require_independent(block)
            if not is_output:
                self._require_wide(block)
        return self.emit(Combine(*covariance_of(value)), of=value)

    def gaussian(self, value: Value) -> int:
        """The register of a value that an activation's dual may read: Gaussian, with one kernel for all channels.

        Raises:
            UnsupportedLayer: it is not Gaussian, its channels are of several layers, or a normalisation layer scales
                it by trained numbers, whose part of the tangent kernel only activations have a rule for.
        """
        who = f"the layer at '{self.path}'"
        if len(value.blocks) > 1:
            raise UnsupportedLayer(f"{who} reads channels of different layers side by side, which have no one kernel")
        culprit = next((block.not_gaussian for block in value.blocks), None)
        scaled = [term for term in value.terms if term.scale is not None or term.scaled is not None]
        if culprit is not None:
            source = "the data" if culprit.kind == "input" else culprit.what
            raise UnsupportedLayer(
                f"{who} reads {source}, which is not Gaussian in the limit; put a linear layer or a convolution between"
            )
        if scaled:
            raise UnsupportedLayer(
                f"{who} reads what a normalisation layer scales by trained numbers, whose part of the tangent kernel "
                "has no rule there; freeze the scale with requires_grad_(False), or put a linear layer between"
            )
        return self.settle(value)

    def _with_scale(self, term: Term) -> Term:
        """The term with what its trained scale adds to the tangent kernel, which is exact for all but activations."""
        if term.scale is None:
            return term
        path, kind = term.scale
        register = self.emit(ScaleAndShift(term.register, 1.0, 0.0, kind == "shared"))
        return replace(term, register=register, scale=None, scaled=path)

    def _require_independent(self, block: Block) -> None:
        """Terms over different channels of layers are independent, up to their means; affine ones have none."""
        where = block.path or self.path
        for (first, _), (second, _) in combinations(block.terms, 2):
            kinds = {first.kind, second.kind}
            if "input" in kinds and kinds != {"affine", "input"}:
                other = second if first.kind == "input" else first
                what = "a pooled or flattened form of the data" if kinds == {"input"} else other.what
                raise UnsupportedLayer(
                    f"'{where}' adds the data and {what}, whose covariance is not a function of kernels; put a linear "
                    "layer on both branches"
                )
            if "mixed" in kinds and kinds <= {"mixed", "activation"}:
                raise UnsupportedLayer(
                    f"'{where}' adds {first.what} and {second.what}, and the product of their means is not known; put "
                    "a linear layer on one of the branches"
                )
            if first.support & second.support:
                raise UnsupportedLayer(
                    f"'{where}' adds two values that depend on the output of the same layer ({first.what} and "
                    f"{second.what}), so their covariance is not known; put a linear layer on one of the branches"
                )

    def _require_wide(self, block: Block) -> None:
        """A layer reads a mean over channels; of the data and a layer there are as many as the data have.

        (x + y)·(x' + y')/c with y of c random channels has a variance of order 1/c: only the data alone have none.
        """
        kinds = {term.kind for term, _ in block.terms}
        if len(kinds) > 1 and "input" in kinds:
            other = next(term for term, _ in block.terms if term.kind != "input")
            raise UnsupportedLayer(
                f"'{block.path or self.path}' adds the data and {other.what}, and '{self.path}' reads the sum, which "
                "has as few channels as the data, so that its kernel stays random however wide other layers are; put "
                "a linear layer or a convolution between the data and the sum"
            )


_NOUNS: dict[Kind, str] = {
    "affine": "layer",
    "activation": "activation",
    "input": "data",
    "flattened": "flattened value",
    "masked": "dropout",
    "mixed": "sum",
}


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
        "ntkit.infinite.register_layer, or take ntkit.infinite.monte_carlo_kernel, the mean kernel of random finite "
        "networks"
    )


def _value_of(spec: Spec, inputs: list[Value], builder: Builder) -> Value:
    """What a rule says; where one from outside fails, the error names it."""
    try:
        value: Any = rule(spec, inputs, builder)
    except NtkitError:
        raise
    except Exception as error:  # of a rule from outside, which may raise anything
        if not isinstance(spec, Layer):
            raise
        raise InvalidInput(
            f"the rule of {spec.name} at '{builder.path}' fails: {type(error).__name__}: {error}; it takes (spec, "
            "inputs, builder), inputs a list of values, and returns what builder.single gives"
        ) from error
    if not isinstance(value, Value):
        raise InvalidInput(
            f"the rule of {spec.name} at '{builder.path}' must return an ntkit.infinite.rules.Value, got {value!r}; "
            "return what builder.single gives"
        )
    return value


def compile_network(network: Network) -> Program:
    """The program that computes the network's kernels, one for each output.

    Args:
        network: a traced network whose scales are all known.

    Raises:
        UnsupportedLayer: a layer has no rule or no limit (the message names its path), or an output depends on no
            layer with weights.
    """
    builder = Builder()
    values: list[Value] = []
    for node in network.nodes:
        builder.path = node.path
        values.append(_value_of(node.spec, [values[i] for i in node.inputs], builder))
    outputs: list[int] = []
    for node in network.outputs:
        builder.path = network.nodes[node].path
        outputs.append(_output(values[node], builder))
    return averages_first(Program(tuple(builder.instructions), tuple(outputs)))


def _output(value: Value, builder: Builder) -> int:
    if len({block.terms for block in value.blocks}) > 1:
        raise UnsupportedLayer(
            f"the model's output at '{builder.path}' holds channels of different layers side by side, which have "
            "different kernels; return them as a tuple, which gives a kernel for each"
        )
    register = builder.settle(value, is_output=True)
    program = Program(tuple(builder.instructions), (register,)).without_dead_code()
    if not any(isinstance(instruction, Affine) for instruction in program.instructions):
        raise UnsupportedLayer(
            "the model has no layer with weights between its input and its output, so it has no kernel; put a linear "
            "layer in it, such as ntkit.nn.Linear"
        )
    return register
