"""What is claimed of largest learning rates, of depth and of convolutional kernels, beside what was measured.

A predicted rate is judged by its largest deviation from the rate that is found, over all depths, activations and draws
of networks from a stated width on. The prediction is 2N/λ_max. Thirty steps see an unstable direction only as far as
the labels lie in it, and centred labels hardly lie in the top one: so the same is asked of one-hot labels as they are,
which contain the constant, and of the rate at which the linearised network's loss first rises.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ntkit.experiments.reproductions.claims import Claim, Control
from ntkit.experiments.reproductions.experiment import Findings
from ntkit.experiments.reproductions.yang.learning_rate_shares import LOW, white_share

WIDE = 1024  # from here on networks are judged
TOLERANCE = 5.0  # %, of predicted over found
TRIAL_TOLERANCE = 25.0  # %, where no network is wide: a check of the machinery
STANDARD_ERRORS = 3.0
TITLES = {"cube": "Boolean cube", "mnist": "MNIST", "cifar10": "CIFAR-10", "digits": "Digits"}
PREDICTIONS = {
    "exact": "2N/λ_max, exact kernel",
    "averaged": "2N/λ_max, own kernel averaged over outputs",
    "own": "2N/λ_max, own kernel",
    "first_rise": "first rise, linearised",
}
RATES = "Yang & Salman 2019, largest learning rates"
DEPTHS = "Yang & Salman 2019: an optimal depth on real data too"
QUESTION = "a question that Yang & Salman 2019 leave open"


def title_of(name: str) -> str:
    """A data set as people write it."""
    return TITLES.get(name, name)


def is_trial(findings: Findings) -> bool:
    """Whether no network is wide, or other data stand in: then only the machinery is checked."""
    return findings["wide"] < WIDE or findings["stands_in"]


def wide_rows(findings: Findings, name: str, labels: str | None = None) -> list[Findings]:
    """Networks of one data set that are judged."""
    return [row for row in findings["rates"] if row["set"] == name and row["width"] >= findings["wide"]
            and labels in (None, row["labels"])]  # fmt: skip


def deviation(rows: list[Findings], prediction: str, factor: float = 1.0) -> float:
    """The largest |predicted/found − 1| in percent, of predictions times a factor."""
    return max(100 * abs(factor * row[prediction] / row["found"] - 1) for row in rows)


def make_claims(findings: Findings) -> tuple[Claim, ...]:
    """All claims, in the order of the page's sections."""
    trial = is_trial(findings)
    return (
        *(_trial_rates(findings) if trial else _rates(findings)),
        _theory(findings),
        *(() if trial else _catapult(findings)),
        *(_trial_depths(findings) if trial else _depths(findings)),
        *_shares(findings),
    )


def sets_of(findings: Findings) -> dict[str, list[str]]:
    """The targets of every data set, both in the order in which they were used."""
    found: dict[str, list[str]] = {}
    for row in findings["rates"]:
        labels = found.setdefault(row["set"], [])
        if row["labels"] not in labels:
            labels.append(row["labels"])
    return found


def _rates(findings: Findings) -> Iterator[Claim]:
    for name, targets in sets_of(findings).items():
        for labels in targets:
            rows = wide_rows(findings, name, labels)
            other = deviation(other_set(findings, rows), "first_rise")
            controls = {
                "exact": Control("conjugate kernel in place of the tangent kernel", deviation(rows, "conjugate")),
                "own": Control("N/λ_max, the factor 2 left out", deviation(rows, "own", 0.5)),
                "first_rise": Control("prediction for another data set", other),
            }
            for prediction, control in controls.items():
                words = (
                    f"{title_of(name)}, {labels}: {PREDICTIONS[prediction]}: largest deviation from the rate found "
                    f"at widths from {findings['wide']:,}"
                )
                source = RATES if prediction != "first_rise" else f"{RATES}, for a search of 30 steps"
                yield Claim(words, source, 0.0, deviation(rows, prediction), TOLERANCE, "at most", "%", control)


def other_set(findings: Findings, rows: list[Findings]) -> list[Findings]:
    """The rows, with the predictions made for equal networks on the next data set."""
    names = list(sets_of(findings))
    after = names[(names.index(rows[0]["set"]) + 1) % len(names)]
    labels = sets_of(findings)[after][0]
    key = ("activation", "depth", "width", "draw")
    theirs = {tuple(row[k] for k in key): row for row in findings["rates"]
              if row["set"] == after and row["labels"] == labels}  # fmt: skip
    return [theirs[tuple(row[k] for k in key)] | {"found": row["found"]} for row in rows]


def _trial_rates(findings: Findings) -> Iterator[Claim]:
    for name in sets_of(findings):
        rows = wide_rows(findings, name)
        words = (
            f"{title_of(name)}: {PREDICTIONS['own']}: largest deviation from the rate found at width {findings['wide']}"
        )
        control = Control("N/λ_max, the factor 2 left out", deviation(rows, "own", 0.5))
        source = "a check of the machinery"
        yield Claim(words, source, 0.0, deviation(rows, "own"), TRIAL_TOLERANCE, "at most", "%", control)


