"""Completeness: what has no meaning here, or cannot run, is an error with its path, and nothing is ignored."""

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.architecture import trace
from ntkit.errors import InvalidInput, UnsupportedLayer
from ntkit.testing import check_activation

FILE = re.escape(Path(__file__).name)
Linear = ntkit.nn.Linear


class Bent(nn.Module):
    """A small network with something wrong in it, given as (attributes, forward)."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.block = nn.Sequential(Linear(3, 3), nn.ReLU())
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, self.block(x))


class OwnLinear(nn.Linear):
    pass


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class TwoInputs(nn.Module):
    def forward(self, x, factor):
        return x * factor


def _tied():
    one = Linear(3, 3)
    two = Linear(3, 3)
    two.weight = one.weight
    return nn.Sequential(one, two)


def _with_buffer():
    model = nn.Sequential(Linear(3, 1))
    model.register_buffer("mean", torch.zeros(3))
    return model


def _with_extra_parameter():
    layer = Linear(3, 1)
    layer.extra = nn.Parameter(torch.zeros(2))
    return nn.Sequential(layer)


def _hooked():
    model = nn.Sequential(Linear(3, 3), nn.ReLU())
    model[1].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def _patched():
    model = nn.Sequential(Linear(3, 3), nn.ReLU())
    model[1].forward = lambda x: 2 * x
    return model


def _scripted():
    with warnings.catch_warnings(action="ignore"):  # torch calls it deprecated
        return torch.jit.script(nn.Linear(3, 1))


def _compiled():
    with warnings.catch_warnings(action="ignore"):  # torch's compiler uses what torch calls deprecated
        return torch.compile(nn.Linear(3, 1))


def _used_twice():
    layer = Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def _refused(forward, **parts):
    return lambda: Bent(forward, **parts)


UNSUPPORTED = {
    "unused parameter": (
        _refused(lambda m, h: h, spare=nn.Parameter(torch.ones(2))),
        "parameter 'spare' of shape .2,. is not",
    ),
    "unused layer": (_refused(lambda m, h: h, spare=Linear(3, 3)), "parameter 'spare.weight' .* is not accounted for"),
    "parameter in forward": (
        _refused(lambda m, h: m.gain * h, gain=nn.Parameter(torch.ones(3))),
        "forward uses 'gain' directly",
    ),
    "buffer": (_with_buffer, "the buffer 'mean' of shape .3,. is not accounted for"),
    "extra parameter of a layer": (_with_extra_parameter, "the parameter '0.extra' .* is not accounted for"),
    "tied weights": (_tied, "weight of Linear at '1' is used twice .first at '0'."),
    "layer used twice": (_used_twice, "weight of Linear at '0' is used twice .first at '0'."),
    "batch norm": (lambda: nn.Sequential(Linear(3, 3), nn.BatchNorm1d(3).eval()), "BatchNorm1d at '1' has no rule"),
    "norm of single channels": (
        _refused(lambda m, h: m.norm(h), norm=nn.GroupNorm(3, 3)),
        "GroupNorm at 'norm' divides by the root mean square of each channel alone",
    ),
    "attention": (_refused(lambda m, h: m.att(h, h, h)[0], att=nn.MultiheadAttention(4, 2)), "'att'"),
    "prelu": (_refused(lambda m, h: m.act(h), act=nn.PReLU()), "PReLU at 'act' has no rule"),
    "softmax": (_refused(lambda m, h: m.act(h), act=nn.Softmax(1)), "Softmax at 'act' has no rule"),
    "subclass of Linear": (
        _refused(lambda m, h: m.own(h), own=OwnLinear(3, 3)),
        "OwnLinear at 'own' is a subclass of Linear",
    ),
    "weight norm": (
        _refused(lambda m, h: m.own(h), own=nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
        "at 'own' is a subclass of",
    ),
    "module made in forward": (
        _refused(lambda m, h: nn.ReLU()(h)),
        "cannot be traced: module is not installed as a submod",
    ),
    "forward hook": (_hooked, "ReLU at '1' has a forward hook"),
    "patched forward": (_patched, "ReLU at '1' has a forward hook or a forward replaced"),
    "lazy layer": (
        lambda: nn.Sequential(nn.LazyLinear(3)),
        "LazyLinear at '0' does not know its sizes yet; call the mod",
    ),
    "scripted": (_scripted, "is what torch.jit.script or trace has made of it"),
    "compiled": (_compiled, "is what torch.compile has made of it; pass the module that"),
    "branch on values": (lambda: nn.Sequential(Linear(3, 3), Branches()), "cannot be traced: .*register_activation"),
    "len": (_refused(lambda m, h: h.reshape(len(h), -1)), "cannot be traced: .*len"),
    "nested output": (_refused(lambda m, h: (h, (h, h))), "returns tuple .*a tuple, list or dict of tensors is wanted"),
    "size output": (
        _refused(lambda m, h: (h, h.size(0))),
        "returns tuple .*a tuple, list or dict of tensors is wanted",
    ),
    "empty output": (_refused(lambda m, h: ()), "returns tuple .*wrap the model in a module"),
    "nothing returned": (_refused(lambda m, h: None), "returns NoneType"),
    "training alpha dropout": (
        _refused(lambda m, h: m.drop(h), drop=nn.AlphaDropout()),
        "AlphaDropout at 'drop' is in training mode, .*call model.eval",
    ),
    "dropout of everything": (_refused(lambda m, h: F.dropout(h, 1.0)), "drops everything, so there is no kernel"),
    "dropout of the data": (
        lambda: nn.Sequential(nn.Dropout(), Linear(3, 1)),
        "Dropout at '0' drops parts of the data",
    ),
    "activation of dropout": (
        lambda: nn.Sequential(Linear(3, 8), nn.Dropout(), nn.ReLU(), Linear(8, 1)),
        "ReLU at '2' reads the dropout at '1', which is not Gaussian",
    ),
    "mean over features": (_refused(lambda m, h: h.mean(-1)), "'mean' reduces over an axis of samples or channels"),
    "mean of all": (_refused(lambda m, h: h.mean()), "'mean' reduces over an axis of samples or channels"),
    "maximum along an axis": (_refused(lambda m, h: torch.max(h, 1)), "reduces over an axis"),
    "part of a tensor": (_refused(lambda m, h: h[:, 0]), "takes a part of a tensor"),
    "transpose": (_refused(lambda m, h: h.T), "reads the attribute 'T'"),
    "matrix product": (_refused(lambda m, h: h @ h), "'matmul' has no rule"),
    "quotient of layers": (_refused(lambda m, h: h / m.other(h), other=Linear(3, 3)), "two different tensors by 'div'"),
    "a tensor as constant": (_refused(lambda m, h: h * torch.ones(3)), "forward uses '_tensor_constant0' directly"),
    "out=": (_refused(lambda m, h: torch.tanh(h, out=h)), "'tanh' is called with arguments that have no rule"),
    "rounding mode": (
        _refused(lambda m, h: torch.div(h, 2, rounding_mode="floor")),
        "called with arguments that have no rule",
    ),
    "flatten from 0": (
        _refused(lambda m, h: torch.flatten(h)),
        "'flatten' mixes samples with other axes; flatten from axis 1",
    ),
    "view that keeps axes": (_refused(lambda m, h: h.view(-1, 3, 1)), "only a reshape to .batch, features."),
    "centred": (lambda: ntkit.center(nn.Sequential(Linear(3, 1))), "its ntk times scale² is the centred network's"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_meaning_is_named_with_its_path(name):
    make, text = UNSUPPORTED[name]
    model = make()
    before = set(vars(model))
    with pytest.raises(UnsupportedLayer, match=text):
        ntkit.InfiniteKernel(model, w_std=1.0, b_std=0.0)
    assert set(vars(model)) == before, "tracing left something on the model"


def _line_of(model, text):
    """The line in which `model` holds some text, as an error tells it."""
    lines, first = inspect.getsourcelines(type(model))
    return first + next(k for k, line in enumerate(lines) if text in line)


class CallsFunctions(nn.Module):
    """Two poolings by function, of which one has a rule."""

    def __init__(self, inner=None):
        super().__init__()
        self.conv, self.inner = ntkit.nn.Conv2d(3, 8, 3), inner

    def forward(self, x):
        h = F.avg_pool2d(self.conv(x), 2)
        if self.inner is not None:
            return self.inner(h)
        return F.max_pool2d(h, 2)


class Unhappy(nn.Module):
    def forward(self, h):
        return h + h.mean((2, 3), keepdim=True)


class OverwritesAView(nn.Module):
    def forward(self, h):
        flat = h.flatten(1)
        flat.relu_()
        return h * 2


@pytest.mark.parametrize(
    ("model", "line", "text"),
    [
        (CallsFunctions(), "F.max_pool2d(", "'max_pool2d' has no rule .*use average pooling"),
        (CallsFunctions(nn.Sequential(Unhappy())), "h + h.mean", "'inner.0.add' combines tensors whose axes hold"),
        (CallsFunctions(OverwritesAView()), "flat.relu_()", "'inner.relu_' overwrites a tensor that another shape"),
    ],
)
def test_errors_about_functions_say_in_which_line_they_are_called(model, line, text):
    owner = model if model.inner is None else next(m for m in model.inner.modules() if not isinstance(m, nn.Sequential))
    with pytest.raises(UnsupportedLayer, match=rf"{text}.*\(called in line {_line_of(owner, line)} of .*{FILE}\)$"):
        trace(model)


@pytest.mark.parametrize("make", [lambda: trace(nn.Softmax(1)), lambda: check_activation(torch.log1p)])
def test_layers_and_functions_that_no_forward_calls_have_no_line(make):
    with pytest.raises(UnsupportedLayer) as caught:
        make()
    assert "called in" not in str(caught.value)


CHOICES = {
    "where": lambda m, h: torch.where(h > 0, h, 0.0),
    "a comparison": lambda m, h: h * (h > 0),
    "masked fill": lambda m, h: h.masked_fill(h < 0, 0.0),
    "a step": lambda m, h: torch.heaviside(h, h),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_by_values_name_what_declares_them(name):
    text = r"has no rule .*; a choice by values cannot be read; write .* that with ntkit.infinite.register_activation"
    with pytest.raises(UnsupportedLayer, match=text):
        trace(Bent(CHOICES[name]))


def test_functions_without_a_rule_name_what_declares_them():
    text = (
        r"'log1p' has no rule .*; declare a function of each entry alone with ntkit.infinite.register_activation; else"
    )
    with pytest.raises(UnsupportedLayer, match=text):
        trace(Bent(lambda m, h: torch.log1p(h)))


class Spare(nn.Module):
    """A model with a layer that it does not use, and something else that is wrong."""

    def __init__(self, run):
        super().__init__()
        self.used, self.spare, self.run = Linear(3, 3), Linear(3, 3), run

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda m, x: m.used(x), "the parameter 'spare.weight' of shape .3, 3. is not accounted for"),
        (lambda m, x: 2 * x, "the model has no layer with weights between its input and its output"),
        (lambda m, x: m.used(torch.relu(x)), "ReLU at 'relu' reads the data, which is not Gaussian"),
    ],
)
def test_a_model_without_a_kernel_is_told_before_what_it_does_not_use(run, text):
    with pytest.raises(UnsupportedLayer, match=text):
        ntkit.InfiniteKernel(Spare(run))


INVALID = {
    "two inputs": (TwoInputs, "must take one input, or one and a mask, got x, factor"),
    "no module": (lambda: torch.relu, "must be a torch.nn.Module, got builtin_function"),
    "sizes do not fit": (
        lambda: nn.Sequential(Linear(3, 4), Linear(5, 1)),
        "Linear at '1' takes 5 features, but 4 arrive",
    ),
    "sum of two widths": (
        _refused(lambda m, h: h + m.other(h), other=Linear(3, 1)),
        "'add' adds tensors of one shape, of 3",
    ),
    "view of a wrong width": (_refused(lambda m, h: h.view(-1, 4)), "reshapes to 4 features, but 3 arrive"),
    "view of no width": (_refused(lambda m, h: h.view(-1, -1)), "reshapes to .-1, -1.; give one of the sizes"),
    "infinite factor": (_refused(lambda m, h: h * float("inf")), "'mul' combines a tensor with inf"),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_run_is_invalid(unchecked, name):
    make, text = INVALID[name]
    with pytest.raises(InvalidInput, match=text):
        ntkit.InfiniteKernel(make())


class ReadsDataTwice(nn.Module):
    def __init__(self, second):
        super().__init__()
        self.one, self.two = Linear(3, second), Linear(second, 1)
        self.skip = Linear(4, 1)

    def forward(self, x):
        return self.two(self.one(x)) + self.skip(x)


def test_layers_that_disagree_on_the_width_of_the_data_are_invalid():
    with pytest.raises(InvalidInput, match=r"Linear at 'skip' takes 4 features, but 3 arrive"):
        trace(ReadsDataTwice(5))


# ---- without gradients -----------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """A linear layer and ReLU in a part of the model that runs within `mode`."""

    def __init__(self, mode, whole):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.mode = mode
        self.whole = whole

    def forward(self, x):
        h = x if self.whole else self.inner(x)
        with self.mode():
            h = self.inner(h) if self.whole else F.relu(h)
        return F.relu(h) if self.whole else h


class Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    @torch.no_grad()
    def forward(self, x):
        return F.relu(self.a(x))


class SwitchedOff(Decorated):
    def forward(self, x):
        torch.set_grad_enabled(False)
        return F.relu(self.a(x))


WITHOUT_GRADIENTS = {
    "no_grad around a layer": (lambda: Frozen(torch.no_grad, True), r"the forward of Linear at '0\.inner'"),
    "no_grad around a function": (lambda: Frozen(torch.no_grad, False), r"the forward of Frozen at '0'"),
    "inference mode": (lambda: Frozen(torch.inference_mode, False), r"the forward of Frozen at '0'"),
    "decorated forward": (Decorated, r"the forward of Linear at '0\.a'"),
    "switched off": (SwitchedOff, r"the forward of Linear at '0\.a'"),
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
@pytest.mark.parametrize("outer", [torch.enable_grad, torch.no_grad])
def test_forwards_that_cut_gradients_are_refused(name, outer):
    make, text = WITHOUT_GRADIENTS[name]
    with outer():
        before = torch.is_grad_enabled()
        with pytest.raises(UnsupportedLayer, match=text + " runs without gradients .*requires_grad_.False"):
            trace(nn.Sequential(make()))
        assert torch.is_grad_enabled() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_own_mode_without_gradients_changes_nothing(mode):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    with mode():
        inside = trace(model)
    assert inside == trace(model)
