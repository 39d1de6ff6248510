"""The face: `EmpiricalKernel(model)`, the tangent kernel of one network with the parameters it has now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor, nn

from ntkit._arrays import Array, like
from ntkit._memory import read_limit
from ntkit.empirical import geometry
from ntkit.empirical.contraction import Outputs
from ntkit.empirical.costs import Plan
from ntkit.empirical.engine import Engine
from ntkit.empirical.inputs import Inputs, first_leaf, require_alike, require_one_size
from ntkit.empirical.network import (
    Network,
    check_parameters,
    derivatives,
    require_callable,
    require_module,
    select_parameters,
)
from ntkit.empirical.projection import Project, read_projection, split_labels
from ntkit.errors import InvalidInput


class EmpiricalKernel:
    """The empirical neural tangent kernel k(x, x') = Σ_θ ∂f(x)/∂θ · ∂f(x')/∂θ of a model, exact.

    Linear maps, convolutions and embeddings contribute (A A'ᵀ) ∘ (G G'ᵀ) from their inputs A and output gradients
    G, without an array of the parameters' size; scales and shifts by their gradients; whatever the library has no
    rule for through per-sample Jacobians. Each call sees the parameters of that moment; the model is left as it was.

    Args:
        model: any torch module in float32, float64 or bfloat16 that treats samples independently.
        outputs: "full" every pair of outputs, "diagonal" equal outputs, "trace" their sum, "mean" trace / O.
        parameters: names or glob patterns of the parameters θ; default all that require grad.
        forward: f(model, x) -> (n, O), for a model that is not called as model(x), model(*x) or model(**x).
        project: which outputs: a number for that one; a matrix V (O, k) for f(x) V, such as a random sketch; "labels"
            for each sample's own class, samples then being pairs (x, labels); default all.
        memory_limit: bytes for result and intermediates together, one gradient of the model not counted;
            default: half of what is free beside the result.

    A model in bfloat16, or under autocast, has its passes in that precision, and products summed in float32.

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
        project: Project = None,
        memory_limit: int | None = None,
    ):
        require_module(model)
        if outputs not in get_args(Outputs):
            raise InvalidInput(f"outputs must be one of {', '.join(map(repr, get_args(Outputs)))}, got {outputs!r}")
        require_callable(forward)
        check_parameters(model, parameters)  # what is wrong with the model or the patterns is said now
        self.model = model
        self.outputs: Outputs = outputs
        self.parameters = parameters
        self.forward = forward
        self.project = project
        self._projection = read_projection(project)
        self.memory_limit = read_limit(memory_limit)

    def __repr__(self) -> str:
        options = f"outputs={self.outputs!r}, parameters={self.parameters!r}"
        return f"EmpiricalKernel({type(self.model).__name__}, {options})"

    def ntk(
        self, x1: Inputs, x2: Inputs | None = None, *, centered: bool = False, normalized: bool = False
    ) -> Float[Array, "n m *o"]:
        """The kernel k(x1_n, x2_m); exactly symmetric where x2 is None.

        Args:
            x1: (n, ...) samples as the model takes them: a tensor, or a tuple or dict of them.
            x2: (m, ...) samples of the same form; None means x1.
            centered: whether gradients lose their mean over the samples x1 first.
            normalized: whether gradients have unit length: the kernel then holds their cosines.

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
        return next(iter(self._gram(x1, x2, None, centered, normalized).values()))

    def parts(
        self,
        x1: Inputs,
        x2: Inputs | None = None,
        *,
        groups: Mapping[str, str | Sequence[str]] | None = None,
        centered: bool = False,
        normalized: bool = False,
    ) -> dict[str, Float[Array, "n m *o"]]:
        """The kernels of groups of parameters, k_G(x, x') = Σ_{θ in G} ∂f(x)/∂θ · ∂f(x')/∂θ, in one pass.

        Args:
            x1: (n, ...) samples as the model takes them.
            x2: (m, ...) samples of the same form; None means x1.
            groups: names or glob patterns of the parameters of each group; default one group a layer, under the name
                of the module that owns the parameters, and then the sum of all is the kernel.
            centered: as for `ntk`.
            normalized: as for `ntk`.

        Returns:
            group -> kernel, as `ntk` gives it.

        Raises:
            InvalidInput: as for `ntk`; a pattern without match, or a parameter in two groups.
            MemoryLimitExceeded: as for `ntk`.

        Example:
            >>> import torch
            >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
            >>> list(EmpiricalKernel(model).parts(torch.ones(2, 3)))
            ['0', '2']
            >>> list(EmpiricalKernel(model).parts(torch.ones(2, 3), groups={"weights": "*.weight", "first": "0.bias"}))
            ['weights', 'first']
        """
        if groups is None:
            chosen = select_parameters(self.model, self.parameters)
            groups = {}
            for name in chosen:
                owner = name.rpartition(".")[0] or name
                groups[owner] = [*groups.get(owner, []), name]
        elif self.parameters is not None:
            raise InvalidInput("groups must say which parameters enter, but the kernel was made with parameters=...")
        return self._gram(x1, x2, groups, centered, normalized)

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
            (found,) = engine.diagonal(self._admit(engine, x, "x")).values()
            return like(found, first_leaf(x))

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

    def _gram(
        self, x1: Inputs, x2: Inputs | None, groups: Mapping[str, Any] | None, centered: bool, normalized: bool
    ) -> dict[str, Any]:
        with derivatives():
            engine = self._engine(groups)
            first = self._admit(engine, x1, "x1")
            second = None if x2 is None else self._admit(engine, x2, "x2")
            if second is not None:
                require_alike(first, second)
            found = engine.gram(first, second)
            if centered or normalized:
                found = self._moved(engine, found, first, second, centered, normalized)
            return {part: like(kernel, first_leaf(x1)) for part, kernel in found.items()}

    def _moved(
        self, engine: Engine, found: dict[str, Tensor], x1: Any, x2: Any, centered: bool, normalized: bool
    ) -> dict[str, Tensor]:
        """The kernels of gradients without their mean, of unit length, or both."""
        own = None if x2 is None else engine.diagonal(x2)  # k(x, x) of the columns' samples
        reference = found if x2 is None else engine.gram(x1, None) if centered else None
        rows = None if reference is not None else engine.diagonal(x1)
        result = {}
        for part, kernel in found.items():
            second = None if own is None else own[part]
            if reference is not None and centered:
                moved = geometry.centered(kernel, reference[part], second, self.outputs)
            else:
                first = geometry.own_entries(kernel) if rows is None else rows[part]
                moved = geometry.Moved(kernel, first, first if second is None else second)
            result[part] = geometry.normalized(moved, self.outputs) if normalized else moved.kernel
        return result

    def _engine(self, groups: Mapping[str, Any] | None = None) -> Engine:
        network = Network(
            self.model, self.parameters, self.forward, projection=self._projection, groups=groups, low_precision=True
        )
        return Engine(network, self.outputs, self.memory_limit)

    def _admit(self, engine: Engine, x: Inputs, name: str) -> Any:
        network = engine.network
        if self._projection is None or not self._projection.labelled:
            return network.admit(x, name)
        samples, labels = split_labels(x, name)
        pair = (network.admit(samples, name), labels.to(network.device))
        require_one_size(pair, name)
        return pair


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
        model: any torch module in float32, float64 or bfloat16 that treats samples independently.
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
