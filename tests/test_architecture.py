"""The network as data: one network however it is written, and an error with the path for what has no meaning."""

import operator
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntkit
from ntkit.architecture import VARIABLE, Expression, apply_expression, register_elementwise, trace
from ntkit.architecture.expressions import split_argument, split_factor
from ntkit.errors import InvalidInput, UnsupportedLayer

Linear = ntkit.nn.Linear


class Net(nn.Module):
    """Two linear layers with `body` written between them by hand."""

    def __init__(self, body, features=6, width=8):
        super().__init__()
        self.first, self.last = Linear(features, width, 1.3, 0.2), Linear(width, 1, 1.1)
        self.mid = Linear(width, width, 1.2, 0.1)
        self.relu, self.relu_in_place, self.identity = nn.ReLU(), nn.ReLU(inplace=True), nn.Identity()
        self.cube, self.erf, self.sin, self.abs = ntkit.nn.Monomial(3), ntkit.nn.Erf(), ntkit.nn.Sin(), ntkit.nn.Abs()
        self.body = body

    def forward(self, x):
        return self.last(self.body(self, self.first(torch.flatten(x, 1))))


def kernel(body, **options):
    return ntkit.InfiniteKernel(Net(body), **options)


def images(n=5):
    return torch.randn(n, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---- one network, many ways to write it ----------------------------------------------------------------------------


def _add_in_place(m, h):
    y = m.mid(F.relu(h))
    h += y
    return torch.relu(h)


RELU_NETS = {
    "module": lambda m, h: m.relu(m.mid(m.relu(h))),
    "functional": lambda m, h: F.relu(m.mid(F.relu(h))),
    "method": lambda m, h: m.mid(h.relu()).relu(),
    "torch": lambda m, h: torch.relu(m.mid(torch.relu(h))),
    "torch in place": lambda m, h: torch.relu_(m.mid(torch.relu_(h))),
    "functional with an underscore": lambda m, h: F.relu_(m.mid(F.relu_(h))),
    "leaky with an underscore": lambda m, h: F.leaky_relu_(m.mid(F.relu(h)), 0.0),
    "cast": lambda m, h: F.relu(m.mid(F.relu(h.double())).float().to(torch.float64)),
    "cast by keyword": lambda m, h: F.relu(m.mid(F.relu(h).to(dtype=torch.float32))),
    "method in place": lambda m, h: m.mid(h.relu_()).relu_(),
    "functional in place": lambda m, h: F.relu(m.mid(F.relu(h, inplace=True)), True),
    "leaky of slope 0": lambda m, h: F.leaky_relu(m.mid(F.relu(h)), negative_slope=0.0),
    "dropout in eval mode": lambda m, h: F.relu(m.mid(F.dropout(F.relu(h), 0.5, training=False))),
    "identity": lambda m, h: F.relu(m.mid(m.identity(F.relu(h)))),
    "flattened again": lambda m, h: F.relu(m.mid(F.relu(h).flatten(1))),
    "viewed again": lambda m, h: F.relu(m.mid(F.relu(h).view(h.size(0), 8))),
}

SKIP_NETS = {
    "plus": lambda m, h: F.relu(h + m.mid(F.relu(h))),
    "plus the other way": lambda m, h: F.relu(m.mid(F.relu(h)) + h),
    "torch.add": lambda m, h: F.relu(torch.add(h, m.mid(F.relu(h)))),
    "method": lambda m, h: F.relu(h.add(m.mid(F.relu(h)))),
    "+=": _add_in_place,
    "add_": lambda m, h: F.relu(h.add_(m.mid(F.relu(h)))),
    "minus a negative": lambda m, h: F.relu(h - (-m.mid(F.relu(h)))),
    "alpha": lambda m, h: F.relu(torch.add(h, m.mid(F.relu(h)), alpha=1)),
    "iadd": lambda m, h: F.relu(operator.iadd(h, m.mid(F.relu(h)))),
}


class Flattening(nn.Module):
    def __init__(self, flatten):
        super().__init__()
        self.flatten, self.layer = flatten, Linear(6, 1)

    def forward(self, x):
        return self.layer(self.flatten(x))


FLATTENINGS = {
    "module": nn.Flatten(),
    "function": lambda x: torch.flatten(x, 1),
    "function by keyword": lambda x: torch.flatten(x, start_dim=1),
    "method": lambda x: x.flatten(1),
    "view of size": lambda x: x.view(x.size(0), -1),
    "view of shape": lambda x: x.view(x.shape[0], -1),
    "view of size()": lambda x: x.view(x.size()[0], -1),
    "view with the width": lambda x: x.view(-1, 6),
    "reshape": lambda x: x.reshape(x.size(0), 6),
    "reshape of a tuple": lambda x: torch.reshape(x, (x.shape[0], -1)),
}


def _assert_same(one, two):
    assert one == two  # the same program, so the same numbers
    assert hash(one) == hash(two)


@pytest.mark.parametrize("name", RELU_NETS)
def test_spellings_of_an_activation_are_one_network(name):
    _assert_same(kernel(RELU_NETS[name]), kernel(RELU_NETS["module"]))


@pytest.mark.parametrize("name", SKIP_NETS)
def test_spellings_of_a_residual_sum_are_one_network(name):
    _assert_same(kernel(SKIP_NETS[name]), kernel(SKIP_NETS["plus"]))


@pytest.mark.parametrize("name", FLATTENINGS)
def test_spellings_of_flattening_are_one_network(name):
    one = ntkit.InfiniteKernel(Flattening(FLATTENINGS[name]))
    _assert_same(one, ntkit.InfiniteKernel(nn.Sequential(nn.Flatten(), Linear(6, 1))))


def test_the_same_program_gives_the_same_numbers():
    one, two = (kernel(RELU_NETS[name]) for name in ("module", "method in place"))
    assert torch.equal(one.ntk(images(), engine="torch"), two.ntk(images(), engine="torch"))


def test_modules_in_any_nesting_are_one_network():
    flat = nn.Sequential(nn.Flatten(), Linear(6, 8), nn.ReLU(), nn.Dropout().eval(), Linear(8, 1))
    nested = nn.Sequential(
        nn.Flatten(), nn.Sequential(Linear(6, 8), nn.Sequential(nn.ReLU(inplace=True))), Linear(8, 1)
    )
    _assert_same(ntkit.InfiniteKernel(flat), ntkit.InfiniteKernel(nested))


@pytest.mark.parametrize("body", [*RELU_NETS.values(), *SKIP_NETS.values(), lambda m, h: h * torch.sigmoid(h)])
def test_pickle_round_trip(body):
    one = ntkit.InfiniteKernel(Net(body)) if "mid" in body.__code__.co_names else _without_mid(body)
    two = pickle.loads(pickle.dumps(one))
    _assert_same(one, two)
    assert two.hyperparameters == one.hyperparameters


def _without_mid(body, **options):
    net = Net(body)
    del net.mid
    return ntkit.InfiniteKernel(net, **options)


def test_different_networks_are_not_equal():
    kernels = [_without_mid(body) for body in (lambda m, h: h.relu(), lambda m, h: h.tanh(), lambda m, h: 2 * h.relu())]
    kernels += [_without_mid(lambda m, h: h.relu(), tolerance=1e-6)]
    assert len(set(kernels)) == 4
    assert kernels[0] != "a kernel"


# ---- what in-place operations mean -----------------------------------------------------------------------------------


def _relu_in_place_then_add(m, h):
    y = F.relu(h, inplace=True)
    return y + h


def _double_before_relu_in_place(m, h):
    twice = 2 * h
    h.relu_()
    return twice - h


def _augmented_seen_through_another_name(m, h):
    before = h
    h += 3.0
    h *= 0.5
    h -= 1.0
    h /= 0.25
    h **= 2
    return before + h


def _module_in_place(m, h):
    m.relu_in_place(h)
    return h


def _function_in_place_then_add(m, h):
    y = F.elu_(h, 0.5)
    return y + h


@pytest.mark.parametrize(
    ("in_place", "plain"),
    [
        (_relu_in_place_then_add, lambda m, h: 2 * F.relu(h)),
        (_double_before_relu_in_place, lambda m, h: 2 * h - F.relu(h)),
        (_augmented_seen_through_another_name, lambda m, h: 2 * (((h + 3.0) * 0.5 - 1.0) / 0.25) ** 2),
        (_module_in_place, lambda m, h: F.relu(h)),
        (_function_in_place_then_add, lambda m, h: 2 * F.elu(h, 0.5)),
        (lambda m, h: torch.clamp_(torch.neg_(h), 0.0, 1.0), lambda m, h: torch.clamp(-h, 0.0, 1.0)),
        (lambda m, h: F.threshold_(h, 0.1, 0.0), lambda m, h: F.threshold(h, 0.1, 0.0)),
    ],
)
def test_in_place_operations_change_what_later_ones_see(in_place, plain):
    _assert_same(_without_mid(in_place), _without_mid(plain))
    net, h = Net(plain), torch.randn(4, 8)
    torch.testing.assert_close(in_place(net, h.clone()), plain(net, h))


def test_an_in_place_operation_on_reshaped_memory_is_refused():
    def body(x):
        flat = x.view(-1, 6)
        flat *= 2
        return x.flatten(1)

    with pytest.raises(UnsupportedLayer, match=r"overwrites a tensor that another shape views"):
        trace(Flattening(body))


# ---- scales and elementwise functions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "same"),
    [
        (lambda m, h: h + h, lambda m, h: 2 * h),
        (lambda m, h: (3 * h - h) / 4, lambda m, h: h * 0.5),
        (lambda m, h: -F.relu(h), lambda m, h: F.relu(h) * -1),
        (lambda m, h: torch.neg(h.neg()), lambda m, h: h * 1.0),
        (lambda m, h: F.relu(h + h), lambda m, h: F.relu(2 * h)),
        (lambda m, h: h**2, lambda m, h: torch.square(h)),
        (lambda m, h: h**3, lambda m, h: m.cube(h)),
        (lambda m, h: torch.special.erf(h), lambda m, h: m.erf(h)),
        (lambda m, h: torch.sin(h), lambda m, h: m.sin(h)),
        (lambda m, h: abs(h), lambda m, h: m.abs(h)),
    ],
)
def test_equal_functions_are_equal_data(body, same):
    _assert_same(_without_mid(body), _without_mid(same))


