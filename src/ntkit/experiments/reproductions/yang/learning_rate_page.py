"""The page of yang-learning-rate: what stands around its sections."""

from __future__ import annotations

from ntkit.experiments.learning_rates import STEPS
from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings, Story
from ntkit.experiments.reproductions.yang.learning_rate_claims import (
    PREDICTIONS,
    deviation,
    is_trial,
    sets_of,
    title_of,
    wide_rows,
)
from ntkit.experiments.reproductions.yang.learning_rate_section_depths import depths_section
from ntkit.experiments.reproductions.yang.learning_rate_section_rates import ladder_section, rates_section
from ntkit.experiments.reproductions.yang.learning_rate_section_shares import shares_section
from ntkit.experiments.reproductions.yang.learning_rate_section_widths import widths_section
from ntkit.report import Facts, Tile
from ntkit.report.wording import count, number

CONVENTIONS = (
    "Loss (1/N) Σ ½‖f − y‖², full-batch gradient descent; N is the number of samples, λₘₐₓ the largest eigenvalue of "
    "the kernel matrix on them. The stable rate is below 2N/λₘₐₓ. As the inverse of the largest eigenvalue it is often "
    "quoted without the factor 2.",
    f"Found: bisection to half a percent of the largest rate at which the loss never rises within {STEPS} steps, in "
    "float32. Centred: the network less its untrained self, f − f₀.",
    "Networks: fully connected in NTK parameterisation, the same σ_w and σ_b in every layer, the last one too. They "
    "see images by their coordinates in the images' own span, which leaves inner products, kernels and the law of "
    "training as they are.",
    "Images: pixels from 0 to 1, not centred, so that the kernel's top direction is nearly the constant. One-hot "
    f"labels contain the constant; centred ones (rows less 1/C) hardly do, and {STEPS} steps tell little of a "
    "direction in which no labels lie.",
    "Cube: all corners; a target with equal power in every degree.",
)


def show(findings: Findings, arrays: Arrays, draw: Draw) -> Story:
    """Everything on the page that is this experiment's own."""
    return Story(
        title="The largest learning rate, from the spectrum of the kernel"
        if not is_trial(findings)
        else "The largest learning rate, a small trial",
        summary=_summary(findings),
        notices=_notices(findings),
        tiles=_tiles(findings),
        sections=(
            rates_section(findings, draw),
            ladder_section(findings, draw),
            widths_section(findings, arrays, draw),
            depths_section(findings, arrays, draw),
            shares_section(findings, draw),
        ),
        conventions=CONVENTIONS,
        facts=tuple(
            Facts(title_of(one["name"]), (
                ("source", one["source"]), ("input shape", "×".join(map(str, one["input_shape"]))),
                ("classes", str(one["classes"])),
            ))
            for one in findings["data"]
        ),
    )  # fmt: skip


def _summary(findings: Findings) -> str:
    networks = {(row["set"], row["activation"], row["depth"], row["width"], row["draw"]) for row in findings["rates"]}
    names = ", ".join(title_of(one["name"]) for one in findings["data"])
    return (
        f"{count(len(networks))} networks trained on {count(2 ** findings['bits'])} corners of the Boolean cube and on "
        f"{count(findings['n'])} images of {names}; exact kernels by depth on more images, and of convolutions over "
        "the cube."
    )


def _notices(findings: Findings) -> tuple[str, ...]:
    notices = []
    if findings["stands_in"]:
        sources = " ".join(one["source"] for one in findings["data"])
        notices.append(f"MNIST and CIFAR-10 were not both found, and other images stand in: {sources}")
    if is_trial(findings):
        notices.append("What is claimed of wide networks on real data is not tried here: a trial of the machinery.")
    return tuple(notices)


def _tiles(findings: Findings) -> tuple[Tile, ...]:
    tiles = []
    for name, targets in sets_of(findings).items():
        rows = wide_rows(findings, name, targets[0])
        others = "; ".join(
            f"{number(deviation(rows, key), 2)}% by {PREDICTIONS[key]}" for key in ("exact", "first_rise")
        )
        note = f"{PREDICTIONS['own']}, {targets[0]} targets; {others}"
        tiles.append(Tile(f"{title_of(name)}: predicted off found", f"≤ {number(deviation(rows, 'own'), 2)}%", note))
    return tuple(tiles)
