"""Products of derivatives: slabs of per-sample gradients beside products of their factors."""

import pytest
import torch

from ntkit.empirical.contraction import Pending, contract

T, D, OUTPUTS, Q = 3, 70, 2, 5


def pending(n, constant, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, T, D, generator=generator, dtype=torch.float64)
    return Pending(a, torch.randn(n, T, OUTPUTS, Q, generator=generator, dtype=torch.float64), constant)


def gradients(factors):
    """(n, o, q, columns), written out; the constant is one more column."""
    a = torch.cat([factors.a, factors.a.new_full((*factors.a.shape[:2], 1), factors.constant)], -1)
    return torch.einsum("ntoq,ntd->noqd", factors.g, a)


@pytest.mark.parametrize("constant", [0.0, 1.5])
@pytest.mark.parametrize("numbers", [1, 300, 2000, 10**6])
@pytest.mark.parametrize("together", [True, False])
def test_slabs_are_all_of_the_per_sample_gradients(together, numbers, constant):
    one, two = pending(4, constant, 1), pending(6, constant, 2)
    expected = torch.einsum("noqd,mpqd->nmop", gradients(one), gradients(two))
    found, largest = torch.zeros_like(expected), 0
    for outs, left, right in one.slabs(two, together, numbers):
        found[..., outs, outs] += contract([left], [right], "full")
        largest = max(largest, left.j.numel(), right.j.numel())
    if not together:
        expected = expected * torch.eye(OUTPUTS)  # pairs of one output
    torch.testing.assert_close(found, expected)
    assert largest <= max(numbers, 6 * (OUTPUTS if together else 1))  # at least one number of each gradient


def test_one_side_is_multiplied_once():
    one = pending(4, 1.0, 1)
    assert all(left is right for _, left, right in one.slabs(one, False, 300))


def test_slabs_share_their_room():
    one, two = pending(4, 1.0, 1), pending(6, 1.0, 2)
    rooms = {(left.j.data_ptr(), right.j.data_ptr()) for _, left, right in one.slabs(two, False, 300)}
    assert len(rooms) == 1


def test_per_sample_gradients_have_a_column_for_the_constant():
    one = pending(4, 2.0, 1)
    torch.testing.assert_close(one.multiplied().j, gradients(one).flatten(2))
