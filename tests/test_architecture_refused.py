"""What has no meaning for images is refused with its path, the reason and a remedy."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.architecture import trace
from ntkit.errors import InvalidInput, UnsupportedLayer


class Bent(nn.Module):
    """A convolution of the data with something done to it, given as (forward, attributes)."""

    def __init__(self, run, **parts):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, self.block(x))


class OnData(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


class OwnConv(nn.Conv2d):
    pass


def _bent(run, **parts):
    return lambda: Bent(run, **parts)


def _on_data(run, **parts):
    return lambda: OnData(run, **parts)


def _conv(**options):
    return nn.Conv2d(8, 8, 3, padding=1, **options)


class MeanOfPositions(nn.Module):
    """The mean over all positions, whatever their number of axes, which is asked for by `count`."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, h):
        return h.mean(tuple(range(2, self.count(h))))


NO_AXES = (
    r"asks a tensor for its number of axes .* is not known while .* fixed whole numbers are wanted; write them out, "
    r"x.mean\(\(2, 3\)\) .*ntkit.empirical_ntk"
)


def _mean_of_positions(count):
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), MeanOfPositions(count)))


UNSUPPORTED = {
    "number of axes": (
        _mean_of_positions(lambda h: h.ndim),
        r"the forward of MeanOfPositions at '1\.1' " + NO_AXES,
    ),
    "number of axes by method": (_mean_of_positions(lambda h: h.dim()), NO_AXES),
    "number of axes by length": (_mean_of_positions(lambda h: len(h.shape)), NO_AXES),
    "number of axes by length of size": (_mean_of_positions(lambda h: len(h.size())), NO_AXES),
    "number of axes of a view": (_mean_of_positions(lambda h: h.mT.ndim), NO_AXES),
    "number of axes as an argument": (
        _bent(lambda m, h: h.flatten(1, h.ndim - 1)),
        "the forward of Bent asks a tensor for its number of axes",
    ),
    "branch on the number of axes": (_on_data(lambda m, x: x if x.ndim == 2 else x.flatten(1)), NO_AXES),
    "reflect padding": (
        _bent(lambda m, h: m.own(h), own=_conv(padding_mode="reflect")),
        "Conv2d at 'own' has padding_mode='reflect', which has no rule; use 'zeros' or 'circular'",
    ),
    "replicate padding": (
        lambda: nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="replicate")),
        "'replicate'",
    ),
    "own convolution": (
        _bent(lambda m, h: m.own(h), own=OwnConv(8, 8, 3)),
        "OwnConv at 'own' is a subclass of a convolution that ntkit does not know",
    ),
    "convolution used twice": (
        _bent(lambda m, h: m.own(F.relu(m.own(h))), own=_conv()),
        "the weight of Conv2d at 'own' is used twice",
    ),
    "max pooling": (
        _bent(lambda m, h: m.pool(h), pool=nn.MaxPool2d(2)),
        "MaxPool2d at 'pool' has no rule .*the maximum of .*use average pooling, torch.nn.AvgPool2d; or use a layer",
    ),
    "max pooling by function": (
        _bent(lambda m, h: F.max_pool2d(h, 2)),
        "max_pool2d' has no rule .*use average pooling",
    ),
    "adaptive max pooling": (_bent(lambda m, h: F.adaptive_max_pool2d(h, 1)), "has no rule .*AdaptiveAvgPool2d"),
    "batch norm": (
        _bent(lambda m, h: m.norm(h), norm=nn.BatchNorm2d(8).eval()),
        "BatchNorm2d at 'norm' has no rule .*ties samples of a batch together",
    ),
    "norm of positions": (
        _bent(lambda m, h: m.norm(h), norm=nn.LayerNorm([4, 4])),
        "LayerNorm at 'norm' divides by the root mean square of each channel alone",
    ),
    "upsampling": (
        _bent(lambda m, h: m.up(h), up=nn.Upsample(scale_factor=2, mode="bicubic")),
        "Upsample at 'up' interpolates by mode='bicubic'",
    ),
    "dropout in training": (
        _bent(lambda m, h: m.drop(h), drop=nn.FeatureAlphaDropout()),
        "FeatureAlphaDropout at 'drop' is in training mode, .*; call model.eval",
    ),
    "linear layer on rows": (
        _bent(lambda m, h: m.mix(h), mix=nn.Linear(4, 4)),
        "Linear at 'mix' acts on the last axis of .batch, channels, positions 0, positions 1., which does not hold the "
        "channels; permute the axes so that the channels are last, flatten everything",
    ),
    "linear layer on a part": (
        _bent(lambda m, h: m.mix(h.permute(0, 2, 1, 3).flatten(2)), mix=nn.Linear(32, 4)),
        "Linear at 'mix' acts on the last axis of .*, which holds a part of the positions",
    ),
    "mean over channels": (
        _bent(lambda m, h: h.mean(1)),
        "'mean' reduces over an axis of samples or channels, .*name the axes of positions",
    ),
    "mean of the data": (_on_data(lambda m, x: x.mean((2, 3))), "no layer has told; use a pooling layer of torch"),
    "concatenation of samples": (_bent(lambda m, h: torch.cat([h, h])), "'cat' joins tensors .*that holds samples"),
    "concatenation of positions": (
        _bent(lambda m, h: torch.cat([h, h], dim=3)),
        "'cat' joins tensors along an axis that holds positions, .*concatenate the channels before flattening",
    ),
    "concatenation of flattened images": (
        _bent(lambda m, h: torch.cat([h.flatten(1), h.flatten(1)], 1)),
        "'cat' joins tensors along an axis that holds positions, or channels and positions merged",
    ),
    "concatenation into out": (_bent(lambda m, h: torch.cat([h, h], 1, out=h)), "arguments that have no rule"),
    "sum that broadcasts": (
        _bent(lambda m, h: h + h.mean((2, 3), keepdim=True)),
        r"'add' combines tensors whose axes hold \(batch, channels, positions 0, positions 1\) and \(batch, channels, "
        r"1, 1\); give them the same axes: one that broadcasts",
    ),
    "sum of transposed images": (
        _bent(lambda m, h: h + h.mT),
        "'add' combines tensors whose axes hold .*another order",
    ),
    "sum of differently flattened images": (
        _bent(lambda m, h: h.flatten(1) + h.permute(0, 2, 3, 1).flatten(1)),
        "'add' combines tensors whose axes hold",
    ),
    "product of an image with its mean": (
        _bent(lambda m, h: h * torch.sigmoid(h.mean((2, 3), keepdim=True))),
        "'mul' combines tensors whose axes hold .*; give them the same axes",
    ),
    "sum of a row image and a line": (
        _bent(
            lambda m, h: m.line(h.mean(2)) + m.line2(m.block2(h).mean((2, 3), keepdim=True).squeeze(2)),
            line=nn.Conv1d(8, 8, 1),
            line2=nn.Conv1d(8, 8, 1),
            block2=_conv(),
        ),
        "'add' combines tensors whose axes hold",
    ),
    "samples mixed with positions": (
        _bent(lambda m, h: h.permute(0, 2, 3, 1).flatten(0, 2)),
        "'flatten' mixes samples with other axes; flatten from axis 1 on",
    ),
    "reshape that splits": (
        _bent(lambda m, h: h.view(h.size(0), 2, 4, h.size(2), h.size(3))),
        "'view' reshapes .* to .*; only a reshape to .batch, features., or one that merges whole neighbouring axes",
    ),
    "pixel shuffle": (_bent(lambda m, h: F.pixel_shuffle(h, 2)), "'pixel_shuffle' has no rule"),
    "squeeze of what may be larger": (_bent(lambda m, h: h.squeeze(2)), "'squeeze' drops axis 2 .*need not have one"),
    "squeeze of everything": (_bent(lambda m, h: h.squeeze()), "'squeeze' drops the axes .*happen to have one entry"),
    "axis added to the data": (
        _on_data(lambda m, x: m.conv(x.unsqueeze(1)), conv=nn.Conv2d(1, 1, 1)),
        "'unsqueeze' adds an axis to the data; give the data with an axis of channels",
    ),
    "data flattened out of order": (
        _on_data(lambda m, x: m.fc(x.permute(0, 2, 3, 1).flatten(1)), fc=nn.Linear(12, 1)),
        "'flatten' flattens the data after a permutation of their axes; flatten them before",
    ),
    "data flattened out of order, their axes known": (
        _on_data(
            lambda m, x: m.conv(x).mean((2, 3)) + m.fc(x.flatten(1) + x.permute(0, 2, 3, 1).flatten(1)),
            conv=nn.Conv2d(3, 1, 1),
            fc=nn.Linear(12, 1),
        ),
        "'flatten' flattens the data after a permutation of their axes",
    ),
    "last axis of the data": (
        _on_data(lambda m, x: m.conv(x.transpose(1, -1)), conv=nn.Conv2d(1, 1, 1)),
        "'transpose' names axis -1 of data whose number of axes nothing has told yet",
    ),
    "axis that is not there": (_bent(lambda m, h: h.transpose(1, 4)), "'transpose' names axis 4 of 4"),
    "permutation that repeats": (_bent(lambda m, h: h.permute(0, 1, 1, 2)), "'permute' orders axes as"),
    "batch axis last": (_bent(lambda m, h: h.mean((2, 3)).transpose(0, 1)), "return the batch axis first"),
    "pool by an output that is no number": (
        _bent(lambda m, h: F.adaptive_avg_pool2d(h, (h.size(2), 1))),
        "'adaptive_avg_pool2d' is called with arguments that have no rule",
    ),
    "mean with a dtype": (_bent(lambda m, h: h.mean((2, 3), dtype=torch.float64)), "arguments that have no rule"),
    "part of an image": (_bent(lambda m, h: h[:, :, 0]), "takes a part of a tensor"),
    "root of a size": (
        _bent(lambda m, h: h / h.shape[1] ** 0.5),
        "'pow' computes with the size of a tensor .*not known as a number while .*write the number out",
    ),
    "root of a size by math": (_bent(lambda m, h: h / math.sqrt(h.size(1))), "'sqrt' computes with the size of a te"),
    "division by a size": (_bent(lambda m, h: h / h.shape[1]), "'truediv' computes with the size of a tensor"),
    "product with a size": (_bent(lambda m, h: h.shape[1] * h), "'mul' computes with the size of a tensor"),
    "cast to whole numbers": (_bent(lambda m, h: h.to(torch.long)), "'to' is called with arguments that have no rule"),
    "move to a device": (_bent(lambda m, h: h.to("cuda")), "'to' is called with arguments that have no rule"),
    "stack": (_bent(lambda m, h: torch.stack([h, h], 1)), "'stack' has no rule"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_meaning_for_images_is_named_with_its_path(unchecked, name):
    make, text = UNSUPPORTED[name]
    with pytest.raises(UnsupportedLayer, match=text):
        trace(make())


def test_a_window_along_an_axis_added_to_vectors_is_refused():
    def run(m, h):
        vector = m.fc(h.flatten(1))
        return m.conv(vector.unsqueeze(2).unsqueeze(3))

    with pytest.raises(
        UnsupportedLayer, match=r"Conv2d at 'conv' has a window along an axis of one entry that was add"
    ):
        trace(Bent(run, fc=nn.Linear(128, 8), conv=_conv()))
    pointwise = trace(Bent(run, fc=nn.Linear(128, 8), conv=nn.Conv2d(8, 2, 1)))
    assert pointwise.weighted_paths == ("block.0", "fc", "conv")


INVALID = {
    "channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 1, 3)),
        "Conv2d at '1' takes 4 channels, but 8 arrive; make the sizes agree",
    ),
    "rank": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv1d(8, 1, 3)),
        "Conv1d at '1' takes .batch, channels, 1 axes of positions., but axes that hold .* arrive",
    ),
    "two ranks of the data": (
        lambda: OnData(lambda m, x: m.a(x).mean((2, 3)) + m.b(x).mean(2), a=nn.Conv2d(3, 1, 1), b=nn.Conv1d(3, 1, 1)),
        "Conv1d at 'b' takes .batch, channels, 1 axes of positions.",
    ),
    "channels not second": (
        lambda: Bent(lambda m, h: m.conv(h.permute(0, 2, 3, 1)), conv=_conv()),
        "Conv2d at 'conv' takes .batch, channels, 2 axes of positions., but axes that hold .batch, positions 0",
    ),
    "flattened width": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(100, 1)),
        "Linear at '2' takes 100 features, but a multiple of 8 arrive",
    ),
    "flattened width known": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 1)),
        "Linear at '3' takes 64 features, but 32 arrive",
    ),
    "viewed width": (
        lambda: Bent(lambda m, h: m.fc(h.view(-1, 100)), fc=nn.Linear(100, 1)),
        "'view' reshapes to 100 features, but a multiple of 8 arrive",
    ),
    "kernel after a global pool": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 1, 3)),
        "Conv2d at '2': a window of 3 positions does not fit into 1",
    ),
    "pool padding": (
        lambda: Bent(lambda m, h: F.avg_pool2d(h, 2, padding=(1, 2))),
        "'avg_pool2d' pads by .1, 2., and at most half of its window .2, 2. is allowed",
    ),
    "stride": (
        lambda: nn.Sequential(_no_stride()),
        "Conv2d at '0' has .*stride=.0, 0.*give whole numbers from 1",
    ),
    "known sizes": (
        lambda: Bent(lambda m, h: F.adaptive_avg_pool2d(h, 3) + m.conv(F.adaptive_avg_pool2d(h, 2)), conv=_conv()),
        "'add' combines tensors of .3, 2. positions along an axis; make them agree",
    ),
    "division by zero": (_bent(lambda m, h: h / 0), "'truediv' divides a tensor by 0; use a number other than 0"),
    "division by zero in place": (_bent(lambda m, h: h.div_(0.0)), "divides a tensor by 0.0; use a number other"),
    "factor of infinite square": (_bent(lambda m, h: 1e200 * h), "'mul' combines a tensor with 1e.200; use a fin"),
    "factor beyond float64": (_bent(lambda m, h: 10**400 * h), "'mul' combines a tensor with 1000.*; use a fin"),
    "factors of infinite square": (_bent(lambda m, h: 1e100 * h * 1e100), "'mul' multiplies a tensor by 1e.200 in"),
    "division by next to nothing": (_bent(lambda m, h: h / 5e-324), "'truediv' multiplies a tensor by inf in all"),
    "alpha of infinite square": (_bent(lambda m, h: torch.add(h, h, alpha=1e200)), "'add' has alpha=1e.200; use a"),
    "channels of the data": (
        lambda: OnData(lambda m, x: m.fc(torch.cat([x.flatten(1), x.flatten(1)], 1)), fc=nn.Linear(8, 1)),
        "'cat' joins the data before any layer has told how many channels they have",
    ),
}


