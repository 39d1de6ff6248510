"""The exact kernel's face: an nn.Module in, NNGP and NTK matrices out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import nn

from ntkit._arrays import Array
from ntkit.architecture.network import Network
from ntkit.architecture.specs import Weighted
from ntkit.architecture.tracing import trace
from ntkit.errors import InvalidInput
from ntkit.infinite import inputs
from ntkit.infinite.engines import Engine
from ntkit.infinite.evaluation import Kernels, diagonal, matrices, plan_of
from ntkit.infinite.plan import Plan
from ntkit.infinite.program import Program
from ntkit.infinite.rules import compile_network
from ntkit.infinite.scales import Scale, rescaled, with_scales

OnTile = Callable[[slice, slice], None]


@dataclass(frozen=True, eq=False, init=False)
class InfiniteKernel:
    """The exact NNGP and NTK of a network in the limit of infinite width.

    nngp(x, x') = lim Cov(f(x), f(x')) at initialisation, ntk(x, x') = lim ⟨∂f(x)/∂θ, ∂f(x')/∂θ⟩, for one output.
    The kernel reads the model's structure, scales and `requires_grad` once, never its weights; it is immutable, can be
    compared and pickled. A model that returns several tensors has a kernel for each, computed in one pass: where one
    result is named below, a tuple, list or dict of results comes, as the model returns them.

    Args:
        model: linear and convolution layers, elementwise activations, average pooling, LayerNorm, GroupNorm and
            RMSNorm, padding, interpolation, flatten, concatenation of channels, dropout, residual sums and products
            of independent branches, in any nesting. Dropout in training mode enters the kernel: samples of equal
            values have equal masks, others masks of their own; model.eval() leaves it out.
        w_std: scale of plain torch layers' weights (standard deviation times √fan-in): a number, {path pattern:
            number}, or "torch" for torch's default draw. Layers of ntkit.nn state their own.
        b_std: the same for biases; a layer without bias never gets one.
        parameterization: of plain layers: "ntk" (scales in the forward pass) or "standard" (in the initial draw, with
            the module's real widths).
        tolerance: relative accuracy of activations without closed form; `plan` says what it bounds.

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

    Reference: Jacot, Gabriel & Hongler 2018; Lee et al. 2018; Matthews et al. 2018; for convolutions Novak et al. 2019
    and Arora et al. 2019.
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
        if not isinstance(other, InfiniteKernel):
            return False
        mine, others = ((k.program, k.tolerance, k.network.structure) for k in (self, other))
        return mine == others

    def __hash__(self) -> int:
        return hash((self.program, self.tolerance, self.network.structure))

    @property
    def hyperparameters(self) -> Mapping[str, Mapping[str, float]]:
        """{path: {"w_std": …, "b_std": …}} of every linear and convolution layer."""
        return {
            node.path: {"w_std": node.spec.w_std or 0.0, "b_std": node.spec.b_std or 0.0}
            for node in self.network.nodes
            if isinstance(node.spec, Weighted)
        }

    def with_hyperparameters(self, values: Mapping[str, Mapping[str, float]]) -> InfiniteKernel:
        """The kernel of the same network with other scales.

        Args:
            values: {path pattern: {"w_std": …, "b_std": …}}, as `hyperparameters` gives them; layers and scales that
                are not named stay as they are.

        Raises:
            InvalidInput: a pattern matches no layer, or a value is out of range.

        Example:
            >>> import ntkit
            >>> kernel = InfiniteKernel(nn.Sequential(ntkit.nn.Linear(3, 8), nn.ReLU(), ntkit.nn.Linear(8, 1)))
            >>> dict(kernel.with_hyperparameters({"0": {"w_std": 1.5}}).hyperparameters)
            {'0': {'w_std': 1.5, 'b_std': 0.0}, '2': {'w_std': 1.0, 'b_std': 0.0}}
        """
        network, other = rescaled(self.network, values), object.__new__(InfiniteKernel)
        for name, value in (("network", network), ("tolerance", self.tolerance), ("program", compile_network(network))):
            object.__setattr__(other, name, value)
        return other

    def __call__(
        self,
        x1: Float[Array, "n *sample"],
        x2: Float[Array, "m *sample"] | None = None,
        *,
        engine: Engine = "auto",
        out_dtype: Any = None,
        out: Kernels | Sequence[Kernels] | Mapping[Any, Kernels] | None = None,
        on_tile: OnTile | None = None,
    ) -> Any:
        """Both kernels.

        Args:
            x1: samples as the model takes them, (n, features), (n, channels, height, width), …, float32 or float64.
            x2: other samples; None for x1 with itself, which costs half.
            engine: "numba" (compiled, all cores), "torch" (any device, gradients, float64), or "auto".
            out_dtype: of the results, a dtype of x1's library; None for x1's own. float64 keeps what float32
                arithmetic knows beyond float32's rounding.
            out: `Kernels` of arrays (n, m) to write into, memory-mapped ones too; of several outputs, arranged as the
                model returns them. What is written there has no gradients.
            on_tile: called with the rows and columns of every part of the results that is complete.

        Returns:
            `Kernels` with `.nngp` and `.ntk`, each (n, m), of the kind and device of x1.

        Raises:
            InvalidInput: wrong shape, dtype, NaN, moments that do not exist, or `out` for inputs that require grad.
            MemoryLimitExceeded: the result does not fit in memory.
        """
        given = inputs.Request(engine, out_dtype, out, on_tile)
        return self.network.arrange(matrices(self, x1, x2, ("nngp", "ntk"), given))

    def ntk(
        self,
        x1: Float[Array, "n *sample"],
        x2: Float[Array, "m *sample"] | None = None,
        *,
        engine: Engine = "auto",
        out_dtype: Any = None,
        out: Any = None,
        on_tile: OnTile | None = None,
    ) -> Any:
        """The tangent kernel (n, m); arguments as in a call, `out` an array."""
        given = inputs.Request(engine, out_dtype, out, on_tile)
        return self.network.arrange([k.ntk for k in matrices(self, x1, x2, ("ntk",), given)])

    def nngp(
        self,
        x1: Float[Array, "n *sample"],
        x2: Float[Array, "m *sample"] | None = None,
        *,
        engine: Engine = "auto",
        out_dtype: Any = None,
        out: Any = None,
        on_tile: OnTile | None = None,
    ) -> Any:
        """The covariance of the outputs at initialisation (n, m); arguments as in a call, `out` an array."""
        given = inputs.Request(engine, out_dtype, out, on_tile)
        return self.network.arrange([k.nngp for k in matrices(self, x1, x2, ("nngp",), given)])

    def diagonal(self, x: Float[Array, "n *sample"], *, engine: Engine = "auto", out_dtype: Any = None) -> Any:
        """Both kernels of each sample with itself, (n,)."""
        given = inputs.Request(engine, out_dtype, None, None)
        return self.network.arrange(diagonal(self, x, given))

    def plan(self, shape: tuple[int, ...], shape2: tuple[int, ...] | None = None, *, engine: Engine = "auto") -> Plan:
        """What the kernel of inputs of these shapes costs, without computing it.

        Args:
            shape: of x1, (n, …).
            shape2: of x2; None for x1 with itself.
            engine: as in a call.

        Raises:
            InvalidInput: a shape that is none of samples the model takes.
        """
        return plan_of(self, shape, shape2, engine)