def test_a_scaled_argument_keeps_the_closed_form_outside_and_one_function_inside():
    assert split_argument(Expression("relu", (Expression("mul", (VARIABLE, 2.0)),))) == (
        2.0,
        Expression("relu", (VARIABLE,)),
    )
    quick = Expression("mul", (VARIABLE, Expression("sigmoid", (Expression("mul", (1.7, VARIABLE)),))))
    assert split_argument(quick) == (1.0, quick)
    assert split_factor(Expression("sub", (Expression("mul", (3.0, quick)), quick))) == (2.0, quick)


def test_expressions_evaluate_to_what_torch_computes():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    tree = Expression("mul", (VARIABLE, Expression("sigmoid", (Expression("sub", (1.0, VARIABLE)),))))
    torch.testing.assert_close(apply_expression(tree, x), x * torch.sigmoid(1 - x))
    assert str(tree) == "mul(x, sigmoid(sub(1.0, x)))"
    with pytest.raises(TypeError, match=r"is no function of x"):
        apply_expression(2.0, x)


# ---- a user's own functions --------------------------------------------------------------------------------------


@register_elementwise
class Wave(nn.Module):
    """Branches on values, so it cannot be traced."""

    def __init__(self, a, hidden=1.0, inner=None):
        super().__init__()
        self.a, self._hidden, self.inner = torch.tensor([a, a]), hidden, inner or nn.Tanh()

    def forward(self, x):
        return self.a[0] * torch.sin(self._hidden * self.inner(x)) if bool(x.abs().max() >= 0) else x


