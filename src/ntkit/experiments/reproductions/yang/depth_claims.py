"""What Yang & Salman 2019 find of depths and degrees, beside what was computed.

Depths are whole numbers and have no tolerance; shares are published to four digits, and the tolerance is half of the
last. Each has a control: what came out for another kernel, another activation, or with the best biases left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ntkit.experiments.reproductions.claims import Claim, Control
from ntkit.experiments.reproductions.experiment import Findings

# of degrees from 1, as far as they are computed: the depth with the largest share, and that share
DEPTHS: Mapping[str, tuple[int, ...]] = {"ntk": (0, 1, 3, 4, 6, 7, 8, 9), "nngp": (0, 1, 3, 4, 5, 6, 7, 7)}
LARGEST: Mapping[str, tuple[float, ...]] = {
    "ntk": (1.0, 0.2384, 0.0758, 0.0510, 0.0353, 0.0284, 0.0230, 0.0198),
    "nngp": (1.0, 0.1585, 0.0355, 0.0196, 0.0103, 0.0073, 0.0049, 0.0038),
}
KERNELS = ("ntk", "nngp")
NAMES: Mapping[str, str] = {"ntk": "tangent kernel", "nngp": "conjugate kernel"}
OTHER: Mapping[str, str] = {"ntk": "nngp", "nngp": "ntk"}
HALF_DIGIT = 5e-5
ERF_GRID = 41  # published values of each scale
PAPER = "Yang & Salman 2019, section 5"
CODE = f"{PAPER}: their published code for ReLU, σ_w² = 2, d = 128; depths as in its figure"
_ROUNDINGS = 2  # of both numbers that are compared


def make_claims(findings: Findings) -> tuple[Claim, ...]:
    """Published depths and shares of ReLU, and what holds of both activations."""
    return (
        *_published_depths(findings),
        *_published_shares(findings),
        _without_biases(findings),
        *_between_the_ends(findings),
        *_deeper_for_higher(findings),
        _odd(findings),
        *_by_differences(findings),
    )


def optima(findings: Findings, activation: str, kernel: str) -> list[Findings]:
    """What was found of degrees from 1."""
    return [row for row in findings[activation][kernel] if row["degree"] > 0]


def _published_depths(findings: Findings) -> Iterator[Claim]:
    largest_bias = findings["relu"]["b_square"][-1]
    for kernel, depths in DEPTHS.items():
        of_erf = optima(findings, "erf", kernel)
        for row, other, depth in zip(optima(findings, "relu", kernel), of_erf, depths, strict=False):
            if row["degree"] == 1:  # a linear network without biases has nothing else
                control = Control("with at least one hidden layer", float(row["with_hidden_layers"]["depth"]))
            elif kernel == "ntk":
                control = Control(f"σ_b² = {largest_bias:g}", float(row["depth_at_largest_b_square"]))
            else:
                control = Control("erf", float(other["depth"]))
            words = f"ReLU, {NAMES[kernel]}: optimal depth for degree {row['degree']}"
            yield Claim(words, CODE, float(depth), float(row["depth"]), 0.0, control=control)


def _published_shares(findings: Findings) -> Iterator[Claim]:
    for kernel, shares in LARGEST.items():
        others = optima(findings, "relu", OTHER[kernel])
        for row, other, share in zip(optima(findings, "relu", kernel), others, shares, strict=False):
            if row["degree"] == 1:
                control = Control("with at least one hidden layer", row["with_hidden_layers"]["share"])
            else:
                control = Control(NAMES[OTHER[kernel]], other["share"])
            words = f"ReLU, {NAMES[kernel]}: largest share of degree {row['degree']}"
            yield Claim(words, CODE, float(share), row["share"], HALF_DIGIT, control=control)


def _without_biases(findings: Findings) -> Claim:
    def largest(activation: str) -> float:
        return max(row["b_square"] for kernel in KERNELS for row in optima(findings, activation, kernel))

    return Claim(
        "ReLU: the largest σ_b² at which a degree from 1 has its largest share", CODE, 0.0, largest("relu"), 0.0,
        control=Control("erf", largest("erf")),
    )  # fmt: skip


def _between_the_ends(findings: Findings) -> Iterator[Claim]:
    """Every degree has a depth beyond which it loses; the constant of ReLU's conjugate kernel has none."""
    for activation, name in (("relu", "ReLU"), ("erf", "erf")):
        deepest = max(row["depth"] for kernel in KERNELS for row in optima(findings, activation, kernel))
        yield Claim(
            f"{name}: the largest optimal depth of degrees from 1, short of the deepest network", PAPER,
            float(findings["max_depth"] - 1), float(deepest), 0.0, "at most",
            control=Control("degree 0, ReLU, conjugate kernel", float(findings["relu"]["nngp"][0]["depth"])),
        )  # fmt: skip


def largest_fall(rows: list[Findings], step: int) -> int:
    """The most that the optimal depth falls by over `step` degrees; negative where it rises everywhere."""
    depths = [row["depth"] for row in rows]
    return max(before - after for before, after in zip(depths[:-step], depths[step:], strict=True))


def _deeper_for_higher(findings: Findings) -> Iterator[Claim]:
    """For erf among degrees of one parity, as odd ones do best without biases, where even ones are not at all; on the
    published grid only, as single depths of a flat optimum change with it."""
    dense = len(findings["erf"]["w_square"]) >= ERF_GRID and len(findings["erf"]["b_square"]) >= ERF_GRID
    for activation, name, step in (("relu", "ReLU", 1), ("erf", "erf", 2)):
        for kernel in KERNELS if dense or activation == "relu" else ():
            control = Control("erf, from a degree to the next", float(largest_fall(optima(findings, "erf", kernel), 1)))
            whither = "the next" if step == 1 else "the next of its parity"
            yield Claim(
                f"{name}, {NAMES[kernel]}: the most that the optimal depth falls by, from a degree to {whither}",
                f"{PAPER}: higher degrees want deeper networks", 0.0,
                float(largest_fall(optima(findings, activation, kernel), step)), 0.0, "at most", control=control,
            )  # fmt: skip


def _odd(findings: Findings) -> Claim:
    even = [row for kernel in KERNELS for row in findings["erf"][kernel] if row["degree"] % 2 == 0]
    return Claim(
        "erf: the largest share of an even degree without biases, at any depth and σ_w²",
        f"{PAPER}: networks of erf without biases are odd", 0.0, max(row["share_without_biases"] for row in even), 0.0,
        control=Control("with biases, the smallest of their largest", min(row["share_with_biases"] for row in even)),
    )  # fmt: skip


def _by_differences(findings: Findings) -> Iterator[Claim]:
    for activation, name in (("relu", "ReLU"), ("erf", "erf")):
        rows = [row for kernel in KERNELS for row in findings[activation][kernel]]
        off = max(abs(row["share"] - row["by_differences"]) for row in rows)
        others = max(abs(row["share"] - row["by_differences_of_the_other_kernel"]) for row in rows)
        yield Claim(
            f"{name}: how far the largest shares are from those of the published recursion and two-step differences",
            f"{PAPER}: its algorithm, written anew", 0.0, off, _ROUNDINGS * max(row["noise_floor"] for row in rows),
            control=Control("without the derivative's term, or with it for the conjugate kernel", others),
        )  # fmt: skip
