"""Self-attention, embeddings of tokens and positions, masks: against textbook formulas, wide networks, and each other.

Attention as such is compared with neural-tangents in test_golden.py.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ntkit
from layer_cases import B, W, assert_limit, data, linear
from sequence_networks import MASK, TOKENS, VOCABULARY, WIDTH, Reader, Vectors, attention, words

# ---- against formulas and other forms of the same network ------------------------------------------------------------


def test_tokens_are_one_hot_vectors():
    """W[token] with entries of variance w² is a linear layer of one-hot vectors, whose fan-in is the vocabulary."""

    class OneHot(nn.Module):
        def __init__(self, first: nn.Module) -> None:
            super().__init__()
            self.first, self.attend, self.out = first, attention(), linear(WIDTH, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.attend(self.first(x))).mean(1))

    x = words(4)
    embedded = ntkit.InfiniteKernel(OneHot(ntkit.nn.Embedding(VOCABULARY, WIDTH, 1.2)))(x)
    dense = OneHot(ntkit.nn.Linear(VOCABULARY, WIDTH, 1.2 * VOCABULARY**0.5))
    expected = ntkit.InfiniteKernel(dense)(torch.nn.functional.one_hot(x, VOCABULARY).double())
    assert embedded.ntk.dtype == torch.float64
    torch.testing.assert_close(embedded.ntk, expected.ntk, rtol=1e-12, atol=0)
    torch.testing.assert_close(embedded.nngp, expected.nngp, rtol=1e-12, atol=0)


def test_tokens_of_plain_layers_and_padding():
    table = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(TOKENS * WIDTH, 1, bias=False))
    x = torch.tensor([[0, 1, 2, 3, 0], [0, 1, 5, 3, 4]])
    kernel = ntkit.InfiniteKernel(model, w_std={"0": "torch", "2": 1.3}, b_std=0.0)
    same = torch.tensor([[3, 2], [2, 4]]).double() / TOKENS  # equal tokens, those of padding left out
    torch.testing.assert_close(kernel.nngp(x), 1.3**2 * same)
    torch.testing.assert_close(kernel.ntk(x), 2 * 1.3**2 * same)
    standard = ntkit.InfiniteKernel(model, w_std={"0": 0.9, "2": 1.3}, b_std=0.0, parameterization="standard")
    torch.testing.assert_close(standard.ntk(x), (1.3**2 + TOKENS * WIDTH * 0.9**2) * same)
    np.testing.assert_array_equal(kernel.ntk(x.numpy()), kernel.ntk(x).numpy())
    assert kernel.hyperparameters == {"0": {"w_std": 1.0, "b_std": 0.0}, "2": {"w_std": 1.3, "b_std": 0.0}}


def test_positions_add_their_covariance():
    x, std, length = data(3, 4, 6), 0.7, 1.5
    distance = torch.arange(4.0, dtype=torch.float64)[:, None] - torch.arange(4)
    bell = torch.exp(-(distance**2) / (2 * length**2))
    products = torch.einsum("npc,mqc->nmpq", x, x) / 6
    for trained in (True, False):
        position = ntkit.nn.PositionalEmbedding(4, 6, std, correlation_length=length).requires_grad_(trained)

        class Mean(nn.Module):
            def __init__(self, position: nn.Module) -> None:
                super().__init__()
                self.first = ntkit.nn.Linear(6, 6).requires_grad_(False)
                self.position, self.last = position, ntkit.nn.Linear(6, 1, W)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.last(self.position(self.first(x)).mean(1))

        found = ntkit.InfiniteKernel(Mean(position))(x)
        nngp = W**2 * (products + std**2 * bell).mean((2, 3))
        torch.testing.assert_close(found.nngp, nngp)
        torch.testing.assert_close(found.ntk, nngp + trained * W**2 * std**2 * bell.mean())


class PooledPositions(nn.Module):
    """Positions of a grid of which axes are pooled to one position; `squeezed` shows only the other axis."""

    def __init__(self, left: tuple[int, int], squeezed: bool, length: float) -> None:
        super().__init__()
        self.first, self.last = ntkit.nn.Conv2d(3, 6, 1, w_std=W), ntkit.nn.Linear(6, 1, W)
        self.pool, self.squeezed = nn.AdaptiveAvgPool2d(left), squeezed
        self.position = ntkit.nn.PositionalEmbedding(left[1:] if squeezed else left, 6, correlation_length=length)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.pool(self.first(x)).permute(0, 2, 3, 1)
        if self.squeezed:
            return self.last(torch.relu(self.position(h.squeeze(1))).mean(1))
        return self.last(torch.relu(self.position(h)).mean((1, 2)))


def test_positions_that_are_left_of_pooled_axes_are_correlated():
    x = data(3, 3, 4, 4)
    both = [ntkit.InfiniteKernel(PooledPositions((1, 2), squeezed, 1.5)).nngp(x) for squeezed in (True, False)]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)
    assert bool((both[0] > ntkit.InfiniteKernel(PooledPositions((1, 2), True, 0.0)).nngp(x)).all())
    one, alone = (ntkit.InfiniteKernel(PooledPositions((1, 1), False, length)).ntk(x) for length in (1.5, 0.0))
    torch.testing.assert_close(one, alone, rtol=0, atol=0)


def test_positions_of_images_and_of_their_patches():
    """Independent vectors of the patches of an image are the same before and after it is flattened."""

    class Patches(nn.Module):
        def __init__(self, positions: Any) -> None:
            super().__init__()
            self.patch = ntkit.nn.Conv2d(2, WIDTH, 2, stride=2, w_std=W, b_std=B)
            self.flat, self.out = isinstance(positions, int), linear(WIDTH, 1)
            self.position, self.attend = ntkit.nn.PositionalEmbedding(positions, WIDTH, 0.7), attention()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.patch(x)
            if self.flat:
                h = self.position(h.flatten(2).transpose(1, 2))
            else:
                h = self.position(h.permute(0, 2, 3, 1)).flatten(1, 2)
            return self.out(torch.relu(self.attend(h)).mean(1))

    x = data(3, 2, 4, 6)
    flat, grid = ntkit.InfiniteKernel(Patches(6)), ntkit.InfiniteKernel(Patches((2, 3)))
    torch.testing.assert_close(flat.ntk(x), grid.ntk(x), rtol=1e-13, atol=0)
    assert (np.linalg.eigvalsh(flat.ntk(x).numpy()) > 0).all()


@pytest.mark.parametrize("frozen", [(), ("weight",), ("value_weight",), ("weight", "value_weight", "bias")])
def test_frozen_weights_of_attention_add_nothing(frozen):
    layer = attention()
    for name in frozen:
        getattr(layer, name).requires_grad_(False)
    model, x = Vectors(layer), data(3, TOKENS, 3)
    model.first.requires_grad_(False)
    model.out.requires_grad_(False)
    found = ntkit.InfiniteKernel(model)
    model.out.requires_grad_(True)
    whole, own = ntkit.InfiniteKernel(model)(x), found.ntk(x)
    readout = whole.ntk - own  # what the last layer adds, the nngp
    torch.testing.assert_close(readout, whole.nngp)
    everything = ntkit.InfiniteKernel(_thawed(model)).ntk(x)
    if len(frozen) == 3:
        assert (own == 0).all()
    assert (own <= everything).all()


def _thawed(model: nn.Module) -> nn.Module:
    model.body.requires_grad_(True)
    model.out.requires_grad_(False)
    return model


@pytest.mark.parametrize("mechanism", ["softmax", "identity", "relu", "abs"])
def test_a_mask_is_the_shorter_sequence(mechanism):
    """Samples of one length, masked, have the kernel of the tokens that are there."""

    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attend, self.out = linear(3), attention(mechanism=mechanism), linear(WIDTH, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.attend(self.first(x))).mean(1))

    class Long(Short):
        def __init__(self) -> None:
            super().__init__()
            self.mean = ntkit.nn.MaskedMean()

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return self.out(self.mean(torch.relu(self.attend(self.first(x), mask=mask)), mask))

    x, there = data(4, TOKENS, 3), torch.tensor([True, False, True, True, False])
    expected, found = ntkit.InfiniteKernel(Short()), ntkit.InfiniteKernel(Long())
    masked = found((x, there.expand(4, -1)))
    torch.testing.assert_close(masked.ntk, expected.ntk(x[:, there]), rtol=1e-12, atol=0)
    torch.testing.assert_close(masked.nngp, expected.nngp(x[:, there]), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.ntk(x), expected.ntk(x), rtol=1e-12, atol=0)  # all are there
    both = found.ntk((x[:2], there.expand(2, -1)), x[2:])
    assert both.shape == (2, 2)
    assert not torch.allclose(both, masked.ntk[:2, 2:])


def test_zeros_by_a_mask_are_zeros_of_the_data():
    class Filled(nn.Module):
        def __init__(self, masks: bool) -> None:
            super().__init__()
            self.fill, self.masks = ntkit.nn.MaskedFill(), masks
            self.conv = ntkit.nn.Conv1d(3, WIDTH, 3, padding=1, w_std=W, b_std=B)
            self.second = ntkit.nn.Conv1d(WIDTH, WIDTH, 3, padding=1, w_std=W, b_std=B)
            self.out = linear(WIDTH, 1)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            h = self.fill(x, mask) if self.masks else x
            h = torch.relu(self.conv(h.transpose(1, 2))).transpose(1, 2)
            return self.out(torch.relu(self.second(self.fill(h, mask).transpose(1, 2))).mean(2))

    x = data(3, TOKENS, 3)
    by_layer, by_hand = ntkit.InfiniteKernel(Filled(True)), ntkit.InfiniteKernel(Filled(False))
    expected = by_hand((x * MASK[..., None], MASK))
    torch.testing.assert_close(by_layer((x, MASK)).ntk, expected.ntk, rtol=1e-12, atol=0)
    draws = []
    for seed in range(48):
        torch.manual_seed(seed)
        model = Filled(True)
        model.conv = ntkit.nn.Conv1d(3, 512, 3, padding=1, w_std=W, b_std=B)
        model.second = ntkit.nn.Conv1d(512, 512, 3, padding=1, w_std=W, b_std=B)
        model.out = nn.Identity()
        with torch.no_grad():
            h = model.double()(x, MASK)
        draws.append(W**2 * h @ h.T / 512 + B**2)
    assert_limit(draws, expected.nngp)


# ---- against wide networks -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["softmax", "relu"])
def test_wide_networks_tend_to_the_exact_kernel(mechanism):
    x = (words(), MASK)
    exact = ntkit.InfiniteKernel(Reader(mechanism=mechanism))(x)
    draws = []
    for seed in range(40):
        torch.manual_seed(seed)
        draws.append(ntkit.empirical_ntk(Reader(768, mechanism).double(), x, outputs="trace"))
    assert_limit(draws, exact.ntk)


# ---- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(["softmax", "identity", "relu", "abs"]))
def test_kernels_of_sequences_are_kernels(seed, mechanism):
    """Symmetric, positive, one with its blocks and its diagonal, and blind to what the mask hides."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, VOCABULARY, (6, TOKENS), generator=generator)
    mask = torch.rand(6, TOKENS, generator=generator) < 0.6
    mask[:, 0] = True
    kernel = ntkit.InfiniteKernel(Reader(mechanism=mechanism))
    whole = kernel((x, mask))
    for found in (whole.ntk, whole.nngp):
        torch.testing.assert_close(found, found.T, rtol=0, atol=0)
        assert np.linalg.eigvalsh(found.numpy()).min() > -1e-12 * found.max()
    torch.testing.assert_close(kernel.ntk((x[:2], mask[:2]), (x[2:], mask[2:])), whole.ntk[:2, 2:], rtol=1e-12, atol=0)
    torch.testing.assert_close(kernel.diagonal((x, mask)).ntk, whole.ntk.diagonal(), rtol=1e-12, atol=0)
    hidden = torch.where(mask, x, 7)
    torch.testing.assert_close(kernel.ntk((hidden, mask)), whole.ntk, rtol=1e-12, atol=0)


