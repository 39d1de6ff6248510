"""The face: `EmpiricalKernel(model)`, the tangent kernel of one network with the parameters it has now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor, nn

from ntkit._arrays import Array, like
from ntkit.empirical.contraction import Outputs
from ntkit.empirical.costs import Plan
from ntkit.empirical.engine import Engine
from ntkit.empirical.inputs import Inputs, admit, first_leaf, require_alike
from ntkit.empirical.network import Network, check_parameters, derivatives
from ntkit.errors import InvalidInput


class EmpiricalKernel:
    """The empirical neural tangent kernel k(x, x') = Σ_θ ∂f(x)/∂θ · ∂f(x')/∂θ of a model, exact.

    Linear maps, convolutions and embeddings contribute (A A'ᵀ) ∘ (G G'ᵀ) from their inputs A and output gradients
    G, without an array of the parameters' size; scales and shifts by their gradients; whatever the library has no
    rule for through per-sample Jacobians. Each call sees the parameters of that moment; the model is left as it was.

    Args:
        model: any torch module in float32 or float64 that treats samples independently.
        outputs: "full" every pair of outputs, "diagonal" equal outputs, "trace" their sum, "mean" trace / O.
        parameters: names or glob patterns of the parameters θ; default all that require grad.
        forward: f(model, x) -> (n, O), for a model that is not called as model(x), model(*x) or model(**x).
        memory_limit: bytes for result and intermediates together, one gradient of the model not counted;
            default: half of what is free beside the result.

    Raises:
        InvalidInput: an unknown `outputs`, a pattern without match, a model without parameters.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> EmpiricalKernel(model, outputs="mean").ntk(torch.eye(3))
        tensor([[2., 1., 1.],
                [1., 2., 1.],
                [1., 1., 2.]])

    Reference: Jacot, Gabriel & Hongler 2018; the contraction by layer: Novak, Sohl-Dickstein & Schoenholz
    2022.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        outputs: Outputs = "full",
        parameters: str | Sequence[str] | None = None,
        forward: Callable[[nn.Module, Any], Tensor] | None = None,
        memory_limit: int | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if outputs not in get_args(Outputs):
            raise InvalidInput(f"outputs must be one of {', '.join(map(repr, get_args(Outputs)))}, got {outputs!r}")
        if memory_limit is not None and memory_limit <= 0:
            raise InvalidInput(f"memory_limit must be a positive number of bytes, got {memory_limit}")
        check_parameters(model, parameters)  # what is wrong with the model or the patterns is said now
        self.model = model
        self.outputs: Outputs = outputs
        self.parameters = parameters
        self.forward = forward
        self.memory_limit = memory_limit

    def __repr__(self) -> str:
        options = f"outputs={self.outputs!r}, parameters={self.parameters!r}"
        return f"EmpiricalKernel({type(self.model).__name__}, {options})"

    def ntk(self, x1: Inputs, x2: Inputs | None = None) -> Float[Array, "n m *o"]:
        """The kernel k(x1_n, x2_m); exactly symmetric where x2 is None.

        Args:
            x1: (n, ...) samples as the model takes them: a tensor, or a tuple or dict of them.
            x2: (m, ...) samples of the same form; None means x1.

        Returns:
            (n, m, O, O) "full", (n, m, O) "diagonal", (n, m) "trace" and "mean"; numpy where x1 is numpy.

        Raises:
            InvalidInput: empty, not finite, of another dtype or device than the model, x1 and x2 of different
                form; a model that mixes samples, is random, or gives values that are not finite.
            MemoryLimitExceeded: the result, or the derivatives of one sample, exceed the memory limit.

        Example:
            >>> import torch
            >>> kernel = EmpiricalKernel(torch.nn.Linear(3, 2), outputs="trace")
            >>> kernel.ntk(torch.ones(2, 3), torch.ones(1, 3))
            tensor([[8.],
                    [8.]])
        """
        with derivatives():
            engine = self._engine()
            first = self._admit(engine, x1, "x1")
            second = None if x2 is None else self._admit(engine, x2, "x2")
            if second is not None:
                require_alike(first, second)
            return like(engine.gram(first, second), first_leaf(x1))

    def diagonal(self, x: Inputs) -> Float[Array, "n *o"]:
        """The entries k(x_n, x_n), without the rest of the kernel.

        Args:
            x: (n, ...) samples as the model takes them.

        Returns:
            (n, O, O) "full", (n, O) "diagonal", (n,) "trace" and "mean"; numpy where x is numpy.

        Raises:
            InvalidInput: as for `ntk`.
            MemoryLimitExceeded: as for `ntk`.

        Example:
            >>> import torch
            >>> EmpiricalKernel(torch.nn.Linear(3, 2), outputs="trace").diagonal(torch.ones(2, 3))
            tensor([8., 8.])
        """
        with derivatives():
            engine = self._engine()
            return like(engine.diagonal(self._admit(engine, x, "x")), first_leaf(x))

    def plan(self, x: Inputs) -> Plan:
        """How `ntk(x)` will be computed: route, cost and block size of every parameter. Prints as a table.

        Args:
            x: (n, ...) samples as the model takes them.

        Returns:
            The plan; only a few samples are run to make it.

        Raises:
            InvalidInput: as for `ntk`.
            MemoryLimitExceeded: as for `ntk`.

        Example:
            >>> import torch
            >>> [p.route for p in EmpiricalKernel(torch.nn.Linear(3, 2)).plan(torch.ones(2, 3)).parameters]
            ['layer', 'layer']
        """
        with derivatives():
            engine = self._engine()
            return engine.plan(self._admit(engine, x, "x"))

    def _engine(self) -> Engine:
        return Engine(Network(self.model, self.parameters, self.forward), self.outputs, self.memory_limit)

    def _admit(self, engine: Engine, x: Inputs, name: str) -> Any:
        network = engine.network
        return admit(x, name, network.dtype, network.device, network.embeds)


def empirical_ntk(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    outputs: Outputs = "full",
    parameters: str | Sequence[str] | None = None,
    memory_limit: int | None = None,
) -> Float[Array, "n m *o"]:
    """The empirical tangent kernel of a model, k(x, x') = Σ_θ ∂f(x)/∂θ · ∂f(x')/∂θ; see `EmpiricalKernel`.

    Args:
        model: any torch module in float32 or float64 that treats samples independently.
        x1: (n, ...) samples as the model takes them: a tensor, or a tuple or dict of them.
        x2: (m, ...) samples of the same form; None means x1.
        outputs: "full" (n, m, O, O), "diagonal" (n, m, O), "trace" (n, m) the sum over outputs, "mean" trace
            / O.
        parameters: names or glob patterns; default all that require grad.
        memory_limit: bytes for result and intermediates together, one gradient of the model not counted;
            default: half of what is free beside the result.

    Returns:
        The kernel, numpy where x1 is numpy.

    Raises:
        InvalidInput: as for `EmpiricalKernel` and its `ntk`.
        MemoryLimitExceeded: the result, or the derivatives of one sample, exceed the memory limit.

    Example:
        >>> import torch
        >>> empirical_ntk(torch.nn.Linear(3, 1), torch.eye(2, 3), outputs="trace")
        tensor([[2., 1.],
                [1., 2.]])

    Reference: Jacot, Gabriel & Hongler 2018.
    """
    kernel = EmpiricalKernel(model, outputs=outputs, parameters=parameters, memory_limit=memory_limit)
    return kernel.ntk(x1, x2)
