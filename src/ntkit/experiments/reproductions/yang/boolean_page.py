"""The page of yang-boolean: what stands around its figures."""

from __future__ import annotations

import numpy as np

from ntkit.experiments.reproductions.experiment import Arrays, Draw, Findings, Story
from ntkit.experiments.reproductions.yang import boolean_figures as figures
from ntkit.experiments.reproductions.yang.boolean_claims import (
    PUBLISHED,
    PUBLISHED_DRAWS,
    cases,
    difference_error,
    main_degree,
    pairs,
    pairs_of_the_limit,
    relu,
)
from ntkit.experiments.reproductions.yang.boolean_draws import CORNERS, KINDS
from ntkit.report import Facts, Section, Table, Tile
from ntkit.report.style import HALF
from ntkit.report.wording import count, number, percent, several

TALL = (4.6, 6.6)  # inches
CONVENTIONS = (
    "A random network has weights N(0, σ_w²/fan-in) and biases N(0, σ_b²), in the last layer too; it computes the "
    "Boolean function +1 where its output is above 0 and −1 elsewhere, on the 128 corners of {−1, 1}⁷.",
    "The limit of infinite width is a Gaussian process with the conjugate kernel, drawn from its eigenvalues.",
    "The share of degree k is E Σ f̂_S² over the parities χ_S of k bits, over the sum for all degrees; theory: C(7, k) "
    "μ_k over the trace.",
    "Errors: binomial for frequencies, of a ratio of means for shares. Tolerances are three standard errors of the "
    "difference, with the published draws' own chance in it where published counts are compared.",
    f"The published counts are of {PUBLISHED_DRAWS:,} networks with two hidden layers of 40.",
)


def show(findings: Findings, arrays: Arrays, draw: Draw) -> Story:
    """Frequencies, their limit, and the degrees behind them."""
    n = findings["networks"]
    return Story(
        title="Which Boolean functions do random networks compute?",
        summary=f"{several(n, 'random network')} at a time of each kind, wider ones, and "
        f"{count(relu(findings)['limit']['draws'])} draws from the limit of each, on the corners of {{−1, 1}}⁷.",
        notices=() if n == PUBLISHED_DRAWS else ("Fewer networks than published: a trial of the machinery.",),
        tiles=_tiles(findings),
        sections=(
            _frequencies(findings, arrays, draw),
            _widths(findings, draw),
            _degrees(findings, draw),
            _eigenvalues(findings, draw),
        ),
        conventions=CONVENTIONS,
        facts=(Facts(f"Pairs of equal functions in {count(n)} networks", _pair_rows(findings)),),
    )


def share_and_error(found: Findings, what: str) -> tuple[float, float]:
    """The share of draws that are of a kind, and its binomial standard error."""
    p = found[what] / found["draws"]
    return p, (p * (1 - p) / found["draws"]) ** 0.5


def _tiles(findings: Findings) -> tuple[Tile, ...]:
    found, case = relu(findings)["widths"][0], relu(findings)
    p, error = share_and_error(found, "constants")
    published = sum(PUBLISHED[:2]) / PUBLISHED_DRAWS
    deep = cases(findings)[-1][1]
    return (
        Tile("Constant functions, ReLU", percent(p), f"± {percent(error)}; published {percent(published)}"),
        Tile("The same, in the limit", percent(share_and_error(case["limit"], "constants")[0]), "infinite width"),
        Tile(
            "Different functions, deep erf", count(deep["batches"][0]["different"]),
            f"of {count(findings['networks'])} networks",
        ),
        Tile("Degree 0, ReLU, theory", percent(case["theory"][0], 4), "of the variance; more than 80% published"),
    )  # fmt: skip