def _theory(findings: Findings) -> Claim:
    rows = [row for row in findings["limits"] if row["theory"]]
    gap, wrong = (max(abs(row["exact"] / row["theory"][k] - 1) for row in rows) for k in ("ntk", "nngp"))
    words = "Boolean cube: 2/μ_max by degree over 2N/λ_max of the kernel of all corners, largest deviation from 1"
    control = Control("theory of the conjugate kernel", wrong)
    return Claim(words, "Yang & Salman 2019, eigenvalues over the cube", 0.0, gap, 1e-10, "at most", control=control)


def _catapult(findings: Findings) -> Iterator[Claim]:
    for name in sets_of(findings):
        row = max((row for row in findings["scans"] if row["set"] == name), key=lambda row: row["width"])
        words = (
            f"{title_of(name)}, depth {row['depth']}, width {row['width']:,}: largest multiple of 2N/λ_max that "
            "recovers from a rise"
        )
        control = Control("infinitely wide network", row["limit_recovers_up_to"])
        source = "Lewkowycz et al. 2020: a range of rates beyond it converges"
        yield Claim(words, source, 1.0, row["recovers_up_to"], 0.0, "above", control=control)


def _depths(findings: Findings) -> Iterator[Claim]:
    for row in findings["depths"]:
        best = row["best"][-1]
        for end, depth in (("deepest", row["depths"][-1]), ("shallowest", row["depths"][0])):
            words = (
                f"{title_of(row['set'])}, {best['n_train']:,} images: test error at depth {depth} less that of the "
                "best depth, in standard errors"
            )
            control = Control("shuffled labels", best["shuffled_in_errors"][end])
            measured = best["excess_in_errors"][end]
            yield Claim(words, DEPTHS, STANDARD_ERRORS, measured, 0.0, "above", control=control)


def _trial_depths(findings: Findings) -> Iterator[Claim]:
    for row in findings["depths"]:
        best = row["best"][-1]
        words = f"{title_of(row['set'])}: least test error of the depths, {best['n_train']} images"
        control = Control("shuffled labels", 100 * best["shuffled_least"])
        chance = 100 * (1 - 1 / row["classes"])
        yield Claim(words, "a check of the machinery", chance / 2, 100 * best["least"], 0.0, "at most", "%", control)


def _shares(findings: Findings) -> Iterator[Claim]:
    rows = {(row["domain"], row["kind"], row["depth"], row["kernel"]): row for row in findings["shares"]}
    connected = [row for row in rows.values() if row["kind"] == "connected"]
    gap = max(_distance(row["shares"], row["theory"]) for row in connected)
    other = {"ntk": "nngp", "nngp": "ntk"}
    wrong = min(_distance(row["shares"], rows[domain, kind, depth, other[row["kernel"]]]["theory"])
                for (domain, kind, depth, _), row in rows.items() if kind == "connected")  # fmt: skip
    yield Claim(
        "Fully connected: shares of degrees from the kernel of all corners less those of theory, largest",
        "Yang & Salman 2019, eigenvalues over the cube", 0.0, gap, 1e-10, "at most",
        control=Control("theory of the other kernel", wrong),
    )  # fmt: skip
    off = {kind: [row["off"] for row in rows.values() if row["kind"] == kind] for kind in ("flatten", "gap")}
    yield Claim(
        "CNTK and CNN-GP, flattened: share of the kernel that is off the parities, largest", QUESTION, 0.0,
        max(off["flatten"]), 1e-10, "at most", control=Control("averaged over positions", min(off["gap"])),
    )  # fmt: skip
    yield from _simplicity(rows)
    yield _locality(rows)


def _distance(first: list[float], second: list[float]) -> float:
    return float(np.abs(np.array(first) - np.array(second)).max())


def _simplicity(rows: dict[tuple[str, str, int, str], Findings]) -> Iterator[Claim]:
    """Tangent kernels: the share of high degrees, in units of that of another architecture of the same depth."""
    for kind, beside, words in (
        ("flatten", "connected", "flattened over fully connected"),
        ("gap", "flatten", "averaged over flattened"),
    ):
        pairs = [(row, rows[domain, beside, depth, "ntk"]) for (domain, own, depth, name), row in rows.items()
                 if own == kind and name == "ntk"]  # fmt: skip
        ratio = max(row["high"] / other["high"] for row, other in pairs)
        white = max(white_share(row["bits"]) / other["high"] for row, other in pairs)
        text = f"CNTK: share of degrees above {LOW}, {words}, largest over depths"
        yield Claim(text, QUESTION, 1.0, ratio, 0.0, "at most", control=Control("kernel without preference", white))
    convolutional = [row for (_, k, _, name), row in rows.items() if k != "connected" and name == "ntk"]
    least = min(1 - row["high"] for row in convolutional)
    white = min(1 - white_share(row["bits"]) for row in convolutional)
    text = f"CNTK: share of degrees up to {LOW}, least over depths and architectures"
    yield Claim(text, QUESTION, 50.0, 100 * least, 0.0, "above", "%", Control("kernel without preference", 100 * white))


def _locality(rows: dict[tuple[str, str, int, str], Findings]) -> Claim:
    far = {kind: max(row["pairs"][-1] / row["pairs"][0] for (d, k, _, name), row in rows.items()
                     if d == "ring" and k == kind and name == "ntk") for kind in ("connected", "flatten")}  # fmt: skip
    return Claim(
        "CNTK around a ring, flattened: share of two bits farthest apart over that of neighbours, largest over depths",
        QUESTION, 0.5, far["flatten"], 0.0, "at most", control=Control("fully connected", far["connected"]),
    )  # fmt: skip
