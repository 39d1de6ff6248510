"""Layers in NTK parameterisation compute what they say, and a plain model is rewritten faithfully or refused."""

import math

import pytest
import torch
from torch import nn

import ntkit
from ntkit.architecture import specs
from ntkit.errors import InvalidInput


def test_linear_scales_stand_in_the_forward_pass():
    layer = ntkit.nn.Linear(5, 3, w_std=1.3, b_std=0.4).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = 1.3 / math.sqrt(5) * x @ layer.weight.T + 0.4 * layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("layer", "conv", "shape"), [
    (ntkit.nn.Conv1d(3, 4, 5, padding=2, w_std=1.3, b_std=0.4), nn.functional.conv1d, (2, 3, 9)),
    (ntkit.nn.Conv2d(3, 4, (5, 5), padding=2, w_std=1.3, b_std=0.4), nn.functional.conv2d, (2, 3, 9, 8)),
    (ntkit.nn.Conv3d(3, 4, 5, padding=2, w_std=1.3, b_std=0.4), nn.functional.conv3d, (2, 3, 6, 5, 4)),
])  # fmt: skip
def test_convolution_fan_in_counts_the_whole_window_also_at_edges(layer, conv, shape):
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    fan_in = 3 * 5 ** (len(shape) - 2)
    expected = conv(x, layer.weight * 1.3 / math.sqrt(fan_in), 0.4 * layer.bias, padding=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [
    lambda **k: ntkit.nn.Linear(400, 400, **k),
    lambda **k: ntkit.nn.Conv1d(80, 80, 25, **k),
    lambda **k: ntkit.nn.Conv2d(80, 80, 5, **k),
    lambda **k: ntkit.nn.Conv3d(80, 80, 3, **k),
    lambda **k: ntkit.nn.ConvTranspose1d(80, 80, 25, **k),
    lambda **k: ntkit.nn.ConvTranspose2d(80, 80, 5, **k),
    lambda **k: ntkit.nn.ConvTranspose3d(80, 80, 3, **k),
])  # fmt: skip
def test_parameters_are_standard_normal_and_bias_needs_a_scale(make):
    layer = make(w_std=3.0, b_std=2.0)
    assert abs(float(layer.weight.detach().mean())) < 0.02
    assert abs(float(layer.weight.detach().std()) - 1) < 0.02
    assert abs(float(layer.bias.detach().std()) - 1) < 0.3
    assert make(w_std=3.0).bias is None


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf, "1", 1e200, 10**400], ids=lambda scale: str(scale)[:9])
def test_bad_scales_are_refused(unchecked, scale):
    for make in (lambda **k: ntkit.nn.Linear(2, 2, **k), lambda **k: ntkit.nn.Conv2d(2, 2, 3, **k)):
        with pytest.raises(InvalidInput, match="w_std must be a finite number >= 0, got"):
            make(w_std=scale)
        with pytest.raises(InvalidInput, match="b_std must be a finite number >= 0, got"):
            make(b_std=scale)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ntkit.nn.Linear(0, 8), "ntkit.nn.Linear: in_features must be a whole number from 1, got 0"),
        (lambda: ntkit.nn.Linear(4, 0), "ntkit.nn.Linear: out_features must be a whole number from 1, got 0"),
        (lambda: ntkit.nn.Linear(4, 2.0), "ntkit.nn.Linear: out_features must be a whole number from 1, got 2.0"),
        (lambda: ntkit.nn.Conv1d(-1, 8, 3), "ntkit.nn.Conv1d: in_channels must be a whole number from 1, got -1"),
        (lambda: ntkit.nn.Conv2d(4, True, 3), "ntkit.nn.Conv2d: out_channels must be a whole number from 1, got True"),
    ],
)
def test_layers_without_weights_are_refused(unchecked, make, text):
    with pytest.raises(InvalidInput, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ntkit.nn.Conv2d(3, 4, "a"), "ntkit.nn.Conv2d: kernel_size must be a whole number from 1, got 'a'"),
        (lambda: ntkit.nn.Conv2d(3, 4, 2.5), "ntkit.nn.Conv2d: kernel_size must be a whole number from 1, got 2.5"),
        (lambda: ntkit.nn.Conv2d(3, 4, (3, 0)), r"Conv2d: kernel_size\[1\] must be a whole number from 1, got 0"),
        (lambda: ntkit.nn.Conv1d(3, 4, 3, stride=0), "ntkit.nn.Conv1d: stride must be a whole number from 1, got 0"),
        (lambda: ntkit.nn.Conv3d(3, 4, 3, dilation=None), "Conv3d: dilation must be a whole number from 1, got None"),
        (
            lambda: ntkit.nn.Conv2d(3, 4, 3, groups="a"),
            "ntkit.nn.Conv2d: groups must be a whole number from 1, got 'a'",
        ),
        (lambda: ntkit.nn.Conv2d(3, 4, 3, groups=2), "groups must divide .*, got groups=2 for 3 and 4 channels"),
        (
            lambda: ntkit.nn.ConvTranspose2d(3, 4, -1),
            "ConvTranspose2d: kernel_size must be a whole number from 1, got -1",
        ),
        (lambda: ntkit.nn.Embedding(3, 4, padding_idx=7), "padding_idx must be None or a token from -3 to 2, got 7"),
        (lambda: ntkit.nn.Embedding(3, 4, padding_idx="a"), "padding_idx must be None or a token .*, got 'a'"),
        (lambda: ntkit.nn.PositionalEmbedding(2.5, 3), r"positions\[0\] must be a whole number from 1, got 2.5"),
        (lambda: ntkit.nn.PositionalEmbedding(None, 3), r"positions\[0\] must be a whole number from 1, got None"),
        (lambda: ntkit.nn.PositionalEmbedding((), 3), r"positions must be a whole number or a tuple of some, got \(\)"),
        (
            lambda: ntkit.nn.PositionalEmbedding(2, 3, correlation_length="a"),
            "correlation_length must be a finite number >= 0, got 'a'",
        ),
        (lambda: ntkit.nn.SelfAttention(3, 4, mechanism=["softmax"]), "mechanism must be one of softmax, .*, got .'so"),
        (
            lambda: ntkit.nn.Polynomial(3.0),
            "wanted a sequence of coefficients, c_0 first, got 3.0; for one power there",
        ),
        (lambda: ntkit.nn.Polynomial(None), "wanted a sequence of coefficients, c_0 first, got None"),
        (lambda: ntkit.nn.Polynomial("12"), "wanted a sequence of coefficients, c_0 first, got '12'"),
        (lambda: ntkit.center(None), "ntkit.center: model must be a torch.nn.Module, got NoneType"),
        (lambda: ntkit.ntk_parameterize(3), "ntk_parameterize: model must be a torch.nn.Module, got int"),
        (lambda: specs.Polynomial(3.0), "Polynomial takes a tuple of numbers of finite square, c_0 first, as coeff"),
        (lambda: specs.Polynomial(()), r"Polynomial takes a tuple of numbers .* as coefficients, got \(\)"),
        (lambda: specs.Polynomial((1.0, math.nan)), r"Polynomial takes .* as coefficients, got \(1.0, nan\)"),
        (lambda: specs.Monomial(2.5), "Monomial takes a whole number from 0 as n, got 2.5"),
        (lambda: specs.Hermite(-1), "Hermite takes a whole number from 0 as n, got -1"),
        (lambda: specs.LeakyReLU("a"), "LeakyReLU takes a number of finite square as negative_slope, got 'a'"),
        (lambda: specs.Shifted(3, 2.0), "Shifted takes an activation as activation, got 3"),
        (lambda: specs.Elementwise(3), "Elementwise takes an Expression of x as expression, got 3"),
    ],
)
def test_what_a_layer_or_an_activation_cannot_be_made_of_is_told(unchecked, make, text):
    with pytest.raises(InvalidInput, match=text):
        make()


