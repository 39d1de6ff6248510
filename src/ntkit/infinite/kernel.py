"""The exact kernel's face: an nn.Module in, NNGP and NTK matrices out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import nn

from ntkit._arrays import Array
from ntkit.architecture.network import Network
from ntkit.architecture.specs import Number, Weighted
from ntkit.architecture.tracing import read_network
from ntkit.errors import InvalidInput
from ntkit.infinite import inputs
from ntkit.infinite.engines import Engine
from ntkit.infinite.evaluation import Kernels, diagonal, matrices, plan_of
from ntkit.infinite.plan import Plan
from ntkit.infinite.program import Program
from ntkit.infinite.rules import compile_network
from ntkit.infinite.scales import Scale, in_numbers, rescaled, with_scales

Samples = Float[Array, "n *sample"] | Int[Array, "n *tokens"] | tuple[Array, Bool[Array, "n *tokens"]]
OtherSamples = Float[Array, "m *sample"] | Int[Array, "m *tokens"] | tuple[Array, Bool[Array, "m *tokens"]]
OnTile = Callable[[slice, slice], None]


@dataclass(frozen=True, eq=False, init=False)
class InfiniteKernel:
    """The exact NNGP and NTK of a network in the limit of infinite width.

    nngp(x, x') = lim E[f(x) f(x')] at initialisation, ntk(x, x') = lim ⟨∂f(x)/∂θ, ∂f(x')/∂θ⟩, for one output. Behind a
    linear layer outputs have mean 0, and the nngp is their covariance.
    The kernel reads the model's structure, scales and `requires_grad` once, never its weights; it is immutable, can be
    compared and pickled. A model that returns several tensors has a kernel for each, computed in one pass: where one
    result is named below, a tuple, list or dict of results comes, as the model returns them.

    Args:
        model: linear and convolution layers, elementwise activations, average pooling, LayerNorm, GroupNorm and
            RMSNorm, embeddings and ntkit.nn.SelfAttention, padding, interpolation, flatten, concatenation of channels,
            dropout, residual sums and products of independent branches, in any nesting. Dropout in training mode enters
            the kernel: samples of equal values have equal masks, others masks of their own; model.eval() leaves it out.
        w_std: scale of plain torch layers' weights (standard deviation times √fan-in): a number, {path pattern:
            number}, or "torch" for torch's default draw. Layers of ntkit.nn state their own. For a number a tensor may
            stand, as in `with_hyperparameters`.
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
        network, require_complete = read_network(model)
        network = with_scales(network, w_std, b_std, parameterization)
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "program", compile_network(in_numbers(network)))
        require_complete()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InfiniteKernel):
            return False
        mine, others = ((k.program, k.tolerance, k.network.structure) for k in (self, other))
        return mine == others

    def __hash__(self) -> int:
        return hash((self.program, self.tolerance, self.network.structure))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process holds: scales as numbers, for gradients end where the process does."""
        return {**self.__dict__, "network": in_numbers(self.network)}

    def __copy__(self) -> InfiniteKernel:
        return self  # nothing of it can change

    def __deepcopy__(self, memo: Any) -> InfiniteKernel:
        return self

    @property
    def hyperparameters(self) -> Mapping[str, Mapping[str, Number]]:
        """{path: {"w_std": …, "b_std": …}} of every linear and convolution layer, tensors where they have gradients."""
        return {
            node.path: {n: s for n, s in (("w_std", node.spec.w_std), ("b_std", node.spec.b_std)) if s is not None}
            for node in self.network.nodes
            if isinstance(node.spec, Weighted)
        }

    def with_hyperparameters(self, values: Mapping[str, Mapping[str, Number]]) -> InfiniteKernel:
        """The kernel of the same network with other scales.

        A tensor that requires grad makes the kernel differentiable in it, on the torch engine and with torch inputs;
        of others only the value counts. The kernel keeps the value of now: after a step of an optimiser, make another.
        Scales enter by their squares, so at 0 the gradient is 0.

        Args:
            values: {path pattern: {"w_std": …, "b_std": …}}, as `hyperparameters` gives them, numbers or tensors of no
                dimensions; layers and scales that are not named stay as they are.

        Returns:
            Another kernel; two kernels of equal values are equal, whether they have gradients or not.

        Raises:
            InvalidInput: a pattern matches no layer, or a value is out of range.

        Example:
            >>> import ntkit, torch
            >>> kernel = InfiniteKernel(nn.Sequential(ntkit.nn.Linear(3, 8), nn.ReLU(), ntkit.nn.Linear(8, 1)))
            >>> dict(kernel.with_hyperparameters({"0": {"w_std": 1.5}}).hyperparameters)
            {'0': {'w_std': 1.5, 'b_std': 0.0}, '2': {'w_std': 1.0, 'b_std': 0.0}}

            The likelihood of targets under a Gaussian process with this covariance, made larger by its gradient:

            >>> x, y = torch.eye(3).double(), torch.tensor([3.0, -1.0, 2.0]).double()
            >>> w_std = torch.tensor(1.0, requires_grad=True)
            >>> optimizer, losses = torch.optim.Adam([w_std], lr=0.1), []
            >>> for step in range(10):
            ...     K = kernel.with_hyperparameters({"*": {"w_std": w_std}}).nngp(x) + 0.1 * torch.eye(3)
            ...     loss = -torch.distributions.MultivariateNormal(torch.zeros(3).double(), K).log_prob(y)
            ...     losses.append(float(loss.detach()))
            ...     optimizer.zero_grad()
            ...     loss.backward()
            ...     _ = optimizer.step()
            >>> losses[-1] < losses[0] - 1
            True

        Reference: Rasmussen & Williams 2006, section 5.4.1, for the likelihood.
        """
        network, other = rescaled(self.network, values), object.__new__(InfiniteKernel)
        program = compile_network(in_numbers(network))
        for name, value in (("network", network), ("tolerance", self.tolerance), ("program", program)):
            object.__setattr__(other, name, value)
        return other

    def __call__(
        self,
        x1: Samples,
        x2: OtherSamples | None = None,
        *,
        engine: Engine = "auto",
        out_dtype: Any = None,
        out: Kernels | Sequence[Kernels] | Mapping[Any, Kernels] | None = None,
        on_tile: OnTile | None = None,
    ) -> Any:
        """Both kernels.

        Args:
            x1: samples as the model takes them, (n, features), (n, channels, height, width), (n, tokens, channels), …,
                float32 or float64; (n, tokens) whole numbers where the model embeds tokens; a pair of samples and mask
                (n, tokens), True where a token is there, where its forward takes a mask; samples alone have all.
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
            InvalidInput: wrong shape, dtype, NaN, moments that do not exist, or numpy arrays or `out` where gradients
                are wanted.
            MemoryLimitExceeded: the result does not fit in memory.
        """
        given = inputs.Request(engine, out_dtype, out, on_tile)
        return self.network.arrange(matrices(self, x1, x2, ("nngp", "ntk"), given))

    def ntk(
        self,
        x1: Samples,
        x2: OtherSamples | None = None,
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
        x1: Samples,
        x2: OtherSamples | None = None,
        *,
        engine: Engine = "auto",
        out_dtype: Any = None,
        out: Any = None,
        on_tile: OnTile | None = None,
    ) -> Any:
        """The covariance of the outputs at initialisation (n, m); arguments as in a call, `out` an array."""
        given = inputs.Request(engine, out_dtype, out, on_tile)
        return self.network.arrange([k.nngp for k in matrices(self, x1, x2, ("nngp",), given)])

    def diagonal(self, x: Samples, *, engine: Engine = "auto", out_dtype: Any = None) -> Any:
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
