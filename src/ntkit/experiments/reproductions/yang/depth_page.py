"""The page of yang-depth: what stands around its figures."""

from __future__ import annotations

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings, Story
from ntkit.experiments.reproductions.yang import depth_figures as figures
from ntkit.experiments.reproductions.yang.depth_claims import DEPTHS, HALF_DIGIT, KERNELS, LARGEST, NAMES, optima
from ntkit.report import Section, Table, Tile
from ntkit.report.style import HALF
from ntkit.report.wording import count, number, percent, several

CONVENTIONS = (
    "Depth counts hidden layers; 0 is a linear map. σ_w² and σ_b² are the same in every layer, the last one too.",
    "The share of degree k is C(d, k) μ_k over the kernel's trace, the fractional variance; the tangent kernel's says "
    "what gradient descent learns first, the conjugate kernel's what a random network is.",
    "The best depth is that of the largest share over all depths and scales of the grid, the shallowest of equal ones. "
    "Published values are those of the authors' code, run for this comparison.",
    "Every largest share is computed a second time by the published recursion and differences of two steps.",
)


def show(findings: Findings, arrays: Arrays, draw: Draw) -> Story:
    """ReLU's depths, beside the published ones, its heat maps, and erf's."""
    relu, erf = findings["relu"], findings["erf"]
    networks = len(relu["w_square"]) * len(relu["b_square"]), len(erf["w_square"]) * len(erf["b_square"])
    return Story(
        title="Which depth suits which degree?",
        summary=f"Shares of degrees in the kernels of fully connected networks over {{−1, 1}} to the power "
        f"{findings['d']}: {count(networks[0])} scales of ReLU and {count(networks[1])} of erf, each at all depths up "
        f"to {findings['max_depth']}.",
        notices=(),
        tiles=_tiles(findings),
        sections=(
            _depths(findings, draw),
            _relu_maps(findings, arrays, draw),
            _erf_maps(findings, arrays, draw),
        ),
        conventions=CONVENTIONS,
        facts=(),
    )


def _tiles(findings: Findings) -> tuple[Tile, ...]:
    tiles = []
    for kernel in KERNELS:
        rows = optima(findings, "relu", kernel)
        depths = ", ".join(str(row["depth"]) for row in rows)
        tiles.append(Tile(f"Best depths, {NAMES[kernel]}", depths, f"ReLU, degrees 1 to {len(rows)}"))
    return tuple(tiles)


def _depths(findings: Findings, draw: Draw) -> Section:
    words = "; ".join(
        f"{NAMES[kernel]} " + ", ".join(str(row["depth"]) for row in optima(findings, "relu", kernel))
        for kernel in KERNELS
    )
    drawn = (
        draw("depths", f"Best depth against degree, ReLU: {words}.", HALF,
             lambda canvas: figures.paint_depths(canvas, findings)),
        draw("largest", "Largest share of each degree, ReLU, found and published.", HALF,
             lambda canvas: figures.paint_largest(canvas, findings)),
    )  # fmt: skip
    rows = []
    for kernel in KERNELS:
        for row, depth, share in zip(optima(findings, "relu", kernel), DEPTHS[kernel], LARGEST[kernel], strict=False):
            rows.append((
                NAMES[kernel], str(row["degree"]), str(row["depth"]), str(depth), percent(row["share"], 4),
                percent(share, 4), number(row["b_square"]),
            ))  # fmt: skip
    header = ("ReLU", "degree", "best depth", "published", "largest share", "published", "at σ_b²")
    return Section(
        "depths", "Do higher degrees want deeper networks?", _depth_sentence(findings), drawn,
        f"σ_w² = {number(findings['relu']['w_square'][0])}, which for ReLU only sets the unit of σ_b².",
        Table(header, tuple(rows)),
    )  # fmt: skip


def _depth_sentence(findings: Findings) -> str:
    parts = []
    for kernel in KERNELS:
        rows = optima(findings, "relu", kernel)
        parts.append(f"from {rows[0]['depth']} to {rows[-1]['depth']} hidden layers in the {NAMES[kernel]}")
    same = sum(
        row["depth"] == depth and abs(row["share"] - share) <= HALF_DIGIT
        for kernel in KERNELS
        for row, depth, share in zip(optima(findings, "relu", kernel), DEPTHS[kernel], LARGEST[kernel], strict=False)
    )
    total = len(KERNELS) * findings["degrees"]
    return (
        f"From degree 1 to {findings['degrees']} the best depth rises {' and '.join(parts)}; {same} of {total} best "
        "depths and their shares are the published ones in every digit."
    )


