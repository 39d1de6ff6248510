"""Layers in NTK parameterisation, activations that torch.nn lacks, and ways to prepare a model.

Every class subclasses its torch counterpart, so models made of them are ordinary torch models.
"""

from ntkit.nn.activations import (
    ABReLU,
    Abs,
    Cos,
    Erf,
    Gaussian,
    Hermite,
    Monomial,
    Polynomial,
    RectifiedMonomial,
    Sign,
    Sin,
)
from ntkit.nn.attention import SelfAttention
from ntkit.nn.centering import Centered, center
from ntkit.nn.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
)
from ntkit.nn.parameterize import ntk_parameterize
from ntkit.nn.sequences import Embedding, MaskedFill, MaskedMean, PositionalEmbedding

__all__ = [
    "ABReLU",
    "Abs",
    "Centered",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Cos",
    "Embedding",
    "Erf",
    "Gaussian",
    "Hermite",
    "Linear",
    "MaskedFill",
    "MaskedMean",
    "Monomial",
    "Polynomial",
    "PositionalEmbedding",
    "RectifiedMonomial",
    "SelfAttention",
    "Sign",
    "Sin",
    "center",
    "ntk_parameterize",
]
