"""Self-attention whose limit of infinite width exists: keys and queries are tied, and scores divided by their number.

With keys k_p = W_K x_p of d channels the scores k_p · k_p'/d tend to the covariance of the input between two tokens of
one sample, so the attention weights G become fixed numbers of each sample, and the outputs Gaussian. In the usual form,
independent queries and scores divided by √d, the weights stay random however wide the layer is.

Reference: Hron, Bahri, Sohl-Dickstein & Novak 2020, "Infinite attention", section 3 and appendix A.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ntkit.errors import InvalidInput
from ntkit.nn.mechanisms import MECHANISMS, attention_weights
from ntkit.nn.scale import check_scales, check_sizes, is_finite_scale


class SelfAttention(torch.nn.Module):
    """Self-attention with tied keys and queries, in NTK parameterisation.

    Of each head, with keys k_p = W_K y_p/√c of d channels and values v_p = W_V x_p/√c of e channels:

        G[p, p'] = mechanism(score_scale · k_p · k_p'/d)
        z_p = w_std/√(heads · e) · W_O [Σ_p' G[p, p'] v_p'] + b_std b

    Args:
        in_channels: c, channels of the values' input x.
        out_channels: channels of the output.
        heads: number of heads.
        w_std: standard deviation of the values' and the output's effective weights together.
        b_std: standard deviation of the effective bias; 0 means that there is no bias parameter.
        mechanism: "softmax", "identity", "relu" or "abs" of the scores.
        score_scale: factor on the scores, the product of the queries' and the keys' standard deviations.
        key_channels: d, of each head; None for out_channels/heads, from 1.
        value_channels: of each head; None for out_channels/heads, from 1.
        key_in_channels: channels of the keys' input y, where that is another one; None for in_channels.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        InvalidInput: a size is below 1, a scale is not finite, or the mechanism is none of these.

    Example:
        >>> layer = SelfAttention(16, 32, heads=4)
        >>> layer(torch.ones(2, 5, 16)).shape
        torch.Size([2, 5, 32])

    Reference: Hron et al. 2020, in the form of neural-tangents' GlobalSelfAttention with linear_scaling=True.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        w_std: float = 1.0,
        b_std: float = 0.0,
        *,
        mechanism: str = "softmax",
        score_scale: float = 1.0,
        key_channels: int | None = None,
        value_channels: int | None = None,
        key_in_channels: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        name = "ntkit.nn.SelfAttention"
        check_sizes(name, in_channels=in_channels, out_channels=out_channels, heads=heads)
        each = max(1, out_channels // heads)
        keys, values = (each if n is None else n for n in (key_channels, value_channels))
        key_in_channels = in_channels if key_in_channels is None else key_in_channels
        check_sizes(name, key_channels=keys, value_channels=values, key_in_channels=key_in_channels)
        check_scales(name, w_std, b_std)
        if not isinstance(mechanism, str) or mechanism not in MECHANISMS:
            raise InvalidInput(f"{name}: mechanism must be one of {', '.join(MECHANISMS)}, got {mechanism!r}")
        if not is_finite_scale(score_scale):
            raise InvalidInput(f"{name}: score_scale must be a finite number, of finite square, got {score_scale!r}")
        self.in_channels, self.out_channels, self.key_in_channels = in_channels, out_channels, key_in_channels
        self.heads, self.mechanism, self.score_scale = heads, mechanism, float(score_scale)
        self.w_std, self.b_std = float(w_std), float(b_std)
        place = {"device": device, "dtype": dtype}
        self.key_weight = torch.nn.Parameter(torch.empty(heads, keys, key_in_channels, **place))
        self.value_weight = torch.nn.Parameter(torch.empty(heads, values, in_channels, **place))
        self.weight = torch.nn.Parameter(torch.empty(out_channels, heads * values, **place))
        self.bias = torch.nn.Parameter(torch.empty(out_channels, **place)) if b_std != 0 else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from N(0, 1)."""
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter)

    def forward(
        self,
        input: Float[Tensor, "n p c"],
        keys_from: Float[Tensor, "n p k"] | None = None,
        mask: Bool[Tensor, "n p"] | None = None,
    ) -> Float[Tensor, "n p o"]:
        """The output at every token.

        Args:
            input: x, which the values are made of.
            keys_from: y, which keys and queries are made of, as x with positional embeddings; None for x.
            mask: True where a token is there; others are not attended to. None where all are.
        """
        source = input if keys_from is None else keys_from
        keys = torch.einsum("npc,hkc->nhpk", source, self.key_weight) / math.sqrt(self.key_in_channels)
        scores = self.score_scale / self.key_weight.shape[1] * (keys @ keys.mT)
        weights = attention_weights(self.mechanism, scores, None if mask is None else mask[:, None])
        values = torch.einsum("npc,hvc->nhpv", input, self.value_weight) / math.sqrt(self.in_channels)
        together = (weights @ values).transpose(1, 2).flatten(2)
        bias = None if self.bias is None else self.b_std * self.bias
        scale = self.w_std / math.sqrt(self.weight.shape[1])
        return torch.nn.functional.linear(scale * together, self.weight, bias)

    def extra_repr(self) -> str:
        """Sizes, mechanism and scales."""
        return (
            f"{self.in_channels}, {self.out_channels}, heads={self.heads}, mechanism={self.mechanism}, "
            f"w_std={self.w_std:g}, b_std={self.b_std:g}, score_scale={self.score_scale:g}"
        )
