"""Each eigenmode's closed form, under gradient flow, gradient descent, and descent with momentum.

In a mode of eigenvalue λ the error e = v·(f − y) shrinks by a factor r_t (`residual`), while the dual
coefficients a, f_t = f_0 − K a_t, collect g_t (`gain`) times the first error: r_t = 1 − λ g_t. Test points
move by −K_test a_t. The gain (1 − r_t)/λ is written so that it stays exact as λ → 0, where it tends to s·t or
s·lr·t. With the loss's speed s (`losses.py`) and z = lr·s·λ:

    flow      r = exp(−sλt)                 g = −expm1(−sλt)/λ
    descent   r = (1 − z)^t                 g = lr·s·(1 − (1 − z)^t)/z
    momentum  p ← m p + r,  r ← r − z p,  S ← S + p      from r = 1, p = S = 0;  g = lr·s·S

The last is torch.optim.SGD's heavy ball (v ← m v + ∂L/∂w, w ← w − lr v, v_0 = 0) seen in one mode. It is a
linear map of (r, p, S), so t steps are its t-th power, by repeated squaring: no roots are taken, and real,
double and complex ones need no cases.

Reference: Lee et al., "Wide neural networks of any depth evolve as linear models", NeurIPS 2019 (flow and
momentum); Goh, "Why momentum really works", Distill 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class Response:
    """What each of k modes has done at each of t moments."""

    residual: Float64[Tensor, "t k"]
    gain: Float64[Tensor, "t k"]


def flow_response(eigenvalues: Float64[Tensor, "k"], times: Float64[Tensor, "t"], speed: float) -> Response:
    """Gradient flow, de/dt = −s λ e."""
    elapsed = speed * times[:, None]
    z = elapsed * eigenvalues
    linear = elapsed * (1 - z / 2)  # the error of dropping z²/6 is below rounding
    gain = torch.where(z.abs() < 1e-8, linear, -torch.expm1(-z) / eigenvalues)
    return Response(residual=torch.exp(-z), gain=gain)


def descent_response(eigenvalues: Float64[Tensor, "k"], steps: Int64[Tensor, "t"], rate: float) -> Response:
    """Plain gradient descent, e ← (1 − z) e; `rate` is lr·s."""
    t = steps[:, None].double()
    z = rate * eigenvalues
    exponent = t * torch.log1p(-z)  # keeps the digits of a small z, which 1 − z loses
    small = z.abs() < 0.5
    # pow keeps the sign of a negative base exactly: t is a whole number.
    residual = torch.where(small, exponent.exp(), torch.pow(1 - z, t))
    linear = t * (1 - (t - 1) * z / 2)  # the first terms of the binomial series
    steps_felt = torch.where((t * z).abs() < 1e-8, linear, torch.where(small, -torch.expm1(exponent), 1 - residual) / z)
    return Response(residual=residual, gain=rate * steps_felt)


def momentum_response(
    eigenvalues: Float64[Tensor, "k"], steps: Int64[Tensor, "t"], rate: float, momentum: float
) -> Response:
    """Descent with heavy-ball momentum; `rate` is lr·s. Step numbers must increase."""
    z = rate * eigenvalues
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    m = momentum * one
    rows = ((1 - z, -m * z, zero), (one, m, zero), (one, m, one))  # of the new (r, p, S) in the old
    one_step = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    state = torch.stack([one, zero, zero], dim=-1)[..., None]
    states, now, last_gap, jump = [], 0, 0, torch.eye(3).to(one_step)
    for step in steps.tolist():
        gap = step - now
        if gap != last_gap:  # mostly equal gaps: one power serves them all
            jump, last_gap = torch.linalg.matrix_power(one_step, gap), gap
        state, now = jump @ state, step
        states.append(state[..., 0])
    r, _, steps_felt = torch.stack(states).unbind(dim=-1)
    return Response(residual=r, gain=rate * steps_felt)