def test_a_registered_module_is_one_function_compared_by_all_it_holds():
    nets = [nn.Sequential(Linear(3, 4), wave, Linear(4, 1)) for wave in (Wave(1.0), Wave(1.0), Wave(1.0000001))]
    nets += [nn.Sequential(Linear(3, 4), wave, Linear(4, 1)) for wave in (Wave(1.0, 2.0), Wave(1.0, 1.0, nn.Sigmoid()))]
    kernels = [ntkit.InfiniteKernel(net) for net in nets]
    assert kernels[0] == kernels[1]
    assert hash(kernels[0]) == hash(kernels[1])
    assert len(set(kernels)) == 4
    assert pickle.loads(pickle.dumps(kernels[0])) == kernels[0]


def test_a_registered_function_equals_the_same_one_written_out():
    register_elementwise(torch.special.log_ndtr)
    x = torch.randn(4, 6, dtype=torch.float64)
    one = _without_mid(lambda m, h: torch.special.log_ndtr(h))
    two = _without_mid(lambda m, h: F.softplus(h))
    assert one != two
    assert torch.isfinite(one.ntk(x, engine="torch")).all()


def test_register_elementwise_refuses_what_is_no_function(unchecked):
    with pytest.raises(InvalidInput, match=r"takes a torch.nn.Module class or a function, got 3"):
        register_elementwise(3)


def test_a_network_prints_one_operation_a_line():
    text = str(trace(Net(RELU_NETS["module"])))
    assert text.count("\n") == 6
    assert "mid" in text
    assert "LeakyReLU" in text


def test_optional_arguments_of_forward_take_their_defaults():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Linear(3, 1)

        def forward(self, x, scale=2.0, mask=None):
            assert mask is None
            return scale * self.layer(x)

    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(ntkit.InfiniteKernel(Optional()).nngp(x, engine="torch"), 4 * x @ x.T / 3)


# ---- several threads -------------------------------------------------------------------------------------------------


def test_models_traced_by_several_threads_at_once_are_those_traced_alone():
    models = [Net(body) for body in RELU_NETS.values()] * 4
    alone = [trace(model) for model in models]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(trace, models)) == alone


def test_a_model_that_another_thread_calls_while_one_is_traced_is_not_recorded():
    tracing, called = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Linear(3, 1)

        def forward(self, x):
            tracing.set()
            assert called.wait(30)
            return self.layer(x)

    other, x = nn.Linear(3, 2), torch.ones(1, 3)
    expected = other(x).detach()
    with ThreadPoolExecutor(1) as pool:
        traced = pool.submit(trace, Waits())
        assert tracing.wait(30)
        try:
            while_traced, weight = other(x), other.weight
        finally:
            called.set()
        assert traced.result().weighted_paths == ("layer",)
        assert len(traced.result().nodes) == 2
    assert torch.equal(while_traced, expected)
    assert isinstance(weight, nn.Parameter)