@pytest.mark.parametrize(("module", "function"), [
    (ntkit.nn.Erf(), torch.erf),
    (ntkit.nn.Abs(), torch.abs),
    (ntkit.nn.Sign(), torch.sign),
    (ntkit.nn.Sin(2.0, 3.0, 0.5), lambda x: 2 * torch.sin(3 * x + 0.5)),
    (ntkit.nn.Cos(2.0, 3.0, 0.5), lambda x: 2 * torch.cos(3 * x + 0.5)),
    (ntkit.nn.Gaussian(2.0, -0.5), lambda x: 2 * torch.exp(-0.5 * x**2)),
    (ntkit.nn.Monomial(3), lambda x: x * x * x),
])  # fmt: skip
def test_activations_compute_their_formula(module, function):
    x = torch.linspace(-3, 3, 31, dtype=torch.float64)
    torch.testing.assert_close(module(x), function(x), rtol=1e-14, atol=0)


@pytest.mark.parametrize("degree", [-1, 1.5, True])
def test_a_monomial_needs_a_natural_degree(unchecked, degree):
    with pytest.raises(InvalidInput, match="degree n must be an integer >= 0"):
        ntkit.nn.Monomial(degree)


def test_center_starts_at_zero_and_trains_the_given_model():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    centred, x = ntkit.center(model, scale=2.0), torch.randn(5, 3)
    start = model(x).detach()
    assert centred(x).abs().max() == 0
    assert [id(p) for p in centred.parameters() if p.requires_grad] == [id(p) for p in model.parameters()]
    with torch.no_grad():
        model[0].weight += 0.1
    torch.testing.assert_close(centred(x), 2 * (model(x) - start))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf])
