"""The exact kernel's face: an nn.Module in, NNGP and NTK matrices out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ntkit._arrays import Array, like, to_tensor
from ntkit._memory import human_bytes, require_bytes
from ntkit.architecture.network import Network
from ntkit.architecture.specs import Linear
from ntkit.architecture.tracing import trace
from ntkit.errors import InvalidInput
from ntkit.infinite.program import Dual, Program, Read
from ntkit.infinite.rules import compile_network
from ntkit.infinite.scales import Scale, with_scales
from ntkit.infinite.torch_interpreter import TorchInterpreter


@dataclass(frozen=True)
class Kernels:
    """The two kernels of one network on the same pairs.

    Args:
        nngp: covariance of the outputs at initialisation, (n, m).
        ntk: tangent kernel, (n, m).
    """

    nngp: Any
    ntk: Any


@dataclass(frozen=True)
class Plan:
    """What a kernel of a given size costs.

    Args:
        n: samples on the first side.
        m: samples on the second side.
        symmetric: whether only half of the pairs are computed.
        covariances: what is carried for each pair.
        steps: instructions of the program.
        pair_steps: pairs times instructions.
        memory: bytes of the two results and of the input in float64.
        engine: what executes the program.
        duals: (path, how) of every activation.
    """

    n: int
    m: int
    symmetric: bool
    covariances: str
    steps: int
    pair_steps: int
    memory: int
    engine: str
    duals: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        rows = [
            f"{self.n} x {self.m} pairs{', half of them by symmetry' if self.symmetric else ''}",
            f"carries    {self.covariances}",
            f"work       {self.steps} steps, {self.pair_steps:.3g} pair-steps",
            f"memory     {human_bytes(self.memory)}",
            f"engine     {self.engine}",
            *(f"dual       {path}: {how}" for path, how in self.duals),
        ]
        return "\n".join(rows)


@dataclass(frozen=True, eq=False, init=False)
class InfiniteKernel:
    """The exact NNGP and NTK of a network in the limit of infinite width.

    nngp(x, x') = lim Cov(f(x), f(x')) at initialisation, ntk(x, x') = lim ⟨∂f(x)/∂θ, ∂f(x')/∂θ⟩, for one output.
    The kernel reads the model's structure, scales and `requires_grad` once, never its weights; it is immutable, can be
    compared and pickled.

    Args:
        model: linear layers, elementwise activations, flatten, dropout in eval mode and residual sums, in any nesting.
        w_std: scale of plain torch layers' weights (standard deviation times √fan-in): a number, {path pattern:
            number}, or "torch" for torch's default draw. Layers of ntkit.nn state their own.
        b_std: the same for biases; a layer without bias never gets one.
        parameterization: of plain layers: "ntk" (scales in the forward pass) or "standard" (in the initial draw, with
            the module's real widths).
        tolerance: relative accuracy of activations without closed form.

    Raises:
        UnsupportedLayer: a part of the model has no rule or no limit; the message names its path.
        MissingScale: a plain layer has no scale.
        InvalidInput: an argument is out of range.

    Example:
        >>> import ntkit, torch
        >>> model = nn.Sequential(ntkit.nn.Linear(3, 64, 2**0.5), nn.ReLU(), ntkit.nn.Linear(64, 1))
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> InfiniteKernel(model).ntk(x)[0]
        tensor([0.6667, 0.1061, 0.1061], dtype=torch.float64)

    Reference: Jacot, Gabriel & Hongler 2018; Lee et al. 2018; Matthews et al. 2018.
    """

    network: Network
    tolerance: float
    program: Program = field(repr=False)

    def __init__(
        self,
        model: nn.Module,
        *,
        w_std: Scale = None,
        b_std: Scale = None,
        parameterization: str = "ntk",
        tolerance: float = 1e-8,
    ):
        if not isinstance(tolerance, float) or not 1e-13 <= tolerance < 1:
            raise InvalidInput(f"tolerance must be a float between 1e-13 and 1, got {tolerance!r}")
        network = with_scales(trace(model), w_std, b_std, parameterization)
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "program", compile_network(network))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, InfiniteKernel)
        return same and (self.program, self.tolerance) == (other.program, other.tolerance)

    def __hash__(self) -> int:
        return hash((self.program, self.tolerance))

    @property
    def hyperparameters(self) -> Mapping[str, Mapping[str, float]]:
        """{path: {"w_std": …, "b_std": …}} of every linear layer."""
        return {
            node.path: {"w_std": node.spec.w_std or 0.0, "b_std": node.spec.b_std or 0.0}
            for node in self.network.nodes
            if isinstance(node.spec, Linear)
        }

    def __call__(self, x1: Float[Array, "n *features"], x2: Float[Array, "m *features"] | None = None) -> Kernels:
        """Both kernels.

        Args:
            x1: samples as the model takes them, float32 or float64.
            x2: other samples; None for x1 with itself, which costs half.

        Returns:
            `.nngp` and `.ntk`, each (n, m), of the kind, dtype and device of x1.

        Raises:
            InvalidInput: wrong shape, dtype, NaN, or moments that do not exist.
            MemoryLimitExceeded: the result does not fit in memory.
        """
        nngp, ntk = self._matrix(x1, x2, True, True)
        return Kernels(nngp, ntk)

    def ntk(
        self, x1: Float[Array, "n *features"], x2: Float[Array, "m *features"] | None = None
    ) -> Float[Array, "n m"]:
        """The tangent kernel (n, m); arguments as in a call."""
        return self._matrix(x1, x2, False, True)[1]

    def nngp(
        self, x1: Float[Array, "n *features"], x2: Float[Array, "m *features"] | None = None
    ) -> Float[Array, "n m"]:
        """The covariance of the outputs at initialisation (n, m); arguments as in a call."""
        return self._matrix(x1, x2, True, False)[0]

    def diagonal(self, x: Float[Array, "n *features"]) -> Kernels:
        """Both kernels of each sample with itself, (n,)."""
        features = self._features(x, "x")
        nngp, ntk = self._interpreter().diagonal(features, True, True)
        assert nngp is not None
        assert ntk is not None
        dtype = to_tensor(x, "x").dtype
        return Kernels(like(nngp.to(dtype), x), like(ntk.to(dtype), x))

    def plan(self, shape: tuple[int, ...], shape2: tuple[int, ...] | None = None) -> Plan:
        """What the kernel of inputs of these shapes costs, without computing it.

        Args:
            shape: of x1, (n, …).
            shape2: of x2; None for x1 with itself.

        Raises:
            InvalidInput: a shape that is none of samples the model takes.
        """
        for name, sizes in (("shape", shape), ("shape2", shape if shape2 is None else shape2)):
            _check_sizes(sizes, name)
            self._check_shape(sizes, name)
        n, m = shape[0], (shape if shape2 is None else shape2)[0]
        interpreter = self._interpreter()
        how = tuple(
            (op.path, f"{op.activation.name}, {type(interpreter.duals[i]).__name__}")
            for i, op in enumerate(self.program.instructions)
            if isinstance(op, Dual)
        )
        pairs = n * (n + 1) // 2 if shape2 is None else n * m
        steps = len(self.program.instructions)
        memory = _result_bytes(n, m, 2)
        engine = "torch, float64"
        return Plan(n, m, shape2 is None, "one number (vectors)", steps, pairs * steps, memory, engine, how)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _interpreter(self) -> TorchInterpreter:
        return TorchInterpreter(self.program, self.tolerance)

    def _matrix(self, x1: Any, x2: Any, want_nngp: bool, want_ntk: bool) -> tuple[Any, Any]:
        one = self._features(x1, "x1")
        two = None
        if x2 is not None:
            two = self._features(x2, "x2")
            _check_same_kind(x1, x2, one, two)
        n, m = len(one), len(one if two is None else two)
        require_bytes(
            _result_bytes(n, m, want_nngp + want_ntk),
            f"a kernel of {n} x {m} samples",
            "use fewer samples, or compute it in blocks kernel.ntk(x1[i:j], x2)",
        )
        results = self._interpreter().matrix(one, two, want_nngp, want_ntk)
        dtype = to_tensor(x1, "x1").dtype
        nngp, ntk = (None if r is None else like(r.to(dtype), x1) for r in results)
        return nngp, ntk

    def _features(self, x: Any, name: str) -> Float[Tensor, "n d"]:
        """The samples as rows, in float64: the one place that chooses the precision of the torch interpreter."""
        tensor = to_tensor(x, name)
        if tensor.ndim < 2 or len(tensor) == 0 or tensor[0].numel() == 0:
            raise InvalidInput(
                f"{name} must hold at least one sample of at least one feature, got shape {tuple(tensor.shape)}"
            )
        self._check_shape(tuple(tensor.shape), name)
        return tensor.flatten(1).double()

    def _check_shape(self, shape: tuple[int, ...], name: str) -> None:
        """Raise `InvalidInput` where the model does not take samples of this shape."""
        if len(shape) > 2 and any(isinstance(op, Read) and not op.flatten for op in self.program.instructions):
            raise InvalidInput(
                f"{name} has shape {shape}, but the model's first layer takes (n, features); put "
                "torch.nn.Flatten() in front of the model, or flatten the data"
            )
        features, expected = math.prod(shape[1:]), self._in_features()
        if expected is not None and features != expected:
            raise InvalidInput(
                f"{name} has {features} features a sample (shape {shape}), but the model takes {expected}"
            )

    def _in_features(self) -> int | None:
        """Features of the data, as the first layer or reshape states them."""
        data = {0}
        for i, node in enumerate(self.network.nodes):
            if i and set(node.inputs) <= data:
                if isinstance(node.spec, Linear):
                    return node.spec.in_features
                data.add(i)
        return next((op.features for op in self.program.instructions if isinstance(op, Read) and op.features), None)


def _check_sizes(shape: Any, name: str) -> None:
    sizes = shape if isinstance(shape, tuple) and len(shape) >= 2 else (0,)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise InvalidInput(
            f"{name} must be a tuple of at least two whole numbers from 1, samples first, got {shape!r}; pass "
            "tuple(x.shape)"
        )


def _result_bytes(n: int, m: int, matrices: int) -> int:
    return 8 * n * m * matrices


def _check_same_kind(x1: Any, x2: Any, one: Tensor, two: Tensor) -> None:
    if type(x1) is not type(x2) and not (isinstance(x1, Tensor) and isinstance(x2, Tensor)):
        raise InvalidInput(f"x1 is a {type(x1).__name__} and x2 a {type(x2).__name__}; give both as the same kind")
    if x1.dtype != x2.dtype:
        raise InvalidInput(f"x1 is {x1.dtype} and x2 is {x2.dtype}; convert one of them")
    if one.device != two.device:
        raise InvalidInput(f"x1 is on {one.device} and x2 on {two.device}; move one of them")
