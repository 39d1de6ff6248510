"""`Trajectory`: predicted outputs along training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ntkit._arrays import Array, like, to_tensor
from ntkit.dynamics.losses import Loss, loss_weight
from ntkit.errors import InvalidInput
from ntkit.spectra.symmetric import check_target


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Outputs on the training and test points at increasing times or steps.

    Attributes:
        train: (t, n, o), or (t, n) where the targets were (n,).
        test: (t, m, o) or (t, m); None without test points.
        times: (t,), of a gradient flow; None for descent.
        steps: (t,), step numbers of a gradient descent; None for flow.
        loss: the loss trained on; `train_loss` and `test_loss` report it.
    """

    train: Float[Array, "t n"] | Float[Array, "t n o"]
    test: Float[Array, "t m"] | Float[Array, "t m o"] | None
    times: Float[Array, "t"] | None
    steps: Int[Array, "t"] | None
    loss: Loss

    def train_loss(self, y: Float[Array, "n"] | Float[Array, "n o"]) -> Float[Array, "t"]:
        """The loss on the training points, the one trained on: for "mse" L_t = (1/n) Σ ½‖f_t − y‖².

        Args:
            y: the training targets, (n,) or (n, o).

        Raises:
            InvalidInput: `y` has another shape or holds integers; or the loss overflows its dtype.

        Example:
            >>> import ntkit, numpy as np
            >>> y = np.array([1.0, 1.0])
            >>> ntkit.dynamics.gradient_descent(np.eye(2), y, lr=1.0, steps=2).train_loss(y).tolist()
            [0.5, 0.125, 0.03125]
        """
        return self._loss(self.train, y, "y")

    def test_loss(self, y_test: Float[Array, "m"] | Float[Array, "m o"]) -> Float[Array, "t"]:
        """The same loss on the m test points.

        Args:
            y_test: the test targets, (m,) or (m, o).

        Raises:
            InvalidInput: there are no test points; `y_test` has another shape or holds integers; or the loss
                overflows.
        """
        if self.test is None:
            raise InvalidInput("test_loss() needs test points, but this trajectory was computed without K_test")
        return self._loss(self.test, y_test, "y_test")

    def _loss(self, outputs: Array, y: Array, name: str) -> Array:
        predicted = to_tensor(outputs, "outputs")
        target = check_target(y, name).to(predicted.device)
        if target.shape != predicted.shape[1:]:
            raise InvalidInput(
                f"{name} must have the shape {tuple(predicted.shape[1:])} of the outputs at one moment, "
                f"got {tuple(target.shape)}"
            )
        n, o = target.shape[0], target.shape[1] if target.ndim == 2 else 1
        squares = torch.stack([(moment.double() - target).square().sum() for moment in predicted])
        losses = (loss_weight(self.loss, n, o) * squares).to(predicted.dtype)
        self._check_overflow(losses)
        return like(losses, outputs)

    def _check_overflow(self, losses: Tensor) -> None:
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            label, moments = ("step", self.steps) if self.steps is not None else ("time", self.times)
            first = int((~finite).to(torch.int8).argmax())
            moment = moments[first] if moments is not None else first
            raise InvalidInput(
                f"the loss overflows {losses.dtype} at {label} {moment:g}; stop earlier, or use a smaller learning rate"
            )
