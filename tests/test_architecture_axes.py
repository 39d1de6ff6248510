"""Axes of one entry, and axes that are split again: what is read, and what is refused with its path."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ntkit
from ntkit.architecture import trace
from ntkit.errors import UnsupportedLayer


class Net(nn.Module):
    """A convolution, something done with its output, and a linear layer."""

    def __init__(self, body, **parts):
        super().__init__()
        self.first, self.last = ntkit.nn.Conv2d(3, 8, 3, padding=1), ntkit.nn.Linear(8, 1)
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.body(self, self.first(x)))


def network(model):
    """What is read, whatever the paths."""
    found = trace(model)
    return [(node.spec, node.inputs) for node in found.nodes], found.outputs


def _two_axes_more(m, h):
    return m.wide(h.mean((2, 3)).unsqueeze(2).unsqueeze(3)).flatten(1)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, h: m.wide(m.split(h.mean((2, 3)))).flatten(1),
        lambda m, h: m.wide(h.mean((2, 3)).unflatten(1, (-1, 1, 1))).flatten(1),
        lambda m, h: m.wide(torch.unflatten(h.mean((2, 3)), dim=1, sizes=(8, 1, 1))).flatten(1),
        lambda m, h: m.wide(h.mean((2, 3))[:, :, None, None]).flatten(1),
        lambda m, h: m.wide(h.mean((2, 3))[..., None, None]).flatten(1),
    ],
)
def test_axes_of_one_entry_are_added_in_any_spelling(body):
    parts = {"wide": nn.Conv2d(8, 8, 1), "split": nn.Unflatten(1, (8, 1, 1))}
    assert network(Net(body, **parts)) == network(Net(_two_axes_more, **parts))
    net = Net(body, **parts)
    assert net(torch.zeros(2, 3, 4, 4)).shape == (2, 1)


@pytest.mark.parametrize("sizes", [(2, 2), (2, -1), (-1, 2)])
def test_positions_of_known_numbers_are_taken_apart_again(sizes):
    small = lambda h: nn.functional.adaptive_avg_pool2d(h, 2)  # noqa: E731
    parts = {"wide": nn.Conv2d(8, 8, 2)}
    apart = Net(lambda m, h: m.wide(small(h).flatten(2).unflatten(2, sizes)).flatten(1), **parts)
    whole = Net(lambda m, h: m.wide(small(h).flatten(1).unflatten(1, (8, 2, 2))).flatten(1), **parts)
    plain = Net(lambda m, h: m.wide(small(h)).flatten(1), **parts)
    assert network(apart) == network(whole) == network(plain)


class NewAxis(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.conv(x[:, None])


REFUSED = {
    "axes that split channels": (
        lambda: Net(lambda m, h: m.split(h), split=nn.Unflatten(1, (2, 4))),
        r"Unflatten at 'split' splits axis 1 of \(batch, channels, positions 0, positions 1\) into \(2, 4\), and only "
        r"new axes of one entry, as in \(-1, 1, 1\), and positions whose numbers are known .* data or a convolution",
    ),
    "axes that split a layer's outputs into images": (
        lambda: nn.Sequential(nn.Linear(3, 32), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 1, 3)),
        r"Unflatten at '1' splits axis 1 of \(batch, channels\) into \(2, 4, 4\), and only new axes of one entry",
    ),
    "axes that split positions": (
        lambda: Net(lambda m, h: h.flatten(2).unflatten(2, (4, 4))),
        r"'unflatten' splits axis 2 of .*positions 0 x positions 1\) into \(4, 4\), and only",
    ),
    "axes that split samples": (
        lambda: Net(lambda m, h: h.unflatten(0, (1, -1))),
        r"'unflatten' splits axis 0 of .*only new",
    ),
    "axes that split the data": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 1, 3)),
        r"Unflatten at '0' splits an axis of the data into \(1, 4, 4\); give the data with these axes, as in \(n, c",
    ),
    "new axis of the data": (
        NewAxis,
        "'getitem' adds an axis to the data; give the data with an axis of channels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_axes_that_cannot_be_split_or_added_are_named(unchecked, name):
    make, text = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=text):
        trace(make())
