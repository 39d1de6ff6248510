"""`gradient_descent`: training by torch.optim.SGD on all data, with or without momentum, predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ntkit._arrays import Array, like
from ntkit.dynamics.losses import Loss, loss_speed
from ntkit.dynamics.modes import descent_response, momentum_response
from ntkit.dynamics.moments import check_steps
from ntkit.dynamics.problem import Problem, check_momentum, check_problem, check_rate, first_overflow
from ntkit.dynamics.trajectory import Trajectory
from ntkit.errors import InvalidInput
from ntkit.spectra.eigensolvers import dense_eigenpairs

Outputs = tuple[Tensor, Tensor | None]  # on training and test points


def gradient_descent(
    K: Float[Array, "n n"] | Float[Array, "n n o o"],
    y: Float[Array, "n"] | Float[Array, "n o"],
    *,
    lr: float | int,
    steps: int | Sequence[int] | Int[Array, "t"],
    momentum: float | int = 0.0,
    f0: Float[Array, "n"] | Float[Array, "n o"] | None = None,
    K_test: Float[Array, "m n"] | Float[Array, "m n o o"] | None = None,
    f0_test: Float[Array, "m"] | Float[Array, "m o"] | None = None,
    loss: Loss = "mse",
    method: Literal["auto", "eigen", "iterate"] = "auto",
) -> Trajectory:
    """Outputs of a linear model, or of a network with a constant kernel, under full-batch gradient descent.

    Without momentum f_t = y + (1 − lr·s·K)^t (f0 − y) and, on test points,
    f_t = f0_test − K_test K⁻¹(1 − (1 − lr·s·K)^t)(f0 − y), with s = 1/n for "mse"; a singular K needs no
    inverse. Momentum is torch.optim.SGD's: v ← momentum·v + ∂L/∂w, w ← w − lr·v, from v = 0. Rates beyond
    `max_learning_rate` are allowed, as long as nothing overflows.

    Args:
        K: kernel of the n training points, (n, n), which stands for K ⊗ I_o, or (n, n, o, o).
        y: training targets, (n,) or (n, o); class labels as one-hot rows.
        lr: learning rate, as torch.optim.SGD takes it for the chosen loss.
        steps: a whole number T for all of 0, 1, …, T, or an increasing sequence of step numbers.
        momentum: in [0, 1).
        f0: outputs on the training points at step 0, in the shape of `y`; zero by default.
        K_test: kernel of m test points with the training points, (m, n) or (m, n, o, o).
        f0_test: outputs on the test points at step 0, (m,) or (m, o); goes with `f0`.
        loss: "mse", L = (1/n) Σ ½‖f − y‖², or a torch.nn.MSELoss with reduction "mean" (s = 2/(n·o)) or "sum"
            (s = 2): `lr` is then the rate of an optimiser of that loss.
        method: "eigen" (closed form in the eigenbasis), "iterate" (step by step with matrix products), or
            "auto", whichever takes fewer operations. Both give the same outputs up to rounding.

    Returns:
        A `Trajectory` with `steps`, arrays of the kind and dtype of `K`.

    Raises:
        InvalidInput: a shape, dtype or value does not fit (the message says which and how); or outputs
            overflow, with the step at which they do.
        MemoryLimitExceeded: the eigendecomposition or the trajectory would not fit in memory.

    Example:
        >>> import ntkit, numpy as np
        >>> path = ntkit.dynamics.gradient_descent(np.diag([2.0, 1.0]), np.ones(2), lr=1.0, steps=2)
        >>> path.train.tolist()
        [[0.0, 0.0], [1.0, 0.5], [1.0, 0.75]]

    Reference:
        Lee et al., "Wide neural networks of any depth evolve as linear models", NeurIPS 2019; momentum:
        Polyak 1964, in the form of torch.optim.SGD.
    """
    problem = check_problem(K, y, f0, K_test, f0_test)
    rate = check_rate(lr) * loss_speed(loss, problem.n_samples, problem.n_outputs)
    momentum = check_momentum(momentum)
    moments = check_steps(steps)
    problem.require_room(len(moments))
    if _choose_method(method, problem, moments) == "eigen":
        train, test = _in_modes(problem, moments, rate, momentum)
    else:
        train, test = _step_by_step(problem, moments, rate, momentum)
    return Trajectory(
        train=like(train, K),
        test=None if test is None else like(test, K),
        times=None,
        steps=like(moments.to(train.device), K),
        loss=loss,
    )


def _choose_method(method: str, problem: Problem, moments: Tensor) -> str:
    """The one place where "auto" becomes a method: the fewer multiplications on N×N matrices."""
    if method not in ("auto", "eigen", "iterate"):
        raise InvalidInput(f"method must be 'auto', 'eigen' or 'iterate', got {method!r}")
    if method != "auto":
        return method
    size, columns = problem.error.shape
    products = size**2 * columns  # of the kernel, or its eigenvectors, with the outputs
    iterate = int(moments[-1]) * products
    eigen = 10 * size**3 + 2 * len(moments) * products  # 10 N³: tridiagonalisation and eigenvectors
    return "iterate" if iterate <= eigen else "eigen"


def _in_modes(problem: Problem, moments: Int64[Tensor, "t"], rate: float, momentum: float) -> Outputs:
    """Every step asked for at once, in the eigenbasis."""
    eigenvalues, eigenvectors = dense_eigenpairs(problem.kernel.matrix)
    respond = partial(momentum_response, momentum=momentum) if momentum else descent_response

    def outputs_at(steps: Int64[Tensor, "t"]) -> Outputs:
        return problem.outputs_in_modes(eigenvectors, respond(eigenvalues, steps.to(eigenvalues.device), rate))

    train, test = outputs_at(moments)
    overflow = first_overflow(train, test)
    if overflow is not None:
        finite = int(moments[overflow - 1]) if overflow else 0
        raise _overflow_at(_first_overflowing_step(outputs_at, finite, int(moments[overflow])), train.dtype)
    return train, test


def _step_by_step(problem: Problem, moments: Int64[Tensor, "t"], rate: float, momentum: float) -> Outputs:
    """The recursion itself, on the dual coefficients a, f = f0 − K a: one matrix product a step."""
    wanted = set(moments.tolist())
    dual = velocity = torch.zeros_like(problem.error)
    error, errors, duals = problem.error, [], []
    for step in range(int(moments[-1]) + 1):
        if step > 0:
            velocity = momentum * velocity + rate * error
            dual = dual + velocity
            error = problem.error - problem.kernel.matrix @ dual
        train, test = problem.outputs(error[None], None)
        if first_overflow(train, test) is not None:
            raise _overflow_at(step, train.dtype)
        if step in wanted:
            errors.append(error)
            duals.append(dual)
    train, test = problem.outputs(torch.stack(errors), torch.stack(duals))
    overflow = first_overflow(train, test)
    if overflow is not None:
        raise _overflow_at(int(moments[overflow]), train.dtype)
    return train, test


def _first_overflowing_step(outputs_at: Callable[[Tensor], Outputs], finite: int, overflowed: int) -> int:
    """The first step that overflows, by bisection between one that does not and one that does."""
    while overflowed - finite > 1:
        middle = (finite + overflowed) // 2
        if first_overflow(*outputs_at(torch.tensor([middle]))) is None:
            finite = middle
        else:
            overflowed = middle
    return overflowed


def _overflow_at(step: int, dtype: torch.dtype) -> InvalidInput:
    return InvalidInput(
        f"the outputs overflow {dtype} at step {step}: the learning rate is beyond the stable ones; ask for "
        "fewer steps, or a rate below ntkit.dynamics.max_learning_rate(K)"
    )
