"""What Arora et al. 2019 report, beside what was measured.

Two accuracies measured on independent draws of training and test images differ by √2 times the standard error of one,
√(error_test² + error_train²); the tolerance is three times that. The size of the published test sets of the 2K columns
is not known here, and is taken to be ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ntkit.experiments.reproductions.claims import Claim

Findings = dict[str, Any]

# (head, training images) → {depth: accuracy in %}
PUBLISHED: Mapping[tuple[str, int], Mapping[int, float]] = {
    ("flatten", 2000): {3: 40.94, 4: 42.54, 6: 43.43, 11: 43.42, 21: 42.53},
    ("gap", 2000): {3: 49.71, 4: 51.06, 6: 51.73, 11: 51.92, 21: 52.22},
    ("flatten", 50_000): {3: 64.67, 4: 65.52, 6: 66.03, 11: 65.90, 21: 64.09},
    ("gap", 50_000): {3: 70.47, 4: 75.93, 6: 76.73, 11: 77.43, 21: 77.08},
}
TABLE = "Arora et al. 2019, Table 1"
# the columns of 2,000 images are quoted from notes on the NeurIPS version that were not checked against the paper
SOURCES = {2000: f"{TABLE}, 2K column of the NeurIPS version (quoted, not checked)", 50_000: TABLE}
SMALL = 2000  # training images of the published small columns


def comparable(findings: Findings) -> bool:
    """Whether these are CIFAR-10's own images, whole."""
    return not findings["data"]["stands_in"] and findings["shrink"] == 1


def tolerance(row: Findings) -> float:
    """Three standard errors of the difference of two independent accuracies such as this one, in percent."""
    return 100 * 3 * math.sqrt(2) * math.hypot(row["error_test"], row["error_train"])


def make_claims(findings: Findings) -> tuple[Claim, ...]:
    """All that can be claimed of these images: published accuracies only where the images are CIFAR-10's."""
    claims = list(_accuracies(findings)) if comparable(findings) else list(_above_chance(findings))
    claims += _gap_is_better(findings) if comparable(findings) else ()
    return (*claims, *_well_posed(findings))


def _accuracies(findings: Findings) -> Iterator[Claim]:
    for head, kernel in findings["kernels"].items():
        n = kernel["n_train"]
        for row in kernel["depths"]:
            words = f"{kernel['title']}, depth {row['depth']}: accuracy with {n:,} training images"
            measured = 100 * row["accuracy"]
            same, more = PUBLISHED.get((head, n), {}), PUBLISHED[head, SMALL]
            if row["depth"] in same:
                yield Claim(words, SOURCES[n], same[row["depth"]], measured, tolerance(row), unit="%")
            elif n < SMALL and row["depth"] in more:
                words += f", no higher than with {SMALL:,}"
                yield Claim(words, SOURCES[SMALL], more[row["depth"]], measured, tolerance(row), "at most", "%")


def _gap_is_better(findings: Findings) -> Iterator[Claim]:
    for row in findings["comparison"]:
        words = f"CNTK-GAP less CNTK-V at depth {row['depth']} on the same {row['n_train']:,} training images"
        yield Claim(words, f"{TABLE}: pooling helps at every depth", 0.0, 100 * row["difference"], 0.0, "above", "%")


def _above_chance(findings: Findings) -> Iterator[Claim]:
    for kernel in findings["kernels"].values():
        for row in kernel["depths"]:
            words = f"{kernel['title']}, depth {row['depth']}: better than chance"
            chance = 100 * kernel["chance"]
            yield Claim(words, "a check of the machinery", chance, 100 * row["accuracy"], 0.0, "above", "%")


def _well_posed(findings: Findings) -> Iterator[Claim]:
    for kernel in findings["kernels"].values():
        least = min(kernel["depths"], key=lambda row: row["smallest_eigenvalue"] / row["largest_eigenvalue"])
        words = f"{kernel['title']}: λ_min/λ_max of the training kernel"
        share = least["smallest_eigenvalue"] / least["largest_eigenvalue"]
        yield Claim(words, "Arora et al. 2019, their code: solved without a ridge", 0.0, share, 0.0, "above")
