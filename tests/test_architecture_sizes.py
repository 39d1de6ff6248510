"""Do data of a shape fit a network: as torch would say, with the layer that does not take them."""

import pytest
import torch
from torch import nn

import ntkit
from ntkit.architecture import sizes_of, trace
from ntkit.errors import InvalidInput

Conv2d = ntkit.nn.Conv2d


class Net(nn.Module):
    """A convolution of the data, `body` of it, and a linear layer of `features`."""

    def __init__(self, body, features=8, **parts):
        super().__init__()
        self.first, self.last = Conv2d(3, 8, 3, padding=1), ntkit.nn.Linear(features, 1)
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.body(self, self.first(x)))


MISFITS = {
    "channels": (lambda: nn.Conv2d(3, 1, 3), (2, 1, 8, 8), r"x1 has 1 channels on axis 1 \(shape .*\), but .* takes 3"),
    "axes": (lambda: nn.Conv2d(3, 1, 3), (2, 192), r"x1 has shape \(2, 192\), but the model takes \(n, channels, pos"),
    "small": (lambda: nn.Conv2d(3, 1, 5), (2, 3, 4, 8), r"a window of 5 positions does not fit"),
    "flat": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 1)),
        (2, 3, 8, 8),
        r"the layer at '2' takes 64 features, but 4 channels at \(6, 6\) positions arrive, which are 144; use images",
    ),
    "tokens as samples": (
        lambda: Net(lambda m, h: h.permute(0, 2, 3, 1).reshape(-1, 8)),
        (2, 3, 4, 4),
        r"the layer at 'last' takes 8 features, but 8 channels at \(4, 4\) positions arrive, which are 128",
    ),
    "pool": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(7)),
        (2, 3, 8, 8),
        r"Pool at '1': a pooling window of 7 positions does not fit into 6",
    ),
    "sum": (
        lambda: Net(lambda m, h: (h + m.mid(h)).mean((2, 3)), mid=Conv2d(8, 8, 3, stride=2, padding=1)),
        (2, 3, 8, 8),
        r"LinearCombination at 'add' meets values at \(4, 4\) and \(8, 8\) positions; make them agree",
    ),
    "cat": (
        lambda: Net(lambda m, h: torch.cat([h, m.mid(h)], 1).mean((2, 3)), 16, mid=Conv2d(8, 8, 3)),
        (2, 3, 8, 8),
        r"Concat at 'cat' meets values at \(6, 6\) and \(8, 8\) positions",
    ),
    "circular": (
        lambda: nn.Conv1d(1, 1, 3, padding=5, padding_mode="circular"),
        (1, 1, 4),
        r"circular padding of 5 wraps more than once around 4 positions",
    ),
    "vector": (lambda: nn.Linear(3, 1), (2, 3, 1), r"x1 has shape \(2, 3, 1\), .*put torch.nn.Flatten"),
    "features": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 1)),
        (2, 3, 3),
        "x1 has 9 features a sample .* takes 6",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_data_that_do_not_fit_are_named_with_the_layer(name):
    make, shape, text = MISFITS[name]
    with pytest.raises(InvalidInput, match=text):
        sizes_of(trace(make()), shape, "x1")


@pytest.mark.parametrize("seed", range(6))
def test_sizes_are_what_torch_computes(seed):
    pick = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=pick))

    model = nn.Sequential(
        nn.Conv2d(2, 4, (number(1, 3), number(1, 3)), number(1, 2), number(0, 1)),
        nn.ReLU(),
        nn.AvgPool2d((2, number(2, 3)), stride=number(1, 3), padding=(1, 0), ceil_mode=bool(number(0, 1))),
        nn.Conv2d(4, 3, 2, dilation=number(1, 2)),
        nn.AdaptiveAvgPool2d((None, 2)),
    )
    shape = (1, 2, 11 + number(0, 2), 13)
    out = model(torch.zeros(shape))
    found = sizes_of(trace(model), shape)[-1]
    assert (found.channels, *found.grid) == tuple(out.shape[1:])
