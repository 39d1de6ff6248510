"""Which depth suits which degree: shares of degrees over depth and scales (Yang & Salman 2019).

Of every degree of the parities over {−1, 1}¹²⁸ there is a depth at which a network's kernel gives it the largest share
of its trace: deeper for higher degrees, and deeper in the tangent kernel than in the conjugate one. For ReLU σ_w² only
scales the kernel once σ_b²/σ_w² is given, so σ_b² alone is varied; for erf both are.

Reference: Yang & Salman, A fine-grained spectral perspective on neural networks, 2019, section 5; the authors'
notebook, github.com/thegregyang/NNspectra, TheCompleteHyperparameterPicture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings, Measurement, Story, Workbench
from ntkit.experiments.reproductions.yang.depth_claims import KERNELS, OTHER, make_claims
from ntkit.experiments.reproductions.yang.depth_differences import shares_by_differences
from ntkit.theory import boolean_cube, depth_grid
from ntkit.theory.degrees import DegreeSpectrum

_SAME = 1e-12  # shares that differ by less, relative, differ by rounding; the first of them counts
Shares = Float[np.ndarray, "l w b k"]


@dataclass(frozen=True)
class Grid:
    """Networks whose spectra are computed, at every depth.

    Args:
        activation: "relu" or "erf".
        w_square: values of σ_w².
        b_square: values of σ_b², rising from 0.
    """

    activation: str
    w_square: tuple[float, ...]
    b_square: tuple[float, ...]


@dataclass(frozen=True)
class DepthConfig:
    """All choices of this experiment. Nothing is drawn: the seed changes nothing.

    Args:
        relu: grid for ReLU, of one σ_w².
        erf: grid for erf.
        d: bits.
        max_depth: hidden layers of the deepest network.
        degrees: the highest degree.
        seed: of nothing.
    """

    relu: Grid
    erf: Grid
    d: int = 128
    max_depth: int = 128
    degrees: int = 8
    seed: int = 0


def measure(config: DepthConfig, bench: Workbench) -> Measurement:
    """Shares over both grids, and where each degree has its largest."""
    findings: Findings = {"d": config.d, "max_depth": config.max_depth, "degrees": config.degrees}
    arrays: Arrays = {"b_square": np.array(config.relu.b_square)}
    for grid in (config.relu, config.erf):
        shares = _shares(grid, config, bench)
        name = grid.activation
        findings[name] = {
            "w_square": list(grid.w_square),
            "b_square": list(grid.b_square),
            **{kernel: _optima(shares[kernel], grid, kernel, config) for kernel in KERNELS},
        }
        for kernel in KERNELS:
            of_depths = shares[kernel]
            if name == "relu":
                arrays[f"relu_{kernel}"] = of_depths[:, 0]
            else:
                arrays[f"erf_{kernel}_largest"] = of_depths.max(axis=0)
                arrays[f"erf_{kernel}_depth"] = _first_largest(of_depths)
    return Measurement(findings, arrays, make_claims(findings))


def _shares(grid: Grid, config: DepthConfig, bench: Workbench) -> dict[str, Shares]:
    """Shares of both kernels, one σ_w² after the other."""
    b_std = np.sqrt(grid.b_square)
    found: dict[str, list[Shares]] = {kernel: [] for kernel in KERNELS}
    what = f"{grid.activation}, {len(grid.b_square)} values of σ_b²"
    for w_square in bench.reporter.track(grid.w_square, what, len(grid.w_square)):
        part = depth_grid(
            grid.activation, config.max_depth, w_square**0.5, b_std, config.d, degrees=config.degrees
        )  # fmt: skip
        for kernel in KERNELS:
            found[kernel].append(getattr(part, kernel))
    return {kernel: np.concatenate(parts, axis=1) for kernel, parts in found.items()}


def _first_largest(shares: Float[np.ndarray, "l *rest"]) -> Int[np.ndarray, "*rest"]:
    """Along the first axis, the place of the largest; of those that rounding alone sets apart, the first."""
    return np.asarray((shares >= (1 - _SAME) * shares.max(axis=0)).argmax(axis=0))


def _optima(shares: Shares, grid: Grid, kernel: str, config: DepthConfig) -> list[Findings]:
    """Of every degree its largest share, where it is, and what else the claims are held against."""
    rows = []
    for degree in range(config.degrees + 1):
        own = shares[..., degree]
        depth, i, j = np.unravel_index(int(_first_largest(own.ravel())), own.shape)
        w_square, b_square = grid.w_square[i], grid.b_square[j]
        scales = w_square**0.5, b_square**0.5
        theory = boolean_cube(grid.activation, int(depth), *scales, config.d)
        published = shares_by_differences(grid.activation, int(depth), w_square, b_square, config.d, degree)
        rows.append(
            {
                "degree": degree,
                "depth": int(depth),
                "share": float(own[depth, i, j]),
                "w_square": w_square,
                "b_square": b_square,
                "noise_floor": _floor(getattr(theory, kernel), degree),
                "by_differences": getattr(published, kernel),
                "by_differences_of_the_other_kernel": getattr(published, OTHER[kernel]),
                "with_hidden_layers": {
                    "depth": 1 + int(_first_largest(own[1:].max(axis=(1, 2)))),
                    "share": float(own[1:].max()),
                },
                "depth_at_largest_b_square": int(_first_largest(own[..., -1].max(axis=1))),
                "share_without_biases": float(own[..., 0].max()),
                "share_with_biases": float(own[..., 1:].max()),
            }
        )
    return rows


def _floor(spectrum: DegreeSpectrum, degree: int) -> float:
    """What rounding may have changed a share by."""
    return float((spectrum.multiplicities * spectrum.noise_floor)[degree] / spectrum.trace)


def _show(findings: Findings, arrays: Arrays, draw: Any) -> Story:
    from ntkit.experiments.reproductions.yang.depth_page import show  # draws with matplotlib

    return show(findings, arrays, draw)


def _steps(first: float, last: float, n: int) -> tuple[float, ...]:
    return tuple(round(float(value), 10) for value in np.linspace(first, last, n))


_PUBLISHED = DepthConfig(
    relu=Grid("relu", (2.0,), _steps(0.0, 4.0, 401)), erf=Grid("erf", _steps(1.0, 5.0, 41), _steps(0.0, 4.0, 41))
)
YANG_DEPTH = Experiment(
    name="yang-depth",
    summary="Which depth suits which degree: shares over depth and scales (Yang & Salman 2019).",
    reference="Yang & Salman, A fine-grained spectral perspective on neural networks, 2019",
    scales={
        "smoke": DepthConfig(
            relu=Grid("relu", (2.0,), _steps(0.0, 4.0, 9)), erf=Grid("erf", (1.0, 1.8, 2.5), (0.0, 0.1, 1.0)), degrees=4
        ),
        "laptop": _PUBLISHED,
        "paper": _PUBLISHED,
    },
    measure=measure,
    show=_show,
)
