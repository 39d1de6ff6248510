"""The contract of a layer's rule, in a network that holds it: what every kernel keeps, and wide finite networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ntkit.errors import InvalidInput
from ntkit.infinite.evaluation import Kernels
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.testing.contract import Contract
from ntkit.testing.gradients import check_gradients
from ntkit.testing.wide import Networks

_ROUNDING = 1e-11  # of results that are computed in another order
_SINGLE = 1e-5  # of float32 arithmetic
_SLACK = 1e-10  # of eigenvalues


def check_layer(
    build: Callable[[int], nn.Module],
    sample_shape: tuple[int, ...],
    *,
    width: int = 256,
    draws: int = 32,
    seed: int = 0,
    **scales: Any,
) -> tuple[str, ...]:
    """Put the rule of a layer through what every rule keeps, in a network that holds the layer.

    Equal models are read alike; both engines give the same kernel; it is symmetric, x₂ = None means x₁, the diagonal
    is the matrix's, matrices are positive semidefinite, equal samples have equal rows, the order of samples does not
    matter, float32 is close to float64, gradients in the inputs are those of differences. And it is the limit: the
    covariance of outputs, and what each parameter adds to the tangent kernel, are those of wide finite networks within
    four standard errors, and 5/width for the finite width.

    Args:
        build: width -> a new network, freshly drawn, that returns one tensor (n, outputs). Several outputs make the
            comparison of covariances sharper.
        sample_shape: of one sample of its data.
        width: of the finite networks.
        draws: finite networks whose tangent kernels are averaged; 0 to leave the limit out.
        seed: of data and networks.
        **scales: w_std, b_std, parameterization and tolerance for `InfiniteKernel`.

    Returns:
        Names of the properties that hold; "engines" is missing where the compiled engine cannot compute the network,
        "gradients" where they are refused.

    Raises:
        ContractViolation: a property does not hold; the message says which, with numbers.
        InvalidInput: an argument is out of range, or `build` gives no network with one output.
        UnsupportedLayer: the network has no kernel.

    Example:
        >>> import ntkit
        >>> def build(width):
        ...     return nn.Sequential(ntkit.nn.Linear(3, width), nn.ReLU(), ntkit.nn.Linear(width, 16, 1.0, 0.1))
        >>> ntkit.testing.check_layer(build, (3,))[-3:]
        ('parameters', 'frozen parameters', 'covariance of outputs')
    """
    _check_arguments(build, sample_shape, width, draws, seed)
    networks = Networks(build, width, seed)
    model = networks.draw(0)
    kernel = InfiniteKernel(model, **scales)
    if kernel.network.structure != "tensor":
        raise InvalidInput("check_layer takes networks that return one tensor; let build return one that does")
    x = torch.randn(6, *sample_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[1] = x[0]
    contract = Contract(f"the network {type(model).__name__} of width {width}")
    if InfiniteKernel(networks.draw(1), **scales) != kernel:
        contract.fail(
            "reading",
            "wanted equal kernels of two equal models, got different ones",
            "let the spec hold numbers and flags only, and none that depends on weights",
        )
    contract.hold("reading")
    _check_matrices(contract, kernel, x)
    check_gradients(contract, kernel, x[1:4])
    if draws:
        networks.check_limit(contract, x[1:4], draws, scales)
    return contract.result()


def _check_arguments(build: Any, sample_shape: Any, width: Any, draws: Any, seed: Any) -> None:
    if not callable(build) or isinstance(build, nn.Module):
        raise InvalidInput(
            f"build must be a function of a width that returns a new torch.nn.Module, got {type(build).__name__}; pass "
            "lambda width: make_model(width)"
        )
    try:
        inspect.signature(build).bind(width)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"build must be a function of one argument, the width, got {build!r}: {error}") from None
    if (
        not isinstance(sample_shape, (tuple, list))
        or not sample_shape
        or not all(_is_count(n, 1) for n in sample_shape)
    ):
        raise InvalidInput(
            f"sample_shape must be a tuple of whole numbers from 1, without the axis of samples, got {sample_shape!r}; "
            "for vectors of 5 numbers it is (5,)"
        )
    if not _is_count(width, 1) or not _is_count(draws, 0) or draws == 1:
        raise InvalidInput(f"width must be from 1 and draws 0 or from 2, got width={width!r}, draws={draws!r}")
    if not _is_count(seed, 0):
        raise InvalidInput(f"seed must be a whole number from 0, got {seed!r}")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_matrices(contract: Contract, kernel: InfiniteKernel, x: Tensor) -> None:
    """What matrices of one kernel have in common."""
    found = kernel(x)
    if kernel.plan(tuple(x.shape)).engine.startswith("numba"):
        _same(
            contract, "engines", kernel(x, engine="torch"), found, 1e-9, "the instructions must not depend on engines"
        )
    else:
        found = kernel(x, engine="torch")
    y = x[2:].flip(0) + 0.1
    there, back = kernel(x, y), kernel(y, x)
    turned = Kernels(back.nngp.T, back.ntk.T)
    _same(contract, "symmetry", there, turned, _ROUNDING, "x and x' must enter alike")
    _same(contract, "x2 = x1", kernel(x, x.clone()), found, _ROUNDING, "x2=None must mean x1")
    diagonals = Kernels(found.nngp.diagonal(), found.ntk.diagonal())
    _same(contract, "diagonal", kernel.diagonal(x), diagonals, _ROUNDING, "second moments and distances must agree")
    for name in ("nngp", "ntk"):
        matrix = getattr(found, name)
        remedy = f"{name} is no matrix of covariances; look at the weights of the instructions"
        contract.positive("definiteness", (matrix + matrix.T) / 2, _SLACK, remedy)
    rows, twins = Kernels(found.nngp[0], found.ntk[0]), Kernels(found.nngp[1], found.ntk[1])
    _same(contract, "equal samples", rows, twins, 1e-14, "distances of equal samples must stay 0")
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = Kernels(found.nngp[order][:, order], found.ntk[order][:, order])
    _same(contract, "order of samples", kernel(x[order]), moved, _ROUNDING, "a pair must not see other samples")
    single = kernel(x.float())
    double = kernel(x.float().double())
    widened = Kernels(single.nngp.double(), single.ntk.double())
    _same(contract, "float32", widened, double, _SINGLE, "keep constants as Python floats")


def _same(contract: Contract, name: str, got: Kernels, wanted: Kernels, share: float, remedy: str) -> None:
    for kind in ("nngp", "ntk"):
        one, two = getattr(got, kind), getattr(wanted, kind)
        label = lambda i, kind=kind: f"{kind}[{', '.join(map(str, i))}]"  # noqa: E731
        contract.close(name, one, two, share * two.abs().max(), remedy, label)
