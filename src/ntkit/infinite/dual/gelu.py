"""GELU, x Φ(x) = x/2 + x ψ(x)/2 with ψ(x) = erf(x/√2).

By Stein's lemma, with s the covariance, Δ = (1 + q1)(1 + q2) − s², I = E[ψψ] = (2/π) arcsin(s/√((1+q1)(1+q2))) and
J = E[ψ'ψ'] = (2/π)/√Δ:

    E[σσ]   = ¼ (s + s I + J (q1 q2 + s² (1 − q1 q2)/((1+q1)(1+q2))))
    E[σ'σ'] = ¼ (1 + I + J s (1/(1+q1) + 1/(1+q2) + 1/Δ)).

Reference: derived here; the same moments stand in Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2020.
"""

from __future__ import annotations

from math import pi

from ntkit.errors import InvalidInput
from ntkit.infinite.dual.elementary import arcsin, clip, geometric_mean, sin, sqrt, where
from ntkit.infinite.dual.erf import determinant, shortfall

# float64 loses digits of the distance between close samples as q^1.5, measured against 120 digits: a relative error of
# 3e-8 at q = 1e6, below 1e-6 up to here, 1e-5 at 1e8, and no digit left at 1e12
_LARGEST_VARIANCE = 1e7


def check(q):
    """Raise where the distance of close samples is not known to six digits."""
    if bool((q > _LARGEST_VARIANCE).any()):
        raise InvalidInput(
            f"GELU keeps six digits for pre-activations of variance <= {_LARGEST_VARIANCE:g}, and {float(q.max()):g} "
            "arrives; scale the inputs or the weights down (so far out GELU is close to torch.nn.ReLU, which takes any)"
        )


def variance(q):
    """E[σ(u)²]."""
    i = 2 / pi * arcsin(q / (1 + q))
    return (q + q * i + 4 / pi * q**2 / ((1 + q) * sqrt(1 + 2 * q))) / 4


def mean(q):
    """E[σ(u)] = q/√(2π(1 + q))."""
    return q / sqrt(2 * pi * (1 + q))


def distance(q1, q2, d):
    """E[(σu − σv)²] = (D + W)/4 with W = E[(uψu − vψv)²]: the cross terms are odd and vanish."""
    return (d + _radial(q1, q2) + 2 * _angular(q1, q2, d)) / 4


def _radial(q1, q2):
    """W at correlation 1, where v = √(q2/q1) u: of second order in q1 − q2, and so is every term."""
    gap, p = q1 - q2, geometric_mean(q1, q2)
    outer, lengths = (1 + q1) * (1 + q2), where(q1 + q2 > 0, sqrt(q1) + sqrt(q2), 1.0)
    phi1, phi2, phi = arcsin(q1 / (1 + q1)), arcsin(q2 / (1 + q2)), arcsin(clip(p / sqrt(outer), 0.0, 1.0))
    a, b, m = sqrt(1 + 2 * q1), sqrt(1 + 2 * q2), sqrt(1 + q1 + q2)
    # sin(φ1 − φ2), and sin((φ1 + φ2)/2 − φ) from sin² x − sin² y = sin(x+y) sin(x−y)
    turn = arcsin(gap * (q1 + q2 + 2 * q1 * q2) / (outer * where(p > 0, q1 * b + q2 * a, 1.0)))
    bend = arcsin(gap**2 / (2 * outer * (m**2 + a * b) * where(p > 0, sin((phi1 + phi2) / 2 + phi), 1.0)))
    near = 2 / pi * ((gap / lengths) ** 2 * phi + gap * turn / 2 + (q1 + q2) * bend)
    arcs = where(p > 0, near, 2 / pi * (q1 * phi1 + q2 * phi2))
    # t1 q1/a + t2 q2/b − (t1 q2 + t2 q1)/m with ti = qi/(1 + qi), in differences of t, of 1/a and of 1/m
    half_sum = (q1**2 / (1 + q1) + q2**2 / (1 + q2)) / 2
    curve = (2 * gap / (a + b)) ** 2 * (a**2 + b**2 + 4 * a * b) / (2 * a * b * m * (m * (a + b) + 2 * a * b))
    slopes = gap**2 / outer * (1 / m - (q1 + q2 + q1 * q2) / (a * b * (a + b)))
    return arcs + 4 / pi * (slopes + half_sum * curve)


def _angular(q1, q2, d):
    """E[uψu vψv] at correlation 1 minus that at covariance s: of first order in √(q1 q2) − s."""
    s, p, apart = (q1 + q2 - d) / 2, geometric_mean(q1, q2), determinant(q1, q2, d)
    outer, here, one = (1 + q1) * (1 + q2), sqrt(1 + q1 + q2 + apart), sqrt(1 + q1 + q2)
    near = arcsin(clip(apart / where(s > 0, p * here + s * one, 1.0), 0.0, 1.0))
    far = arcsin(clip(p / sqrt(outer), -1.0, 1.0)) - arcsin(clip(s / sqrt(outer), -1.0, 1.0))
    arcs = 2 / pi * where(s > 0, near, far)
    density = 2 / pi * apart / (one * here * (one + here))
    scale = (1 - q1 * q2) / outer
    arc_part = shortfall(q1, q2, d) * 2 / pi * arcsin(clip(p / sqrt(outer), -1.0, 1.0)) + s * arcs
    return arc_part + density * (q1 * q2 + s**2 * scale) + 2 / pi / one * apart * scale


def derivative(q1, q2, d):
    """E[σ'(u) σ'(v)]."""
    s, delta = (q1 + q2 - d) / 2, 1 + q1 + q2 + determinant(q1, q2, d)
    i = 2 / pi * arcsin(clip(s / sqrt((1 + q1) * (1 + q2)), -1.0, 1.0))
    j = 2 / pi / sqrt(delta)
    return (1 + i + j * s * (1 / (1 + q1) + 1 / (1 + q2) + 1 / delta)) / 4


def scale_derivative(q1, q2, d):
    """E[uσ'(u) vσ'(v)] with uσ'(u) = (u + uψ + u²ψ')/2: a factor ψ' only narrows the Gaussian that is averaged over."""
    s, delta = (q1 + q2 - d) / 2, determinant(q1, q2, d)
    outer, full = (1 + q1) * (1 + q2), 1 + q1 + q2 + delta
    j = 2 / pi / sqrt(full)
    arcs = s * 2 / pi * arcsin(clip(s / sqrt(outer), -1.0, 1.0))
    plain = arcs + j * (q1 * q2 + s**2 * (1 - q1 * q2) / outer)  # E[uψ vψ]
    mixed = _mixed(q1, q2, s, delta) + _mixed(q2, q1, s, delta)
    narrow = ((q1 + delta) * (q2 + delta) + 2 * s**2) / full**2
    return (s + plain + j * (mixed + narrow)) / 4


def _mixed(q1, q2, s, delta):
    """E[uψ v²ψ'] over E[ψ'ψ']."""
    return (s**2 + q2 * (q1 + delta)) / (1 + q2) ** 2 + s**2 / ((1 + q2) * (1 + q1 + q2 + delta))
