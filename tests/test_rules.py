"""Rules: networks as programs, with the Gaussian bookkeeping over positions and blocks of channels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.architecture import trace
from ntkit.architecture.specs import LeakyReLU, Spec
from ntkit.architecture.windows import ConvAxis, PoolWindow, WholeAxis
from ntkit.errors import InvalidInput, MissingScale, UnsupportedLayer
from ntkit.infinite.program import Affine, Combine, Dual, Pool, Read, Trace, Window
from ntkit.infinite.rules import Block, Builder, Term, Value, compile_network, rule
from ntkit.infinite.rules.values import add
from ntkit.infinite.scales import with_scales

RELU = LeakyReLU(0.0)
HALF, WHOLE = (PoolWindow(2, 2),) * 2, (WholeAxis(),) * 2
SAME = (ConvAxis(3, before=1, after=1),) * 2
IMAGES = Read(3, False, 1, (2, 3))


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


def linear(i, o=1):
    return ntkit.nn.Linear(i, o)


def program(model, w_std=1.0, b_std=0.0, parameterization="ntk"):
    return compile_network(with_scales(trace(model), w_std, b_std, parameterization))


def ops(body, **parts):
    return list(program(Net(body, **parts)).instructions)


def affine(source, w=1.0, b=0.0, weight_rate=1.0, bias_rate=0.0):
    return Affine(source, w, b, weight_rate, bias_rate)


# ---- layers --------------------------------------------------------------------------------------------------------


def test_a_convolutional_network_as_a_program():
    body = lambda m, h: m.head(m.mid(F.avg_pool2d(F.relu(h), 2)).relu().flatten(1))  # noqa: E731
    found = ops(body, mid=conv(8, 16, 3, w_std=2.0, b_std=0.5), head=linear(64))
    assert found == [
        IMAGES,
        Window(0, SAME),
        affine(1),
        Dual(2, RELU, ""),
        Pool(3, HALF),
        Window(4, SAME),
        affine(5, 4.0, 0.25, 4.0, 0.25),
        Dual(6, RELU, ""),
        Trace(7),
        affine(8),
    ]


def test_layers_on_one_position_need_no_window():
    found = ops(lambda m, h: m.head(m.mid(h).mean((2, 3))), mid=conv(8, 4, 1), head=linear(4))
    assert found == [IMAGES, Window(0, SAME), affine(1), affine(2), Pool(3, WHOLE), affine(4)]
    strided = ops(lambda m, h: m.mid(h).mean((2, 3)), mid=nn.Conv2d(8, 4, 1, stride=2, bias=False))
    assert strided[3] == Window(2, (ConvAxis(1, stride=2),) * 2)


def test_branches_share_windows_and_pools():
    def body(m, h):
        r = F.relu(h)
        return m.a(r).mean((2, 3)) + m.b(r).mean((2, 3))

    found = ops(body, a=conv(8, 4), b=conv(8, 4))
    assert found[4:] == [Window(3, SAME), affine(4), Pool(5, WHOLE), affine(4), Pool(7, WHOLE),
                         Combine((6, 8), (1.0, 1.0))]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"w_std": 1.5, "b_std": 0.5}, affine(1, 2.25, 0.25, 2.25, 0.25)),
        ({"w_std": 1.5, "b_std": 0.5, "parameterization": "standard"}, affine(1, 2.25, 0.25, 27.0, 1.0)),
        ({"w_std": "torch", "b_std": "torch"}, affine(1, 1 / 3, 1 / 81, 1 / 3, 1 / 81)),
        (
            {"w_std": "torch", "b_std": "torch", "parameterization": "standard"},
            affine(1, 1 / 3, 1 / 81, 27.0, 1.0),
        ),
    ],
)
def test_scales_of_plain_convolutions(options, expected):
    found = program(nn.Conv2d(3, 8, 3), **options).instructions[2]
    assert isinstance(found, Affine)
    for name in ("weight_variance", "bias_variance", "weight_rate", "bias_rate"):
        assert math.isclose(getattr(found, name), getattr(expected, name), rel_tol=1e-12)


def test_torchs_default_draw_has_these_scales():
    layer = nn.Conv2d(40, 400, 5)
    variance = 1 / (3 * 40 * 25)
    for parameter in (layer.weight, layer.bias):
        assert abs(parameter.var().item() / variance - 1) < 5 * math.sqrt(0.8 / parameter.numel())


def test_a_convolution_without_scales_is_named():
    with pytest.raises(
        MissingScale, match=r"Conv2d at '0' is a plain torch layer and states no w_std; .*ntkit.nn.Conv2d"
    ):
        program(nn.Sequential(nn.Conv2d(3, 1, 3)), w_std=None)
    with pytest.raises(MissingScale, match=r"Conv2d at '0' has no scale"):
        compile_network(trace(nn.Sequential(nn.Conv2d(3, 1, 3))))
    with pytest.raises(InvalidInput, match=r"matches no plain layer; the plain layers are '0', '1'"):
        program(nn.Sequential(nn.Conv1d(3, 1, 3), nn.Conv1d(1, 1, 3)), w_std={"conv*": 1.0})


@pytest.mark.parametrize("name", ["w_std", "b_std"])
@pytest.mark.parametrize(
    "scale", [1e200, 10**400, float("nan"), -1.0, True], ids=["square", "whole", "nan", "negative", "bool"]
)
def test_scales_without_a_finite_square_are_refused(unchecked, name, scale):
    model = nn.Sequential(nn.Conv1d(3, 1, 3))
    for given in (scale, {"0": scale}):
        with pytest.raises(InvalidInput, match=f"{name} of the layer at '0' must be a number >= 0, of finite square"):
            program(model, **{name: given})


def test_patterns_that_are_no_text_are_refused(unchecked):
    with pytest.raises(InvalidInput, match=r'keys of w_std are path patterns as text, and 0 is a int; write "0"; the '):
        program(nn.Sequential(nn.Conv1d(3, 1, 3)), w_std={0: 1.0})


def test_frozen_parameters_enter_the_covariance_alone():
    model = nn.Sequential(conv(3, 8, b_std=0.5), nn.ReLU(), conv(8, 1, b_std=0.5))
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    found = [op for op in program(model).instructions if isinstance(op, Affine)]
    assert [(op.weight_rate, op.bias_rate) for op in found] == [(0.0, 0.0), (1.0, 0.0)]
    assert [(op.weight_variance, op.bias_variance) for op in found] == [(1.0, 0.25)] * 2


# ---- sums ----------------------------------------------------------------------------------------------------------


def test_equal_terms_add_up_and_different_layers_are_independent():
    twice = ops(lambda m, h: m.head((h + h).mean((2, 3))), head=linear(8))
    assert twice[-2:] == [Combine((3,), (4.0,)), affine(4)]
    pools = ops(lambda m, h: m.head((F.avg_pool2d(h, 2) + 2 * F.avg_pool2d(h, 2)).flatten(1)), head=linear(8))
    assert pools[3:] == [Pool(2, HALF), Combine((3,), (9.0,)), Trace(4), affine(5)]
    block = ops(lambda m, h: (h + m.a(F.relu(h)) - 2 * m.b(F.relu(h))).mean((2, 3)), a=conv(8, 8), b=conv(8, 8))
    assert block[-1] == Combine((7, 8, 9), (1.0, 1.0, 4.0))
    assert [op.source for op in block if isinstance(op, Pool)] == [2, 5, 6]


def _pre_activation(m, h):
    for block in (m.b1, m.b2):
        h = h + block(F.relu(h))
    short = m.down(F.avg_pool2d(h, 2))
    h = short + m.b3(F.relu(h))
    return m.head(F.relu(h).mean((2, 3)))


def test_a_pre_activation_residual_network_compiles():
    net = Net(
        _pre_activation,
        b1=conv(8, 8), b2=nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8)), down=conv(8, 16, 1),
        b3=nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), head=linear(16),
    )  # fmt: skip
    found = program(net)
    assert sum(isinstance(op, Combine) for op in found.instructions) == 4
    assert all(c == 1.0 for op in found.instructions if isinstance(op, Combine) for c in op.weights)


def test_a_dense_network_reads_every_earlier_layer():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 8)
            self.layers = nn.ModuleList(conv(8 + 4 * k, 4) for k in range(3))
            self.head = linear(20)

        def forward(self, x):
            features = [self.stem(x)]
            for layer in self.layers:
                features.append(layer(F.relu(torch.cat(features, 1))))
            return self.head(F.relu(torch.cat(features, 1)).mean((2, 3)))

    found = program(Dense())
    shares = [op.weights for op in found.instructions if isinstance(op, Combine)]
    assert shares == [(2 / 3, 1 / 3), (0.5, 0.25, 0.25), (0.4, 0.2, 0.2, 0.2)]
    assert all(not op.mean_products for op in found.instructions if isinstance(op, Combine))


def test_sums_of_activations_carry_products_of_means():
    def body(m, h):
        return m.head((F.relu(h) - 3 * F.relu(m.mid(F.relu(h)))).mean((2, 3)))

    found = ops(body, mid=conv(8, 8), head=linear(8))
    last = found[-2]
    assert isinstance(last, Combine)
    assert [type(found[i]) for i in last.terms] == [Pool, Pool]
    assert last == Combine(last.terms, (1.0, 9.0), ((*last.terms, -3.0),))


def test_opposite_sums_are_different_values_of_one_kernel():
    def body(m, h):
        g = m.mid(F.relu(h))
        return m.head(torch.cat([F.relu(h + g), F.relu(h - g)], 1).mean((2, 3)))

    found = ops(body, mid=conv(8, 8), head=linear(16))
    assert sum(isinstance(op, Dual) for op in found) == 3


def test_functions_of_one_layer_are_one_activation():
    found = ops(lambda m, h: m.head((F.relu(2 * h) + F.relu(-2 * h) + h).mean((2, 3))), head=linear(8))
    assert [type(op) for op in found[3:]] == [Dual, Pool, Affine]


# ---- channels side by side -----------------------------------------------------------------------------------------


def test_a_concatenation_has_the_mean_kernel_of_its_channels():
    found = ops(lambda m, h: m.head(torch.cat([h, m.mid(F.relu(h))], 1).mean((2, 3))), mid=conv(8, 24), head=linear(32))
    assert found[-2] == Combine((6, 7), (0.25, 0.75))
    copies = ops(lambda m, h: m.head(torch.cat([h, h], 1).mean((2, 3))), head=linear(16))
    assert copies[-2] == Combine((3,), (1.0,))


def test_data_and_a_layer_side_by_side_keep_their_shares_when_flattened():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = conv(3, 1), linear(16)

        def forward(self, x):
            return self.head(torch.cat([self.conv(x), 2 * x], 1).flatten(1))

    found = list(program(Wide()).instructions)
    assert found[3:] == [Combine((0, 2), (3.0, 0.25)), Trace(3), affine(4)]


def test_blocks_of_channels_are_cut_where_a_sum_needs_it():
    def body(m, h):
        g, k = m.g(F.relu(h)), m.k(F.relu(h))
        return m.head((torch.cat([h, g], 1) + torch.cat([g, 2 * h], 1) + 3 * torch.cat([k, k], 1)).mean((2, 3)))

    found = ops(body, g=conv(8, 8), k=conv(8, 8), head=linear(16))
    last = found[-2]
    assert isinstance(last, Combine)
    # (h + g + 3k, g + 2h + 3k): h has weights (1, 4), g (1, 1), k (9, 9), each over half of the channels
    assert last.weights == (2.5, 1.0, 9.0)


def test_different_channels_of_one_layer_are_independent():
    def body(m, h):
        wide, g = m.wide(F.relu(h)), m.g(F.relu(h))
        left, right = torch.cat([wide, g], 1), torch.cat([g, wide], 1)
        return m.head((left + right).mean((2, 3)))

    found = ops(body, wide=conv(8, 12), g=conv(8, 4), head=linear(16))
    last = found[-2]
    assert isinstance(last, Combine)
    # wide + g on 4 channels, wide + wide shifted by 4 on 8, g + wide on 4: nowhere do coefficients add up
    assert last.weights == (1.5, 0.5)


def test_means_of_different_channels_of_one_activation_multiply():
    def body(m, h):
        wide, g = F.relu(m.wide(F.relu(h))), m.g(F.relu(h))
        return m.head(torch.cat([wide, g], 1).add(torch.cat([g, wide], 1)).mean((2, 3)))

    last = ops(body, wide=conv(8, 12), g=conv(8, 4), head=linear(16))[-2]
    assert isinstance(last, Combine)
    ((i, j, c),) = last.mean_products
    assert i == j
    assert c == 0.5


def test_activations_act_block_by_block():
    def side_by_side(m, h):
        return m.head(F.relu(torch.cat([h, m.mid(h)], 1)).mean((2, 3)))

    def apart(m, h):
        return m.head(torch.cat([F.relu(h), F.relu(m.mid(h))], 1).mean((2, 3)))

    parts = {"mid": conv(8, 8), "head": linear(16)}
    assert ops(side_by_side, **parts) == ops(apart, **parts)


# ---- groups --------------------------------------------------------------------------------------------------------


def test_groups_have_the_kernel_of_a_full_convolution_and_fewer_weights():
    grouped = Net(lambda m, h: m.mid(F.relu(h)).mean((2, 3)), mid=nn.Conv2d(8, 8, 3, groups=4))
    full = Net(lambda m, h: m.mid(F.relu(h)).mean((2, 3)), mid=nn.Conv2d(8, 8, 3))
    assert program(grouped) == program(full)
    rates = [program(net, parameterization="standard").instructions[5].weight_rate for net in (grouped, full)]
    assert rates == [18.0, 72.0]


def test_pools_of_layers_stay_gaussian():
    found = ops(lambda m, h: F.relu(F.avg_pool2d(h, 2)).mean((2, 3)))
    assert found[3:] == [Pool(2, HALF), Dual(3, RELU, ""), Pool(4, WHOLE)]
    after_sum = ops(lambda m, h: F.relu(F.avg_pool2d(h + m.mid(F.relu(h)), 2)).mean((2, 3)), mid=conv(8, 8))
    assert after_sum[-3:] == [Combine((6, 7), (1.0, 1.0)), Dual(8, RELU, ""), Pool(9, WHOLE)]


# ---- several outputs -----------------------------------------------------------------------------------------------


def test_outputs_at_several_depths_come_from_one_program():
    def body(m, h):
        outs = [m.h0(F.relu(h).flatten(1))]
        for mid, head in ((m.m1, m.h1), (m.m2, m.h2)):
            h = mid(F.relu(h))
            outs.append(head(F.relu(h).flatten(1)))
        return tuple(outs)

    heads = {f"h{k}": linear(8 * 16) for k in range(3)}
    found = program(Net(body, m1=conv(8, 8), m2=conv(8, 8), **heads))
    assert len(found.outputs) == 3
    assert all(isinstance(found.instructions[i], Affine) for i in found.outputs)
    assert sum(isinstance(op, Dual) for op in found.instructions) == 3


def test_the_same_output_twice_is_one_register():
    def body(m, h):
        return {"a": h.mean((2, 3)), "b": h.mean((2, 3)), "c": 2 * h.mean((2, 3))}

    found = program(Net(body))
    assert found.outputs == (3, 3, 4)


# ---- the books -----------------------------------------------------------------------------------------------------


def _term(register, shift=0, kind="affine"):
    return Term(register, kind, frozenset({(register, shift)}), "x")


def test_values_are_cut_and_added_channel_by_channel():
    left = Value((Block(6, ((_term(1), 1.0),)), Block(2, ((_term(2), 1.0),))))
    right = Value((Block(2, ((_term(2), 3.0),)), Block(6, ((_term(1, 2), 1.0),))))
    total = add([left, right], (1.0, 2.0))
    assert [block.channels for block in total.blocks] == [2, 4, 2]
    assert total.blocks[0].terms == ((_term(1), 1.0), (_term(2), 6.0))
    assert total.blocks[1].terms == ((_term(1, 2), 3.0),)
    assert total.blocks[2].terms == ((_term(1, 6), 2.0), (_term(2), 1.0))


def test_a_layer_without_a_rule_says_how_to_give_one():
    class Odd(Spec):
        pass

    builder = Builder()
    builder.path = "here"
    with pytest.raises(UnsupportedLayer, match=r"Odd at 'here' has no rule .*ntkit.infinite.register_layer"):
        rule(Odd(), [], builder)
