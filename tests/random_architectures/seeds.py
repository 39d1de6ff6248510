"""Which seeds are checked, and what each of them must cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from random_architectures.drawing import recipe_of
from random_architectures.features import features_of

ALL = range(200)
BRIEF = range(22)  # of the plain suite
LEAST = 5  # networks, of 200, that have a feature
# by Monte Carlo: twenty that have every feature between them, and are not deep, for finite width counts once a layer
WIDE = (6, 22, 27, 28, 46, 54, 55, 57, 69, 75, 76, 89, 92, 113, 116, 121, 137, 150, 162, 199)
FEATURES = frozenset(
    {
        "vectors", "1 axes of positions", "2 axes of positions", "3 axes of positions",
        "sequences with a mask", "sequences without a mask",
        "depth 1 to 4", "depth 5 to 8", "depth 9 to 12", "flattened data", "pooled or padded data",
        "NTK parameterisation", "standard parameterisation", "no bias", "frozen weights", "frozen bias",
        "linear layer over channels of positions", "stride", "dilation", "zero padding", "circular padding",
        "even kernel", "unequal kernel", "groups", "transposed convolution", "transposed convolution with a stride",
        "transposed convolution with output padding", "transposed convolution in groups",
        "softmax attention", "identity attention", "relu attention", "abs attention", "attention with a mask",
        "attention with positions in its keys", "several heads of attention", "frozen weights of attention",
        "positions added", "positions side by side", "positions that correlate", "frozen positions",
        "tokens of an image", "zeros by a mask", "mean by a mask",
        "ReLU", "LeakyReLU", "Abs", "Sign", "Erf", "Sin", "Cos", "Gaussian", "GELU", "Tanh", "SiLU", "Sigmoid",
        "LayerNorm", "LayerNorm over channels and positions", "GroupNorm", "RMSNorm",
        "RMSNorm over channels and positions", "trained shift", "trained scale before an activation",
        "trained scale before an activation, one a position", "trained scale before a layer or a pool",
        "trained scale before a layer or a pool, one a position", "dropout", "dropout of channels",
        "average pool", "overlapping pool", "pool with padding counted", "pool with padding not counted",
        "adaptive pool", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad", "nearest interpolation",
        "linear interpolation", "linear interpolation, corners aligned", "activation of a pooled or resized value",
        "residual", "residual with a layer on both ways", "sum of activations", "coefficients", "constant factor",
        "concatenation", "product", "flatten at the head", "flatten before more layers", "global pool at the head",
        "global pool before more layers", "two heads",
    }
)  # fmt: skip
OF_TOKENS = frozenset(  # which torch's engine computes alone
    {
        "softmax attention", "identity attention", "relu attention", "abs attention", "attention with a mask",
        "attention with positions in its keys", "positions added", "positions side by side", "positions that correlate",
        "zeros by a mask", "mean by a mask",
    }
)  # fmt: skip


def coverage(seeds: Iterable[int]) -> Counter[str]:
    """feature -> how many of the networks have it."""
    return Counter(feature for seed in seeds for feature in features_of(recipe_of(seed)))