def _no_stride():
    layer = nn.Conv2d(3, 8, 3)
    layer.stride = (0, 0)
    return layer


@pytest.mark.parametrize("name", INVALID)
def test_images_that_cannot_pass_are_invalid(unchecked, name):
    make, text = INVALID[name]
    with pytest.raises(InvalidInput, match=text):
        trace(make())


# ---- memory ----------------------------------------------------------------------------------------------------------


def _flat_relu_read_again(m, h):
    flat = h.flatten(1)
    flat.relu_()
    return m.fc(flat) + m.fc2(h.flatten(1))


def _flat_function_read_again(m, h):
    flat = h.flatten(1)
    F.relu_(flat)
    return m.fc(flat) + m.fc2(h.flatten(1))


def _cast_read_again(m, h):
    """A cast copies, or does not."""
    F.relu_(h.float())
    return m.fc(h.flatten(1))


def _permuted_relu_read_again(m, h):
    h.permute(0, 2, 3, 1).mul_(2.0)
    return m.fc(h.flatten(1))


def _flat_relu_alone(m, h):
    h = h.flatten(1)
    return m.fc(F.relu(h, inplace=True))


def _plain(m, h):
    return m.fc((2.0 * h).flatten(1))


def _specs(run, **parts):
    return [(n.spec, n.inputs) for n in trace(Bent(run, fc=nn.Linear(128, 1), **parts)).nodes]


def test_in_place_operations_are_seen_through_views_and_doubtful_ones_refused():
    assert _specs(_permuted_relu_read_again) == _specs(_plain)
    assert _specs(_flat_relu_alone) == _specs(lambda m, h: m.fc(F.relu(h.flatten(1))))
    for again in (_flat_relu_read_again, _flat_function_read_again, _cast_read_again):
        text = r"'relu_' overwrites a tensor that another shape views; use the operation that is not in place"
        with pytest.raises(UnsupportedLayer, match=text):
            _specs(again, fc2=nn.Linear(128, 1))


def test_buffers_and_parameters_of_convolutions_are_accounted_for():
    layer = ntkit.nn.Conv2d(3, 8, 3)
    layer.register_buffer("mask", torch.ones(3))
    with pytest.raises(UnsupportedLayer, match=r"the buffer '0.mask' of shape .3,. is not accounted for"):
        trace(nn.Sequential(layer))
    spare = Bent(lambda m, h: h, spare=_conv())
    with pytest.raises(UnsupportedLayer, match=r"parameter 'spare.weight' of shape .8, 8, 3, 3. is not accounted for"):
        trace(spare)
