"""The page of `kopitkov`: what stands around its sections."""

from __future__ import annotations

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings, Story
from ntkit.experiments.reproductions.kopitkov.claims import comparable, descents
from ntkit.experiments.reproductions.kopitkov.sections import (
    alignment_section,
    depth_section,
    edge_section,
    eigenfunctions_section,
    first_order_section,
    others_section,
    output_section,
    picture_section,
)
from ntkit.report import Facts, Tile
from ntkit.report.wording import count, number, percent

CONVENTIONS = (
    "Network: fully connected, leaky ReLU. A layer is a weight matrix with its bias: L layers have L − 1 layers of "
    "neurons. Weights by Xavier (uniform, variance 2/(fan-in + fan-out)), biases zero at the start, all trained, in "
    "float32. The paper's slope of leaky ReLU is not known here.",
    "Samples: uniform on the unit square, standardised; targets: brightness, standardised over the samples. The image "
    "has about 1.4 √N pixels a side, linear between their centres, as finer detail is noise to so few samples.",
    "Loss: L = (1/N) Σ ½(f − y)², so that df = −(δ/N) G (f − y) to first order and a constant kernel is stable below "
    "λ_max = 2N/δ.",
    "Kernel: G = g(X, X), g(x, x') = ∇f(x)·∇f(x') over all parameters, of a float64 copy at each watched step. "
    "Energy: cos²α(φ, k) = Σ_{i≤k} ⟨φ, v_i⟩²/‖φ‖².",
    "Late: mean over the watched steps of the last quarter, as everything fluctuates at the edge of stability.",
    "Density: PSO-LDE with p^D uniform on the unit square and p^U proportional to the brightness, which is raised so "
    "that log p^U is finite; fresh uniform samples at every step, and a batch of a fixed pool from p^U.",
    "The paper's portrait is another one, and 256 neurons, δ = 0.25, Xavier weights and standardised inputs are quoted "
    "from notes on it that were not checked; it is compared by trends only.",
)


def show(findings: Findings, arrays: Arrays, draw: Draw) -> Story:
    """Everything on the page that is this experiment's own."""
    settings, others = findings["settings"], findings["settings"]["others"]
    notices = () if comparable(findings) else ("Too few samples for an image: this is a trial of the machinery.",)
    return Story(
        title="The tangent kernel turns towards what is learned",
        summary=f"Networks of {settings['layers'][0]} to {settings['layers'][-1]} layers, {settings['width']} neurons "
        f"wide, learn a grey image from {count(settings['n'])} samples in {count(settings['steps'])} steps of gradient "
        f"descent at rate {number(settings['rate'])}, watched through their tangent kernels.",
        notices=notices,
        tiles=_tiles(findings),
        sections=(
            picture_section(findings, arrays, draw),
            alignment_section(findings, arrays, draw),
            depth_section(findings, draw),
            output_section(findings, arrays, draw),
            eigenfunctions_section(findings, arrays, draw),
            first_order_section(findings, arrays, draw),
            edge_section(findings, arrays, draw),
            others_section(findings, arrays, draw),
        ),
        conventions=CONVENTIONS,
        facts=(
            Facts("Data", (("source", findings["source"]), ("pixels", f"{settings['pixels']} × {settings['pixels']}"))),
            Facts("Other runs", tuple((name.replace("_", " "), number(value)) for name, value in others.items())),
        ),
    )  # fmt: skip


def _tiles(findings: Findings) -> tuple[Tile, ...]:
    runs, settings = descents(findings), findings["settings"]
    deep, least = runs[-1], min(run["output_least"] for run in runs)
    return (
        Tile(
            f"Target in the top {settings['top_target']}", percent(deep["energy_late"]),
            f"{deep['layers']} layers, late; {percent(deep['energy_start'])} at the start",
        ),
        Tile(
            f"Output in the top {settings['top_output']}", f"≥ {percent(least, 4)}",
            "at every watched step and depth",
        ),
        Tile("λ_max over 2N/δ", number(deep["edge_later_half"]), f"{deep['layers']} layers, median of the later half"),
    )  # fmt: skip
