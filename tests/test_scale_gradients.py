"""Gradients of kernels in the scales of layers: against finite differences, at edges, and where there are none."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ntkit
from layer_cases import B, conv, data, linear
from ntkit import _memory
from ntkit.errors import InvalidInput, MemoryLimitExceeded, ToleranceNotReached
from ntkit.infinite import InfiniteKernel, Kernels
from scale_networks import NETWORKS, kernel_of, leaves, mlp


def entries(kernel: InfiniteKernel, x: Tensor, y: Tensor) -> Tensor:
    """All entries of both kernels: of x, of x with y, and of y with itself."""
    found: list[Tensor] = []
    for results in (kernel(x, engine="torch"), kernel(x, y, engine="torch"), kernel.diagonal(y, engine="torch")):
        for kernels in results.values() if isinstance(results, dict) else [results]:
            found += [kernels.nngp.flatten(), kernels.ntk.flatten()]
    return torch.cat(found)


def slope(function: Callable[[float], Tensor], step: float = 1e-4) -> Tensor:
    """The derivative at 0 by central differences."""
    return (function(step) - function(-step)) / (2 * step)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_finite_differences_in_every_scale_and_in_the_inputs(name):
    kernel, sample = kernel_of(name)
    x, y, scales = data(2, *sample).requires_grad_(), data(2, *sample, seed=1).requires_grad_(), leaves(kernel)
    found = entries(kernel.with_hyperparameters(scales), x, y)
    cotangent = torch.randn(found.shape, dtype=torch.float64) / found.detach().abs()
    torch.testing.assert_close(found.detach(), entries(kernel, x.detach(), y.detach()), rtol=1e-10, atol=1e-12)
    (found @ cotangent).backward()
    with torch.no_grad():
        for path, layer in scales.items():
            directions = {which: float(1 + torch.rand(())) for which in layer}  # both scales of a layer move together

            def moved(h: float, at: str = path, by: dict[str, float] = directions) -> Tensor:
                other = {which: float(tensor) + h * by[which] for which, tensor in scales[at].items()}
                return entries(kernel.with_hyperparameters({at: other}), x, y) @ cotangent

            gradient = sum(directions[which] * tensor.grad for which, tensor in layer.items())
            torch.testing.assert_close(gradient, slope(moved), rtol=1e-6, atol=1e-7)
        for k, tensor in enumerate((x, y)):
            direction = torch.randn_like(tensor)

            def shifted(h: float, side: int = k, by: Tensor = direction) -> Tensor:
                return entries(kernel, *(z + h * by if i == side else z for i, z in enumerate((x, y)))) @ cotangent

            torch.testing.assert_close((tensor.grad * direction).sum(), slope(shifted), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["mlp", "pools"])
def test_torch_s_own_check_of_gradients_holds(name):
    kernel, sample = kernel_of(name)
    x, scales = data(2, *sample), leaves(kernel)
    names = [(path, which) for path, layer in scales.items() for which in layer]

    def both(*values: Tensor) -> tuple[Tensor, Tensor]:
        made: dict[str, dict[str, Tensor]] = {}
        for (path, which), value in zip(names, values, strict=True):
            made.setdefault(path, {})[which] = value
        result = kernel.with_hyperparameters(made)(x)
        return result.nngp, result.ntk

    given = tuple(scales[path][which] for path, which in names)
    assert torch.autograd.gradcheck(both, given, atol=1e-7, rtol=1e-6)
    if name == "mlp":
        assert torch.autograd.gradgradcheck(both, given, atol=1e-6, rtol=1e-5)


# ---- edges -----------------------------------------------------------------------------------------------------------


def biased(activation: nn.Module) -> InfiniteKernel:
    return InfiniteKernel(mlp(activation))


@pytest.mark.parametrize("activation", [nn.ReLU(), ntkit.nn.Erf(), nn.GELU(), nn.Tanh(), ntkit.nn.Monomial(2)])
@pytest.mark.parametrize("zero", ["none", "b_std", "w_std", "both"])
def test_no_gradient_is_nan_at_scales_of_0_duplicates_antipodes_and_zeros(activation, zero):
    kernel, a = biased(activation), data(1, 5)
    x = torch.cat([0 * a, a, a, -a, 2 * a, a + 1e-9])
    w, b = (torch.tensor(0.0 if zero in (which, "both") else 1.1).requires_grad_() for which in ("w_std", "b_std"))
    result = kernel.with_hyperparameters({"*": {"w_std": w, "b_std": b}})(x)
    for entry in (result.nngp.sum(), result.ntk.sum(), result.ntk[1, 2], result.ntk[0, 0]):
        for gradient in torch.autograd.grad(entry, (w, b), retain_graph=True):
            assert torch.isfinite(gradient)


@pytest.mark.parametrize("zero", ["b_std", "w_std"])
def test_scales_of_0_have_slope_0_for_they_enter_by_their_squares(zero):
    kernel, x = biased(nn.ReLU()), data(3, 5)
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    result = kernel.with_hyperparameters({"2": {zero: scale}})(x)
    for entry in (result.nngp.sum(), result.ntk.sum()):
        (gradient,) = torch.autograd.grad(entry, scale, retain_graph=True)
        assert gradient == 0


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Tanh()])
def test_equal_parallel_and_opposite_samples_have_exact_slopes(activation):
    kernel = InfiniteKernel(nn.Sequential(ntkit.nn.Linear(5, 64, 1.3), activation, linear(64, 1)), tolerance=1e-9)
    a, w = data(1, 5), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    x = torch.cat([a, a, 2 * a, -a])
    result = kernel.with_hyperparameters({"0": {"w_std": w}})(x)

    def moved(h: float) -> Tensor:
        other = kernel.with_hyperparameters({"0": {"w_std": 1.3 + h}})(x, engine="torch")
        return torch.stack([other.nngp, other.ntk])

    found = torch.stack([result.nngp, result.ntk])
    expected = slope(moved)
    if isinstance(activation, nn.ReLU):  # whose differences are rough: all but the last bias grows like w²
        expected = 2 * (found.detach() - B**2) / 1.3
    for cotangent in (torch.ones_like(expected), *torch.randn(2, 2, 4, 4, dtype=torch.float64)):
        (gradient,) = torch.autograd.grad((found * cotangent).sum(), w, retain_graph=True)
        torch.testing.assert_close(gradient, (expected * cotangent).sum(), rtol=1e-6, atol=1e-7)


# ---- what a kernel with gradients is ---------------------------------------------------------------------------------


def test_a_graph_serves_every_call_and_a_copy_keeps_its_value():
    kernel, x = biased(nn.ReLU()), data(3, 5)
    w = torch.tensor(1.1, requires_grad=True)
    made = kernel.with_hyperparameters({"*": {"w_std": w}})
    before = made.ntk(x)
    gradients = [torch.autograd.grad(made.ntk(x).sum(), w)[0] for _ in range(2)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].dtype == torch.float32
    with torch.no_grad():
        w += 1
    torch.testing.assert_close(made.ntk(x), before)
    assert float(made.hyperparameters["0"]["w_std"].detach()) == float(torch.tensor(1.1))


def test_scales_that_are_not_named_keep_their_gradients():
    kernel, x = biased(nn.ReLU()), data(3, 5)
    w, b = (torch.tensor(v, requires_grad=True) for v in (1.1, 0.4))
    made = kernel.with_hyperparameters({"0": {"w_std": w}}).with_hyperparameters(
        {"0": {"b_std": b}, "4": {"w_std": 2.0}}
    )
    assert all(gradient != 0 for gradient in torch.autograd.grad(made.ntk(x).sum(), (w, b)))
    again = kernel.with_hyperparameters(made.hyperparameters)
    assert all(gradient != 0 for gradient in torch.autograd.grad(again.ntk(x).sum(), (w, b)))


def test_kernels_of_equal_values_are_equal_and_copies_in_other_processes_hold_numbers():
    kernel = biased(nn.ReLU())
    w = torch.tensor(1.25, requires_grad=True)
    made, numbers = (kernel.with_hyperparameters({"0": {"w_std": value}}) for value in (w, 1.25))
    assert made == numbers
    assert hash(made) == hash(numbers)
    assert made != kernel
    loaded = pickle.loads(pickle.dumps(made))
    assert loaded == made
    assert loaded.hyperparameters["0"]["w_std"] == 1.25
    assert isinstance(loaded.hyperparameters["0"]["w_std"], float)
    assert copy.deepcopy(made) is made
    assert copy.copy(made) is made
    spec, other = (k.network.nodes[1].spec for k in (made, numbers))
    assert spec == other
    assert hash(spec) == hash(other)


def test_plain_layers_take_tensors_from_the_start():
    layers, x = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1)), data(3, 5)
    w, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.1, 0.4))
    made = InfiniteKernel(layers, w_std={"0": w, "2": 1.3}, b_std=b)
    other = InfiniteKernel(layers, w_std=1.3, b_std=0.7).with_hyperparameters({"0": {"w_std": w}, "*": {"b_std": b}})
    expected = other.with_hyperparameters({"0": {"b_std": b}})
    assert made == expected
    found = [torch.autograd.grad(kernel.ntk(x).sum(), (w, b)) for kernel in (made, expected)]
    torch.testing.assert_close(*found)


def test_tensors_without_gradients_are_numbers():
    kernel, w = biased(nn.ReLU()), torch.tensor(1.25, requires_grad=True)
    with torch.no_grad():
        unwanted = kernel.with_hyperparameters({"0": {"w_std": w}})
    for made in (kernel.with_hyperparameters({"0": {"w_std": w.detach()}}), unwanted):
        assert made.hyperparameters["0"]["w_std"] == 1.25
        assert isinstance(made.hyperparameters["0"]["w_std"], float)
        assert made.plan((3, 5)).engine.startswith("numba")
        assert not made.ntk(data(3, 5)).requires_grad


def test_gradients_take_the_torch_engine():
    made = biased(nn.ReLU()).with_hyperparameters({"0": {"w_std": torch.tensor(1.1, requires_grad=True)}})
    assert made.plan((3, 5)).engine.startswith("torch")
    with pytest.raises(InvalidInput, match=r"cannot compute this kernel: a layer's scale requires grad; use engine="):
        made.ntk(data(3, 5), engine="numba")
    with torch.no_grad():
        assert not made.ntk(data(3, 5), engine="numba").requires_grad


def test_results_that_hold_no_gradients_are_refused():
    made = biased(nn.ReLU()).with_hyperparameters({"0": {"w_std": torch.tensor(1.1, requires_grad=True)}})
    x, out = data(3, 5), torch.empty(3, 3, dtype=torch.float64)
    calls: list[Callable[[], Any]] = [
        lambda: made.ntk(x.numpy()), lambda: made(x.numpy()), lambda: made.diagonal(x.numpy())
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidInput, match=r"gradients in w_std of '0', and results of numpy .* torch.from_numpy"):
            call()
        with torch.no_grad():
            call()
    with pytest.raises(InvalidInput, match=r"gradients in w_std of '0', and what is written into out= has none; leave"):
        made(x, out=Kernels(out, out.clone()))
    with torch.no_grad():
        assert made.ntk(x, out=out) is out


def test_memory_for_gradients_is_asked_for_before(monkeypatch):
    kernel, x = biased(nn.ReLU()), data(200, 5)
    made = kernel.with_hyperparameters({"0": {"w_std": torch.tensor(1.1, requires_grad=True)}})
    monkeypatch.setattr(_memory, "_machine_available", lambda: 4_000_000)
    with pytest.raises(MemoryLimitExceeded, match=r"a kernel of 40000 pairs of samples with gradients"):
        made.ntk(x)
    assert kernel.ntk(x, engine="torch").shape == (200, 200)
    with torch.no_grad():
        assert made.ntk(x).shape == (200, 200)


def test_gradients_through_integrated_kinks_are_refused():
    made = biased(nn.Hardtanh()).with_hyperparameters({"0": {"w_std": torch.tensor(1.1, requires_grad=True)}})
    with pytest.raises(
        ToleranceNotReached, match=r"at '1': gradients through hardtanh.* are not available: it has kinks"
    ):
        made.ntk(data(3, 5))


WRONG = {
    "shape": (
        lambda: {"0": {"w_std": torch.ones(2)}},
        r"w_std of the layer at '0' must be one number, got a tensor of",
    ),
    "whole": (lambda: {"0": {"w_std": torch.tensor(1)}}, r"w_std of the layer at '0' must be float32 or float64, got"),
    "nan": (lambda: {"0": {"w_std": torch.tensor(float("nan"))}}, r"w_std of the layer at '0' must be finite, got 1"),
    "negative": (lambda: {"0": {"b_std": torch.tensor(-1.0)}}, r"b_std of the layer at '0' must be a number >= 0"),
    "large": (
        lambda: {"0": {"b_std": torch.tensor(1e200).double() * 1e200}},
        r"b_std of the layer at '0' must be finite",
    ),
    "no bias": (
        lambda: {"2": {"b_std": torch.tensor(0.0, requires_grad=True)}},
        r"the layer at '2' has no bias, and b_std=tensor\(0., requires_grad=True\) is given for it",
    ),
    "array": (lambda: {"0": {"w_std": np.ones(())}}, r"w_std of the layer at '0' must be a number >= 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_are_no_scale_are_refused(name, unchecked):
    make, text = WRONG[name]
    kernel = InfiniteKernel(nn.Sequential(linear(5), nn.ReLU(), ntkit.nn.Linear(64, 1)))
    with pytest.raises(InvalidInput, match=text):
        kernel.with_hyperparameters(make())


def test_tensors_inside_a_transformation_of_torch_func_are_refused():
    kernel, x = biased(nn.ReLU()), data(3, 5)
    with pytest.raises(
        InvalidInput, match=r"w_std of the layer at '0' is a tensor inside a transformation of torch.func"
    ):
        torch.func.grad(lambda w: kernel.with_hyperparameters({"0": {"w_std": w}}).ntk(x).sum())(torch.tensor(1.1))


@pytest.mark.gpu
def test_scales_and_samples_may_be_on_different_devices():
    kernel, x = biased(nn.ReLU()), data(3, 5)
    found = []
    for scale_on, data_on in (("cpu", "cpu"), ("cpu", "cuda"), ("cuda", "cuda"), ("cuda", "cpu")):
        w = torch.tensor(1.1, dtype=torch.float64, device=scale_on, requires_grad=True)
        kernel.with_hyperparameters({"*": {"w_std": w}}).ntk(x.to(data_on)).sum().backward()
        assert w.grad is not None
        found.append(w.grad.cpu())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_a_bias_alone_may_have_gradients_where_positions_meet(which):
    """Distances do not depend on it, so that they have no gradients where second moments have."""
    pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(conv(2, 8, padding=1), nn.ReLU(), conv(8, 8, padding=1), pool, linear(8, 1))
    x, y = data(3, 2, 4, 4), data(2, 2, 4, 4, seed=1)

    def total(b_std):
        kernel = InfiniteKernel(model).with_hyperparameters({"0": {"b_std": b_std}})
        return getattr(kernel, which)(x, y, engine="torch").sum()

    b_std = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(b_std), b_std)
    assert float(slope) == pytest.approx(float(total(0.2 + 1e-5) - total(0.2 - 1e-5)) / 2e-5, rel=1e-6)
