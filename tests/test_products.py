"""Products by oneDNN: the same numbers as torch's own, in the passes through a model too."""

import pytest
import torch

from ntkit._products import _ByOneDNN, fast_products, products_of_rows


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("strange", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_products_of_rows_are_those_of_float64(turned, strange, shift):
    x, y = torch.randn(150, 400), torch.randn(300, 400)
    if turned:
        x, y = x.t().contiguous().t(), y.t().contiguous().t()
    if strange:
        x, y = x[::2, ::3], y[::2, ::3]
    found = products_of_rows(x, y, shift)
    torch.testing.assert_close(found.double(), x.double() @ y.double().mT + shift, rtol=0, atol=2e-4)


def test_products_of_batches_have_the_shift_too():
    x, y = torch.randn(3, 4, 5), torch.randn(3, 6, 5)
    torch.testing.assert_close(products_of_rows(x, y, 2.0), x @ y.mT + 2)


@pytest.mark.parametrize("bias", [False, True])
def test_a_model_has_the_same_outputs_and_gradients(bias):
    model = torch.nn.Sequential(torch.nn.Linear(300, 200, bias), torch.nn.Tanh(), torch.nn.Linear(200, 100, bias))
    x = torch.randn(100, 300)
    seen = []

    def run():
        out = model(x)
        each = torch.eye(100)[:3, None].expand(-1, *out.shape)
        every = torch.autograd.grad([out], list(model.parameters()), [each], is_grads_batched=True, retain_graph=True)
        return out, *torch.autograd.grad(out.square().sum(), list(model.parameters())), *every

    class Watched(_ByOneDNN):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_dispatch__(func, types, args, kwargs)

    expected = run()
    with fast_products(x):
        found = run()
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)
    with Watched():
        run()
    assert torch.ops.aten.mm.default in seen  # so what is done otherwise was met


def test_other_kinds_are_left_to_torch():
    with fast_products(torch.zeros(1, dtype=torch.float64)):
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    with fast_products(torch.zeros(1)):
        x = torch.randn(200, 200, dtype=torch.float64)
        torch.testing.assert_close(x @ x, torch.einsum("ij,jk->ik", x, x))


def test_numbers_that_a_graph_keeps_can_be_read():
    with fast_products(torch.zeros(1)):
        node = (torch.zeros(3, requires_grad=True) * 0.25).grad_fn
        assert float(node._saved_other) == 0.25
