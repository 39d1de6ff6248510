"""Trace, diagonal and solutions from products alone, against dense matrices."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ntkit.errors import InvalidInput, NtkitError, ToleranceNotReached
from ntkit.matrix_free import (
    conjugate_gradients,
    nystrom_preconditioner,
    repeated_preconditioner,
    xdiag,
    xtrace,
)

SIZE, PRODUCTS, SEEDS = 200, 40, 100


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rotated(values):
    """A symmetric matrix of these eigenvalues."""
    Q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=seeded(7))).Q
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


SPECTRA = {
    "exponential": 0.8 ** torch.arange(SIZE, dtype=torch.float64),
    "polynomial": torch.arange(1, SIZE + 1, dtype=torch.float64) ** -2,
    "flat": torch.linspace(3, 1, SIZE, dtype=torch.float64),
    "indefinite": torch.linspace(-1, 2, SIZE, dtype=torch.float64),
}
DECAYING = ("exponential", "polynomial")


class Counted:
    """A product that counts its vectors."""

    def __init__(self, A):
        self.A, self.vectors = A, 0

    def __call__(self, v):
        self.vectors += v.shape[1]
        return self.A.to(v.dtype) @ v


@pytest.mark.parametrize("name", SPECTRA)
def test_the_trace_is_unbiased_and_its_error_is_the_one_stated(name):
    A = rotated(SPECTRA[name])
    found = [xtrace(Counted(A), SIZE, PRODUCTS, seeded(seed)) for seed in range(SEEDS)]
    misses = torch.tensor([e.value for e in found], dtype=torch.float64) - A.trace()
    stated = math.sqrt(sum(e.error**2 for e in found) / SEEDS)
    assert abs(misses.mean()) < 4 * misses.std() / SEEDS**0.5
    assert 0.4 < stated / float(misses.square().mean().sqrt()) < 1.6


@pytest.mark.parametrize("name", DECAYING)
def test_the_trace_is_far_better_than_by_hutchinson_where_eigenvalues_decay(name):
    A = rotated(SPECTRA[name])
    ours, plain = [], []
    for seed in range(SEEDS):
        ours.append(xtrace(Counted(A), SIZE, PRODUCTS, seeded(seed)).value)
        w = torch.randn(SIZE, PRODUCTS, dtype=torch.float64, generator=seeded(seed))
        plain.append(float((w * (A @ w)).sum()) / PRODUCTS)
    ours, plain = (torch.tensor(values) - A.trace() for values in (ours, plain))
    assert ours.square().mean().sqrt() < plain.square().mean().sqrt() / 20


@pytest.mark.parametrize("name", SPECTRA)
def test_the_diagonal_is_unbiased_and_its_errors_are_those_stated(name):
    A = rotated(SPECTRA[name])
    found = [xdiag(Counted(A), SIZE, PRODUCTS, seeded(seed)) for seed in range(SEEDS)]
    misses = torch.stack([e.value for e in found]) - A.diagonal()
    stated = torch.stack([e.error for e in found]).square().mean().sqrt()
    z = misses.mean(0) / (misses.std(0) / SEEDS**0.5)
    assert float(z.square().mean()) < 1.5  # of a chi-squared variable by its 200 degrees of freedom
    assert 0.5 < float(stated / misses.square().mean().sqrt()) < 1.5


@pytest.mark.parametrize("name", DECAYING)
def test_the_diagonal_is_far_better_than_by_signs_where_eigenvalues_decay(name):
    A = rotated(SPECTRA[name])
    ours = xdiag(Counted(A), SIZE, PRODUCTS, seeded()).value
    w = torch.randn(SIZE, PRODUCTS, dtype=torch.float64, generator=seeded()).sign()
    plain = (w * (A @ w)).mean(1)
    assert (ours - A.diagonal()).norm() < (plain - A.diagonal()).norm() / 10


@pytest.mark.parametrize("estimate", [xtrace, xdiag])
def test_no_more_products_are_made_than_were_granted(estimate):
    for products in (4, 7, 40, SIZE - 1, SIZE, 3 * SIZE):
        counted = Counted(rotated(SPECTRA["polynomial"]))
        estimate(counted, SIZE, products, seeded())
        assert counted.vectors <= products
        assert counted.vectors in (products - products % 2, SIZE)


@given(st.integers(1, 90), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_enough_products_give_exact_answers(size, seed):
    A = torch.randn(size, size, dtype=torch.float64, generator=seeded(seed))
    A = A + A.T
    trace, diagonal = (f(Counted(A), size, size, seeded(seed)) for f in (xtrace, xdiag))
    assert trace.value == pytest.approx(float(A.trace()), rel=1e-12, abs=1e-12)
    assert trace.error == 0
    torch.testing.assert_close(diagonal.value, A.diagonal(), rtol=0, atol=0)
    assert not diagonal.error.any()


@given(st.integers(0, 8), st.integers(20, 60), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_matrix_of_lower_rank_than_test_vectors_is_found_exactly(rank, size, seed):
    factor = torch.randn(size, rank, dtype=torch.float64, generator=seeded(seed))
    A = (factor * torch.randn(rank, generator=seeded(seed + 1), dtype=torch.float64)) @ factor.T
    scale = float(A.abs().max()) + 1e-300
    trace, diagonal = (f(Counted(A), size, 20 - size % 2, seeded(seed)) for f in (xtrace, xdiag))
    assert abs(trace.value - float(A.trace())) < 1e-8 * size * scale
    assert float((diagonal.value - A.diagonal()).abs().max()) < 1e-8 * size * scale


@given(st.integers(5, 40), st.integers(4, 39), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_leaving_vectors_out_one_by_one_gives_the_same(size, products, seed):
    """The formulas of one sketch against a basis made anew for every vector left out."""
    products = min(products, size - 1)
    A = torch.randn(size, size, dtype=torch.float64, generator=seeded(seed))
    A, m = A + A.T, products // 2
    tests = torch.randn(size, m, generator=seeded(seed), dtype=torch.float64)
    signs = (torch.randint(0, 2, (size, m), generator=seeded(seed)) * 2 - 1).double()
    assume(max(torch.linalg.cond(A @ signs), torch.linalg.cond(A @ tests)) < 1e4)
    traces, diagonals = [], []
    for i in range(m):
        others = [j for j in range(m) if j != i]
        Q = torch.linalg.qr(A @ tests[:, others]).Q
        w = tests[:, i] - Q @ (Q.T @ tests[:, i])
        traces.append((Q.T @ A @ Q).trace() + w @ A @ w * (size - m + 1) / (w @ w))
        Q, s = torch.linalg.qr(A @ signs[:, others]).Q, signs[:, i]
        diagonals.append((Q @ Q.T @ A).diagonal() + s * (A @ s - Q @ (Q.T @ A @ s)))
    trace, diagonal = (f(Counted(A), size, products, seeded(seed)) for f in (xtrace, xdiag))
    traces, diagonals = torch.stack(traces), torch.stack(diagonals)
    scale = float(traces.abs().max() + A.abs().max() * size)
    assert trace.value == pytest.approx(float(traces.mean()), abs=1e-8 * scale)
    assert trace.error == pytest.approx(float(traces.std() / m**0.5), abs=1e-8 * scale)
    torch.testing.assert_close(diagonal.value, diagonals.mean(0), rtol=0, atol=1e-8 * scale)
    torch.testing.assert_close(diagonal.error, diagonals.std(0) / m**0.5, rtol=0, atol=1e-8 * scale)


def test_vectors_have_the_dtype_that_was_asked_for():
    A, seen = rotated(SPECTRA["polynomial"]), set()

    def product(v):
        seen.add(v.dtype)
        return A.to(v.dtype) @ v

    trace = xtrace(product, SIZE, PRODUCTS, seeded(), dtype=torch.float32)
    diagonal = xdiag(product, SIZE, PRODUCTS, seeded(), dtype=torch.float32)
    assert seen == {torch.float32}
    assert diagonal.value.dtype == torch.float32
    assert trace.value == pytest.approx(xtrace(Counted(A), SIZE, PRODUCTS, seeded()).value, rel=1e-5)


@pytest.mark.parametrize("name", ["exponential", "polynomial", "flat"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_solutions_are_those_of_a_dense_solver(name, preconditioned):
    A, b = rotated(SPECTRA[name]), torch.randn(SIZE, 3, dtype=torch.float64)
    b[:, 1] = 0
    b[:, 2] *= 1e-200
    P = nystrom_preconditioner(Counted(A), SIZE, 20, 0.01, seeded()) if preconditioned else None
    found = conjugate_gradients(Counted(A), b, ridge=0.01, preconditioner=P, tolerance=1e-11)
    wanted = torch.linalg.solve(A + 0.01 * torch.eye(SIZE, dtype=torch.float64), b)
    torch.testing.assert_close(found.x, wanted, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.x[:, 2] * 1e200, wanted[:, 2] * 1e200, rtol=0, atol=1e-7)
    assert found.converged.all()
    assert (found.residual <= 1e-11).all()
    assert found.residual[1] == 0


@given(st.integers(1, 30), st.integers(1, 3), st.floats(0.01, 10.0), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_random_systems_are_solved(size, columns, ridge, seed):
    factor = torch.randn(size, max(1, size // 2), dtype=torch.float64, generator=seeded(seed))
    A, b = factor @ factor.T, torch.randn(size, columns, dtype=torch.float64, generator=seeded(seed + 1))
    P = nystrom_preconditioner(Counted(A), size, max(1, size // 3), ridge, seeded(seed))
    for preconditioner in (None, P, repeated_preconditioner(A, ridge, 1)):
        found = conjugate_gradients(Counted(A), b, ridge=ridge, preconditioner=preconditioner, tolerance=1e-9)
        missing = (A @ found.x + ridge * found.x - b).norm(dim=0) / b.norm(dim=0)
        assert float(missing.max()) < 2e-9


def test_the_nystrom_preconditioner_lowers_the_iterations():
    A, b = rotated(SPECTRA["polynomial"]), torch.randn(SIZE, 1, dtype=torch.float64)
    P = nystrom_preconditioner(Counted(A), SIZE, 40, 1e-4, seeded())
    plain = conjugate_gradients(Counted(A), b, ridge=1e-4)
    ours = conjugate_gradients(Counted(A), b, ridge=1e-4, preconditioner=P)
    assert ours.iterations < plain.iterations / 3


def test_a_nystrom_preconditioner_of_full_rank_is_the_inverse():
    A = rotated(SPECTRA["flat"])
    P = nystrom_preconditioner(Counted(A), SIZE, SIZE, 0.5, seeded())
    one = torch.eye(SIZE, dtype=torch.float64)
    smallest = float(SPECTRA["flat"].min()) + 0.5
    torch.testing.assert_close(P(A + 0.5 * one), smallest * one, rtol=0, atol=1e-10)


def test_a_preconditioner_of_nothing_does_nothing():
    P = nystrom_preconditioner(lambda v: 0 * v, 6, 3, 0.0, seeded())
    v = torch.randn(6, 2, dtype=torch.float64)
    assert torch.equal(P(v), v)


def test_the_repeated_preconditioner_is_the_inverse_of_a_product_with_ones():
    K = rotated(SPECTRA["polynomial"][:5])
    dense = torch.kron(K, torch.eye(3, dtype=torch.float64)) + 0.1 * torch.eye(15, dtype=torch.float64)
    v = torch.randn(15, 2, dtype=torch.float64)
    torch.testing.assert_close(repeated_preconditioner(K, 0.1, 3)(v), torch.linalg.solve(dense, v))


def test_a_singular_matrix_can_be_repeated():
    P = repeated_preconditioner(torch.ones(4, 4), 0.0, 1)
    assert torch.isfinite(P(torch.randn(4, 1, dtype=torch.float64))).all()


def test_columns_that_are_done_are_multiplied_no_more():
    A, b = rotated(SPECTRA["polynomial"]), torch.randn(SIZE, 2, dtype=torch.float64)
    b[:, 0] = torch.linalg.eigh(A).eigenvectors[:, 3]  # an eigenvector takes one iteration
    counted = Counted(A)
    found = conjugate_gradients(counted, b, ridge=1e-3)
    assert found.iterations > 10
    assert counted.vectors < found.iterations + 8


def test_products_in_single_precision_reach_what_they_can_and_say_what_they_cannot():
    A, b = rotated(SPECTRA["polynomial"]), torch.randn(SIZE, 1, dtype=torch.float64)
    found = conjugate_gradients(Counted(A), b, ridge=1e-2, dtype=torch.float32)
    assert float((A @ found.x + 1e-2 * found.x - b).norm() / b.norm()) < 1.1e-4
    with pytest.raises(ToleranceNotReached, match=r"residual of 1e-12, got .* products in float32 have no more digits"):
        conjugate_gradients(Counted(A), b, ridge=1e-2, dtype=torch.float32, tolerance=1e-12)


def test_what_did_not_converge_is_an_error_or_is_said():
    A, b = rotated(SPECTRA["polynomial"]), torch.randn(SIZE, 1, dtype=torch.float64)
    with pytest.raises(
        ToleranceNotReached, match=r"residual of 1e-06, got .* after 3 iterations; raise max_iterations"
    ):
        conjugate_gradients(Counted(A), b, max_iterations=3)
    found = conjugate_gradients(Counted(A), b, max_iterations=3, strict=False)
    assert found.iterations == 3
    assert not found.converged.any()
    assert float(found.residual) == pytest.approx(float((A @ found.x - b).norm() / b.norm()), rel=1e-9)


def test_a_right_hand_side_out_of_reach_is_refused():
    ones = torch.ones(4, 4, dtype=torch.float64)
    with pytest.raises(NtkitError, match="larger ridge"):
        conjugate_gradients(lambda v: ones @ v, torch.eye(4, 1, dtype=torch.float64))


B = torch.randn(6, 2, dtype=torch.float64, generator=seeded())
REFUSED = {
    "negative curvature": (lambda: conjugate_gradients(lambda v: -v, B), "the matrix plus ridge must be positive def"),
    "negative preconditioner": (
        lambda: conjugate_gradients(lambda v: v, B, preconditioner=lambda v: -v),
        "the preconditioner must be positive definite",
    ),
    "a product that is not finite": (lambda: conjugate_gradients(lambda v: v * math.nan, B), "must be finite, got 12"),
    "a product of another shape": (
        lambda: conjugate_gradients(lambda v: v[:3], B),
        r"product must give a tensor of its argument's shape \(6, 2\), got shape \(3, 2\)",
    ),
    "a product that is no tensor": (lambda: xtrace(lambda v: None, 6, 4, seeded()), "got NoneType"),
    "b not finite": (lambda: conjugate_gradients(lambda v: v, B * math.inf), "b must be finite"),
    "b a vector": (lambda: conjugate_gradients(lambda v: v, B[:, 0]), r"b must be columns \(N, k\), got shape \(6,\)"),
    "ridge": (lambda: conjugate_gradients(lambda v: v, B, ridge=-1.0), "ridge must be a finite number >= 0, got -1.0"),
    "tolerance": (lambda: conjugate_gradients(lambda v: v, B, tolerance=0.0), "tolerance must be a finite number > 0"),
    "max_iterations": (
        lambda: conjugate_gradients(lambda v: v, B, max_iterations=0),
        "max_iterations must be a whole number, at least 1, got 0",
    ),
    "few products": (lambda: xtrace(lambda v: v, 6, 3, seeded()), "products must be at least 4, .* got 3"),
    "no products": (lambda: xdiag(lambda v: v, 6, 0, seeded()), "products must be a whole number, at least 1, got 0"),
    "size": (lambda: xtrace(lambda v: v, 0, 4, seeded()), "size must be a whole number, at least 1, got 0"),
    "rank": (
        lambda: nystrom_preconditioner(lambda v: v, 6, 7, 0.0, seeded()),
        "rank must be a whole number, from 1 to 6, got 7",
    ),
    "negative eigenvalues": (
        lambda: nystrom_preconditioner(lambda v: -v, 6, 3, 0.0, seeded()),
        "the matrix must have no negative eigenvalues",
    ),
    "a negative kernel": (lambda: repeated_preconditioner(-torch.eye(3), 0.0, 2), "no negative eigenvalues"),
    "a kernel that is not square": (lambda: repeated_preconditioner(torch.ones(2, 3), 0.0, 2), r"got shape \(2, 3\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, unchecked):
    call, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        call()
