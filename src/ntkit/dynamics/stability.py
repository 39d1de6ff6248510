"""The largest learning rate at which gradient descent on a kernel converges."""

from __future__ import annotations

from numbers import Integral

from jaxtyping import Float

from ntkit._arrays import Array
from ntkit.dynamics.losses import Loss, loss_speed
from ntkit.dynamics.problem import check_momentum
from ntkit.errors import InvalidInput
from ntkit.spectra.eigensolvers import largest_eigenvalue
from ntkit.spectra.symmetric import check_kernel


def max_learning_rate(
    K: Float[Array, "n n"] | Float[Array, "n n o o"],
    momentum: float | int = 0.0,
    loss: Loss = "mse",
    *,
    n_outputs: int = 1,
) -> float:
    """The learning rate below which every mode shrinks: 2 (1 + m) n / λ_max(K).

    A mode with z = lr · s · λ (s the loss's speed, 1/n for "mse") obeys
    e_{t+1} = (1 + m − z) e_t − m e_{t−1}, whose roots lie inside the unit circle exactly for
    0 < z < 2 (1 + m). So the bound is 2 (1 + m) / (s λ_max), where s = 2/(n·o) for
    torch.nn.MSELoss(reduction="mean") and 2 for "sum".

    Args:
        K: kernel of the n training points, (n, n) or (n, n, O, O).
        momentum: m of torch.optim.SGD (heavy ball), in [0, 1).
        loss: "mse", or a torch.nn.MSELoss whose reduction is "mean" or "sum".
        n_outputs: how many outputs a 2-D `K` stands for; only MSELoss(reduction="mean") depends on it. A 4-D
            kernel knows its own.

    Returns:
        The rate, in the units of torch.optim.SGD's lr.

    Raises:
        InvalidInput: `K` is not square, symmetric and finite, or has no positive eigenvalue; the momentum
            lies outside [0, 1); the loss is unknown; `n_outputs` contradicts a 4-D kernel.

    Example:
        >>> import ntkit, numpy as np
        >>> ntkit.dynamics.max_learning_rate(np.diag([4.0, 1.0]))
        1.0
        >>> ntkit.dynamics.max_learning_rate(np.diag([4.0, 1.0]), momentum=0.5)
        1.5

    Reference:
        Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Goh, "Why momentum
        really works", Distill 2017.
    """
    kernel = check_kernel(K)
    momentum = check_momentum(momentum)
    if isinstance(n_outputs, bool) or not isinstance(n_outputs, Integral) or n_outputs < 1:
        raise InvalidInput(f"n_outputs must be a whole number from 1, got {n_outputs!r}")
    if kernel.n_outputs is not None and n_outputs not in (1, kernel.n_outputs):
        raise InvalidInput(
            f"n_outputs={n_outputs} contradicts K, which has {kernel.n_outputs} outputs; leave n_outputs out"
        )
    speed = loss_speed(loss, kernel.n_samples, kernel.n_outputs or n_outputs)
    largest = largest_eigenvalue(kernel.matrix)
    if largest <= 0.0:
        raise InvalidInput(
            f"K must have a positive eigenvalue, but its largest is {largest:.3g}, so no learning rate is "
            "special; check how the kernel was computed"
        )
    return 2 * (1 + momentum) / (speed * largest)