def _frequencies(findings: Findings, arrays: Arrays, draw: Draw) -> Section:
    label = "; ".join(
        f"{case['title']}: the most frequent function {percent(arrays[f'ranks_{key}'][0] / findings['networks'])}"
        for key, case in cases(findings)
    )
    figure = draw(
        "ranks", f"How often each function was drawn, by rank, on logarithmic axes. {label}.", HALF,
        lambda canvas: figures.paint_ranks(canvas, findings, arrays),
    )  # fmt: skip
    rows = []
    for _, case in cases(findings):
        found = case["widths"][0]
        for kind, (words, functions) in KINDS.items():
            if found[kind] or case["limit"][kind]:
                cells = (_each(found, kind, functions), _each(case["limit"], kind, functions))
                rows.append((case["title"], words, count(functions), *cells))
    header = (
        "networks",
        "a function that is",
        "there are",
        f"of each in {count(PUBLISHED_DRAWS)} networks",
        "in the limit",
    )
    caption = (
        "Lines: one draw of the published size. Circles: the limit, mean over draws of that size. In the table, all "
        "draws at the published width; the functions of a kind are equally probable. Kinds that never came are not in "
        "it."
    )
    return Section(
        "functions", "Are some functions far more frequent than others?", _frequency_sentence(findings, arrays),
        (figure,), caption, Table(header, tuple(rows)),
    )  # fmt: skip


def _each(found: Findings, kind: str, functions: int) -> str:
    """How often a function of a kind comes in as many draws as were published, and its standard error."""
    share, error = share_and_error(found, kind)
    scale = PUBLISHED_DRAWS / functions
    return f"{number(scale * share)} ± {number(scale * error, 2)}"


def _frequency_sentence(findings: Findings, arrays: Arrays) -> str:
    n = findings["networks"]
    (key, _), (deep_key, deep) = cases(findings)[0], cases(findings)[-1]
    first, second, third = arrays[f"ranks_{key}"][:3]
    most = int(arrays[f"ranks_{deep_key}"][0])
    once = "no function comes twice" if most == 1 else f"the most frequent function comes {several(most, 'time')}"
    counts = " and ".join(count(c) for c in PUBLISHED[:2])
    return (
        f"With ReLU the two most frequent functions come {count(int(first))} and {count(int(second))} times in "
        f"{count(n)} networks (published: {counts} in {count(PUBLISHED_DRAWS)}), the third "
        f"{several(int(third), 'time')}; with erf in {deep['depth']} layers {once}."
    )


def _widths(findings: Findings, draw: Draw) -> Section:
    case = relu(findings)
    limit, _ = share_and_error(case["limit"], "constants")
    figure = draw(
        "widths",
        "Share of constant functions among ReLU networks against their width: "
        + "; ".join(f"{row['width']} {percent(share_and_error(row, 'constants')[0])}" for row in case["widths"])
        + f"; limit {percent(limit)}.",
        HALF,
        lambda canvas: figures.paint_widths(canvas, findings),
    )
    rows = [_width_row(str(row["width"]), row) for row in case["widths"]]
    header = ("width", "networks", "constant", "s.e.", "constant but at one corner", "s.e.")
    caption = "Bars: ± two standard errors. The diamond is the published draw. Dashed: the limit, and that of σ_b² = 1."
    return Section(
        "widths", "How wide is wide enough?", _width_sentence(case), (figure,), caption,
        Table(header, (*rows, _width_row("∞", case["limit"]))),
    )  # fmt: skip


def _width_row(name: str, found: Findings) -> tuple[str, ...]:
    cells = [name, count(found["draws"])]
    for what in ("constants", "one_corner"):
        share, error = share_and_error(found, what)
        cells += [percent(share), percent(error)]
    return tuple(cells)


def _width_sentence(case: Findings) -> str:
    limit = case["limit"]
    parts = []
    for row in (case["widths"][0], case["widths"][-1]):
        gap = row["constants"] / row["draws"] - limit["constants"] / limit["draws"]
        error = difference_error(row["constants"], row["draws"], limit["constants"], limit["draws"])
        share, side = percent(share_and_error(row, "constants")[0]), "above" if gap > 0 else "below"
        parts.append(f"{share} at width {row['width']}, {number(abs(gap) / error, 2)} standard errors {side}")
    p = percent(share_and_error(limit, "constants")[0])
    return f"Constant functions are {parts[0]} the limit's {p}, and {parts[1]} it."


