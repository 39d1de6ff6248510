"""Empirical kernels of transformers' own GPT-2 and BERT, against the whole Jacobian, and which rules they take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from empirical_networks import assert_same
from ntkit.empirical import EmpiricalKernel
from oracles import jacobian as oracle

transformers = pytest.importorskip("transformers")

TOKENS, LENGTH = 50, 7
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ATTENTION = pytest.mark.parametrize("attention", ["eager", "sdpa"])


class Logits(nn.Module):
    """A language model's logits at one position, called as the oracle calls models."""

    def __init__(self, model: nn.Module, position: int):
        super().__init__()
        self.model, self.position = model, position

    def forward(self, **x: Tensor) -> Tensor:
        return logits(self.model, x, self.position)


def logits(model: nn.Module, x: dict[str, Tensor], position: int) -> Tensor:
    return model(**x).logits[:, position]


def gpt2(attention: str) -> nn.Module:
    """Embedding and head are one parameter."""
    marks = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(**SIZES, vocab_size=TOKENS, n_positions=16, attn_implementation=attention, **marks)
    return perturbed(transformers.GPT2LMHeadModel(config))


def bert(attention: str) -> nn.Module:
    """As GPT-2's, its head is tied; its attention sees both sides, and what the mask leaves."""
    config = transformers.BertConfig(
        **SIZES, vocab_size=TOKENS, intermediate_size=64, max_position_embeddings=16, attn_implementation=attention
    )
    return perturbed(transformers.BertForMaskedLM(config))


def perturbed(model: nn.Module) -> nn.Module:
    """In float64, without dropout; scales that are all 1 and shifts that are all 0 would hide what is wrong."""
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def tokens(n: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, TOKENS, (n, LENGTH))}


def masked_tokens(n: int) -> dict[str, Tensor]:
    """Sequences of different lengths, padded behind."""
    mask = (torch.arange(LENGTH) < torch.randint(3, LENGTH + 1, (n, 1))).long()
    return {**tokens(n), "attention_mask": mask}


def assert_equals_jacobian(model, position, x1, x2):
    """Of all pairs of outputs and of their trace; gives {parameter: route}."""
    j1, j2 = (oracle.jacobian(Logits(model, position), x) for x in (x1, x2))
    for outputs in ("full", "trace"):
        kernel = EmpiricalKernel(model, outputs=outputs, forward=lambda m, x: logits(m, x, position))
        assert_same(kernel.ntk(x1), oracle.kernel(j1, j1, outputs), 1e-9)
        assert_same(kernel.ntk(x1, x2), oracle.kernel(j1, j2, outputs), 1e-9)
    return {p.name: p.route for p in kernel.plan(x1).parameters}


def without_rule(routes: dict[str, str]) -> set[str]:
    return {name for name, route in routes.items() if route == "generic"}


@ATTENTION
def test_gpt2_equals_the_whole_jacobian(attention):
    routes = assert_equals_jacobian(gpt2(attention), -1, tokens(3), tokens(2))
    assert without_rule(routes) <= {"transformer.wte.weight"}  # read twice: as an embedding, and as the head
    assert routes["transformer.h.0.attn.c_attn.weight"] == "layer"


@ATTENTION
def test_bert_with_a_mask_equals_the_whole_jacobian(attention):
    routes = assert_equals_jacobian(bert(attention), 0, masked_tokens(3), masked_tokens(2))
    assert without_rule(routes) <= {"bert.embeddings.word_embeddings.weight"}
    assert routes["bert.encoder.layer.0.attention.self.query.weight"] == "layer"


def test_a_head_of_its_own_has_rules_for_every_parameter():
    model = gpt2("sdpa")
    model.lm_head.weight = nn.Parameter(torch.randn(TOKENS, SIZES["hidden_size"], dtype=torch.float64))
    assert not without_rule(assert_equals_jacobian(model, -1, tokens(3), tokens(2)))
