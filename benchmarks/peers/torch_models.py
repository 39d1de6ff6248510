"""The model rows' networks for the contestants on PyTorch: the same weights, as plain torch modules."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.rows import ModelRow


class Block(nn.Module):
    """ResNet's basic block; the skip has a layer of its own where the block changes channels and size."""

    def __init__(self, before: int, after: int):
        super().__init__()
        stride = 1 if before == after else 2
        self.one, self.norm_one = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.two, self.norm_two = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.changes = before != after
        if self.changes:
            self.skip, self.norm_skip = nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm_two(self.two(F.relu(self.norm_one(self.one(x)))))
        return F.relu(out + (self.norm_skip(self.skip(x)) if self.changes else x))


class ResNet18(nn.Module):
    """For CIFAR: no pooling in front."""

    def __init__(self, channels: int, width: int, n_outputs: int):
        super().__init__()
        self.stem, self.norm_stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        widths = [width, *(width * 2 ** (block // 2) for block in range(8))]
        self.blocks = nn.Sequential(*(Block(widths[block], widths[block + 1]) for block in range(8)))
        self.last = nn.Linear(widths[-1], n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(F.relu(self.norm_stem(self.stem(x)))).mean((2, 3)))


class NextToken(nn.Module):
    """GPT-2's logits of the next token, times a vector: (n, tokens) -> (n, 1)."""

    def __init__(self, row: ModelRow):
        from transformers import GPT2Config, GPT2LMHeadModel  # seconds to import, for this network alone

        super().__init__()
        config = GPT2Config(
            n_embd=row.width,
            n_layer=row.depth,
            n_head=max(2, row.width // 64),
            vocab_size=row.vocabulary,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
        self.gpt2 = GPT2LMHeadModel(config)
        self.register_buffer("vector", torch.zeros(row.vocabulary))

    def forward(self, ids: Tensor) -> Tensor:
        return self.gpt2(input_ids=ids, logits_to_keep=1).logits[:, -1] @ self.vector[:, None]


def model(row: ModelRow) -> nn.Module:
    """The row's network in evaluation mode, its weights not yet set."""
    match row.network:
        case "cnn":
            return _cnn(row)
        case "resnet18":
            return ResNet18(row.shape[0], row.width, row.n_outputs).eval()
    return NextToken(row).eval()


def _cnn(row: ModelRow) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (row.shape[0], row.width, row.width):
        layers += [nn.Conv2d(before, row.width, 3), nn.ReLU()]
    pixels = (row.shape[1] - 6) * (row.shape[2] - 6)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(row.width * pixels, row.n_outputs))


def stage(model: nn.Module, arrays: dict[str, np.ndarray]) -> Tensor:
    """Give the model this repetition's weights, and return its samples."""
    if isinstance(model, NextToken):
        _draw_weights(model, arrays)
    else:
        weights = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "x"}
        missing, unexpected = model.load_state_dict(weights, strict=False)
        wrong = [name for name in (*missing, *unexpected) if not name.endswith("num_batches_tracked")]  # for training
        assert not wrong, f"the table of the layers and the network do not both have {wrong}"
    return torch.from_numpy(arrays["x"])


def _draw_weights(model: NextToken, arrays: dict[str, np.ndarray]) -> None:
    """GPT-2's initial scales, but nothing is exactly 0 or 1, which could hide a mistake."""
    generator = torch.Generator().manual_seed(int(arrays["seed"]))
    with torch.no_grad():
        model.vector.copy_(torch.from_numpy(arrays["vector"]))
        for name, p in model.gpt2.named_parameters():
            p.normal_(0, 0.02, generator=generator)
            if ".ln_" in name and name.endswith("weight"):
                p.add_(1)
