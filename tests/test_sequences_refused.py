"""Layers of sequences: what has no rule, and inputs and sizes that do not fit."""

from typing import Any

import pytest
import torch
from torch import nn

import ntkit
from layer_cases import data, linear
from ntkit.errors import InvalidInput, UnsupportedLayer
from sequence_networks import MASK, TOKENS, WIDTH, Reader, Vectors, attention, words


class Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend, self.out = nn.MultiheadAttention(WIDTH, 4, batch_first=True), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.attend(x, x, x)[0].mean(1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = linear(3, 1)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.out(x + other)


class UnusedMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = linear(3, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(x)


class MaskedVectors(UnusedMask):
    def __init__(self) -> None:
        super().__init__()
        self.mean = ntkit.nn.MaskedMean()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(self.mean(x, mask))


class MaskAsFactor(UnusedMask):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out((x * mask[..., None]).mean(1))


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place, self.out = nn.Embedding(TOKENS, WIDTH), linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out((x + self.place(torch.arange(TOKENS))).mean(1))


REFUSED = {
    "a branch on values": (nn.Sequential(linear(3), Branch()), "the forward of Branch at '1' cannot be traced"),
    "a table of positions": (Places(), "for vectors of positions take ntkit.nn.PositionalEmbedding"),
    "multihead": (Multihead(), "MultiheadAttention at 'attend' divides its scores by the square root .*SelfAttention"),
    "encoder": (
        nn.Sequential(nn.TransformerEncoderLayer(8, 2, batch_first=True), nn.Flatten(), linear(40, 1)),
        "TransformerEncoderLayer at '0' .*monte_carlo_kernel",
    ),
    "two inputs": (TwoInputs(), "must take one input, or one and a mask, got x, other"),
    "unused mask": (UnusedMask(), "a mask that no layer uses; give it to ntkit.nn.SelfAttention"),
    "mask as a factor": (
        MaskAsFactor(),
        "uses the mask, and there are rules for ntkit.nn.SelfAttention, MaskedMean and MaskedFill alone",
    ),
    "embedding inside": (
        nn.Sequential(linear(3), ntkit.nn.Embedding(4, 8)),
        "Embedding at '1' reads what another layer computed",
    ),
    "sparse": (nn.Sequential(nn.Embedding(4, 8, max_norm=1.0)), "Embedding at '0' has max_norm"),
    "positions": (
        nn.Sequential(ntkit.nn.Conv1d(3, WIDTH, 1), ntkit.nn.PositionalEmbedding((2, 3), WIDTH)),
        r"PositionalEmbedding at '1' takes \(batch, 2 axes of positions, channels\)",
    ),
    "channels": (Vectors(attention(32)), "SelfAttention at 'body.0' takes 32 channels, but 64 arrive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name):
    model, text = REFUSED[name]
    with pytest.raises((UnsupportedLayer, InvalidInput), match=text):
        ntkit.InfiniteKernel(model, w_std=1.0, b_std=0.1)


def test_inputs_that_do_not_fit_are_refused(unchecked):
    reader, vectors = ntkit.InfiniteKernel(Reader()), ntkit.InfiniteKernel(Vectors(attention()))
    x = words()
    cases: list[tuple[Any, Any, str]] = [
        (reader, x.double(), "x1 must hold whole numbers, as the model embeds tokens, got dtype torch.float64"),
        (reader, x.tolist(), "must be a torch tensor or a numpy array of whole numbers"),
        (reader, x + 7, "'embed' has vectors for tokens 0 to 10, but"),
        (reader, x - 1, "'embed' has vectors for tokens 0 to 10, but -1"),
        (reader, (x, MASK.long()), "the mask of x1 must be an array of bool, .* got torch.int64"),
        (reader, (x, MASK[:, :4]), r"must have 5 tokens for each of 3 samples, got shape \(3, 4\)"),
        (reader, (x, MASK[:2]), r"must have 5 tokens for each of 3 samples, got shape \(2, 5\)"),
        (reader, (x, MASK & torch.tensor([[True], [False], [True]])), "the mask of x1 leaves none of sample 1"),
        (reader, (x, MASK, MASK), "a pair of an array and its mask, got 3 things"),
        (reader, x[:, :4], "PositionalEmbedding at 'position' has vectors for .5,. positions, but .4,. arrive"),
        (reader, x[:, 0], "at least one sample of at least one feature"),
        (vectors, (data(3, TOKENS, 3), MASK), "got a tuple; the model takes no mask"),
        (vectors, data(3, 4), r"x1 has shape \(3, 4\), but the model takes \(n, positions 0, channels\)"),
        (
            ntkit.InfiniteKernel(MaskedVectors()),
            (torch.where(MASK[..., None], data(3, TOKENS, 3), torch.nan), MASK),
            r"x1 must be finite, got 12 .* the first at index \(0, 3, 0\); .*; put 0 where a mask leaves a token out",
        ),
        (vectors, data(3, TOKENS, 3).long(), "must be float32 or float64, got torch.int64"),
    ]
    for kernel, given_x, text in cases:
        with pytest.raises(InvalidInput, match=text):
            kernel.ntk(given_x)


def test_layers_of_sequences_refuse_what_is_no_size_or_scale():
    for make, text in (
        (lambda: ntkit.nn.SelfAttention(0, 8), "SelfAttention: in_channels must be a whole number from 1"),
        (
            lambda: ntkit.nn.SelfAttention(8, 8, mechanism="max"),
            "must be one of softmax, identity, relu, abs, got 'max'",
        ),
        (lambda: ntkit.nn.SelfAttention(8, 8, score_scale=float("nan")), "score_scale must be a finite number"),
        (lambda: ntkit.nn.SelfAttention(8, 8, w_std=-1.0), "w_std must be a finite number >= 0"),
        (lambda: ntkit.nn.PositionalEmbedding(0, 8), r"positions\[0\] must be a whole number from 1"),
        (lambda: ntkit.nn.PositionalEmbedding(4, 8, correlation_length=-1.0), "correlation_length must be a finite"),
        (lambda: ntkit.nn.Embedding(4, 8, -1.0), "Embedding: w_std must be a finite number >= 0"),
    ):
        with pytest.raises(InvalidInput, match=text):
            make()
