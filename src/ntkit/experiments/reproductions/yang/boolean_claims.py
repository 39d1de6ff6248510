"""What Yang & Salman 2019 say of random Boolean functions, beside what was drawn.

All frequencies are of random draws, the published ones too: tolerances are three standard errors of a difference.
Networks of 40 neurons a layer are not quite their limit; what theory says of the limit is held against the widest
networks drawn, whose distance from it, which falls as one over the width, is smaller than their standard error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ntkit.experiments.reproductions.claims import Claim, Control
from ntkit.experiments.reproductions.experiment import Findings

PUBLISHED = (1802, 1762, 9, 5)  # of the most frequent functions
PUBLISHED_DRAWS = 10_000
NOTEBOOK = "Yang & Salman 2019, their notebook ClarifyingSimplicityBias"
PAPER = "Yang & Salman 2019, section 3: wide networks are a Gaussian process with the conjugate kernel"
# the share of degree 0 as their published code gives it; the figure's point is labelled σ_b² = 2 and is that of 1
DEGREE_ZERO = {2.0: 0.8388, 1.0: 0.7645}
ERRORS = 3  # standard errors that a difference may have
_FEW = 5  # repeated draws that a standard error needs at least


def make_claims(findings: Findings) -> tuple[Claim, ...]:
    """All that can be said at this size: frequencies of single functions only of as many networks as were published."""
    published_size = findings["networks"] == PUBLISHED_DRAWS
    return (
        _published_constants(findings),
        *(_third(findings) if published_size else ()),
        _constants_of_the_limit(findings),
        *_degree_zero(findings),
        *_shares(findings),
        _spectral_bias(findings),
        _no_bias(findings),
        *(_pairs(findings) if published_size else ()),
    )


def cases(findings: Findings) -> list[tuple[str, Findings]]:
    """(key, what was found) of the architectures without the control: ReLU first, then erf, the deep one last."""
    return [(key, case) for key, case in findings["cases"].items() if key != findings["control"]]


def relu(findings: Findings) -> Findings:
    """The ReLU networks."""
    return cases(findings)[0][1]


def difference_error(k1: int, n1: int, k2: int, n2: int) -> float:
    """Standard error of the difference of two shares k/n of the same probability."""
    p = (k1 + k2) / (n1 + n2)
    return math.sqrt(p * (1 - p) * (1 / n1 + 1 / n2))


def main_degree(case: Findings) -> int:
    """The degree with the largest share in theory."""
    return int(np.argmax(case["theory"]))


def _constant_share(found: Findings) -> float:
    return 100 * found["constants"] / found["draws"]


def _published_constants(findings: Findings) -> Claim:
    found, control = relu(findings)["widths"][0], findings["cases"][findings["control"]]
    constants = sum(PUBLISHED[:2])
    error = difference_error(constants, PUBLISHED_DRAWS, found["constants"], found["draws"])
    return Claim(
        f"constant functions among ReLU networks, σ_w² = σ_b² = 2, width {found['width']}", NOTEBOOK,
        100 * constants / PUBLISHED_DRAWS, _constant_share(found), 100 * ERRORS * error, unit="%",
        control=Control("networks of σ_b² = 1", _constant_share(control["widths"][0])),
    )  # fmt: skip


def _third(findings: Findings) -> Iterator[Claim]:
    counts = np.mean([batch["most_frequent"][:3] for batch in relu(findings)["batches"]], axis=0)
    yield Claim(
        f"how often the third most frequent function comes in {PUBLISHED_DRAWS:,} of them, no oftener than published",
        NOTEBOOK, float(PUBLISHED[2]), float(counts[2]), 0.0, "at most",
        control=Control("the second most frequent", float(counts[1])),
    )  # fmt: skip


def _constants_of_the_limit(findings: Findings) -> Claim:
    case, control = relu(findings), findings["cases"][findings["control"]]
    wide, limit = case["widths"][-1], case["limit"]
    error = difference_error(wide["constants"], wide["draws"], limit["constants"], limit["draws"])
    return Claim(
        f"constant functions among ReLU networks, σ_w² = σ_b² = 2, width {wide['width']}, as in the limit", PAPER,
        _constant_share(limit), _constant_share(wide), 100 * ERRORS * error, unit="%",
        control=Control("the limit of σ_b² = 1", _constant_share(control["limit"])),
    )  # fmt: skip


def _degree_zero(findings: Findings) -> Iterator[Claim]:
    two, one = relu(findings)["theory"][0], findings["cases"][findings["control"]]["theory"][0]
    what = "share of degree 0 in the conjugate kernel, ReLU, 2 hidden layers, σ_w² = 2"
    source, half_digit = f"{NOTEBOOK}, “more than 80%”; four digits by their code", 5e-5
    yield Claim(f"{what}, σ_b² = 2", source, DEGREE_ZERO[2.0], two, half_digit, control=Control("σ_b² = 1", one))
    source = f"{NOTEBOOK}, figure: the point labelled σ_b² = 2; four digits by their code"
    what = f"{what}: the figure's point is that of σ_b² = 1"
    yield Claim(what, source, DEGREE_ZERO[1.0], one, half_digit, control=Control("σ_b² = 2", two))


def _shares(findings: Findings) -> Iterator[Claim]:
    """Of every architecture, the degree that theory gives the largest share."""
    other = findings["cases"][findings["control"]]["widths"][0]
    for _, case in cases(findings):
        k, wide = main_degree(case), case["widths"][-1]
        if k == 0:  # a constant is one in whatever order the corners are
            control = Control("networks of σ_b² = 1", 100 * other["share"][k])
        else:
            control = Control("the same outputs at shuffled corners", 100 * wide["shuffled_share"][k])
        yield Claim(
            f"share of degree {k} in networks of width {wide['width']}, {case['title']}", PAPER,
            100 * case["theory"][k], 100 * wide["share"][k], 100 * ERRORS * wide["share_error"][k], unit="%",
            control=control,
        )  # fmt: skip


def _spectral_bias(findings: Findings) -> Claim:
    """μ_{k+2}/μ_k over all architectures and degrees, where both can be seen."""
    ratios, roundings, of_shares = [], [], []
    for _, case in cases(findings):
        mu, floor, share = (np.array(case[name]) for name in ("eigenvalues", "noise_floor", "theory"))
        seen = (mu[:-2] > 0) & (mu[2:] > 0)
        ratio = (mu[2:] / np.where(seen, mu[:-2], 1.0))[seen]
        ratios.extend(ratio)
        roundings.extend((floor[2:][seen] + ratio * floor[:-2][seen]) / mu[:-2][seen])
        of_shares.extend(share[2:][seen] / share[:-2][seen])
    return Claim(
        "eigenvalues fall from each degree to the next but one: the largest ratio μ_{k+2}/μ_k",
        f"{NOTEBOOK}, theorem “weak spectral simplicity bias”", 1.0, float(max(ratios)), float(max(roundings)),
        "at most", control=Control("shares of degrees in place of eigenvalues", float(max(of_shares))),
    )  # fmt: skip


def _no_bias(findings: Findings) -> Claim:
    deep = cases(findings)[-1][1]

    def most(case: Findings) -> float:
        return float(max(batch["most_frequent"][0] for batch in case["batches"]))

    return Claim(
        f"how often the most frequent function comes in {findings['networks']:,} networks, {deep['title']}",
        f"{NOTEBOOK}: no simplicity bias", 1.0, most(deep), 0.0, control=Control("ReLU networks", most(relu(findings))),
    )  # fmt: skip


def pairs(case: Findings) -> tuple[float, float | None]:
    """Pairs of networks of a published draw that are the same function, and the standard error of their mean over
    draws: how uneven frequencies are, in one number."""
    each = np.array([batch["pairs"] for batch in case["batches"]], dtype=float)
    return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5) if len(each) >= _FEW else None


def pairs_of_the_limit(findings: Findings, case: Findings) -> float:
    """As many as the limit has among so many draws."""
    limit = case["limit"]
    return limit["pairs"] * math.comb(findings["networks"], 2) / math.comb(limit["draws"], 2)


def _pairs(findings: Findings) -> Iterator[Claim]:
    erf = [case for _, case in cases(findings) if case["activation"] == "erf"]
    (small, its_error), (large, other_error), (deep, _) = pairs(erf[0]), pairs(erf[-2]), pairs(erf[-1])
    if its_error is None or other_error is None:
        return
    yield Claim(
        f"pairs of equal functions among {findings['networks']:,} networks of erf: so many more with σ_w² = 1 than "
        "with 4, against three standard errors",
        f"{NOTEBOOK}: with σ_w² simplicity bias goes away", ERRORS * math.hypot(its_error, other_error), small - large,
        0.0, "above", control=Control("more with 2 layers than with 32, σ_w² = 4", large - deep),
    )  # fmt: skip
