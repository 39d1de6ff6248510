"""`gradient_flow`: training at an infinitesimal learning rate, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Num

from ntkit._arrays import Array, like
from ntkit.dynamics.losses import Loss, loss_speed
from ntkit.dynamics.modes import flow_response
from ntkit.dynamics.moments import check_times
from ntkit.dynamics.problem import check_problem, first_overflow
from ntkit.dynamics.trajectory import Trajectory
from ntkit.errors import InvalidInput
from ntkit.spectra.eigensolvers import dense_eigenpairs


def gradient_flow(
    K: Float[Array, "n n"] | Float[Array, "n n o o"],
    y: Float[Array, "n"] | Float[Array, "n o"],
    *,
    times: Sequence[float | int] | Num[Array, "t"],
    f0: Float[Array, "n"] | Float[Array, "n o"] | None = None,
    K_test: Float[Array, "m n"] | Float[Array, "m n o o"] | None = None,
    f0_test: Float[Array, "m"] | Float[Array, "m o"] | None = None,
    loss: Loss = "mse",
) -> Trajectory:
    """Outputs of a linear model, or of a network with a constant kernel, under gradient flow, squared loss.

    df/dt = −s K (f − y), so f(t) = y + exp(−s K t)(f0 − y) and, on test points,
    f(t) = f0_test − K_test K⁻¹(1 − exp(−s K t))(f0 − y), with s = 1/n for "mse", L = (1/n) Σ ½‖f − y‖². A
    singular K needs no inverse and no ridge. One step of torch.optim.SGD at a small rate lr passes time lr.

    Args:
        K: kernel of the n training points, (n, n), which stands for K ⊗ I_o, or (n, n, o, o).
        y: training targets, (n,) or (n, o); class labels as one-hot rows.
        times: increasing, nonnegative; in units of 1/(s λ).
        f0: outputs on the training points at time 0, in the shape of `y`; zero by default.
        K_test: kernel of m test points with the training points, (m, n) or (m, n, o, o).
        f0_test: outputs on the test points at time 0, (m,) or (m, o); goes with `f0`.
        loss: "mse", or a torch.nn.MSELoss with reduction "mean" (s = 2/(n·o)) or "sum" (s = 2).

    Returns:
        A `Trajectory` with `times`, arrays of the kind and dtype of `K`.

    Raises:
        InvalidInput: a shape, dtype or value does not fit (the message says which and how); or outputs
            overflow, which takes a kernel with negative eigenvalues.
        MemoryLimitExceeded: the eigendecomposition or the trajectory would not fit in memory.

    Example:
        >>> import ntkit, numpy as np
        >>> path = ntkit.dynamics.gradient_flow(np.diag([2.0, 0.0]), np.ones(2), times=[0.0, 1.0])
        >>> path.train.round(4).tolist()
        [[0.0, 0.0], [0.6321, 0.0]]

    Reference:
        Jacot, Gabriel & Hongler, "Neural tangent kernel", NeurIPS 2018; Lee et al., "Wide neural
        networks of any depth evolve as linear models", NeurIPS 2019.
    """
    problem = check_problem(K, y, f0, K_test, f0_test)
    moments = check_times(times).to(problem.error.device)
    speed = loss_speed(loss, problem.n_samples, problem.n_outputs)
    problem.require_room(len(moments))
    eigenvalues, eigenvectors = dense_eigenpairs(problem.kernel.matrix)
    train, test = problem.outputs_in_modes(eigenvectors, flow_response(eigenvalues, moments, speed))
    overflow = first_overflow(train, test)
    if overflow is not None:
        raise InvalidInput(
            f"the outputs overflow {train.dtype} at time {float(moments[overflow]):g}: K has the negative "
            f"eigenvalue {float(eigenvalues[-1]):.3g}, whose mode grows for ever; compute K in float64, or "
            "ask for earlier times"
        )
    return Trajectory(
        train=like(train, K),
        test=None if test is None else like(test, K),
        times=like(moments, K),
        steps=None,
        loss=loss,
    )
