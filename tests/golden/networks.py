"""The networks whose exact kernels are compared with neural-tangents, as data.

At most three share a feature. Sizes are odd and unequal wherever a feature allows it, and no number of samples is a
multiple of 16. Dilation and layers that are not trained are missing because neural-tangents has neither.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from golden.steps import (
    Activation,
    AdaptivePool,
    Attention,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    GlobalPool,
    Heads,
    Norm,
    Pool,
    Scale,
    Shape,
    Steps,
    Sum,
    every,
)

MASKED = 127  # all channels of a token that is not there have this value


@dataclass(frozen=True)
class Network:
    """One network and the sizes at which it is compared.

    Args:
        name: unique.
        feature: what it is there for.
        shape: of one sample.
        steps: what the network does.
        n1: samples of x1.
        n2: samples of x2.
        mirrored: neural-tangents gets the images mirrored along every axis. Its 'SAME' puts the odd pixel of padding
            on the right, where torch's strided windows leave it on the left; the rest of such a network is symmetric.
    """

    name: str
    feature: str
    shape: Shape
    steps: Steps
    n1: int = 5
    n2: int = 3
    mirrored: bool = False

    @property
    def compiled(self) -> bool:
        """Whether the compiled engine computes it: attention has one engine."""
        return not any(isinstance(step, Attention) for step in every(self.steps))

    @property
    def masked(self) -> bool:
        """Whether some tokens are not there."""
        return any(getattr(step, "masked", False) for step in every(self.steps))

    @property
    def outputs(self) -> tuple[Steps, ...]:
        """The steps that lead to each output."""
        last = self.steps[-1]
        return tuple(self.steps[:-1] + branch for branch in last.branches) if isinstance(last, Heads) else (self.steps,)

    @property
    def fully_connected(self) -> bool:
        """Whether no position is ever looked at."""
        return isinstance(self.steps[0], (Dense, Flatten))

    @property
    def fingerprint(self) -> str:
        """A short digest of everything above: golden values belong to one description."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


RELU, LEAKY = Activation("ReLU"), Activation("LeakyReLU", (0.2,))
ERF, GELU, ABS, SIGN = Activation("Erf"), Activation("GELU"), Activation("Abs"), Activation("Sign")
SIN, COS = Activation("Sin", (1.2, 0.8, 0.3)), Activation("Cos", (0.9, 1.1, 0.4))
GAUSSIAN, SQUARE = Activation("Gaussian", (1.1, -0.5)), Activation("Monomial", (2,))

BENT, SIGMOID_LIKE = Activation("ABReLU", (-0.3, 1.2)), Activation("Erf", (0.5, 1 / 2.4020563531719796, 0.5))
CUBIC, QUARTIC = (
    Activation("Polynomial", ((0.3, -0.7, 0.2, 0.1),)),
    Activation("Polynomial", ((1.0, 0.0, -0.4, 0, 0.1),)),
)
HERMITE_3, HERMITE_4, EXP = Activation("Hermite", (3,)), Activation("Hermite", (4,)), Activation("Exp")

CONV, POINTWISE, DENSE = Conv(3, padding=1), Conv(1), Dense()
BARE = Conv(3, padding=1, w_std=1.0, b_std=0.0)
CALM = Conv(3, padding=1, w_std=0.5)
WRAP = Conv(3, padding=1, circular=True)
HALVING = Conv(3, 2, 1)
UNIT = Norm(eps=0.0)
HALF = Pool(2, 2)
FLAT, GAP = (Flatten(), DENSE), (GlobalPool(), DENSE)

RESIDUAL = Sum(((), (RELU, CONV, RELU, CONV)))
SCALED = Sum(((Scale(0.8),), (RELU, CONV, RELU, BARE, Scale(-0.6))))
STRIDED = Sum(((Conv(1, 2),), (HALVING, RELU, CONV)))  # reads what an activation gave
GROWTH = Concat(((), (CONV, RELU)))  # the input and a convolution of it, side by side
DENSE_RESIDUAL = Sum(((), (RELU, DENSE, RELU, DENSE)))