def _degrees(findings: Findings, draw: Draw) -> Section:
    named = [(case, main_degree(case)) for _, case in cases(findings)]
    label = "; ".join(f"{case['title']}: degree {k} {percent(case['theory'][k])}" for case, k in named)
    shares = draw(
        "shares", f"Share of each degree in the variance of random functions, networks and theory. {label}.", TALL,
        lambda canvas: figures.paint_shares(canvas, findings),
    )  # fmt: skip
    deviations = draw(
        "deviations", "Shares of degrees over theory, less one: narrow and wide networks, one row an architecture.",
        TALL, lambda canvas: figures.paint_deviations(canvas, findings),
    )  # fmt: skip
    rows = []
    for _, case in cases(findings):
        rows.append((case["title"], "theory", *(_share(p) for p in case["theory"])))
        for row in (case["widths"][0], case["widths"][-1]) if len(case["widths"]) > 1 else case["widths"]:
            cells = (_share(p, e) for p, e in zip(row["share"], row["share_error"], strict=True))
            rows.append((case["title"], f"width {row['width']}", *cells))
    header = ("networks", "", *(f"degree {k}, %" for k in range(len(rows[0]) - 2)))
    caption = (
        "Bars: ± two standard errors. Without biases networks of erf are odd functions and have odd degrees only. "
        "Left out of the deviations: degrees with less than 0.1% of the variance."
    )
    return Section(
        "degrees", "Which degrees do they prefer?", _degree_sentence(findings), (shares, deviations), caption,
        Table(header, tuple(rows)),
    )  # fmt: skip


def _share(p: float, error: float | None = None) -> str:
    """A share in percent."""
    if p < 1e-12:  # what rounding leaves of the even degrees of an odd function
        return "0"
    return number(100 * p, 4) if error is None else f"{number(100 * p, 4)} ± {number(100 * error, 2)}"


def _degree_sentence(findings: Findings) -> str:
    case = relu(findings)
    wide = case["widths"][-1]
    narrow_off, wide_off = (
        max(
            abs(c["widths"][i]["share"][k] - c["theory"][k]) / c["widths"][i]["share_error"][k]
            for _, c in cases(findings)
            for k in range(len(c["theory"]))
            if c["theory"][k] > figures.JUDGED
        )
        for i in (0, -1)
    )
    return (
        f"With ReLU degree 0 has {percent(wide['share'][0])} ± {percent(wide['share_error'][0])} of the variance at "
        f"width {wide['width']}, {percent(case['theory'][0])} in theory: most networks are nearly constant. Over all "
        f"architectures the widest networks' shares are within {number(wide_off, 2)} standard errors of theory, those "
        f"of the published width within {number(narrow_off, 2)}."
    )


def _eigenvalues(findings: Findings, draw: Draw) -> Section:
    deep = cases(findings)[-1][1]
    mu = np.array(deep["eigenvalues"])
    odd = mu[mu > 0]
    falls = bool((np.diff(relu(findings)["eigenvalues"]) < 0).all())
    course = "they fall with every degree" if falls else "a degree has larger ones than the degree before"
    figure = draw(
        "eigenvalues", "Eigenvalues of the conjugate kernel over its trace against the degree, networks and theory.",
        HALF, lambda canvas: figures.paint_eigenvalues(canvas, findings),
    )  # fmt: skip
    rows = []
    for _, case in cases(findings):
        found = np.array(case["theory"]) / figures.MULTIPLICITY
        rows.append((case["title"], *(number(value) for value in found)))
    header = ("networks, theory", *(f"degree {k}" for k in range(len(rows[0]) - 1)))
    return Section(
        "eigenvalues", "Which parities do they prefer?",
        f"In {deep['depth']} layers of erf all odd eigenvalues are equal within {percent(1 - odd.min() / odd.max(), 2)}"
        f": white noise among the odd functions on {CORNERS} corners. With ReLU {course}.",
        (figure,),
        "The share of degree k is spread over C(7, k) parities; this is what each of them has.",
        Table(header, tuple(rows)),
    )  # fmt: skip


def _pair_rows(findings: Findings) -> tuple[tuple[str, str], ...]:
    rows = []
    for _, case in cases(findings):
        mean, error = pairs(case)
        bar = "" if error is None else f" ± {number(error, 2)}"
        limit = number(pairs_of_the_limit(findings, case))
        rows.append((case["title"], f"{number(mean)}{bar} at width {case['widths'][0]['width']}; limit {limit}"))
    return tuple(rows)
