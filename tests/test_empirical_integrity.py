"""Rules can only make a kernel faster: without them the numbers are the same, and wrong ones are noticed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import pytest
import torch
from torch import nn

import empirical_architectures as models
import ntkit
from empirical_networks import assert_same, features
from ntkit.empirical import EmpiricalKernel, assign, rules
from ntkit.empirical.graph import find_uses
from ntkit.empirical.network import Network
from oracles import jacobian as oracle


class Shifted(nn.Module):
    """Vectors added, subtracted and multiplied in either order, and a product without a vector."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.four, self.five, self.shift = (
            nn.Parameter(torch.randn(4)) for _ in range(6)
        )
        self.matrix = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.one + x) + self.shift
        x = torch.tanh(self.two - x) - self.three
        return torch.tanh(self.four * x * self.five).repeat(1, 1) @ self.matrix


class Tokens(nn.Module):
    """One token repeated for every sample, by expand and by repeat."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.cat([x, self.one.expand(len(x), -1), self.two.repeat(len(x), 1)], dim=1)).cumsum(1)


# operation -> a model that uses its rules
MODELS = {
    "AddmmBackward0": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), lambda n: features(n)),
    "MmBackward0": (Shifted, lambda n: features(n)),
    "AddBackward0": (Shifted, lambda n: features(n)),
    "SubBackward0": (Shifted, lambda n: features(n)),
    "MulBackward0": (Shifted, lambda n: features(n)),
    "BmmBackward0": (
        lambda: nn.Sequential(ntkit.nn.SelfAttention(4, 4, heads=2), nn.Flatten(), nn.Linear(12, 2)),
        lambda n: features(n, 3, 4),
    ),
    "ConvolutionBackward0": (models.convolutions, lambda n: features(n, 2, 5)),
    "EmbeddingBackward0": (lambda: models.GPT(tied=False), lambda n: torch.randint(0, 11, (n, 5))),
    "ExpandBackward0": (Tokens, lambda n: features(n)),
    "RepeatBackward0": (Tokens, lambda n: features(n)),
    "NativeLayerNormBackward0": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)), lambda n: features(n),
    ),
    "NativeGroupNormBackward0": (models.UNet, lambda n: features(n, 1, 6, 6)),
    "NativeBatchNormBackward0": (lambda: models.ResNet18(2, 3).eval(), lambda n: features(n, 3, 8, 8)),
}  # fmt: skip
ON_OTHER_DEVICES = {"CudnnBatchNormBackward0"}


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(assign, "_found", {})


@pytest.fixture(params=MODELS, ids=str)
def case(request):
    torch.manual_seed(1)
    make, draw = MODELS[request.param]
    model = make().double()
    x = draw(5)
    model(x)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    network = Network(model, None, None)
    uses = find_uses(network(x), {name: network.standins[name] for name in network.selected})
    users = {name for name, own in uses.items() if any(use.node.name() == request.param for use in own)}
    assert users
    gradients = dict(
        zip(
            network.selected, torch.autograd.grad(network(x).pow(2).sum(), network.edges(network.selected)), strict=True
        )
    )
    jacobian = oracle.jacobian(model, x)
    return request.param, model, x, users, gradients, oracle.kernel(jacobian, jacobian, "full")


def generic(model, x):
    return {p.name for p in EmpiricalKernel(model).plan(x).parameters if p.route == "generic"}


def test_every_rule_is_tried():
    assert {operation for operation, _ in rules._RULES} == {*MODELS, *ON_OTHER_DEVICES}


def test_without_a_rule_the_kernel_is_the_same(case, monkeypatch):
    operation, model, x, users, _, expected = case
    assert not generic(model, x)
    kept = {key: rule for key, rule in rules._RULES.items() if key[0] != operation}
    monkeypatch.setattr(rules, "_RULES", kept)
    if operation == "ConvolutionBackward0":
        monkeypatch.setattr(rules, "_TRANSPOSED", {})
    monkeypatch.setattr(assign, "_found", {})
    assert generic(model, x) == users
    assert_same(EmpiricalKernel(model).ntk(x), expected)


@pytest.mark.parametrize("what", ["right", "left", "tokens", "order"])
def test_a_wrong_rule_is_noticed(case, what, monkeypatch):
    operation, model, x, users, gradients, expected = case
    found = [rule for key, rule in rules._RULES.items() if key[0] == operation]
    found += list(rules._TRANSPOSED.values()) if operation == "ConvolutionBackward0" else []
    name = "right" if what == "order" else what
    kinds = {
        kind
        for rule in found
        for kind in type(rule).__mro__
        if name in vars(kind) and kind.__module__ == rules.__name__
    }
    if not kinds - {rules.Rule, rules.Matrix, rules.Table}:
        pytest.skip(f"the rules of {operation} have no {name}")
    for kind in kinds:
        true = vars(kind)[name]
        if getattr(true, "__isabstractmethod__", False):
            continue
        change = {
            "right": lambda rows: rows * 1.001,
            "left": lambda rows: rows * 1.001,
            "tokens": lambda ids: ids.roll(1),
        }
        wrong = change.get(what, lambda rows: rows.roll(1, 1))
        monkeypatch.setattr(kind, name, lambda self, *given, true=true, wrong=wrong: wrong(true(self, *given)))
    moving = {name for name in users if float(gradients[name].norm()) > 1e-9}  # 0 is right whatever it is multiplied by
    assert generic(model, x) >= moving if what in ("right", "order") else generic(model, x) & moving
    assert_same(EmpiricalKernel(model).ntk(x), expected)


def test_other_outputs_than_remembered_are_noticed():
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double(), features(5)
    jacobian = oracle.jacobian(model, x)
    for outputs in (1, 3, 2):
        kernel = EmpiricalKernel(model, forward=lambda model, x, outputs=outputs: model(x)[:, :outputs])
        few = jacobian[:, :outputs]
        assert_same(kernel.ntk(x), oracle.kernel(few, few, "full"))


def test_another_way_than_remembered_is_noticed():
    """The same model on samples of the same form, once by one branch and once by another."""

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.one(x).tanh() if float(x.detach().mean()) > 0 else self.two(x).cumsum(1)

    model = Branch().double()
    for x in (features(5).abs(), -features(5).abs(), features(5).abs()):
        jacobian = oracle.jacobian(model, x)
        assert_same(EmpiricalKernel(model).ntk(x), oracle.kernel(jacobian, jacobian, "full"))