CONVOLUTIONS = (
    Network("same-flatten", "zero padding", (3, 5, 7), (CONV, RELU, CONV, RELU, *FLAT)),
    Network("same-gap", "zero padding", (2, 7, 5), (BARE, RELU, BARE, RELU, GlobalPool(), Dense(1.0, 0.0))),
    Network("same-many", "zero padding", (3, 4, 5), (CONV, RELU, CONV, RELU, *GAP), 17, 2),
    Network("valid-flatten", "no padding", (3, 9, 6), (Conv(3), RELU, Conv(3), RELU, *FLAT)),
    Network("valid-gap", "no padding", (4, 7, 8), (Conv(3), RELU, Conv(3), RELU, *GAP)),
    Network("circular-gap", "periodic images", (3, 5, 7), (WRAP, RELU, WRAP, RELU, *GAP)),
    Network("circular-even", "periodic images", (2, 6, 5), (Conv((2, 4), 1, "same", True), RELU, WRAP, RELU, *FLAT)),
    Network("circular-strided", "periodic images", (2, 9, 7), (Conv(3, 2, 1, True), RELU, WRAP, RELU, *GAP)),
    Network("stride-2-valid", "stride", (3, 9, 8), (Conv(3, 2), RELU, CONV, RELU, *FLAT)),
    Network("stride-2", "stride", (3, 9, 7), (CONV, RELU, HALVING, RELU, CONV, RELU, *GAP)),
    Network("stride-3", "stride", (2, 7, 10), (Conv(3, 3, 1), RELU, CONV, RELU, *GAP), 17, 2),
    Network("stride-2-even", "stride on even sizes", (3, 8, 6), (CONV, RELU, HALVING, RELU, *GAP), mirrored=True),
    Network("stride-2-kernel-4", "stride on even sizes", (2, 8, 6), (Conv(4, 2, 1), RELU, CONV, RELU, *FLAT)),
    Network("stride-2-1", "unequal strides", (3, 9, 6), (Conv((3, 2), (2, 1)), RELU, Conv(2, (1, 2)), RELU, *GAP)),
    Network("stride-3-2", "unequal strides", (2, 10, 7), (CONV, RELU, Conv(3, (3, 2), 1), RELU, *FLAT)),
    Network("even-same", "even kernels", (3, 5, 6), (Conv(2, 1, "same"), RELU, Conv(4, 1, "same"), RELU, *GAP)),
    Network("even-valid", "even kernels", (2, 9, 7), (Conv(4), RELU, Conv(2), RELU, *FLAT)),
    Network("kernel-5", "large kernels", (3, 7, 6), (Conv(5, 1, 2), RELU, Conv(5, 1, 2), RELU, *GAP)),
    Network("kernel-5-strided", "large kernels", (3, 9, 7), (Conv(5, 2, 2), RELU, CONV, RELU, *FLAT)),
    Network("pointwise-gap", "kernels of one pixel", (3, 5, 4), (POINTWISE, RELU, POINTWISE, RELU, *GAP)),
    Network("pointwise-flatten", "kernels of one pixel", (3, 5, 4), (CONV, RELU, POINTWISE, RELU, *FLAT)),
    Network("oblong-same", "oblong kernels", (2, 7, 5), (Conv((1, 5), 1, (0, 2)), RELU, CONV, RELU, *GAP)),
    Network("oblong-valid", "oblong kernels", (3, 8, 7), (Conv((5, 2)), RELU, Conv((1, 3)), RELU, *FLAT)),
    Network("signal-flatten", "one axis", (3, 11), (CONV, RELU, CONV, RELU, *FLAT)),
    Network("signal-gap", "one axis", (2, 13), (Conv(5, 2, 2), RELU, CONV, ERF, *GAP), 18, 3),
    Network("signal-pool", "one axis", (4, 12), (CONV, RELU, Pool(3, 2), Conv(2), RELU, *FLAT)),
    Network("deep-flatten", "twenty convolutions", (3, 4, 5), (*(CONV, RELU) * 20, *FLAT)),
    Network("deep-gap", "twenty convolutions", (2, 3, 4), (*(CONV, RELU) * 20, *GAP)),
    Network("deep-erf", "twenty convolutions", (2, 3, 5), (*(CONV, ERF) * 20, *FLAT)),
)

