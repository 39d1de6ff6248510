"""The regression problem at the door: kernel, targets and starting outputs, flattened, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ntkit._arrays import to_tensor
from ntkit._memory import require_bytes
from ntkit.dynamics.modes import Response
from ntkit.errors import InvalidInput
from ntkit.spectra.symmetric import SymmetricKernel, check_kernel, check_target, flatten_kernel


@dataclass(frozen=True)
class Problem:
    """Training outputs start at y + `error` and move through `kernel`; the test outputs follow.

    N = n and c = o for a 2-D kernel; N = n·O and c = 1 for a 4-D one (`symmetric.py`).
    """

    kernel: SymmetricKernel
    target: Float[Tensor, "N c"]
    error: Float[Tensor, "N c"]  # f0 − y
    test_kernel: Float[Tensor, "M N"] | None
    test_start: Float[Tensor, "M c"] | None
    n_outputs: int
    label_shape: tuple[int, ...]  # of one sample's target: () or (o,)

    @property
    def n_samples(self) -> int:
        """n, the number that the loss averages over."""
        return self.kernel.n_samples

    def outputs(
        self, errors: Float[Tensor, "t N c"], duals: Float[Tensor, "t N c"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Training and test outputs, f = y + e and f = f0_test − K_test a, in the caller's shapes and dtype.

        Without test points, or without the dual coefficients a, there are no test outputs.
        """
        train = self._shaped(self.target + errors)
        if self.test_kernel is None or self.test_start is None or duals is None:
            return train, None
        return train, self._shaped(self.test_start - self.test_kernel @ duals)

    def outputs_in_modes(self, eigenvectors: Float[Tensor, "N N"], response: Response) -> tuple[Tensor, Tensor | None]:
        """The same from what each eigenmode has done."""
        coefficients = eigenvectors.T @ self.error

        def superposed(factors: Float[Tensor, "t N"]) -> Float[Tensor, "t N c"]:
            # A mode that is not excited stays so, even where its factor has overflowed.
            return eigenvectors @ torch.where(coefficients == 0, 0.0, factors[..., None] * coefficients)

        duals = None if self.test_kernel is None else superposed(response.gain)
        return self.outputs(superposed(response.residual), duals)

    def require_room(self, moments: int) -> None:
        """Refuse a trajectory of so many moments that it would not fit in memory."""
        # Errors, dual coefficients and outputs, each with one intermediate, all in float64.
        tests = 0 if self.test_start is None else self.test_start.numel()
        require_bytes(
            8 * moments * (6 * self.error.numel() + 2 * tests),
            f"a trajectory of {moments} moments",
            "ask for fewer times or steps, for example steps=range(0, T, 100)",
        )

    def _shaped(self, outputs: Float[Tensor, "t N c"]) -> Tensor:
        """(t, n) or (t, n, o)."""
        samples = outputs.shape[1] * outputs.shape[2] // self.n_outputs
        return outputs.reshape(len(outputs), samples, *self.label_shape).to(self.kernel.dtype)


def first_overflow(train: Tensor, test: Tensor | None) -> int | None:
    """The index of the first moment with an output that is not finite; None where all are."""
    finite = torch.isfinite(train).flatten(1).all(dim=1)
    if test is not None:
        finite &= torch.isfinite(test).flatten(1).all(dim=1)
    return None if bool(finite.all()) else int((~finite).to(torch.int8).argmax())


def check_problem(K: Any, y: Any, f0: Any, K_test: Any, f0_test: Any) -> Problem:
    """Everything `gradient_flow` and `gradient_descent` are given, as one `Problem`.

    Raises:
        InvalidInput: a shape, dtype or value does not fit; or one of `f0`, `f0_test` lacks its partner.
    """
    kernel = check_kernel(K)
    n, o, device = kernel.n_samples, kernel.n_outputs, kernel.matrix.device
    target = check_target(y, "y")
    columns = _count_outputs(target, n, o)
    _check_partners(f0, K_test, f0_test)
    start = _start(f0, "f0", tuple(target.shape)).to(target.device)
    test_kernel = test_start = None
    if K_test is not None:
        test_kernel = _check_test_kernel(K_test, n, o)
        wanted = (len(test_kernel) // (o or 1), *target.shape[1:])
        test_start = _start(f0_test, "f0_test", wanted)
    c = columns if o is None else 1

    def flat(outputs: Tensor) -> Tensor:
        return outputs.reshape(-1, c).to(device)

    return Problem(
        kernel=kernel,
        target=flat(target),
        error=flat(start - target),
        test_kernel=None if test_kernel is None else test_kernel.to(device),
        test_start=None if test_start is None else flat(test_start),
        n_outputs=columns,
        label_shape=tuple(target.shape[1:]),
    )


def check_momentum(momentum: float) -> float:
    """The heavy ball's m, in [0, 1)."""
    if not isinstance(momentum, Real) or not 0 <= momentum < 1:
        raise InvalidInput(f"momentum must be a number from 0 up to, but not including, 1, got {momentum!r}")
    return float(momentum)


def check_rate(lr: float) -> float:
    """A learning rate: positive and finite."""
    if not isinstance(lr, Real) or not 0 < lr < math.inf:
        raise InvalidInput(f"lr must be a positive finite number, got {lr!r}; see ntkit.dynamics.max_learning_rate(K)")
    return float(lr)


def _count_outputs(target: Tensor, n: int, o: int | None) -> int:
    """How many outputs `y` has, once its shape is known to fit a kernel of n samples and o outputs."""
    shape = tuple(target.shape)
    outputs = shape[1] if target.ndim == 2 else 1
    if target.ndim not in (1, 2) or shape[0] != n or outputs != (o or outputs) or outputs == 0:
        wanted = f"({n},) or ({n}, outputs)" if o is None else f"({n}, {o})"
        raise InvalidInput(f"y must have shape {wanted}, one row for each of K's {n} training points, got {shape}")
    return outputs


def _check_partners(f0: Any, K_test: Any, f0_test: Any) -> None:
    if f0_test is not None and K_test is None:
        raise InvalidInput("f0_test was given without K_test, the kernel of test with training points; give both")
    if f0 is not None and K_test is not None and f0_test is None:
        raise InvalidInput(
            "f0 was given but f0_test was not: the test points start from a network too; pass its outputs on "
            "them as f0_test, or leave f0 out for a network that starts at zero (ntkit.center)"
        )
    if f0 is None and f0_test is not None:
        raise InvalidInput(
            "f0_test was given but f0 was not: the training points start from the same network; pass its "
            "outputs on them as f0"
        )


def _start(outputs: Any, name: str, wanted: tuple[int, ...]) -> Tensor:
    """Outputs before training; zero where none are given."""
    if outputs is None:
        return torch.zeros(wanted).double()
    tensor = to_tensor(outputs, name).detach().double()
    if tuple(tensor.shape) != wanted:
        raise InvalidInput(
            f"{name}, the outputs before training, must have shape {wanted}, one row a point, got {tuple(tensor.shape)}"
        )
    return tensor


def _check_test_kernel(K_test: Any, n: int, o: int | None) -> Float[Tensor, "M N"]:
    tensor = to_tensor(K_test, "K_test").detach()
    tail = (n,) if o is None else (n, o, o)
    if tuple(tensor.shape[1:]) != tail or tensor.numel() == 0:
        wanted = ", ".join(["test points", *map(str, tail)])
        raise InvalidInput(
            f"K_test must be the kernel of test with training points, of shape ({wanted}), got "
            f"{tuple(tensor.shape)}; compute it with kernel.ntk(x_test, x_train)"
        )
    return flatten_kernel(tensor).double()
