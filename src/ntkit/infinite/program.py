"""What a kernel's computation is: a short list of instructions, each writing one register.

A register holds, for every pair of samples and every pair (p, p') of their positions, the squared distance D and the
tangent kernel T, and for every sample and position the second moment q; the covariance is s = (q + q' − D)/2. Vectors
have one position. Rules emit instructions, interpreters execute them; neither knows the other's side. Sizes of images
are not known here: `placement.py` puts a program on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from ntkit.architecture.specs import Activation, Number
from ntkit.architecture.windows import PoolAxis, WindowAxis

Scale = Literal["shared", "own"] | None


@dataclass(frozen=True)
class Instruction:
    """Writes the register whose number is its place in the program."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Registers that it reads."""
        return ()

    @property
    def masked_registers(self) -> tuple[int, ...]:
        """Registers of whose tokens the mask says which are there."""
        return ()

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        return self


@dataclass(frozen=True)
class Read(Instruction):
    """The data: s[p, p'] = x_p · x'_p' / c and D = |x_p − x'_p'|² / c over the c channels, T = 0.

    Args:
        features: values a position where a layer states it, else None; of flattened data, values a sample.
        flatten: whether the model flattens what comes, so that there are no positions.
        channel_axis: the axis that holds the channels, batch axis counted; None for vectors.
        position_axes: the axes of positions, in the order of the grid.
    """

    features: int | None = field(compare=False)
    flatten: bool
    channel_axis: int | None = None
    position_axes: tuple[int, ...] = ()


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

    weight_variance: Number
    bias_variance: Number
    weight_rate: Number
    bias_rate: Number

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """All four in the order of the arguments, in a program without gradients in scales."""
        return float(self.weight_variance), float(self.bias_variance), float(self.weight_rate), float(self.bias_rate)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients in its scales are wanted."""
        return any(isinstance(n, Tensor) and n.requires_grad for n in (self.weight_variance, self.bias_variance))


@dataclass(frozen=True)
class Dual(OfOne):
    """σ(x) for a Gaussian x: q and D by the dual activation, T ← T · E[σ'σ'].

    Args:
        source: register of x.
        activation: σ.
        path: where it stands in the model, for errors.
        scale: what a trained scale γ = 1 of x, one a channel, adds to T: nothing (None), E[∂γσ(γu) ∂γσ(γv)] between
            all positions ("shared"), or at equal positions only, where each has a scale of its own ("own").
    """

    activation: Activation
    path: str = field(compare=False)
    scale: Scale = None


@dataclass(frozen=True)
class Normalize(OfOne):
    """x/R with R = √(Q + ε): q ← q/R², D ← (D + (R' − R)(q/R − q'/R'))/(R R'), T ← T/(R R').

    R tends to a number as the channels become many, so training moves it no more than one channel does, not at all.

    Args:
        source: register of x.
        eps: ε.
        over_positions: whether Q is the mean of the second moment over positions, else that of each position.
        path: where it stands in the model, for errors.
    """

    eps: float
    over_positions: bool
    path: str = field(compare=False)


@dataclass(frozen=True)
class ScaleAndShift(OfOne):
    """γ x + β with γ = 1 and β = 0, one a channel: T ← T + scale_rate s + shift_rate.

    Args:
        source: register of x.
        scale_rate: 1 where γ trains.
        shift_rate: 1 where β trains.
        shared: whether all positions have one γ and β; else T grows at equal positions only.
    """

    scale_rate: float
    shift_rate: float
    shared: bool


@dataclass(frozen=True)
class Mask(OfOne):
    """x m/k with P(m = 1) = k, else m = 0: q ← q/k; a sample with itself, at one position: s ← s/k, D ← D/k, T ← T/k.

    Different samples, and different positions, have independent masks: s and T stay, and D ← D + (1/k − 1)(q + q').

    Args:
        source: register of x.
        keep: k.
        whole_channels: whether one mask serves all positions of a channel.
    """

    keep: float
    whole_channels: bool


@dataclass(frozen=True)
class Window(OfOne):
    """The mean over a convolution's taps a of both positions together: K'[P, P'] = 1/k Σ_a K[p_a(P), p_a(P')].

    Where a tap has no position, outside of an image or between the inputs of a transposed convolution, the value is 0:
    s is 0 there, and D is the second moment of the other position.

    Args:
        source: register of x.
        axes: the window, one entry an axis of positions.
    """

    axes: tuple[WindowAxis, ...]

    @property
    def taps(self) -> int:
        """k, positions in a window."""
        return math.prod(axis.kernel for axis in self.axes)


@dataclass(frozen=True)
class Pool(OfOne):
    """Weighted sums over positions of each sample: K'[P, P'] = factor² Σ_p Σ_p' W[P, p] W[P', p'] K[p, p'].

    Args:
        source: register of x.
        axes: W = the Kronecker product of one matrix an axis.
        factor: multiplies the value.
    """

    axes: tuple[PoolAxis, ...]
    factor: float = 1.0


@dataclass(frozen=True)
class Mix(OfOne):
    """Sums over positions with weights W of each sample's own: K'[P, P'] = Σ_p Σ_p' W_x[P, p] W_x'[P', p'] K[p, p']."""

    @property
    def is_average(self) -> bool:
        """Whether the weights are those of a mean, Σ_p W[P, p] = 1."""
        return True


@dataclass(frozen=True)
class Attend(Mix):
    """Weights of attention: W[P, p] = mechanism(score_scale · K_y[P, p]) with the covariance of y within each sample.

    Training moves the keys by so little that W stays, so T is mixed like K.

    Args:
        source: register of x, which the values are made of.
        keys: register of y, which keys and queries are made of.
        mechanism: a name in ntkit.nn.mechanisms.
        score_scale: factor on the scores.
        masked: whether tokens that are not there have no weight.
    """

    keys: int
    mechanism: str
    score_scale: float
    masked: bool

    @property
    def sources(self) -> tuple[int, ...]:
        """The registers of x and y."""
        return self.source, self.keys

    @property
    def is_average(self) -> bool:
        """Of softmax."""
        return self.mechanism == "softmax"

    @property
    def masked_registers(self) -> tuple[int, ...]:
        """The register of y, where there is a mask."""
        return (self.keys,) if self.masked else ()

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        return replace(self, source=new[self.source], keys=new[self.keys])


@dataclass(frozen=True)
class MaskedMean(Mix):
    """The mean over the tokens that are there; the result is a vector's."""

    @property
    def masked_registers(self) -> tuple[int, ...]:
        """The register of x."""
        return (self.source,)


