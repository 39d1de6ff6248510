"""Where a function is not smooth, or steep: found by bisection, so that quadrature can put edges of panels there.

A panel is smooth when the Legendre coefficients of the function and of its slope fall to rounding on it; others are
halved, until they are, or until what is left of them is a point. The samples include the panel's ends (Gauss–Lobatto),
or a kink between the last sample and the end would be missed. Steep but smooth places keep their short panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ntkit.errors import InvalidInput, ToleranceNotReached
from ntkit.infinite.dual.quadrature import Function, value_and_slope

_NODES = 24
_PANELS = 192
_WIDE_PANELS = 18  # of one standard deviation each, where the reach is nine
_SMOOTH = 1e-11
_SIGHT = 16.0  # wider panels at x = 0 or at a kink may step over what a function does there, and are halved anyway
_OFFSET = 0.6180339887  # keeps the first panels' edges away from round numbers, where kinks like to be
_MOST = 256
_POLE_STEPS = np.array([1e-7, 10**-8.5, 1e-10])  # of the reach; further in, the kink's own place is not known
_POLE_RISE = 10 ** (1.5 * 0.45)  # from one step to the next: |x|^-0.45, as the square of |x|^-0.5 has no integral


@dataclass(frozen=True)
class Breaks:
    """Places of a function on |x| ≤ reach, each sorted, float64.

    Args:
        cuts: edges for panels of a quarter of a standard deviation: the kinks alone where that suffices, else also
            `panels`; empty where the function is smooth throughout.
        kinks: kinks, and the midst of places that are steep.
        panels: edges around steep places for panels of one standard deviation: between them and the kinks a product of
            two values, or of two slopes, is integrated by half as many nodes as `_NODES`.
    """

    cuts: Tensor
    kinks: Tensor
    panels: Tensor


def breakpoints(expression: Function, reach: float) -> Breaks:
    """Points that cut |x| ≤ reach into panels on which `expression` is smooth.

    Args:
        expression: the function.
        reach: half the length of the interval.

    Returns:
        The points.

    Raises:
        ToleranceNotReached: there are too many places to resolve.
        InvalidInput: function or slope has a pole, so that its second moment is infinite.
    """
    if reach <= 0:
        return Breaks(*torch.zeros(3, 0, dtype=torch.float64))
    width = 2 * reach / _PANELS
    edges = -reach - _OFFSET * width + width * np.arange(_PANELS + 2)
    floor = _rounding(expression, edges)
    left, right = _bisect(expression, edges, 1e-14 * reach, floor, np.zeros(1), ends=True)
    kinks = _where_panels_are_shortest(left, right)
    _refuse_poles(expression, kinks, reach)
    wide = np.union1d(np.linspace(-reach, reach, _WIDE_PANELS + 1), kinks)
    panels = np.union1d(*_bisect(expression, wide, 1e-14 * reach, floor, np.append(kinks, 0.0), ends=False))
    mesh = np.union1d(edges, kinks)
    left, right = mesh[:-1], mesh[1:]
    rough = ~_is_smooth(expression, left, right, floor, ends=False) | _too_wide(left, right, kinks)
    cuts = np.union1d(kinks, panels) if rough.any() else kinks
    return Breaks(*(torch.from_numpy(points) for points in (cuts, kinks, panels)))


def _bisect(
    expression: Function,
    edges: np.ndarray,
    smallest: float,
    floor: tuple[float, float],
    near: np.ndarray,
    *,
    ends: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The panels that bisection leaves inside the first, rough ones: smooth by now, or as small as a point."""
    left, right = edges[:-1], edges[1:]
    kept: list[np.ndarray] = []
    depth = 0
    while len(left):
        rough = ~_is_smooth(expression, left, right, floor, ends=ends) | _too_wide(left, right, near)
        point = right - left < smallest
        if depth:
            kept.append(np.stack([left, right])[:, ~rough | point])
        left, right = left[rough & ~point], right[rough & ~point]
        if len(left) > _MOST:
            raise ToleranceNotReached(
                f"the activation {expression} has more than {_MOST} places that are not smooth within "
                f"|x| <= {edges[-1]:g}; its dual cannot be found by quadrature"
            )
        middle = (left + right) / 2
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
        depth += 1
    panels = np.concatenate(kept, axis=1) if kept else np.zeros((2, 0))
    return panels[0], panels[1]