def test_the_order_of_tokens_without_positions_does_not_matter():
    kernel, x = ntkit.InfiniteKernel(Vectors(attention())), data(4, TOKENS, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(kernel.ntk(x[:, order]), kernel.ntk(x), rtol=1e-12, atol=0)
    ordered = ntkit.InfiniteKernel(Vectors(ntkit.nn.PositionalEmbedding(TOKENS, WIDTH), attention()))
    assert not torch.allclose(ordered.ntk(x[:, order], x), ordered.ntk(x), rtol=1e-3)


def test_equal_samples_have_equal_rows_and_near_ones_near_kernels():
    kernel, x = ntkit.InfiniteKernel(Vectors(attention())), data(3, TOKENS, 3)
    twice = torch.cat([x, x])
    found = kernel(twice)
    torch.testing.assert_close(found.ntk[:3, 3:], found.ntk[:3, :3], rtol=1e-14, atol=0)
    near = torch.cat([x, x + 1e-7 * data(3, TOKENS, 3, seed=1)])
    gap = kernel.nngp(near)
    distance = gap.diagonal()[:3] + gap.diagonal()[3:] - 2 * gap[:3, 3:].diagonal()
    assert (distance.abs() < 1e-11).all()


def test_gradients_in_the_inputs():
    kernel, x, y = ntkit.InfiniteKernel(Vectors(attention())), data(2, 4, 3), data(2, 4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda a, b: tuple(vars(kernel(a, b)).values()), (x.requires_grad_(), y))
    assert torch.autograd.gradcheck(lambda a: kernel.ntk(a), (x,))


def test_empirical_kernels_take_masks_too():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.out = ntkit.nn.MaskedMean(), ntkit.nn.Linear(3, 1, W, B)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.out(self.mean(x, mask))

    pair = data(3, TOKENS, 3), MASK  # of one layer the tangent kernel does not depend on the draw
    found = ntkit.empirical_ntk(Mean().double(), pair, outputs="trace")
    torch.testing.assert_close(found, ntkit.InfiniteKernel(Mean()).ntk(pair))