@dataclass(frozen=True)
class MaskedFill(OfOne):
    """0 at tokens that are not there: s and T are 0 where either is not, D is the other's q."""

    @property
    def masked_registers(self) -> tuple[int, ...]:
        """The register of x."""
        return (self.source,)


@dataclass(frozen=True)
class EmbedTokens(Instruction):
    """A random vector a token of the data: s = 1 where the tokens are equal, else D = 2; T = 0.

    Args:
        position_axes: the axes of positions of the data.
        vocabulary: tokens are below this.
        padding: the token whose vector is 0; None for none.
        path: where it stands in the model, for errors.
    """

    position_axes: tuple[int, ...]
    vocabulary: int
    padding: int | None
    path: str = field(compare=False)


@dataclass(frozen=True)
class EmbedPositions(OfOne):
    """A random vector a position, the same for all samples: s = R[p, p'], D = 2 (1 − R[p, p']), T = 0.

    Args:
        source: a register with the positions; its values are not read.
        correlation_length: ℓ in R[p, p'] = exp(−|p − p'|²/(2 ℓ²)); 0 for R = 1 at equal positions and 0 elsewhere.
    """

    correlation_length: float


@dataclass(frozen=True)
class Trace(OfOne):
    """The mean over the positions that two flattened images share: K' = 1/P Σ_p K[p, p]; the result is a vector's."""


@dataclass(frozen=True)
class Combine(Instruction):
    """K' = Σ wᵢ Kᵢ for q, D and T alike: sums of independent values (wᵢ = cᵢ²) and channels side by side (shares).

    Independent values that have means add products of means: for each (i, j, c), 2 c mᵢ mⱼ to q and
    2 c (mᵢ − mᵢ')(mⱼ − mⱼ') to D.

    Args:
        terms: registers of the values.
        weights: the wᵢ.
        mean_products: (register i, register j, cᵢ cⱼ) of every two terms that may both have a mean other than 0.
    """

    terms: tuple[int, ...]
    weights: tuple[float, ...]
    mean_products: tuple[tuple[int, int, float], ...] = ()

    @property
    def sources(self) -> tuple[int, ...]:
        """The registers of the values; those of means are among them."""
        return self.terms

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        products = tuple((new[i], new[j], c) for i, j, c in self.mean_products)
        return replace(self, terms=tuple(new[t] for t in self.terms), mean_products=products)


@dataclass(frozen=True)
class Multiply(Instruction):
    """x y of two independent values: q ← qₓ q_y, s ← sₓ s_y, T ← Tₓ s_y + sₓ T_y.

    D ← ½ (qₓ − qₓ')(q_y − q_y') + ½ (Qₓ D_y + Q_y Dₓ − Dₓ D_y) with Q = q + q'.

    Args:
        one: register of x.
        two: register of y.
    """

    one: int
    two: int

    @property
    def sources(self) -> tuple[int, ...]:
        """The registers of x and y."""
        return self.one, self.two

    def renumbered(self, new: Mapping[int, int]) -> Instruction:
        """The instruction with registers {old: new}."""
        return replace(self, one=new[self.one], two=new[self.two])


@dataclass(frozen=True)
class Program:
    """Instructions in order, and the registers that are the results.

    Args:
        instructions: each writes the register of its own number.
        outputs: one register a result of the model.
    """

    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def without_dead_code(self) -> Program:
        """The same program without instructions that no output depends on."""
        needed = set(self.outputs)
        for i in range(len(self.instructions) - 1, -1, -1):
            if i in needed:
                needed.update(self.instructions[i].sources)
        new = {old: place for place, old in enumerate(sorted(needed))}
        kept = tuple(self.instructions[old].renumbered(new) for old in sorted(needed))
        return Program(kept, tuple(new[output] for output in self.outputs))

    @property
    def requires_grad(self) -> bool:
        """Whether gradients in some layer's scales are wanted."""
        return any(isinstance(op, Affine) and op.requires_grad for op in self.instructions)

    def last_uses(self) -> dict[int, int]:
        """register -> the last instruction that reads it."""
        uses = {i: i for i in range(len(self.instructions))}
        for i, instruction in enumerate(self.instructions):
            uses.update(dict.fromkeys(instruction.sources, i))
        uses.update(dict.fromkeys(self.outputs, len(self.instructions)))
        return uses

    def __str__(self) -> str:
        return "\n".join(f"r{i} = {instruction}" for i, instruction in enumerate(self.instructions))
