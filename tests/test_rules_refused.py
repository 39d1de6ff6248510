"""Rules: a limit that does not exist, or is not known, is an error with the path and the remedy."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.architecture import trace
from ntkit.errors import UnsupportedLayer
from ntkit.infinite.rules import compile_network


class Net(nn.Module):
    """A convolution `first` of images with 3 channels to 8, `body`, and what the body needs."""

    def __init__(self, body, **parts):
        super().__init__()
        self.first = conv(3, 8)
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.body(self, self.first(x))


def conv(i, o, k=3, **options):
    return ntkit.nn.Conv2d(i, o, k, padding=(k - 1) // 2, **options)


GROUPS = {
    "depthwise": (
        lambda m, h: m.mid(F.relu(h)),
        {"mid": conv(8, 8, groups=8)},
        "Conv2d at 'mid' with groups=8 is depthwise: .*one channel alone.*; use groups=1, or groups that grow",
    ),
    "of a concatenation": (
        lambda m, h: m.mid(torch.cat([h, m.skip(h)], 1)),
        {"mid": conv(16, 8, groups=2), "skip": conv(8, 8)},
        "Conv2d at 'mid' with groups=2 reads channels of different layers side by side, .*; use groups=1 after",
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_without_a_limit_are_refused(name):
    body, parts, text = GROUPS[name]
    with pytest.raises(UnsupportedLayer, match=text):
        compile_network(trace(Net(body, **parts)))


def test_groups_of_the_data_are_refused():
    with pytest.raises(
        UnsupportedLayer, match=r"Conv2d at '0' with groups=2 reads the data, .*use groups=1 in the first"
    ):
        compile_network(trace(nn.Sequential(conv(4, 8, groups=2))))


# ---- limits that do not exist --------------------------------------------------------------------------------------

REFUSED = {
    "activation of a post-activation skip": (
        lambda m, h: F.relu(F.relu(h) + m.mid(F.relu(h))),
        "ReLU at 'relu' reads the activation at 'relu', which is not Gaussian in the limit, .*put a linear layer or "
        "a convolution between .as in pre-activation residual",
    ),
    "activation, pool, activation": (
        lambda m, h: torch.tanh(F.avg_pool2d(F.relu(h), 2)),
        "at 'tanh' reads the activation at 'relu', pooled at 'avg_pool2d', which is not Gaussian",
    ),
    "activation of channels side by side": (
        lambda m, h: torch.tanh(torch.cat([h, F.relu(h)], 1)),
        "at 'tanh' reads the activation at 'relu', which is not Gaussian",
    ),
    "a layer and its pool": (
        lambda m, h: h + F.avg_pool2d(h, 3, 1, 1),
        "'add' adds two values that depend on the output of the same layer .the layer at 'first' and the layer at "
        "'first', pooled at 'avg_pool2d'.*put a linear layer on one",
    ),
    "a pooled layer and its pooled activation": (
        lambda m, h: F.avg_pool2d(h, 2) + F.avg_pool2d(F.relu(h), 2),
        "'add' adds two values that depend on the output of the same layer .the layer at 'first', pooled at "
        "'avg_pool2d' and the activation at 'relu', pooled at 'avg_pool2d'",
    ),
    "activations of two sums": (
        lambda m, h: F.relu(h + m.mid(h)) + F.relu(h - m.mid2(h)),
        "'add' adds two values that depend on the output of the same layer",
    ),
    "two pools of one activation": (
        lambda m, h: F.relu(h) + F.avg_pool2d(F.relu(h), 3, 1, 1),
        "depend on the output of the same layer .*, so their covariance is not known; put a linear layer on one",
    ),
    "a sum that cancels": (lambda m, h: h - h, "the sum at 'sub' cancels to exactly 0, which has no kernel; remove it"),
    "a block that cancels": (
        lambda m, h: m.wide(torch.cat([h, m.mid(h)], 1) - torch.cat([h, h], 1)),
        "the sum at 'sub' cancels to exactly 0",
    ),
    "different outputs side by side": (
        lambda m, h: torch.cat([m.mid(h), h], 1).mean((2, 3)),
        "output at 'mean' holds channels of different layers side by side, which have different kernels; return them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_known_limit_is_refused(name):
    body, text = REFUSED[name]
    every = {"mid": conv(8, 8), "mid2": conv(8, 8), "wide": conv(16, 8)}
    parts = {name: part for name, part in every.items() if name in body.__code__.co_names}
    with pytest.raises(UnsupportedLayer, match=text):
        compile_network(trace(Net(body, **parts)))


DATA = {
    "activation of the data": (
        lambda m, x: m.conv(F.relu(x)),
        "reads the data, which is not Gaussian .*apply it to the data before",
    ),
    "activation of the pooled data": (lambda m, x: m.conv(F.relu(F.avg_pool2d(x, 2))), "reads the data, which is not"),
    "the data and an activation": (
        lambda m, x: m.same(F.relu(m.same2(x)) + x),
        "'add' adds the data and the activation at 'relu', whose covariance",
    ),
    "the data and their pool": (
        lambda m, x: m.conv(x + F.avg_pool2d(x, 3, 1, 1)),
        "adds the data and a pooled or flattened form of the data, whose covariance is not .* layer on both branches",
    ),
    "layers on parts of the data": (
        lambda m, x: m.same(x + torch.cat([m.one(x), m.two(x)], 1)),
        "'add' adds the data and the layer at 'one', and 'same' reads the sum, which has as few channels as the data",
    ),
    "the data and a layer of as few channels": (
        lambda m, x: m.conv(x + m.same(x)),
        "'add' adds the data and the layer at 'same', and 'conv' reads .* random .* between the data and the sum",
    ),
    "the pooled sum of the data and a layer": (
        lambda m, x: m.conv(F.avg_pool2d(x + m.same(x), 2)),
        "'add' adds the data and the layer at 'same', pooled at .*, and 'conv' reads the sum",
    ),
    "nothing but the data": (lambda m, x: x.permute(0, 2, 3, 1), "the model has no layer with weights"),
    "one output of the data": (lambda m, x: (m.conv(x), 2 * x), "the model has no layer with weights"),
}


@pytest.mark.parametrize("name", DATA)
def test_what_has_no_limit_of_the_data_is_refused(name):
    run, text = DATA[name]
    every = {"conv": conv(3, 8), "same": conv(3, 3), "same2": conv(3, 3), "one": conv(3, 1), "two": conv(3, 2)}

    class OnData(nn.Module):
        def __init__(self):
            super().__init__()
            for part in set(run.__code__.co_names) & set(every):
                setattr(self, part, every[part])

        def forward(self, x):
            return run(self, x)

    with pytest.raises(UnsupportedLayer, match=text):
        compile_network(trace(OnData()))
