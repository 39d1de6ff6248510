"""Random Boolean functions: what networks compute before they are trained (Yang & Salman 2019).

The sign of a random network's output on all corners of {−1, 1}⁷ is a Boolean function. Of 10,000 ReLU networks with
two hidden layers of 40 the paper's authors found two functions, the constants, far more often than all others, and no
such preference in networks with erf; both can be read off the conjugate kernel's spectrum. Drawn here: the same
networks, wider ones, and the Gaussian process that is their limit.

Reference: Yang & Salman, A fine-grained spectral perspective on neural networks, 2019, sections 1 and 3; the authors'
notebook, github.com/thegregyang/NNspectra, ClarifyingSimplicityBias.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt

from ntkit.experiments.reproductions.experiment import Arrays, Experiment, Findings, Measurement, Story, Workbench
from ntkit.experiments.reproductions.yang import boolean_draws as draws
from ntkit.experiments.reproductions.yang.boolean_claims import make_claims
from ntkit.experiments.reproductions.yang.boolean_draws import CORNERS, Architecture, Counted

_TOP = 4  # frequencies of a draw in the findings
Codes = UInt[np.ndarray, "m 2"]


@dataclass(frozen=True)
class Case:
    """Networks that are drawn.

    Args:
        arch: their architecture.
        widths: of the hidden layers, the published one first and the widest last.
        wider: networks of each width but the first.
        batches: how often the published draw is repeated, at the first width.
    """

    arch: Architecture
    widths: tuple[int, ...]
    wider: int
    batches: int


RELU = Architecture("relu", 2, 2.0, 2.0)
SMALL_BIAS = replace(RELU, b_square=1.0)
ERF = tuple(Architecture("erf", 2, w_square, 0.0) for w_square in (1.0, 2.0, 4.0))
DEEP = Architecture("erf", 32, 4.0, 0.0)


@dataclass(frozen=True)
class BooleanConfig:
    """All choices of this experiment.

    Args:
        cases: what is drawn, the ReLU networks first, the deep ones last.
        control: the case of another variance, which must not pass for the first.
        networks: in one published draw.
        process: draws of each Gaussian process, a multiple of `networks`.
        seed: of all draws.
    """

    cases: tuple[Case, ...]
    control: Case
    networks: int = 10_000
    process: int = 1_000_000
    seed: int = 0


def measure(config: BooleanConfig, bench: Workbench) -> Measurement:
    """Frequencies of functions and shares of degrees: networks of several widths, their limit, and theory."""
    arrays: Arrays = {}
    cases = {case.arch.key: _measure_case(case, config, bench, arrays) for case in (*config.cases, config.control)}
    findings: Findings = {"networks": config.networks, "cases": cases, "control": config.control.arch.key}
    return Measurement(findings, arrays, make_claims(findings))


def _measure_case(case: Case, config: BooleanConfig, bench: Workbench, arrays: Arrays) -> Findings:
    """All of one architecture; its frequencies by rank go into `arrays`."""
    arch, size = case.arch, config.networks
    spectrum = arch.spectrum
    widths = []
    first: Codes = np.empty((0, 2), np.uint64)
    for width in case.widths:
        n = size * case.batches if width == case.widths[0] else case.wider
        codes, found = _networks(arch, width, n, config.seed, bench)
        first = codes if width == case.widths[0] else first
        widths.append({"width": width} | _frequencies(codes) | found)
    batches = [draws.count(batch) for batch in np.split(first, case.batches)]
    limit = _process(arch, config, bench)
    arrays[f"ranks_{arch.key}"] = batches[0].counts
    arrays[f"limit_ranks_{arch.key}"] = _mean_by_rank([draws.count(b) for b in np.split(limit, len(limit) // size)])
    return {
        "title": arch.title, **asdict(arch),
        "theory": spectrum.fractional_variance.tolist(), "eigenvalues": spectrum.eigenvalues.tolist(),
        "noise_floor": spectrum.noise_floor.tolist(),
        "widths": widths,
        "batches": [
            {"most_frequent": batch.counts[:_TOP].tolist(), "pairs": batch.pairs, "different": len(batch.counts)}
            for batch in batches
        ],
        "limit": _frequencies(limit) | {"pairs": draws.count(limit).pairs},
    }  # fmt: skip


def _networks(arch: Architecture, width: int, n: int, seed: int, bench: Workbench) -> tuple[Codes, Findings]:
    """Functions of n networks; shares of degrees, theirs and those of the same outputs at shuffled corners."""
    shuffled = torch.from_numpy(np.random.default_rng([seed, CORNERS]).permutation(CORNERS))
    codes, energy, control = [], [], []
    what = f"{draws.TITLES[arch.activation]}, depth {arch.depth}, width {width}"
    batches = ceil(n / draws.at_once(width))
    for f in bench.reporter.track(draws.draw_networks(arch, width, n, seed), what, batches):
        codes.append(draws.functions(f))
        energy.append(draws.energies(f))
        control.append(draws.energies(f[:, shuffled]))
    share, error = draws.shares(np.concatenate(energy))
    of_shuffled, _ = draws.shares(np.concatenate(control))
    found = {"share": share.tolist(), "share_error": error.tolist(), "shuffled_share": of_shuffled.tolist()}
    return np.concatenate(codes), found


def _process(arch: Architecture, config: BooleanConfig, bench: Workbench) -> Codes:
    """Functions of draws from the Gaussian process."""
    batches = draws.draw_process(arch, config.process, config.seed)
    what, total = f"{arch.title}, limit", ceil(config.process / draws.at_once(0))
    return np.concatenate([draws.functions(f) for f in bench.reporter.track(batches, what, total)])


def _frequencies(codes: Codes) -> Findings:
    return {"draws": len(codes)} | draws.count_kinds(codes)


def _mean_by_rank(batches: Iterable[Counted]) -> Float[np.ndarray, "r"]:
    """The mean frequency of the first, second, … function of a draw; 0 where a draw has fewer."""
    counts = [batch.counts for batch in batches]
    table = np.zeros((len(counts), max(map(len, counts))))
    for row, own in zip(table, counts, strict=True):
        row[: len(own)] = own
    return table.mean(0)


def _show(findings: Findings, arrays: Arrays, draw: Any) -> Story:
    from ntkit.experiments.reproductions.yang.boolean_page import show  # draws with matplotlib

    return show(findings, arrays, draw)


def _cases(shallow: Case, relu_widths: tuple[int, ...], deep: Case) -> dict[str, Any]:
    """The five published architectures and the control, each with its sizes."""
    relu = replace(shallow, arch=RELU, widths=relu_widths)
    erf = tuple(replace(shallow, arch=arch, wider=shallow.wider // 2) for arch in ERF)
    control = replace(shallow, arch=SMALL_BIAS, widths=relu_widths[:1], batches=1)
    return {"cases": (relu, *erf, deep), "control": control}


YANG_BOOLEAN = Experiment(
    name="yang-boolean",
    summary="Boolean functions of random networks, how often each is drawn (Yang & Salman 2019).",
    reference="Yang & Salman, A fine-grained spectral perspective on neural networks, 2019",
    scales={
        "smoke": BooleanConfig(
            **_cases(Case(RELU, (40, 128), 1000, 1), (40, 128), Case(DEEP, (40,), 0, 1)),
            networks=400, process=20_000,
        ),
        "laptop": BooleanConfig(
            **_cases(Case(RELU, (40, 320), 10_000, 10), (40, 80, 160, 320), Case(DEEP, (40, 160), 2000, 1)),
        ),
        "paper": BooleanConfig(
            **_cases(Case(RELU, (40, 640), 20_000, 100), (40, 80, 160, 320, 640), Case(DEEP, (40, 320), 10_000, 10)),
            process=10_000_000,
        ),
    },
    measure=measure,
    show=_show,
)  # fmt: skip