POOLS = (
    Network("pool-2", "average pool", (3, 8, 6), (CONV, RELU, HALF, CONV, RELU, *FLAT)),
    Network("pool-2-odd", "average pool", (2, 7, 5), (CONV, RELU, HALF, CONV, RELU, *GAP)),
    Network("pool-2-3", "average pool", (2, 8, 9), (CONV, RELU, Pool((2, 3), (2, 3)), CONV, RELU, *GAP), 17, 2),
    Network("pool-3-2", "overlapping pool", (3, 9, 8), (CONV, RELU, Pool(3, 2), CONV, RELU, *GAP)),
    Network("pool-3-1", "overlapping pool", (2, 6, 7), (CONV, RELU, Pool(3, 1), CONV, RELU, *FLAT)),
    Network("pool-padded", "padded pool", (3, 5, 7), (CONV, RELU, Pool(3, 1, 1), CONV, RELU, *GAP)),
    Network("pool-uncounted", "padded pool", (3, 7, 9), (CONV, RELU, Pool(3, 2, 1, False), CONV, RELU, *GAP)),
    Network("pool-sum", "sum pool", (2, 8, 6), (CONV, RELU, Pool(2, 2, total=True), CONV, RELU, *FLAT)),
    Network("sum-global", "sum pool", (3, 5, 4), (CONV, RELU, CONV, RELU, GlobalPool(total=True), DENSE)),
    Network("pool-adaptive", "adaptive pool", (3, 6, 9), (CONV, RELU, AdaptivePool((2, 3)), CONV, RELU, *FLAT)),
    Network("pool-of-data", "pool of the data", (3, 8, 7), (HALF, CONV, RELU, CONV, RELU, *GAP)),
    Network("pool-of-affine", "activation after a pool", (3, 8, 7), (CONV, HALF, RELU, CONV, RELU, *GAP)),
    Network(
        "pools-of-affine", "activation after a pool", (2, 9, 8), (CONV, HALF, RELU, CONV, Pool(2, 1), LEAKY, *FLAT)
    ),
    Network("pool-flatten", "flattened pool", (3, 8, 6), (CONV, RELU, CONV, RELU, HALF, *FLAT)),
    Network("pools-flatten", "flattened pool", (2, 11, 7), (CONV, RELU, HALF, CONV, RELU, Pool(3, 1), *FLAT)),
    Network("myrtle", "three pools", (3, 8, 8), (CONV, RELU, *(CONV, RELU, HALF) * 3, *FLAT)),
    Network("pools-odd", "three pools", (3, 11, 9), (*(CONV, RELU, HALF) * 3, *GAP)),
    Network("pools-of-affine-deep", "three pools", (2, 9, 10), (*(CONV, HALF, RELU) * 3, *FLAT, RELU, DENSE)),
    Network("flatten-dense", "dense layers at the end", (3, 5, 6), (CONV, RELU, *FLAT, RELU, DENSE)),
    Network("gap-dense", "dense layers at the end", (2, 7, 5), (CONV, RELU, CONV, RELU, *GAP, ERF, DENSE, RELU, DENSE)),
)

