"""NTKOperator and Tangent against the dense Jacobian."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

import ntkit
from ntkit.empirical.operator import Tangent
from ntkit.errors import InvalidInput


def dense_jacobian(model, x):
    """(n·o, p) by one backward pass an output: nothing of ntkit."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for value in model(x).flatten():
        grads = torch.autograd.grad(value, parameters, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.fixture
def model():
    return torch.nn.Sequential(
        torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3)
    ).double()


@pytest.fixture
def x():
    return torch.randn(5, 4, dtype=torch.float64)


def test_products_and_dense_form_match_the_jacobian(model, x):
    jacobian = dense_jacobian(model, x)
    wanted = jacobian @ jacobian.T
    operator = ntkit.NTKOperator(model, x)
    v = torch.randn(15, dtype=torch.float64)
    torch.testing.assert_close(operator @ v, wanted @ v, rtol=1e-10, atol=1e-10)
    block = torch.randn(15, 2, dtype=torch.float64)
    torch.testing.assert_close(operator @ block, wanted @ block, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(operator @ v.numpy(), (wanted @ v).numpy(), rtol=1e-10)
    torch.testing.assert_close(operator.to_dense(), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.diagonal(), wanted.diagonal(), rtol=1e-10, atol=1e-10)
    assert operator.trace() == pytest.approx(float(wanted.trace()), rel=1e-10)
    assert operator.n_samples == 5


def test_scipy_takes_it(model, x):
    operator = ntkit.NTKOperator(model, x)
    largest = eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0]
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(operator.to_dense())[-1]), rel=1e-9)


def test_later_training_does_not_reach_it(model, x):
    operator = ntkit.NTKOperator(model, x)
    v = torch.ones(15, dtype=torch.float64)
    before, dense = operator @ v, operator.to_dense()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(operator @ v, before)
    assert torch.equal(operator.to_dense(), dense)


def test_a_wrong_length_says_what_is_wanted(model, x, unchecked):
    with pytest.raises(
        InvalidInput, match=r"an operator of shape \(15, 15\) takes \(no,\) or \(no, k\), got shape \(4,\)"
    ):
        ntkit.NTKOperator(model, x) @ torch.ones(4, dtype=torch.float64)


def test_push_is_the_derivative_along_a_direction(model, x):
    tangent = Tangent(model, x)
    direction = {name: torch.randn_like(p) for name, p in tangent.point.items()}
    step = 1e-6
    moved = {name: p + step * direction[name] for name, p in tangent.point.items()}
    back = {name: p - step * direction[name] for name, p in tangent.point.items()}
    slope = (torch.func.functional_call(model, moved, (x,)) - torch.func.functional_call(model, back, (x,))) / (
        2 * step
    )
    torch.testing.assert_close(tangent.push(direction), slope.detach(), rtol=1e-7, atol=1e-7)