def _relu_maps(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    drawn = tuple(
        draw(
            f"relu-{kernel}",
            f"Heat maps for ReLU, {NAMES[kernel]}: share of degrees 1 to {findings['degrees']} over depth and σ_b².",
            figures.panels_size(findings),
            lambda canvas, kernel=kernel: figures.paint_relu(canvas, findings, arrays, kernel),
        )
        for kernel in KERNELS
    )
    rows, largest = [], findings["relu"]["b_square"][-1]
    for kernel in KERNELS:
        for row in optima(findings, "relu", kernel):
            cells = (percent(row["share_without_biases"]), percent(row["share_with_biases"]))
            depth = str(row["depth_at_largest_b_square"])
            rows.append((NAMES[kernel], str(row["degree"]), *cells, str(row["depth"]), depth))
    header = ("ReLU", "degree", "largest share, σ_b² = 0", "σ_b² > 0", "best depth", f"at σ_b² = {number(largest)}")
    last = {kernel: optima(findings, "relu", kernel)[-1] for kernel in KERNELS}
    sentence = (
        f"Every degree from 1 has its largest share without biases. With biases of σ_b² = {number(largest)} the best "
        f"depth for degree {last['ntk']['degree']} becomes {last['ntk']['depth_at_largest_b_square']} in the tangent "
        f"kernel and {last['nngp']['depth_at_largest_b_square']} in the conjugate one."
        if all(row["b_square"] == 0 for kernel in KERNELS for row in optima(findings, "relu", kernel))
        else "Not every degree has its largest share without biases."
    )
    return Section(
        "relu", "What do biases change?", sentence, drawn,
        "Depth is on a logarithmic axis that begins at 0, σ_b² on one of square roots. Colours are relative to the "
        "largest share of each panel, which is its title's.",
        Table(header, tuple(rows)),
    )  # fmt: skip


def _erf_maps(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    drawn, size = [], figures.panels_size(findings)
    for kernel in KERNELS:
        over = f"over σ_w² and σ_b², erf, {NAMES[kernel]}, degrees 1 to {findings['degrees']}"
        drawn.append(draw(
            f"erf-{kernel}-largest", f"Heat maps of the share at the best depth {over}.", size,
            lambda canvas, kernel=kernel: figures.paint_erf_largest(canvas, findings, arrays, kernel),
        ))  # fmt: skip
        drawn.append(draw(
            f"erf-{kernel}-depth", f"Heat maps of the best depth {over}.", size,
            lambda canvas, kernel=kernel: figures.paint_erf_depth(canvas, findings, arrays, kernel),
        ))  # fmt: skip
    rows = [
        (NAMES[kernel], str(row["degree"]), str(row["depth"]), percent(row["share"], 4),
         "any" if row["degree"] == 1 and row["depth"] == 0 else number(row["w_square"]), number(row["b_square"]))
        for kernel in KERNELS
        for row in optima(findings, "erf", kernel)
    ]  # fmt: skip
    header = ("erf", "degree", "best depth", "largest share", "at σ_w²", "at σ_b²")
    return Section(
        "erf", "And with erf?", _erf_sentence(findings), tuple(drawn),
        "Grey: without biases networks of erf have no even degrees. Where the largest share lies at an edge of the "
        "grid, or at its first σ_b² above 0, a larger or finer grid would move it, and its depth with it.",
        Table(header, tuple(rows)),
    )  # fmt: skip


def _erf_sentence(findings: Findings) -> str:
    parts = []
    for parity, name in ((1, "odd"), (0, "even")):
        own = [row for row in optima(findings, "erf", "ntk") if row["degree"] % 2 == parity]
        depths = ", ".join(str(row["depth"]) for row in own)
        parts.append(f"{depths} for the {name} degrees {', '.join(str(row['degree']) for row in own)}")
    first = findings["erf"]["b_square"][1]
    rows = [row for kernel in KERNELS for row in optima(findings, "erf", kernel)]
    at_edge = sum(row["b_square"] == first for row in rows)
    without = sum(row["b_square"] == 0 for row in rows)
    return (
        f"The tangent kernel's best depths are {' and '.join(parts)}. Of the {several(len(rows), 'optimum', 'optima')} "
        f"of both kernels {without} lie at σ_b² = 0 and {at_edge} at {number(first)}, the smallest above it."
    )
