"""The numbers of each run that claims and the page speak of.

"Late" is the mean over the watched steps of the last quarter of training: at the edge of stability everything
fluctuates from step to step.
"""

from __future__ import annotations

import math

import numpy as np

from ntkit.experiments.reproductions.experiment import Arrays, Findings
from ntkit.experiments.reproductions.kopitkov.training import Run


def summarise(run: Run, arrays: Arrays, top_target: int) -> Findings:
    """Of one run.

    Args:
        run: which.
        arrays: what was seen, as KEY_quantity.
        top_target: directions for the target's energy.
    """
    of = {name.removeprefix(f"{run.key}_"): array for name, array in arrays.items() if name.startswith(f"{run.key}_")}
    steps, last = of["step"], int(of["step"][-1])
    late = steps >= 0.75 * last
    target, shuffled = of["energy_target"][:, top_target - 1], of["energy_shuffled"]
    output, residual = of["energy_output"][:, -1], of["energy_residual"][:, -1]
    least = int(output.argmin())
    n = len(arrays["points"])
    edge = of["eigenvalues"][:, 0] * of["rate"] / (2 * n)
    found: Findings = {
        "error_start": float(of["error"][0]),
        "error_late": float(of["error"][late].mean()),
        "energy_start": float(target[0]),
        "energy_late": float(target[late].mean()),
        "shuffled_start": float(shuffled[0].mean()),
        "shuffled_late": float(shuffled[late].mean()),
        "shuffled_growth": float((shuffled[late].mean(axis=0) - shuffled[0]).max()),
        "output_least": float(output[least]),
        "output_least_step": int(steps[least]),
        "output_late": float(output[late].mean()),
        "residual_least": float(residual.min()),
        "edge_start": float(edge[0]),
        "edge_later_half": float(np.median(edge[steps >= 0.5 * last])),
        "largest_second_quarter": _median(of, (steps >= 0.25 * last) & (steps < 0.5 * last)),
        "largest_late": _median(of, late),
    }
    if "first_order" in of:
        found |= {
            "first_order_median": float(np.median(of["first_order"])),
            "first_order_worst": float(of["first_order"].max()),
            "first_order_by_start_median": float(np.median(of["first_order_by_start"])),
            "first_order_worst_step": int(steps[of["first_order"].argmax()]),
            "output_in_start_late": float(of["energy_output_in_start"][late].mean()),
        }
    if "error_linearised" in of:
        found["error_linearised"] = float(of["error_linearised"][late].mean())
    return found


def _median(of: Arrays, chosen: np.ndarray) -> float:
    """Of λ_max over some of the watched steps."""
    return float(np.median(of["eigenvalues"][chosen, 0]))


def chance(k: int, n: int) -> float:
    """Standard deviation of the energy of a random direction of n dimensions in k of them, a Beta(k/2, (n − k)/2).

    Example:
        >>> round(chance(20, 512), 4)
        0.0121
    """
    return math.sqrt(2 * k * (n - k) / (n + 2)) / n
