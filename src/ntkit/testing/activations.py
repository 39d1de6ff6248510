"""The contract of an activation's dual: its moments against direct quadrature, and what follows from their meaning.

The quadrature integrates the function itself over the plane (`dual/plane.py`, with many nodes), in float64: it shares
nothing with the formulas of a dual, nor with the Hermite series that serves functions without formulas, except for the
places where a function is not smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ntkit.nn
from ntkit.architecture import VARIABLE, Expression, Node, trace
from ntkit.architecture.specs import Activation, LinearCombination
from ntkit.errors import InvalidInput, NtkitError
from ntkit.infinite.dual import ClosedForm, Dual, Samples, dual
from ntkit.infinite.dual.kinks import breakpoints
from ntkit.infinite.dual.plane import plane_moments
from ntkit.infinite.dual.quadrature import normal_nodes, value_and_slope
from ntkit.infinite.kernel import InfiniteKernel
from ntkit.testing.contract import Contract, pairs_named
from ntkit.testing.gradients import check_gradients

_VARIANCES = ((0.1, 0.1), (1.0, 1.0), (2.5, 2.5), (0.1, 1.0), (2.5, 0.6), (1.0, 1.0 + 1e-5))
_APART = (2.0, 1.4, 1.0, 0.3, 1e-3, 1e-6, 1e-9, 0.0)  # 1 − ρ
_NODES = 18  # on each panel: exact to rounding for functions that change over lengths of 1
_TOLERANCE = 1e-10  # of duals found by quadrature
_EXTREMES = (0.0, 1e-8, 1e4)  # variances at which values must be numbers, or be refused
_SLACK = 1e-10  # relative rounding that symmetry, definiteness and the two engines may show
_FORMULAS = "look at the formula and at its arguments: variances q1, q2 and squared distance d = q1 + q2 - 2 Cov(u, v)"


def check_activation(activation: nn.Module | Callable[[Tensor], Tensor], *, rtol: float = 1e-7) -> tuple[str, ...]:
    """Put the dual of an activation through what every dual keeps.

    For Gaussian u, v over a range of variances and correlations, nearly equal ones included: E[σ(u)²], E[σ(u)],
    E[(σ(u) − σ(v))²] and E[σ'(u) σ'(v)] are the integrals that they are named for, the distance to `rtol` of itself;
    they are symmetric, vanish where they must, give positive semidefinite matrices, are numbers at extreme variances or
    refused; both engines give the same kernel, and gradients are finite and equal to differences.

    Args:
        activation: a module, or a function, that ntkit reads as one activation: registered, or written with torch.
        rtol: largest relative error of moments.

    Returns:
        Names of the properties that hold; "engines" is missing where there is no closed form, "gradients" where they
        are refused.

    Raises:
        ContractViolation: a property does not hold; the message says which, with numbers.
        InvalidInput: it is not one activation, or an argument is out of range.
        UnsupportedLayer: ntkit cannot read it.

    Example:
        >>> import ntkit
        >>> ntkit.testing.check_activation(torch.nn.ReLU())
        ('equal samples', 'second moment', 'mean', 'distance', 'derivative', 'symmetry', 'definiteness', 'extremes',
         'engines', 'gradients')
    """
    if not callable(activation) or isinstance(activation, type):
        raise InvalidInput(
            f"check_activation takes a module or a function, got {activation!r}; of a class give an instance"
        )
    if not isinstance(rtol, float) or not 0 < rtol < 1:
        raise InvalidInput(f"rtol must be a number between 0 and 1, such as 1e-7, got {rtol!r}")
    case = _Case.of(activation)
    contract = Contract(case.spec.name)
    _check_equal(contract, case)
    _check_moments(contract, case, rtol)
    _check_pairs(contract, case, rtol)
    _check_symmetry(contract, case)
    _check_definiteness(contract, case)
    _check_extremes(contract, case)
    if isinstance(case.dual, ClosedForm):
        _check_engines(contract, case)
    _check_gradients(contract, case)
    return contract.result()


# ---- what is examined ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """An activation, the dual that ntkit has for it, and the function that the dual stands for.

    Args:
        module: as a network holds it.
        spec: as ntkit reads it.
        function: σ of the spec; the module may be c₂ σ(c₁ x).
        dual: of the spec.
    """

    module: nn.Module
    spec: Activation
    function: Expression
    dual: Dual

    @classmethod
    def of(cls, activation: nn.Module | Callable[[Tensor], Tensor]) -> _Case:
        module = activation if isinstance(activation, nn.Module) else _Calls(activation)
        nodes = trace(nn.Sequential(ntkit.nn.Linear(3, 3), module)).nodes[2:]
        specs = [node.spec for node in nodes if isinstance(node.spec, Activation)]
        if len(specs) != 1 or not all(isinstance(node.spec, (Activation, LinearCombination)) for node in nodes):
            raise InvalidInput(
                f"check_activation takes one activation, and {module} is read as "
                f"{', '.join(node.spec.name for node in nodes) or 'nothing'}; give a module or a function that is one"
            )
        at = next(i for i, node in enumerate(nodes) if isinstance(node.spec, Activation))
        function = Expression(_Rescaled(module, _factor(nodes[:at]), _factor(nodes[at + 1 :])), (VARIABLE,))
        return cls(module, specs[0], function, dual(specs[0], _TOLERANCE))

    @property
    def slack(self) -> float:
        """Error of what is not rounding alone, relative to the second moments."""
        return _SLACK if isinstance(self.dual, ClosedForm) else 100 * _TOLERANCE

    def pairs(self, q1: Tensor, q2: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Samples, Samples]:
        """(distance, derivative, samples of u, samples of v) of pairs in line."""
        both = self.dual.samples(torch.cat([q1, q2]))
        one, two = both[: len(q1)], both[len(q1) :]
        distance, derivative = self.dual.pairs(one, two, d, True)
        assert derivative is not None
        return distance, derivative, one, two


def _factor(nodes: Sequence[Node]) -> float:
    """What a chain of constant factors multiplies by."""
    coefficients = (node.spec.coefficients for node in nodes if isinstance(node.spec, LinearCombination))
    return math.prod((factor for (factor,) in coefficients), start=1.0)


class _Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@dataclass(frozen=True)
class _Rescaled:
    """σ(x) = f(x/c₁)/c₂."""

    module: nn.Module
    before: float
    after: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.module(x / self.before) / self.after


# ---- moments against integrals ---------------------------------------------------------------------------------------


def _check_moments(contract: Contract, case: _Case, rtol: float) -> None:
    """E[σ²] and E[σ] of single variances."""
    q = torch.tensor(sorted({q for pair in _VARIANCES for q in pair}), dtype=torch.float64)
    got = case.dual.samples(q)
    second, mean = [], []
    for root in q.sqrt().tolist():
        breaks = breakpoints(case.function, 9.0 * root).cuts / root
        edges = torch.cat([torch.linspace(-12, 12, 97, dtype=torch.float64), breaks]).sort().values
        g, weight = normal_nodes(edges[:-1], edges[1:], _NODES)
        value = value_and_slope(case.function, root * g)[0]
        second.append((value**2 * weight).sum())
        mean.append((value * weight).sum())
    wanted = torch.stack(second)
    name = lambda i: f"q={float(q[i[0]]):.6g}"  # noqa: E731
    contract.close("second moment", got.variance, wanted, rtol * wanted, f"E[s(u)^2]: {_FORMULAS}", name)
    contract.close("mean", got.mean, torch.stack(mean), rtol * wanted.sqrt(), f"E[s(u)]: {_FORMULAS}", name)


def _check_pairs(contract: Contract, case: _Case, rtol: float) -> None:
    """E[(σ(u) − σ(v))²] to a part of itself, and E[σ'(u) σ'(v)]."""
    table = [(a, b, apart) for a, b in _VARIANCES for apart in _APART]
    q1, q2, apart = (torch.tensor(column, dtype=torch.float64) for column in zip(*table, strict=True))
    r1, r2 = q1.sqrt(), q2.sqrt()
    distance, derivative, one, two = case.pairs(q1, q2, (r1 - r2) ** 2 + 2 * apart * r1 * r2)
    found = breakpoints(case.function, 9.0 * float(torch.maximum(r1, r2).max()))
    breaks = found.kinks, found.panels
    wanted, slopes = plane_moments(case.function, r1, r2, apart, *breaks, _NODES)
    allowed = rtol * wanted + _absolute(case, apart) * torch.sqrt(one.variance * two.variance)
    same = apart == 0
    allowed[same] += _rounding_of_distances(case.function, r1[same], r2[same], breaks)
    where = pairs_named(q1.tolist(), q2.tolist(), (1 - apart).tolist())
    contract.close("distance", distance, wanted, allowed, f"E[(s(u) - s(v))^2]: {_FORMULAS}", where)
    ends = [plane_moments(case.function, r, r, torch.zeros_like(r), *breaks, _NODES)[1] for r in (r1, r2)]
    allowed = rtol * torch.sqrt(ends[0] * ends[1])
    contract.close("derivative", derivative, slopes, allowed, f"E[s'(u) s'(v)]: {_FORMULAS}", where)


def _absolute(case: _Case, apart: Tensor) -> Tensor:
    """Errors relative to second moments: of identical samples and mirror images, which have 0, and of quadrature."""
    if isinstance(case.dual, ClosedForm):
        return torch.where(apart > 1.9, 1e-13, 1e-28)
    return torch.where(apart > 1e-3, 10 * _TOLERANCE, 1e-14)


def _rounding_of_distances(function: Expression, r1: Tensor, r2: Tensor, breaks: tuple[Tensor, Tensor]) -> Tensor:
    """What the last digit of d moves at correlation 1, where the distance after a jump grows as its root."""
    digit = 8 * torch.finfo(torch.float64).eps * (r1 - r2) ** 2 / (r1 * r2)
    near, at = (plane_moments(function, r1, r2, apart, *breaks, _NODES)[0] for apart in (digit, 0 * digit))
    return (near - at).abs()


# ---- what follows from their meaning ---------------------------------------------------------------------------------


def _check_equal(contract: Contract, case: _Case) -> None:
    """Equal samples have the distance 0, exactly: rows of a kernel must not depend on which copy is meant."""
    q = torch.tensor([0.1, 0.7, 1.0, 2.5], dtype=torch.float64)
    distance = case.pairs(q, q, torch.zeros_like(q))[0]
    where = pairs_named(q.tolist(), q.tolist(), [1.0] * len(q))
    remedy = "write the distance over d and q1 - q2, so that it vanishes with both"
    contract.close("equal samples", distance, torch.zeros_like(q), torch.zeros_like(q), remedy, where)


def _check_symmetry(contract: Contract, case: _Case) -> None:
    """(u, v) and (v, u) are the same pair."""
    q1, q2 = torch.tensor([[0.1, 0.4, 2.5, 1.0], [1.0, 0.5, 0.6, 1.1]], dtype=torch.float64)
    d = q1 + q2 - 2 * torch.tensor([0.3, -0.6, 0.9, 0.0], dtype=torch.float64) * torch.sqrt(q1 * q2)
    there, back = case.pairs(q1, q2, d)[:2], case.pairs(q2, q1, d)[:2]
    where = pairs_named(q1.tolist(), q2.tolist(), ((q1 + q2 - d) / 2 / torch.sqrt(q1 * q2)).tolist())
    remedy = "the formula must not change when q1 and q2 are exchanged"
    for one, two in zip(there, back, strict=True):
        contract.close("symmetry", one, two, case.slack * one.abs().clamp(min=1e-3), remedy, where)


def _check_definiteness(contract: Contract, case: _Case) -> None:
    """Matrices of E[σσ] and of E[σ'σ'] over samples, some nearly equal, are positive semidefinite."""
    x = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[:4] * (1 + 1e-6), x[4:8] + 1e-7])
    q = (x**2).mean(1)
    samples = case.dual.samples(q)
    distance, derivative = case.dual.pairs(samples, samples, ((x[:, None] - x[None]) ** 2).mean(2), True)
    assert derivative is not None
    covariance = (samples.variance[:, None] + samples.variance[None, :] - distance) / 2
    for matrix, what in ((covariance, "E[s(u) s(v)]"), (derivative, "E[s'(u) s'(v)]")):
        remedy = f"{what} over several u is a matrix of second moments; the formulas do not belong to one function"
        contract.positive("definiteness", (matrix + matrix.T) / 2, case.slack * len(x), remedy)


def _check_extremes(contract: Contract, case: _Case) -> None:
    """At variances 0, tiny and large everything is a number that a moment can be, or refused by an ntkit error."""
    remedy = "guard the formula with where(), or give register_activation check=, which raises for such variances"
    for q in _EXTREMES:
        one = torch.full((3,), q, dtype=torch.float64)
        try:
            distance, derivative, samples, _ = case.pairs(one, one, torch.tensor([0.0, 2 * q, 4 * q]).double())
        except NtkitError:
            continue
        for name, values in (("distance", distance), ("derivative", derivative), ("second moment", samples.variance)):
            least = -torch.inf if name == "derivative" else -1e-12 * float(samples.variance.abs().max())
            bad = ~torch.isfinite(values) | (values < least)
            if bool(bad.any()):
                contract.fail("extremes", f"wanted a {name}, got {float(values[bad][0])} at q={q:g}", remedy)
        if not bool((samples.mean**2 <= samples.variance * (1 + 1e-9) + 1e-300).all()):
            mean, second = float(samples.mean[0]), float(samples.variance[0])
            contract.fail("extremes", f"wanted a squared mean <= {second:.6g}, got {mean**2:.6g} at q={q:g}", remedy)
    contract.hold("extremes")


# ---- in a network ----------------------------------------------------------------------------------------------------


def _check_engines(contract: Contract, case: _Case) -> None:
    """The compiled engine's machine code is the formula that torch computes."""
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[1] = x[0]
    numba, torch_ = (_kernel_of(case)(x, engine=engine) for engine in ("numba", "torch"))
    remedy = "the formula must do the same with symbols as with tensors: no branch on what it is given"
    for got, wanted in ((numba.nngp, torch_.nngp), (numba.ntk, torch_.ntk)):
        contract.close("engines", got, wanted, 1e-9 * wanted.abs().max(), remedy)


def _check_gradients(contract: Contract, case: _Case) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_gradients(contract, _kernel_of(case), x)


def _kernel_of(case: _Case) -> InfiniteKernel:
    first, last = ntkit.nn.Linear(3, 8, 1.1, 0.3), ntkit.nn.Linear(8, 1)
    return InfiniteKernel(nn.Sequential(first, case.module, last), tolerance=_TOLERANCE)