ACTIVATIONS = (
    Network("leaky-gap", "LeakyReLU", (3, 5, 6), (CONV, LEAKY, CONV, LEAKY, *GAP)),
    Network("abs-flatten", "Abs", (2, 7, 5), (CONV, ABS, CONV, ABS, *FLAT)),
    Network("erf-pool", "Erf", (3, 7, 6), (CONV, ERF, HALF, CONV, ERF, *GAP)),
    Network("gelu-gap", "GELU", (3, 5, 4), (CONV, GELU, CONV, GELU, *GAP)),
    Network("gelu-strided", "GELU", (2, 9, 7), (HALVING, GELU, CONV, GELU, *FLAT)),
    Network("sin-pool", "Sin", (3, 6, 5), (CONV, SIN, Pool(2, 1), CONV, SIN, *GAP)),
    Network("cos-flatten", "Cos", (2, 5, 7), (CONV, COS, CONV, COS, *FLAT)),
    Network("gaussian-gap", "Gaussian", (3, 5, 4), (CONV, GAUSSIAN, CONV, GAUSSIAN, *GAP)),
    Network("sign-gap", "Sign", (3, 6, 5), (CONV, SIGN, CONV, SIGN, *GAP)),
    Network("square-flatten", "Monomial", (2, 4, 5), (CONV, SQUARE, CONV, RELU, *FLAT)),
    Network("ab-relu-gap", "ABReLU", (3, 5, 6), (CONV, BENT, CONV, BENT, *GAP)),
    Network("ab-relu-strided", "ABReLU", (2, 9, 7), (HALVING, Activation("ABReLU", (1.5, 0.0)), CONV, BENT, *FLAT)),
    Network("sigmoid-like-pool", "sigmoid-like", (3, 7, 6), (CONV, SIGMOID_LIKE, HALF, CONV, SIGMOID_LIKE, *GAP)),
    Network(
        "sigmoid-like-circular",
        "sigmoid-like",
        (2, 7, 5),
        (Conv((2, 4), 1, "same", True), SIGMOID_LIKE, WRAP, Activation("Erf", (-1.5, 0.7, 0.2)), *FLAT),
    ),
    Network("polynomial-flatten", "Polynomial", (2, 4, 5), (CONV, CUBIC, CONV, RELU, *FLAT)),
    Network("polynomial-pool", "Polynomial", (3, 7, 6), (CONV, QUARTIC, Pool(3, 2), CONV, CUBIC, *GAP)),
    Network("hermite-gap", "Hermite", (3, 5, 4), (CONV, UNIT, HERMITE_3, CONV, UNIT, HERMITE_4, *GAP)),
    Network("hermite-dense", "Hermite", (9,), (*(DENSE, UNIT, HERMITE_4) * 3, DENSE), 17, 4),
    Network("exp-flatten", "Exp", (3, 5, 6), (CALM, EXP, CALM, EXP, *FLAT)),
    Network("exp-strided", "Exp", (2, 9, 7), (Conv((3, 2), 2, w_std=0.4), EXP, Pool(2, 1), CALM, EXP, *GAP)),
    Network("mixed", "several activations", (2, 7, 6), (CONV, ERF, HALF, CONV, LEAKY, CONV, GELU, *FLAT, ABS, DENSE)),
)

BRANCHES = (
    Network("resnet-flatten", "residual blocks", (3, 5, 6), (CONV, RESIDUAL, RESIDUAL, *FLAT)),
    Network("resnet-gap", "residual blocks", (2, 5, 4), (CONV, RESIDUAL, RESIDUAL, RELU, *GAP), 17, 2),
    Network("resnet-pool", "residual blocks", (3, 7, 6), (CONV, RESIDUAL, RELU, HALF, CONV, RESIDUAL, *GAP)),
    Network("resnet-strided", "strided residual", (3, 9, 5), (CONV, RELU, STRIDED, RELU, STRIDED, RELU, *GAP)),
    Network("resnet-strided-flatten", "strided residual", (2, 7, 9), (CONV, RELU, STRIDED, RESIDUAL, *FLAT)),
    Network("resnet-scaled", "scaled branches", (2, 5, 7), (CONV, SCALED, SCALED, RELU, *GAP)),
    Network(
        "three-branches",
        "branches of the data",
        (3, 6, 5),
        (Sum(((CONV,), (POINTWISE, RELU, CONV), (WRAP,))), RELU, *FLAT),
    ),
    Network("densenet-gap", "concatenation", (3, 5, 6), (CONV, RELU, GROWTH, GROWTH, POINTWISE, RELU, *GAP)),
    Network("densenet-pool", "concatenation", (2, 7, 5), (CONV, RELU, GROWTH, HALF, GROWTH, *FLAT)),
    Network(
        "unequal-widths",
        "concatenation",
        (3, 5, 4),
        (Concat(((CONV, RELU), (Conv(5, 1, 2, width=12), ERF))), CONV, RELU, *GAP),
    ),
    Network(
        "heads",
        "several outputs",
        (3, 7, 6),
        (CONV, RELU, Heads((FLAT, (CONV, RELU, *GAP), (HALF, CONV, RELU, *FLAT, RELU, DENSE)))),
    ),
)