def test_center_refuses_a_scale_that_is_not_positive(scale):
    with pytest.raises(InvalidInput, match="scale must be a finite number > 0"):
        ntkit.center(nn.Linear(2, 1), scale)


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="circular")
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 3, bias=False), nn.Linear(3, 2).requires_grad_(False))
        self.head_again = self.head[1]

    def forward(self, x):
        return self.head(self.conv(x))


def test_ntk_parameterize_rewrites_a_copy_and_keeps_everything_else():
    plain = _Block().eval()
    before = {name: p.clone() for name, p in plain.state_dict().items()}
    new = ntkit.ntk_parameterize(plain, w_std=1.5, b_std=0.1)
    assert all(torch.equal(before[name], p) for name, p in plain.state_dict().items())
    assert new.conv.stride == (2, 2)
    assert new.conv.padding_mode == "circular"
    assert new.head[1].bias is None
    assert new.head_again is new.head[1]
    assert not new.head[2].weight.requires_grad
    assert not new.head[2].bias.requires_grad
    assert not new.head[2].training
    assert new(torch.randn(4, 1, 4, 4)).shape == (4, 2)
    assert [m.w_std for m in new.modules() if hasattr(m, "w_std")] == [1.5, 1.5, 1.5]


@pytest.mark.parametrize(("axes", "plain", "own"), [
    (1, nn.Conv1d, ntkit.nn.Conv1d),
    (2, nn.Conv2d, ntkit.nn.Conv2d),
    (3, nn.Conv3d, ntkit.nn.Conv3d),
])  # fmt: skip
def test_ntk_parameterize_keeps_how_a_convolution_moves(axes, plain, own):
    options = {"stride": 2, "padding": 3, "dilation": 2, "groups": 2, "padding_mode": "reflect"}
    layer = plain(4, 6, 3, bias=False, **options)
    new = ntkit.ntk_parameterize(layer, w_std=1.5, b_std=0.1)
    assert type(new) is own
    assert new.bias is None
    x = torch.randn(2, 4, *[7] * axes)
    with torch.no_grad():
        layer.weight.copy_(new.weight * 1.5 / math.sqrt(2 * 3**axes))
    torch.testing.assert_close(new(x), layer(x))


@pytest.mark.parametrize("options", [
    {},
    {"stride": 2},
    {"padding": 1},
    {"padding": "same"},
    {"dilation": 2},
    {"groups": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"stride": 2, "padding": 3, "dilation": 2, "groups": 2, "padding_mode": "reflect"},
])  # fmt: skip
@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d"])
def test_a_convolution_shows_what_torch_shows_and_its_scales(name, options):
    plain = getattr(nn, name)(4, 6, 3, **options)
    for b_std in (0.0, 0.25):
        own = getattr(ntkit.nn, name)(4, 6, 3, w_std=1.5, b_std=b_std, **options)
        assert repr(own) == repr(plain)[:-1] + f", w_std=1.5, b_std={b_std:g})"


def test_a_convolution_shows_its_padding():
    layer = ntkit.nn.Conv2d(1, 2, 3, padding=1, w_std=1.5)
    assert repr(layer) == "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), w_std=1.5, b_std=0)"


def test_ntk_parameterize_redraws_own_layers_at_their_own_scale():
    layer = ntkit.nn.Linear(50, 50, w_std=0.7)
    new = ntkit.ntk_parameterize(layer, w_std=9.0)
    assert new.w_std == 0.7
    assert not torch.equal(new.weight, layer.weight)


class _OwnLinear(nn.Linear):
    pass


class _OwnTransposed(nn.ConvTranspose2d):
    pass


def _tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(("model", "text"), [
    (nn.Sequential(_OwnTransposed(1, 1, 3)), "_OwnTransposed at '0' has no counterpart"),
    (nn.Sequential(_OwnLinear(3, 3)), "_OwnLinear at '0' has no counterpart"),
    (nn.MultiheadAttention(4, 2), "at 'out_proj' has no counterpart"),
    (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), "at '0' has no counterpart"),
    (_tied(), "'1.weight' is shared with '0.weight'"),
])  # fmt: skip
def test_ntk_parameterize_refuses_what_it_would_change(model, text):
    with pytest.raises(InvalidInput, match=text):
        ntkit.ntk_parameterize(model)
