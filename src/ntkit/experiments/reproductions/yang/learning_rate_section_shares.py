"""What lies in each degree of convolutional kernels over the cube, beside fully connected ones."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from ntkit.experiments.reproductions.experiment import Draw, Findings
from ntkit.experiments.reproductions.yang.learning_rate_shares import LOW
from ntkit.report import Section, Table
from ntkit.report.axes import linear_axis, log_axis
from ntkit.report.labels import EndLabel, label_right
from ntkit.report.style import BLUE, GREEN, HALF, VERMILION, frame, title
from ntkit.report.wording import number, percent

KINDS = {
    "connected": ("fully\nconnected", BLUE, "o"),
    "flatten": ("CNTK,\nflattened", GREEN, "s"),
    "gap": ("CNTK,\naveraged", VERMILION, "^"),
}
DOMAINS = {"ring": "ring", "image": "image"}


def shares_section(findings: Findings, draw: Draw) -> Section:
    """Shares by degree, of high degrees by depth, and of pairs of bits by their distance."""
    figures = []
    for domain in DOMAINS:
        figures += [
            draw(f"shares-{domain}", f"{_where(findings, domain)}: share of each degree, deepest tangent kernels.",
                 HALF, lambda canvas, domain=domain: _paint_degrees(canvas, findings, domain)),
            draw(f"high-{domain}", f"{_where(findings, domain)}: share of degrees above {LOW} against depth.", HALF,
                 lambda canvas, domain=domain: _paint_high(canvas, findings, domain)),
        ]  # fmt: skip
    figures.append(
        draw("pairs", "Ring: mean share of parities of two bits against their distance, relative to neighbours.", HALF,
             lambda canvas: _paint_pairs(canvas, findings))
    )  # fmt: skip
    return Section(
        "shares",
        "Do convolutional kernels prefer simple functions?",
        _sentence(findings),
        tuple(figures),
        "Bits lie around a ring (convolutions over 3 neighbours) or in an image (3×3, zero-padded); ReLU; every corner "
        "of the cube. A degree's share: Σ χ_Sᵀ K χ_S / (2^d tr K) over the parities χ_S of that many bits. Averaged: "
        "global average pooling before the last layer. Off the parities: the part of ‖K‖² not diagonal in them.",
        _table(findings),
    )


def _rows(findings: Findings, kernel: str = "ntk", **wanted: object) -> list[Findings]:
    return [row for row in findings["shares"]
            if row["kernel"] == kernel and all(row[key] == value for key, value in wanted.items())]  # fmt: skip


def _deepest(findings: Findings, domain: str, kind: str) -> Findings:
    return max(_rows(findings, domain=domain, kind=kind), key=lambda row: row["depth"])


def _where(findings: Findings, domain: str) -> str:
    bits = _rows(findings, domain=domain)[0]["bits"]
    return f"{bits} bits {'around a ring' if domain == 'ring' else 'in an image'}"


def _sentence(findings: Findings) -> str:
    deep = {kind: _deepest(findings, "ring", kind) for kind in KINDS}
    shares = [percent(deep[kind]["high"]) for kind in KINDS]
    pairs = deep["flatten"]["pairs"]
    return (
        f"At depth {deep['gap']['depth']} around a ring, degrees above {LOW} have {shares[0]} of the fully connected "
        f"tangent kernel, {shares[1]} of the convolutional one and {shares[2]} of the one averaged over positions; two "
        f"neighbouring bits have {number(pairs[0] / pairs[-1])} times the share of the two farthest apart."
    )


def _table(findings: Findings) -> Table:
    most = 5
    rows = []
    for row in findings["shares"]:
        kind = KINDS[row["kind"]][0].replace("\n", " ").replace("CNTK", "convolutional")
        shares = (percent(share) for share in row["shares"][:most])
        name = {"ntk": "tangent", "nngp": "conjugate"}[row["kernel"]]
        rows.append((
            DOMAINS[row["domain"]], kind, str(row["depth"]), name, *shares, percent(row["high"]), number(row["off"]),
        ))  # fmt: skip
    header = (
        "bits in a", "architecture", "depth", "kernel", *(f"degree {k}" for k in range(most)), f"above {LOW}",
        "off the parities",
    )  # fmt: skip
    return Table(header, tuple(rows))


def _paint_degrees(canvas: Canvas, findings: Findings, domain: str) -> None:
    ax = frame(canvas, left=0.7, right=1.05)
    series = {kind: np.array(_deepest(findings, domain, kind)["shares"]) for kind in KINDS}
    seen = np.concatenate([shares[shares > 1e-12] for shares in series.values()])
    log_axis(ax, "y", max(float(seen.min()), 1e-8) / 2, 1.5)
    ax.set_xlim(-0.3, len(series["gap"]) - 0.7)
    labels = []
    for kind, shares in series.items():
        name, colour, marker = KINDS[kind]
        shown = np.where(shares > 1e-12, shares, np.nan)
        ax.plot(np.arange(len(shown)), shown, color=colour, marker=marker, markersize=5)
        labels.append(EndLabel(float(shown[np.isfinite(shown)][-1]), name, colour))
    label_right(ax, labels, size=9.5)
    ax.set_xticks(np.arange(0, len(series["gap"]), 1 if len(series["gap"]) < 10 else 2))
    ax.set_xlabel("degree")
    depth = _deepest(findings, domain, "gap")["depth"]
    title(canvas, f"{_where(findings, domain)}, depth {depth}", "share of the tangent kernel's trace")


def _paint_high(canvas: Canvas, findings: Findings, domain: str) -> None:
    ax = frame(canvas, left=0.62, right=1.05)
    depths = sorted({row["depth"] for row in _rows(findings, domain=domain)})
    highest = max(row["high"] for row in _rows(findings, domain=domain))
    linear_axis(ax, "y", 0.0, 1.12 * highest, percent=True)
    ax.set_xlim(depths[0] - 0.2, depths[-1] + 0.2)
    ax.set_xticks(depths)
    labels = []
    for kind, (name, colour, marker) in KINDS.items():
        for kernel, dash in (("ntk", "-"), ("nngp", (0, (2, 2)))):
            values = [row["high"] for row in _rows(findings, kernel, domain=domain, kind=kind)]
            ax.plot(depths, values, color=colour, marker=marker, markersize=5, linestyle=dash,
                    linewidth=2.0 if kernel == "ntk" else 1.2)  # fmt: skip
            if kernel == "ntk":
                labels.append(EndLabel(values[-1], name, colour))
    label_right(ax, labels, size=9.5)
    ax.set_xlabel("hidden layers")
    title(canvas, f"{_where(findings, domain)}: high degrees", f"share above degree {LOW}; dashed: conjugate kernel")


def _paint_pairs(canvas: Canvas, findings: Findings) -> None:
    ax = frame(canvas, left=0.62, right=1.05)
    series = {kind: np.array(_deepest(findings, "ring", kind)["pairs"]) for kind in KINDS}
    linear_axis(ax, "y", 0.0, 1.12)
    distances = np.arange(1, len(series["gap"]) + 1)
    ax.set_xlim(0.8, len(distances) + 0.2)
    ax.set_xticks(distances)
    labels = []
    for kind, values in series.items():
        name, colour, marker = KINDS[kind]
        ax.plot(distances, values / values[0], color=colour, marker=marker, markersize=5)
        labels.append(EndLabel(float(values[-1] / values[0]), name, colour))
    label_right(ax, labels, size=9.5)
    ax.set_xlabel("distance of the two bits")
    depth = _deepest(findings, "ring", "gap")["depth"]
    title(canvas, f"Two bits of a ring, depth {depth}", "mean share of their parity, neighbours = 1")