FULLY_CONNECTED = (
    Network("dense-3", "three dense layers", (7,), (*(DENSE, RELU) * 3, DENSE), 17, 4),
    Network("dense-3-erf", "three dense layers", (11,), (*(DENSE, ERF) * 3, DENSE)),
    Network("dense-3-images", "three dense layers", (3, 5, 4), (Flatten(), *(DENSE, GELU) * 3, DENSE)),
    Network("dense-10", "ten dense layers", (9,), (*(DENSE, RELU) * 10, DENSE)),
    Network("dense-20", "twenty dense layers", (10,), (*(DENSE, RELU) * 20, DENSE), 17, 4),
    Network("dense-residual", "residual dense layers", (13,), (DENSE, *(DENSE_RESIDUAL,) * 3, RELU, DENSE)),
)

NORM, NORM_ALL = Norm(), Norm(positions=True, eps=0.03)
PRE_NORM = Sum(((), (NORM_ALL, RELU, CONV, NORM, ERF, CONV)))

NORMALISED = (
    Network("norm-dense", "norm of vectors", (7,), (DENSE, NORM, RELU, DENSE, NORM, ERF, DENSE), 17, 4),
    Network("norm-deep", "norm of vectors", (9,), (*(DENSE, NORM, RELU) * 12, DENSE)),
    Network("norm-gap", "norm of channels", (3, 5, 6), (CONV, NORM, RELU, CONV, NORM, RELU, *GAP)),
    Network("norm-flatten", "norm of channels", (2, 9, 7), (HALVING, NORM, RELU, CONV, NORM, ERF, *FLAT)),
    Network("norm-signal", "norm of channels", (3, 11), (CONV, NORM, RELU, Pool(3, 2), CONV, NORM, RELU, *GAP)),
    Network("norm-all-gap", "norm of images", (2, 7, 5), (CONV, NORM_ALL, RELU, HALF, CONV, NORM_ALL, RELU, *GAP)),
    Network("norm-all-flatten", "norm of images", (3, 5, 4), (CONV, NORM_ALL, ERF, CONV, NORM_ALL, RELU, *FLAT)),
    Network("norm-of-pool", "norm of a pool", (3, 8, 7), (CONV, HALF, NORM, RELU, CONV, NORM_ALL, RELU, *FLAT)),
    Network("norm-residual", "norm in residual blocks", (2, 5, 7), (CONV, PRE_NORM, PRE_NORM, RELU, *GAP)),
    Network("norm-residual-flatten", "norm in residual blocks", (3, 4, 5), (WRAP, PRE_NORM, PRE_NORM, *FLAT)),
)

MASKED_GAP = (GlobalPool(masked=True), DENSE)
BLOCK = (Sum(((), (NORM, Attention()))), Sum(((), (NORM, POINTWISE, RELU, POINTWISE))))
SUMMED, JOINED = (Attention(positions=how, in_values=how == "concat") for how in ("sum", "concat"))
BELL = Attention("relu", positions="sum", correlation_length=1.5, in_values=True)

