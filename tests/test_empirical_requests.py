"""What may be asked of an empirical kernel: parts, projections, centred and normalised, low precision."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ntkit import EmpiricalKernel
from ntkit.errors import InvalidInput, MemoryLimitExceeded


class Sequences(nn.Module):
    """Tokens with positions, attention, and a head that is the table of embeddings."""

    def __init__(self):
        super().__init__()
        self.table, self.position = nn.Embedding(11, 8), nn.Parameter(torch.randn(5, 8))
        self.attend, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

    def forward(self, tokens):
        h = self.table(tokens) + self.position
        h = self.norm(h + self.attend(h, h, h, need_weights=False)[0])
        return h[:, -1] @ self.table.weight.T


def mlp():
    return nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.LayerNorm(30), nn.Linear(30, 4))


def cnn():
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 2, groups=1), nn.Flatten(), nn.Linear(45, 4))


MODELS = {
    "mlp": (mlp, lambda n: torch.randn(n, 5, dtype=torch.float64)),
    "cnn": (cnn, lambda n: torch.randn(n, 2, 6, 6, dtype=torch.float64)),
    "sequences": (Sequences, lambda n: torch.randint(0, 11, (n, 5))),
}


@pytest.fixture(params=MODELS)
def case(request):
    make, draw = MODELS[request.param]
    return make().double(), draw(6), draw(3)


def jacobian(f, model, x):
    """(n, o, p), one backward pass an output."""
    parameters = list(model.parameters())
    rows = []
    for row in f(x):
        found = [torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) for value in row]
        rows.append(
            torch.stack(
                [
                    torch.cat(
                        [
                            (torch.zeros_like(p) if g is None else g).flatten()
                            for p, g in zip(parameters, gs, strict=True)
                        ]
                    )
                    for gs in found
                ]
            )
        )
    return torch.stack(rows)


PRODUCTS = {
    "full": lambda a, b: torch.einsum("iop,jqp->ijoq", a, b),
    "diagonal": lambda a, b: torch.einsum("iop,jop->ijo", a, b),
    "trace": lambda a, b: torch.einsum("iop,jop->ij", a, b),
    "mean": lambda a, b: torch.einsum("iop,jop->ij", a, b) / a.shape[1],
}


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("outputs", PRODUCTS)
def test_one_output(case, outputs):
    model, x, z = case
    one, two = jacobian(model, model, x)[:, [2]], jacobian(model, model, z)[:, [2]]
    for index in (2, np.int64(2), 2 - model(x).shape[1]):
        same(EmpiricalKernel(model, outputs=outputs, project=index).ntk(x, z), PRODUCTS[outputs](one, two))


@pytest.mark.parametrize("outputs", PRODUCTS)
def test_directions_among_outputs(case, outputs):
    model, x, z = case
    v = torch.randn(model(x).shape[1], 2, dtype=torch.float64)
    one, two = (jacobian(lambda x: model(x) @ v, model, side) for side in (x, z))
    kernel = EmpiricalKernel(model, outputs=outputs, project=v)
    same(kernel.ntk(x, z), PRODUCTS[outputs](one, two))
    same(kernel.diagonal(x), PRODUCTS[outputs](one, one)[range(6), range(6)])
    same(EmpiricalKernel(model, project=v[:, 0].numpy()).ntk(x), PRODUCTS["full"](one, one)[..., :1, :1])


def test_a_random_sketch_of_the_outputs_has_the_trace_kernel_on_average():
    model, x = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 40)).double(), torch.randn(4, 5).double()
    sketches = [torch.randn(40, 20, dtype=torch.float64) / 20**0.5 for _ in range(60)]
    found = torch.stack([EmpiricalKernel(model, outputs="trace", project=v).ntk(x) for v in sketches])
    expected = EmpiricalKernel(model, outputs="trace").ntk(x)
    assert bool(((found.mean(0) - expected).abs() < 4 * found.std(0) / 60**0.5).all())


def test_each_samples_own_class(case):
    model, x, z = case
    y, w = torch.tensor([0, 3, 2, 2, 1, 3]), torch.tensor([1, 0, 3])
    one, two = jacobian(model, model, x)[range(6), y], jacobian(model, model, z)[range(3), w]
    kernel = EmpiricalKernel(model, outputs="trace", project="labels")
    same(kernel.ntk((x, y), (z, w)), one @ two.T)
    same(kernel.ntk((x, y.to(torch.int32))), one @ one.T)
    if x.is_floating_point():
        same(torch.from_numpy(kernel.ntk((x.numpy(), y.numpy()))), one @ one.T)


def test_classes_under_the_generic_route():
    class Product(nn.Module):  # a parameter that no rule covers
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(4) + 1)

        def forward(self, x):
            return x ** self.w.exp()

    model, x, y = Product().double(), torch.rand(5, 4).double() + 1, torch.tensor([0, 3, 1, 1, 2])
    one = jacobian(model, model, x)[range(5), y]
    kernel = EmpiricalKernel(model, outputs="trace", project="labels")
    same(kernel.ntk((x, y)), one @ one.T)
    assert kernel.plan((x, y)).parameters[0].route == "generic"


def test_layers_in_one_pass_add_up(case):
    model, x, z = case
    kernel = EmpiricalKernel(model)
    parts = kernel.parts(x, z)
    assert list(parts) == list(dict.fromkeys(name.rpartition(".")[0] or name for name, _ in model.named_parameters()))
    same(sum(parts.values()), kernel.ntk(x, z))
    for owner, part in parts.items():
        names = [name for name, _ in model.named_parameters() if (name.rpartition(".")[0] or name) == owner]
        same(part, EmpiricalKernel(model, parameters=names).ntk(x, z))


def test_groups_of_parameters_in_one_pass(case):
    model, x, z = case
    names = [name for name, _ in model.named_parameters()]
    groups = {"even": names[::2], "last": names[-1] if len(names) % 2 == 0 else names[1]}
    for outputs in PRODUCTS:
        kernel = EmpiricalKernel(model, outputs=outputs)
        for sides in ((x,), (x, z)):
            found = kernel.parts(*sides, groups=groups)
            assert list(found) == ["even", "last"]
            for name, own in groups.items():
                same(found[name], EmpiricalKernel(model, outputs=outputs, parameters=own).ntk(*sides))


def test_parts_pass_through_the_network_once():
    model, calls = mlp().double(), []
    x = torch.randn(6, 5, dtype=torch.float64)
    kernel = EmpiricalKernel(model)
    kernel.parts(x)  # finds routes, which are remembered
    model.register_forward_hook(lambda *_: calls.append(1))
    kernel.parts(x)
    assert len(calls) == 1


@pytest.mark.parametrize("outputs", PRODUCTS)
def test_centred_and_normalised(case, outputs):
    model, x, z = case
    one, two = jacobian(model, model, x), jacobian(model, model, z)
    mean, product = one.mean(0), PRODUCTS["trace" if outputs == "mean" else outputs]
    plain = PRODUCTS[outputs]
    kernel = EmpiricalKernel(model, outputs=outputs)

    def unit(j):
        return j / (
            j.flatten(1).norm(dim=1)[:, None, None] if outputs in ("trace", "mean") else j.norm(dim=2)[..., None]
        )

    same(kernel.ntk(x, centered=True), plain(one - mean, one - mean))
    same(kernel.ntk(x, z, centered=True), plain(one - mean, two - mean))
    if model.__class__ is Sequences and outputs in ("full", "diagonal"):
        return  # tokens without a gradient of some output, which have no direction
    same(kernel.ntk(x, normalized=True), product(unit(one), unit(one)))
    same(kernel.ntk(x, z, normalized=True), product(unit(one), unit(two)))
    same(kernel.ntk(x, z, centered=True, normalized=True), product(unit(one - mean), unit(two - mean)))
    found = kernel.ntk(x, centered=True, normalized=True)
    mirror = found.transpose(0, 1).mT if outputs == "full" else found.transpose(0, 1)
    assert torch.equal(found, mirror)
    parts = kernel.parts(
        x, z, centered=True, normalized=True, groups={"first": next(iter(model.named_parameters()))[0]}
    )
    only = EmpiricalKernel(model, outputs=outputs, parameters=next(iter(model.named_parameters()))[0])
    same(parts["first"], only.ntk(x, z, centered=True, normalized=True))


LOW = [mlp, cnn, Sequences]


@pytest.mark.parametrize("make", LOW)
def test_bfloat16_models_have_products_in_float32(make):
    draw = {mlp: MODELS["mlp"], cnn: MODELS["cnn"], Sequences: MODELS["sequences"]}[make][1]
    low = make().to(torch.bfloat16)
    same_in_float32 = copy.deepcopy(low).float()
    x = draw(6)
    x = x.to(torch.bfloat16) if x.is_floating_point() else x
    kernel = EmpiricalKernel(low)
    found = kernel.ntk(x)
    expected = EmpiricalKernel(same_in_float32).ntk(x.float() if x.is_floating_point() else x)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.transpose(0, 1).mT)
    assert float((found - expected).norm() / expected.norm()) < 0.02
    generic = [p.name for p in kernel.plan(x).parameters if p.route == "generic"]
    assert not generic


def test_products_of_bfloat16_rows_are_not_rounded():
    model = nn.Linear(4096, 1, bias=False).to(torch.bfloat16)
    x = torch.rand(3, 4096).to(torch.bfloat16)
    expected = x.double() @ x.double().T
    torch.testing.assert_close(EmpiricalKernel(model, outputs="trace").ntk(x).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", LOW)
def test_autocast(make):
    draw = {mlp: MODELS["mlp"], cnn: MODELS["cnn"], Sequences: MODELS["sequences"]}[make][1]
    model, x = make(), draw(6)
    x = x.float() if x.is_floating_point() else x
    kernel = EmpiricalKernel(model)
    expected = kernel.ntk(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = kernel.ntk(x)
        assert model(x).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert 1e-6 < float((found - expected).norm() / expected.norm()) < 0.03
    torch.testing.assert_close(kernel.ntk(x), expected)  # what is remembered of the one is not used for the other


REFUSED = {
    "no such output": (4, "project must be an output from 0 to 3, got 4"),
    "rows": (torch.randn(3, 2), r"project must have one row an output, \(4, k\), got shape \(3, 2\)"),
    "whole numbers": (
        torch.tensor([0, 1]),
        r"floating-point matrix \(outputs, k\), got torch.int64 .*project='labels'",
    ),
    "three axes": (
        torch.randn(4, 2, 2),
        r"floating-point matrix \(outputs, k\), got torch.float32 of shape \(4, 2, 2\)",
    ),
    "nan": (torch.full((4, 1), torch.nan), "project must be finite"),
    "a word": ("classes", "project must be the number of an output, a matrix .* got 'classes'"),
    "a truth": (True, "project must be the number of an output, .* got True"),
}


@pytest.mark.parametrize(("project", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_projections_are_errors(unchecked, project, message):
    with pytest.raises(InvalidInput, match=message):
        EmpiricalKernel(mlp(), project=project).ntk(torch.randn(3, 5))


LABELS = {
    "no pair": (torch.randn(3, 5), r"x1 must be a pair \(samples, labels\), as project='labels' asks for, got Tensor"),
    "floats": (
        (torch.randn(3, 5), torch.zeros(3)),
        r"x1\[1\] must be whole numbers .* got torch.float32 of shape \(3,\)",
    ),
    "too few": ((torch.randn(3, 5), torch.tensor([1, 2])), "same number of samples on axis 0"),
    "no such class": ((torch.randn(3, 5), torch.tensor([1, 4, 0])), "labels must be numbers .* 0 to 3, got 0 to 4"),
}


@pytest.mark.parametrize(("x", "message"), LABELS.values(), ids=LABELS)
def test_bad_labels_are_errors(unchecked, x, message):
    with pytest.raises(InvalidInput, match=message):
        EmpiricalKernel(mlp(), project="labels").ntk(x)


def test_bad_groups_are_errors():
    kernel, x = EmpiricalKernel(mlp()), torch.randn(3, 5)
    with pytest.raises(InvalidInput, match=r"'0.bias' is in 'a' and 'b'"):
        kernel.parts(x, groups={"a": "*.bias", "b": "0.*"})
    with pytest.raises(InvalidInput, match=r"'9\.\*' matches none of the model's parameters"):
        kernel.parts(x, groups={"a": "9.*"})
    with pytest.raises(InvalidInput, match="groups must name at least one group"):
        kernel.parts(x, groups={})
    with pytest.raises(InvalidInput, match="the kernel was made with parameters="):
        EmpiricalKernel(mlp(), parameters="0.*").parts(x, groups={"a": "0.*"})
    with pytest.raises(
        MemoryLimitExceeded, match=r"a kernel of shape \(3, 3, 4, 4\) for each of 3 parts needs 1.69 KiB"
    ):
        EmpiricalKernel(mlp(), memory_limit=1000).parts(x)


def test_gradients_without_length_are_errors():
    model, x = nn.Linear(3, 2, bias=False), torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    with pytest.raises(InvalidInput, match=r"sample 1 of 2 has one that is zero"):
        EmpiricalKernel(model).ntk(x, normalized=True)
    with pytest.raises(InvalidInput, match=r"sample 0 of 3 has one that is zero"):
        EmpiricalKernel(model).ntk(torch.ones(3, 3), centered=True, normalized=True)


def test_integers_are_for_who_says_what_they_mean():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 3))

        def forward(self, numbers):
            return self.table[numbers].tanh()

    model, numbers = Rows().double(), torch.tensor([0, 3, 3, 5])
    with pytest.raises(
        InvalidInput, match=r"only a model with an nn.Embedding, or a forward= of your own, takes integers"
    ):
        EmpiricalKernel(model).ntk(numbers)
    one = jacobian(model, model, numbers)
    same(EmpiricalKernel(model, forward=lambda m, x: m(x)).ntk(numbers), PRODUCTS["full"](one, one))


@pytest.mark.parametrize("n", [1, 4])
def test_tokens_of_which_none_comes_twice(n):
    model = nn.Sequential(nn.Embedding(50, 6), nn.Flatten(), nn.Tanh(), nn.Linear(18, 2)).double()
    x = torch.arange(3 * n).reshape(n, 3)  # as positions would be embedded
    one = jacobian(model, model, x)
    kernel = EmpiricalKernel(model)
    same(kernel.ntk(x), PRODUCTS["full"](one, one))
    assert {p.route for p in kernel.plan(x).parameters} == {"layer"}


class TiedHead(nn.Module):
    """A table of embeddings that is the matrix of the head, written in several ways."""

    def __init__(self, head):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(13, 6), nn.Linear(6, 6), head

    def forward(self, tokens):
        h = torch.tanh(self.mix(self.table(tokens)))
        return self.head(self.table, h, tokens)


HEADS = {
    "all positions": lambda table, h, _: nn.functional.linear(h, table.weight).flatten(1)[:, ::5],
    "the last": lambda table, h, _: (h @ table.weight.T)[:, -1],
    "the last, first taken": lambda table, h, _: h[:, -1] @ table.weight.T,
    "two": lambda table, h, t: (h @ table.weight.T + table(t.flip(1)) @ table.weight.T).sum(1),
    "scaled": lambda table, h, _: nn.functional.linear(h, 2 * table.weight)[:, 0],
}


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("head", HEADS)
def test_a_table_that_is_the_head_too(head, outputs):
    model, x, z = TiedHead(HEADS[head]).double(), torch.randint(0, 13, (6, 5)), torch.randint(0, 13, (3, 5))
    one, two = jacobian(model, model, x), jacobian(model, model, z)
    kernel = EmpiricalKernel(model, outputs=outputs)
    same(kernel.ntk(x, z), PRODUCTS[outputs](one, two))
    same(kernel.ntk(x), PRODUCTS[outputs](one, one))
    same(kernel.diagonal(x), PRODUCTS[outputs](one, one)[range(6), range(6)])
    assert {p.route for p in kernel.plan(x).parameters} == {"layer"}
