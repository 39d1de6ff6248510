"""Wide finite networks, drawn again and again: their kernels have the exact one as their mean, as width grows.

The tangent kernel is a sum over parameters, so what each one adds is compared by itself: the finite network's part is
Σ_θ ∂f ∂f' over one parameter tensor, the exact part is what freezing it takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ntkit.errors import InvalidInput
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.testing.contract import Contract

_ERRORS = 4  # standard errors of a mean
_WIDTH = 5  # relative error of a finite width n, times n
_MORE = 12  # networks that are only evaluated, for each whose gradients are taken


@dataclass(frozen=True)
class Networks:
    """Random networks of one architecture.

    Args:
        build: width -> a new network.
        width: of all of them.
        seed: of the first.
    """

    build: Callable[[int], nn.Module]
    width: int
    seed: int

    def draw(self, number: int) -> nn.Module:
        """The network of this number, in float64; the caller's random numbers stay as they are."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * self.seed + number)
            model = self.build(self.width)
        if not isinstance(model, nn.Module):
            raise InvalidInput(f"build must return a torch.nn.Module, got {type(model).__name__}")
        return model.double()

    def check_limit(self, contract: Contract, x: Tensor, draws: int, scales: dict[str, Any]) -> None:
        """The exact kernel is the mean of theirs.

        Args:
            contract: takes the properties.
            x: samples (n, …).
            draws: networks whose gradients are taken.
            scales: options of `InfiniteKernel`.

        Raises:
            ContractViolation: it is not.
        """
        remedy = "look at the rates in the layer's instructions, and at the requires_grad that read= tells the spec"
        parts, rest = self._exact_parts(x, scales)
        found = [_parts_of(self.draw(number), x) for number in range(draws if parts else 0)]
        for name, exact in parts.items():
            draws_of_part = [each[name] for each in found]
            self._compare(contract, "parameters", draws_of_part, exact, f"the part of '{name}' in ntk", remedy)
        size = sum((part.abs() for part in parts.values()), start=rest.abs()).max()
        label = lambda i: f"ntk[{i[0]}, {i[1]}] without every parameter that trains"  # noqa: E731
        contract.close("frozen parameters", rest, torch.zeros_like(rest), 1e-10 * size, remedy, label)
        remedy = "look at the weights in the layer's instructions"
        exact = InfiniteKernel(self.draw(0), **scales).nngp(x, engine="torch")
        with torch.no_grad():
            outputs = [self.draw(number)(x).flatten(1) for number in range(_MORE * draws)]
        products = [f @ f.T / f.shape[1] for f in outputs]
        self._compare(contract, "covariance of outputs", products, exact, "nngp", remedy)

    def _exact_parts(self, x: Tensor, scales: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """(parameter that trains -> what it adds to the exact tangent kernel, what else is in that kernel)."""
        model = self.draw(0)
        whole = InfiniteKernel(model, **scales).ntk(x, engine="torch")
        parts: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                parts[name] = whole - InfiniteKernel(model, **scales).ntk(x, engine="torch")
                parameter.requires_grad_(True)
        return parts, whole - sum(parts.values(), start=torch.zeros_like(whole))

    def _compare(
        self, contract: Contract, name: str, draws: list[Tensor], exact: Tensor, what: str, remedy: str
    ) -> None:
        values = torch.stack(draws)
        mean, error = values.mean(0), values.std(0) / len(draws) ** 0.5
        allowed = _ERRORS * error + _WIDTH / self.width * mean.abs().max() + 1e-12 * exact.abs().max()
        at = f"{len(draws)} networks of width {self.width}"
        contract.close(name, exact, mean, allowed, remedy, lambda i: f"{what}[{i[0]}, {i[1]}], the mean of {at}")


def _parts_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Parameter that trains -> what it adds to the tangent kernel of one finite network.

    Of Σ_o f_o/√O in place of every output: outputs are alike and independent, so the mean is the same.
    """
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    outputs = model(x).flatten(1)
    rows = [
        torch.autograd.grad(f.sum() / len(f) ** 0.5, parameters, retain_graph=True, materialize_grads=True)
        for f in outputs
    ]
    jacobians = (torch.stack([gradient.flatten() for gradient in column]) for column in zip(*rows, strict=True))
    return {name: jacobian @ jacobian.T for name, jacobian in zip(names, jacobians, strict=True)}