ATTENTION = (
    Network("attention", "attention", (3, 7), (POINTWISE, Attention(), RELU, *GAP)),
    Network("attention-data", "attention", (5, 9), (Attention(score_scale=-0.8, b_std=0.0), *FLAT), 17, 2),
    Network("attention-twice", "attention", (3, 6), (CONV, RELU, Attention(), ERF, Attention("abs"), RELU, *FLAT)),
    Network("attention-identity", "other mechanisms", (4, 5), (POINTWISE, Attention("identity"), RELU, *GAP)),
    Network("attention-relu", "other mechanisms", (2, 8), (CONV, Attention("relu", 0.6), RELU, CONV, *FLAT)),
    Network("attention-abs", "other mechanisms", (3, 5), (POINTWISE, RELU, Attention("abs"), GELU, *GAP)),
    Network("attention-positions", "positions", (3, 6), (POINTWISE, SUMMED, RELU, *GAP)),
    Network("attention-joined", "positions", (5, 7), (POINTWISE, JOINED, ERF, JOINED, RELU, *FLAT)),
    Network("attention-bell", "positions", (3, 9), (POINTWISE, RELU, BELL, RELU, *GAP)),
    Network("attention-blocks", "blocks of a transformer", (3, 7), (POINTWISE, *BLOCK * 3, NORM, *GAP)),
    Network("attention-masked", "masks", (3, 7), (POINTWISE, Attention(masked=True), RELU, *MASKED_GAP)),
    Network(
        "attention-masked-relu",
        "masks",
        (2, 9),
        (POINTWISE, RELU, Attention("relu", masked=True), ERF, Attention("identity", 0.3, masked=True), *MASKED_GAP),
    ),
)

UP, UP_3, DOUBLING, WIDE_UP = (ConvTranspose(*sizes) for sizes in ((2, 2), (3, 2), (3, 2, 1, 1), (4, 2, 1)))
SPARSE, OBLONG = ConvTranspose((1, 3), (3, 1), 0, (2, 0)), ConvTranspose((3, 2), (2, 3), 0, (0, 1))
AUTOENCODER = Sum(((), (RELU, Conv(2, 2), RELU, UP)))

TRANSPOSED = (
    Network("up-flatten", "transposed, no padding", (3, 3, 4), (CONV, RELU, UP_3, RELU, CONV, RELU, *FLAT)),
    Network("up-gap", "transposed, no padding", (2, 3, 2), (UP, RELU, SPARSE, RELU, *GAP)),
    Network("up-many", "transposed, no padding", (3, 2, 3), (OBLONG, RELU, *GAP), 17, 2),
    Network("up-doubling", "doubling", (2, 3, 4), (CONV, RELU, DOUBLING, ERF, CONV, RELU, *GAP), mirrored=True),
    Network("up-kernel-4", "doubling", (3, 3, 2), (WIDE_UP, RELU, WIDE_UP, RELU, *FLAT)),
    Network("up-pool", "doubling", (2, 3, 5), (WIDE_UP, RELU, HALF, CONV, LEAKY, *GAP)),
    Network("up-stride-1", "transposed", (2, 5, 4), (ConvTranspose(3, 1, 1), RELU, ConvTranspose(2), RELU, *GAP)),
    Network("up-kernel-5", "transposed", (3, 5), (ConvTranspose(5, 3, 1), RELU, ConvTranspose(3, 3), RELU, *FLAT)),
    Network("up-residual", "transposed", (2, 6, 4), (CONV, AUTOENCODER, RELU, CONV, RELU, *GAP)),
)

NETWORKS = (*CONVOLUTIONS, *POOLS, *ACTIVATIONS, *BRANCHES, *FULLY_CONNECTED, *NORMALISED, *ATTENTION, *TRANSPOSED)

COMPILED = tuple(net for net in NETWORKS if net.compiled)


def torch_model(net: Network) -> Any:
    """The network as a torch module."""
    from golden.torch_models import Masked, sequential  # torch is not there where the golden values are made

    model = sequential(net.steps, net.shape)
    return Masked(model) if net.masked else model