def _too_wide(left: np.ndarray, right: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Which panels with one of these points may hide what the function does there."""
    touching = (left[:, None] <= near) & (near <= right[:, None])
    return touching.any(axis=1) & (right - left > _SIGHT)


def _where_panels_are_shortest(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Panels get shorter towards a kink: the places between longer ones, or longer ones and a gap."""
    if len(left) == 0:
        return np.zeros(0)
    order = np.argsort(left)
    left, right = left[order], right[order]
    width = right - left
    same = (np.abs(width[1:] / width[:-1] - 1) < 1e-3) & (left[1:] - right[:-1] <= 1e-3 * width[1:])
    groups = np.split(np.arange(len(left)), np.flatnonzero(~same) + 1)
    kinks = []
    for g, group in enumerate(groups):
        low, high, here = left[group[0]], right[group[-1]], width[group[0]]
        beside = [groups[k] for k in (g - 1, g + 1) if 0 <= k < len(groups)]
        touching = [p for p in beside if left[p[0]] - high <= here and low - right[p[-1]] <= here]
        if all(width[p[0]] > here for p in touching):
            kinks.append(_roundest(float(low), float(high)))
    return np.array(kinks)


def _roundest(low: float, high: float) -> float:
    """The number with the fewest decimals within [low, high] and a margin, as kinks like to be, else the middle."""
    middle, margin = (low + high) / 2, (high - low) / 2
    candidates = (round(middle, decimals) for decimals in range(7))
    return next((c for c in candidates if low - margin <= c <= high + margin), middle)


def _refuse_poles(expression: Function, kinks: np.ndarray, reach: float) -> None:
    """Raise where function or slope rises like a power towards a kink, from either side."""
    steps = np.stack([reach * _POLE_STEPS, -reach * _POLE_STEPS])
    near = torch.from_numpy(kinks[:, None, None] + steps)
    for name, f in zip(("", " slope of the"), value_and_slope(expression, near), strict=True):
        size = f.abs().numpy()
        rises = (size[..., 1:] > _POLE_RISE * size[..., :-1]) & (size[..., :-1] > 0)
        poles = kinks[rises.all(axis=-1).any(axis=-1)]
        if len(poles):
            raise InvalidInput(
                f"the{name} activation {expression} has a pole near x = {round(poles[0], 6) + 0.0:g}, as far as "
                f"pre-activations up to {reach:.2g} can tell, so a second moment under a Gaussian is infinite; use a "
                "function that is bounded there, or smaller weights and inputs where it is"
            )


@lru_cache
def _lobatto(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss–Lobatto quadrature on [−1, 1]: the ends and the roots of P'_{n−1}."""
    p = np.polynomial.legendre.Legendre.basis(n - 1)
    t = np.concatenate([[-1.0], np.sort(p.deriv().roots()), [1.0]])
    return t, 2 / (n * (n - 1) * p(t) ** 2)


def _rounding(expression: Function, edges: np.ndarray) -> tuple[float, float]:
    """What rounding may leave of function and slope: of their largest values, weighted as their squares are."""
    g = torch.linspace(-9.0, 9.0, 2**16, dtype=torch.float64)
    weight = torch.exp(-(g**2) / 4)
    value, slope = (f.abs() * weight for f in value_and_slope(expression, g / 9 * edges[-1]))
    return 1e-15 * float(value.max()), 1e-15 * float(slope.max())


def _is_smooth(
    expression: Function, left: np.ndarray, right: np.ndarray, floor: tuple[float, float], *, ends: bool
) -> np.ndarray:
    """Whether the Legendre coefficients of function and slope have fallen on each panel."""
    if len(left) == 0:
        return np.zeros(0, dtype=bool)
    t, w = _lobatto(_NODES) if ends else np.polynomial.legendre.leggauss(_NODES)  # at a kink the slope is ambiguous
    x = (left + right)[:, None] / 2 + (right - left)[:, None] / 2 * t
    value, slope = value_and_slope(expression, torch.from_numpy(x))
    basis = np.polynomial.legendre.legvander(t, _NODES - 1) * w[:, None] * (np.arange(_NODES) + 0.5)
    smooth = np.ones(len(left), dtype=bool)
    for f, least in zip((value, slope), floor, strict=True):
        samples = f.numpy()
        tail = np.abs(samples @ basis[:, -4:]).max(axis=1)
        size = np.abs(samples).max(axis=1)
        rounding = np.abs(x).max(axis=1) * 1e-15 + least
        smooth &= tail <= _SMOOTH * size + rounding
    return smooth
