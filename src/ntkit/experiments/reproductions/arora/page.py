"""The page of arora-cntk: what stands around its sections."""

from __future__ import annotations

from ntkit.experiments.reproductions.arora.claims import SMALL, comparable
from ntkit.experiments.reproductions.arora.sections import accuracy_section, cost_section, images_section
from ntkit.experiments.reproductions.arora.sections.series import error, kernels, published, threads
from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings, Story
from ntkit.report import Facts, Tile
from ntkit.report.wording import count, number, percent, several

CONVENTIONS = (
    "Depth d: d − 1 convolutions of 3×3 pixels, zero-padded, each followed by ReLU with weight variance 2/fan-in, and "
    "a dense layer; no biases. The first convolution's variance and the dense layer's only scale the kernel.",
    "CNTK-V: flattened, every layer trained. CNTK-GAP: mean over all positions, first and last layer not trained.",
    "Classes: largest entry of K_test K⁻¹ Y with Y one-hot less 0.1 and no ridge, as published; solved in float64 from "
    "float32 kernels.",
    "Images: chosen by the seed, as even over the classes as the data allow, each channel standardised by the training "
    "images used. The paper's own subset is not known, which is one of the two chances in the tolerance.",
    "Errors: test images √(p(1 − p)/m); training images by the delete-half jackknife. Tolerance: 3·√2 times both.",
    f"The published columns of {SMALL:,} images are quoted from notes on the NeurIPS version, not checked against it.",
)


def show(findings: Findings, arrays: Arrays, draw: Draw) -> Story:
    """Everything on the page that is this experiment's own."""
    return Story(
        title="CIFAR-10 by exact convolutional tangent kernels"
        if comparable(findings)
        else "Exact convolutional tangent kernels, a small trial",
        summary=_summary(findings),
        notices=_notices(findings),
        tiles=_tiles(findings),
        sections=(
            accuracy_section(findings, draw),
            images_section(findings, arrays, draw),
            cost_section(findings, arrays, draw),
        ),
        conventions=CONVENTIONS,
        facts=(
            Facts("Data", _data_rows(findings["data"])),
            Facts(
                "Plan of a block", tuple((k["title"], "\n".join(k["plan_of_a_block"])) for _, k in kernels(findings))
            ),
        ),
    )


def _summary(findings: Findings) -> str:
    shape = "×".join(map(str, findings["data"]["input_shape"]))
    parts = [f"{k['title']} with {count(k['n_train'])} training and {count(k['n_test'])} test images"
             for _, k in kernels(findings)]  # fmt: skip
    depths = ", ".join(str(row["depth"]) for row in findings["kernels"]["gap"]["depths"])
    return f"{'; '.join(parts)}; {shape} pixels; depths {depths} from one pass over the pairs of images."


def _notices(findings: Findings) -> tuple[str, ...]:
    notices = []
    if findings["data"]["stands_in"]:
        notices.append(f"CIFAR-10 was not found, and other images stand in: {findings['data']['source']}")
    elif findings["shrink"] > 1:
        notices.append(f"The images are averaged over {findings['shrink']}×{findings['shrink']} pixels.")
    if not comparable(findings):
        notices.append("No published accuracy can be compared with these: this is a trial of the machinery.")
    return tuple(notices)


def _tiles(findings: Findings) -> tuple[Tile, ...]:
    tiles = []
    for head, kernel in kernels(findings):
        best = max(kernel["depths"], key=lambda row: row["accuracy"])
        n, there = published(findings, head)
        note = f"± {percent(error(best), 2)}, depth {best['depth']}, {count(kernel['n_train'])} images"
        if best["depth"] in there:
            note += f"; published {percent(there[best['depth']], 4)} with {count(n)}"
        tiles.append(Tile(f"{kernel['title']}, best", percent(best["accuracy"], 4), note))
    for _, kernel in kernels(findings):
        depths = several(len(kernel["depths"]), "depth")
        seconds = kernel["seconds_per_entry"]
        each = f"{number(1e3 * seconds)} ms" if seconds >= 1e-3 else f"{number(1e6 * seconds)} µs"
        tiles.append(Tile(f"{kernel['title']}, one entry", each, f"{depths} at once, {threads(findings)}"))
    return tuple(tiles)


def _data_rows(data: Findings) -> tuple[tuple[str, str], ...]:
    return (
        ("name", data["name"]),
        ("source", data["source"]),
        ("steps", "; ".join(data["steps"]) or "none"),
        ("classes", ", ".join(data["classes"])),
    )
