"""The angle between two Gaussians from their squared distance, without cancellation.

With p = √(q1 q2) and D = q1 + q2 − 2p cos θ:  sin²(θ/2) = (D − (√q1 − √q2)²) / (4p).
"""

from __future__ import annotations

from ntkit.infinite.dual.elementary import clip, geometric_mean, squared_gap, where


def half_sine_squared(q1, q2, d):
    """sin²(θ/2); 1/2, a right angle, where a variance is 0."""
    scale = geometric_mean(q1, q2)
    apart = clip((d - squared_gap(q1, q2)) / where(scale > 0, 4 * scale, 1.0), 0.0, 1.0)
    return where(scale > 0, apart, 0.5)
