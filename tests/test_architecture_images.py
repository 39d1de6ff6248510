"""Images: what a convolutional network is as data, and one network however its axes are moved."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.architecture import Network, sizes_of, trace
from ntkit.architecture.specs import Concat, Conv, Flatten, Input, LeakyReLU, Linear, LinearCombination, Pool, Squeeze
from ntkit.architecture.windows import AdaptiveAxis, ConvAxis, KeepAxis, PoolWindow, WholeAxis

Conv1d, Conv2d = ntkit.nn.Conv1d, ntkit.nn.Conv2d
GLOBAL = Pool((WholeAxis(), WholeAxis()))
RELU = LeakyReLU(0.0)


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


def specs(model):
    return [node.spec for node in trace(model).nodes]


def data(model):
    """What the network is, whatever the paths."""
    network = trace(model)
    return [(node.spec, node.inputs) for node in network.nodes], network.outputs, network.structure


def test_a_convolutional_network_as_data():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    window, pool = ConvAxis(3, before=1, after=1), PoolWindow(2, 2)
    assert specs(model) == [
        Input(1, (2, 3), channels=3),
        Conv(in_channels=3, out_channels=8, axes=(window, window), bias=False, trains_bias=False),
        RELU,
        Pool((pool, pool)),
        Flatten(128),
        Linear(128, 10, bias=True),
    ]
    assert trace(model).weighted_paths == ("0", "4")
    assert trace(model).output_paths == ("4",)


# ---- convolutions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "axis"),
    [
        ({}, ConvAxis(3)),
        ({"stride": 2, "padding": 1}, ConvAxis(3, stride=2, before=1, after=1)),
        ({"padding": "valid", "dilation": 2}, ConvAxis(3, dilation=2)),
        ({"padding": "same", "dilation": 3}, ConvAxis(3, dilation=3, before=3, after=3)),
        ({"kernel_size": 4, "padding": "same"}, ConvAxis(4, before=1, after=2)),
        ({"kernel_size": 2, "padding": "same", "dilation": 5}, ConvAxis(2, dilation=5, before=2, after=3)),
        ({"padding": 1, "padding_mode": "circular"}, ConvAxis(3, before=1, after=1, circular=True)),
        ({"padding": 0, "padding_mode": "circular"}, ConvAxis(3)),
        ({"kernel_size": 1, "dilation": 4}, ConvAxis(1)),
    ],
)
@pytest.mark.parametrize("module", [nn.Conv1d, Conv1d])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_windows_of_convolutions_have_the_size_that_torch_gives(module, options, axis):
    layer = module(2, 5, **{"kernel_size": 3} | options)
    conv = specs(layer)[1]
    assert isinstance(conv, Conv)
    assert conv.axes == (axis,)
    for n in (11, 12):
        assert axis.size(n) == layer(torch.zeros(1, 2, n)).shape[2]
        assert sizes_of(trace(layer), (4, 2, n))[-1].grid == (axis.size(n),)


def test_each_axis_of_a_convolution_has_its_own_window():
    layer = nn.Conv3d(4, 6, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 2), groups=2, bias=False)
    conv = specs(layer)[1]
    assert conv == Conv(
        in_channels=4, out_channels=6, groups=2, bias=False, trains_bias=False,
        axes=(ConvAxis(1), ConvAxis(2, 2, 1, 1, 1), ConvAxis(3, 1, 1, 2, 2)),
    )  # fmt: skip
    assert conv.fan_in == layer.weight[0].numel()
    assert specs(ntkit.nn.Conv3d(1, 2, 3))[0] == Input(1, (2, 3, 4), channels=1)


def test_what_a_layer_trains_and_states():
    layer = Conv2d(3, 4, 3, w_std=1.5, b_std=0.3)
    layer.weight.requires_grad_(False)
    conv = specs(layer)[1]
    assert (conv.trains_weight, conv.trains_bias, conv.bias) == (False, True, True)
    assert (conv.w_std, conv.b_std, conv.parameterization) == (1.5, 0.3, "ntk")
    plain = nn.Linear(3, 1).requires_grad_(False)
    assert specs(plain)[1] == Linear(3, 1, bias=True, trains_weight=False, trains_bias=False)


# ---- pooling -------------------------------------------------------------------------------------------------------

POOLS = {
    "module": (nn.AvgPool2d(3, 2, 1), Pool((PoolWindow(3, 2, 1),) * 2)),
    "function": (lambda h: F.avg_pool2d(h, 3, stride=2, padding=1), Pool((PoolWindow(3, 2, 1),) * 2)),
    "stride of its own": (lambda h: F.avg_pool2d(h, (2, 3)), Pool((PoolWindow(2, 2), PoolWindow(3, 3)))),
    "ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), Pool((PoolWindow(3, 2, ceil=True),) * 2)),
    "padding does not count": (
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        Pool((PoolWindow(3, 2, 1, count_padding=False),) * 2),
    ),
    "sum": (nn.AvgPool2d(2, divisor_override=1), Pool((PoolWindow(2, 2, average=False),) * 2)),
    "a divisor": (nn.AvgPool2d(2, divisor_override=8), Pool((PoolWindow(2, 2, average=False),) * 2, 1 / 8)),
    "adaptive": (nn.AdaptiveAvgPool2d((3, None)), Pool((AdaptiveAxis(3), KeepAxis()))),
    "adaptive function": (lambda h: F.adaptive_avg_pool2d(h, (None, 2)), Pool((KeepAxis(), AdaptiveAxis(2)))),
    "global": (nn.AdaptiveAvgPool2d(1), GLOBAL),
    "mean": (lambda h: h.mean((2, 3), keepdim=True), GLOBAL),
    "numpy's names": (lambda h: torch.mean(h, axis=(2, 3), keepdims=True), GLOBAL),
    "sum of all": (lambda h: torch.sum(h, (-1, -2), keepdim=True), Pool((WholeAxis(False),) * 2)),
    "mean of rows": (lambda h: h.mean(-1, True), Pool((KeepAxis(), WholeAxis()))),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_compute_what_torch_computes(name):
    layer, spec = POOLS[name]
    features = POOL_FEATURES.get(name, 8)
    if isinstance(layer, nn.Module):
        model = Net(lambda m, h: m.pool(F.relu(h)).flatten(1), features, pool=layer)
    else:
        model = Net(lambda m, h: layer(F.relu(h)).flatten(1), features)
    found = specs(model)
    assert spec in found
    h = torch.randn(2, 3, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = torch.einsum(
        "Pp,Qq,ncpq->ncPQ", *(torch.from_numpy(a.matrix(n)) for a, n in zip(spec.axes, (7, 8), strict=True)), h
    )
    torch.testing.assert_close(layer(h), spec.factor * by_hand)


POOL_FEATURES = {"adaptive": 24, "adaptive function": 16}


@pytest.mark.parametrize(("module", "size"), [(nn.AvgPool1d(2), (8,)), (nn.AvgPool3d(2), (8, 8, 8))])
def test_pools_of_one_and_three_axes(module, size):
    conv = nn.Conv1d if len(size) == 1 else nn.Conv3d
    network = trace(nn.Sequential(conv(1, 2, 1), module))
    assert network.nodes[-1].spec == Pool((PoolWindow(2, 2),) * len(size))
    assert sizes_of(network, (1, 1, *size))[-1].grid == (4,) * len(size)


def test_a_pool_that_keeps_every_axis_is_nothing():
    assert data(Net(lambda m, h: F.adaptive_avg_pool2d(h, None).mean((2, 3)))) == data(Net(lambda m, h: h.mean((2, 3))))


# ---- one network, many ways to write it ----------------------------------------------------------------------------

GLOBAL_HEADS = {
    "module and flatten": lambda m, h: nn.functional.adaptive_avg_pool2d(F.relu(h), 1).flatten(1),
    "tuple of ones": lambda m, h: F.adaptive_avg_pool2d(F.relu(h), (1, 1)).view(h.size(0), -1),
    "mean": lambda m, h: F.relu(h).mean((2, 3)),
    "torch.mean with list": lambda m, h: torch.mean(F.relu(h), dim=[2, 3]),
    "mean and squeeze": lambda m, h: F.relu(h).mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
    "squeeze of two": lambda m, h: F.relu(h).mean((2, 3), keepdim=True).squeeze((2, 3)),
    "negative axes": lambda m, h: F.relu(h).mean((-1, -2)),
    "flatten first": lambda m, h: F.relu(h).flatten(2).mean(-1),
    "reshape with sizes": lambda m, h: F.relu(h).reshape(h.shape[0], h.shape[1], -1).mean(2),
    "channels last": lambda m, h: F.relu(h).permute(0, 2, 3, 1).mean((1, 2)),
    "tokens": lambda m, h: F.relu(h).flatten(2).transpose(1, 2).mean(1),
    "activation after the move": lambda m, h: F.relu(h.permute(0, 2, 3, 1)).mean(dim=(1, 2)),
    "movedim": lambda m, h: torch.movedim(F.relu(h), 1, -1).mean((1, 2)),
    "added and dropped axes": lambda m, h: F.relu(h).mean((2, 3)).unsqueeze(-1).unsqueeze(1).squeeze(3).squeeze(1),
    "dropout": lambda m, h: F.dropout2d(F.relu(h), training=False).mean((2, 3)),
    "contiguous": lambda m, h: F.relu(h).permute(0, 2, 3, 1).contiguous().mean((1, 2)),
}


@pytest.mark.parametrize("name", GLOBAL_HEADS)
def test_spellings_of_global_pooling_are_one_network(name):
    body = GLOBAL_HEADS[name]
    assert data(Net(body)) == data(Net(GLOBAL_HEADS["mean"]))
    assert Net(body)(torch.randn(2, 3, 5, 6)).shape == (2, 1)


FLAT_HEADS = {
    "flatten": lambda m, h: F.relu(h).flatten(1),
    "activation after": lambda m, h: F.relu(h.flatten(1)),
    "flatten by torch": lambda m, h: torch.flatten(F.relu(h), start_dim=1, end_dim=3),
    "view": lambda m, h: F.relu(h).view(h.size(0), -1),
    "view with the width": lambda m, h: F.relu(h).view(-1, 240),
    "reshape with sizes": lambda m, h: F.relu(h).reshape(h.shape[0], h.shape[1] * h.shape[2] * h.shape[3]),
    "in two steps": lambda m, h: F.relu(h).flatten(2).flatten(1),
    "by rows": lambda m, h: F.relu(h).view(h.shape[0], 8 * h.shape[2], h.shape[3]).view(h.shape[0], -1),
    "channels last": lambda m, h: F.relu(h).permute(0, 2, 3, 1).reshape(h.size(0), -1),
    "transposed images": lambda m, h: F.relu(h).mT.flatten(1),
}


@pytest.mark.parametrize("name", FLAT_HEADS)
def test_spellings_of_a_flattened_head_are_one_network(name):
    body = FLAT_HEADS[name]
    assert data(Net(body, 240)) == data(Net(FLAT_HEADS["flatten"], 240))
    assert Net(body, 240)(torch.randn(2, 3, 5, 6)).shape == (2, 1)


POINTWISE = {
    "channels last": lambda m, h: m.mix(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).mean((2, 3)),
    "tokens": lambda m, h: m.mix(h.flatten(2).transpose(1, 2)).mean(1),
    "movedim": lambda m, h: m.mix(h.movedim(1, 3)).mean((1, 2)),
    "swapaxes": lambda m, h: m.mix(h.swapaxes(1, 3)).mean((1, 2)),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_a_linear_layer_on_the_channels_acts_at_every_position(name):
    def model(body):
        return Net(body, mix=ntkit.nn.Linear(8, 8))

    assert data(model(POINTWISE[name])) == data(model(POINTWISE["channels last"]))
    assert Linear(8, 8, bias=False, trains_bias=False, w_std=1.0, b_std=0.0, parameterization="ntk") in specs(
        model(POINTWISE[name])
    )
    assert model(POINTWISE[name])(torch.randn(2, 3, 5, 6)).shape == (2, 1)


def test_windows_follow_the_axes_that_a_permutation_moves():
    plain = data(Net(lambda m, h: m.mid(h).mean((2, 3)), mid=Conv2d(8, 8, (1, 5), stride=(2, 3))))
    turned = data(Net(lambda m, h: m.mid(h.mT).mean((2, 3)), mid=Conv2d(8, 8, (5, 1), stride=(3, 2))))
    assert plain == turned


def test_a_window_of_rows_sees_images_of_one_row():
    body = lambda m, h: m.rows(h.mean(2)).mean(2)  # noqa: E731
    conv = next(s for s in specs(Net(body, rows=Conv1d(8, 8, 3))) if isinstance(s, Conv) and s.in_channels == 8)
    assert conv.axes == (ConvAxis(1), ConvAxis(3))


# ---- the data ------------------------------------------------------------------------------------------------------


class Reads(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    ("run", "layer", "axes"),
    [
        (lambda m, x: m.layer(x), nn.Conv2d(3, 1, 1), Input(1, (2, 3), 3)),
        (lambda m, x: m.layer(x.permute(0, 3, 1, 2)), nn.Conv2d(3, 1, 1), Input(3, (1, 2), 3)),
        (lambda m, x: m.layer(x.transpose(1, 2)), nn.Conv1d(3, 1, 1), Input(2, (1,), 3)),
        (lambda m, x: m.layer(x.permute(0, 2, 1)), nn.Conv1d(3, 1, 1), Input(2, (1,), 3)),
        (lambda m, x: m.layer(2 * x), nn.Linear(3, 1), Input(channels=3)),
        (lambda m, x: m.layer(x.transpose(1, 2)), nn.Linear(3, 1), Input(1, (2,), 3)),
        (lambda m, x: m.layer(F.avg_pool2d(x, 2)), nn.Conv2d(3, 1, 1), Input(1, (2, 3), None)),
        (lambda m, x: m.layer(x.flatten(1)), nn.Linear(12, 1), Input()),
    ],
)
def test_the_first_layer_says_what_the_axes_of_the_data_hold(run, layer, axes):
    assert specs(Reads(run, layer=layer))[0] == axes


def test_what_a_layer_says_holds_for_everything_that_reads_the_data():
    def run(m, x):
        y = 2 * x
        h = m.conv(x) + y
        return m.head(torch.cat([h, x], 1).mean((2, 3))) + m.flat(y.flatten(1))

    model = Reads(run, conv=Conv2d(3, 3, 1), head=nn.Linear(6, 1), flat=nn.Linear(12, 1))
    found = specs(model)
    assert found[0] == Input(1, (2, 3), 3)
    assert Concat((3, 3)) in found
    assert Flatten(12) in found
    sizes_of(trace(model), (5, 3, 2, 2))


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2]),
        lambda x: x.view(-1, 12),
        lambda x: torch.flatten(input=x, start_dim=1),
        lambda x: F.dropout(x, training=False).flatten(start_dim=1),
    ],
)
def test_the_data_may_be_flattened_whatever_their_axes(flatten):
    found = specs(Reads(lambda m, x: m.layer(flatten(x)), layer=nn.Linear(12, 1)))
    assert found[:2] == [Input(), Flatten(12)]


def test_axes_of_the_data_may_be_unpacked():
    def run(m, x):
        n, c, h, w = x.shape  # read before a layer has said what they are
        y = m.conv(x)
        return m.layer(F.relu(y).reshape(n, c * h * w))

    assert specs(Reads(run, conv=nn.Conv2d(3, 3, 1), layer=nn.Linear(12, 1)))[3] == Flatten(12)


# ---- sums, concatenation, several outputs --------------------------------------------------------------------------


def test_concatenation_and_sums_of_layers():
    def body(m, h):
        return torch.cat([h, m.mid(F.relu(h)), h + m.mid2(F.relu(h))], dim=1).mean((2, 3))

    model = Net(body, 24, mid=Conv2d(8, 8, 1), mid2=Conv2d(8, 8, 1))
    found = specs(model)
    assert Concat((8, 8, 8)) in found
    assert LinearCombination((1.0, 1.0)) in found
    for cat in (torch.concat, torch.concatenate):
        same = Net(lambda m, h, cat=cat: cat([h, m.mid(h)], -3).mean((2, 3)), 16, mid=Conv2d(8, 8, 1))
        by_axis = Net(lambda m, h: torch.cat((h, m.mid(h)), axis=1).mean((2, 3)), 16, mid=Conv2d(8, 8, 1))
        assert data(same) == data(by_axis)
    assert data(Net(lambda m, h: torch.cat([h], 1).mean((2, 3)))) == data(Net(lambda m, h: h.mean((2, 3))))


def test_vectors_and_images_of_one_position_can_be_combined():
    def body(m, h):
        vector = m.inner(F.relu(h).mean((2, 3)).flatten(1))
        return vector + m.flat(h.flatten(1)) + torch.cat([m.flat2(h.flatten(1)), h.mean((2, 3))], 1)

    linear = ntkit.nn.Linear
    model = Net(body, inner=linear(8, 16), flat=linear(240, 16), flat2=linear(240, 8), features=16)
    found = specs(model)
    assert Squeeze() in found
    assert model(torch.randn(2, 3, 5, 6)).shape == (2, 1)
    assert sizes_of(trace(model), (2, 3, 5, 6))[-1].channels == 1


def _returning(kind):
    def run(m, x):
        h = m.conv(x)
        one, two = m.one(F.relu(h).mean((2, 3))), m.two(h.flatten(1))
        return {"tensor": one, "tuple": (one, two), "list": [one, two], "dict": {"near": one, "far": two}}[kind]

    model = Reads(run, conv=Conv2d(3, 4, 1), one=nn.Linear(4, 1), two=nn.Linear(16, 1))
    if kind == "tensor":
        del model.two
        model.two = lambda x: x
    return model


@pytest.mark.parametrize(
    ("kind", "structure", "arranged"),
    [
        ("tensor", "tensor", 10),
        ("tuple", "tuple", (10, 20)),
        ("list", "list", [10, 20]),
        ("dict", ("near", "far"), {"near": 10, "far": 20}),
    ],
)
def test_several_outputs_keep_their_structure(kind, structure, arranged):
    network = trace(_returning(kind))
    assert isinstance(network, Network)
    assert network.structure == structure
    assert network.output_paths == ("one", "two")[: len(network.outputs)]
    result = network.arrange([10, 20][: len(network.outputs)])
    assert result == arranged
    assert type(result) is type(arranged)
