"""Put the peers' table into README.md: `python benchmarks/readme_table.py [--check]`.

Takes the newest results/<date>-peers.json and <date>-machine.json, and writes between two markers in README.md:

    <!-- bench:begin -->
    <!-- bench:end -->
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peers.environments import ROOT
from peers.report import write

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PEER = "neural-tangents"
HEADINGS = (
    "kernel",
    "asked",
    "measured",
    "ntkit, s",
    f"{PEER}, s",
    "ntkit, ns an entry·layer·core",
    "share of the machine's limit",
)


class ReadmeDiffers(Exception):
    """README.md does not hold the table of the results, or no place for it; the message says what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Put the newest comparison's table into README.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where README.md differs")
    arguments = parser.parse_args()
    readme, folder = ROOT / "README.md", ROOT / "benchmarks" / "results"
    results, shares = newest_results(folder), newest_shares(folder)
    text = readme.read_text(encoding="utf-8")
    try:
        if arguments.check:
            check(text, results, shares)
        else:
            write(readme, placed(text, table(results, shares)))
    except ReadmeDiffers as difference:
        raise SystemExit(str(difference)) from None


def newest_results(folder: Path) -> dict[str, Any]:
    """The comparison of the latest date, which begins the file's name, with the empirical rows measured after it."""
    files = sorted(folder.glob("*-peers.json"))
    if not files:
        raise SystemExit(f"no *-peers.json in {folder}; run benchmarks/run_peers.py first")
    results = json.loads(files[-1].read_text(encoding="utf-8"))
    later = sorted(folder.glob("*-empirical.json"))
    return joined(results, json.loads(later[-1].read_text(encoding="utf-8"))) if later else results


def joined(results: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A comparison whose rows are those of a later one, where that has them."""
    if later["machine"]["date"] < results["machine"]["date"]:
        return results
    rows = {row["row"]["name"]: row for part in (results, later) for row in part["rows"]}
    revisions = [part["machine"]["ntkit revision"] for part in (results, later)]
    machine = results["machine"] | {"ntkit revision": f"{revisions[0]} (empirical kernels: {revisions[1]})"}
    return results | {"rows": list(rows.values()), "machine": machine}


def newest_shares(folder: Path) -> dict[str, float]:
    """{row: share of the machine's limit} of the latest machine_limit.py; empty where it never ran."""
    files = sorted(folder.glob("*-machine.json"))
    rows = json.loads(files[-1].read_text(encoding="utf-8"))["rows"] if files else {}
    shares = {name: row["share of the limit"] for name, row in rows.items()}
    return {name: share for name, share in shares.items() if share is not None}


def table(results: dict[str, Any], shares: Mapping[str, float] = MappingProxyType({})) -> str:
    """A line on what was measured where, and the table: one row for each kernel that neural-tangents computed too.

    Args:
        results: what run_peers.py wrote as json.
        shares: {row: share of the machine's limit}, of rows where it is known.
    """
    rows = [_cells(row, _share(row, shares)) for row in results["rows"] if PEER in row["contestants"]]
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADINGS, ("---",) * len(HEADINGS), *rows)]
    return "\n".join((_caption(results), "", *lines))


def _caption(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"].get(PEER, {})
    peer = f"{PEER} {versions.get(PEER, '')} (jax {versions.get('jax', 'unknown')}, jitted)"
    return (
        f"Time of {peer} over time of ntkit, medians of warm turns in alternation, results compared: "
        f"{machine['date'][:10]}, {machine['cpu']}, {machine['threads']} threads, {machine['precision']}, "
        f"ntkit {machine['ntkit revision']}."
    )


def _cells(row: dict[str, Any], share: float | None) -> tuple[str, ...]:
    own, peer = row["contestants"][row["reference"]], row["contestants"][PEER]
    asked = row["row"]["target"]
    nanoseconds = own.get("nanoseconds per entry, hidden layer and core")
    return (
        row["row"]["heading"],
        "–" if asked is None else f"≥ {asked:g}×",
        _measured(own, peer),
        _seconds(own),
        _seconds(peer),
        "–" if nanoseconds is None else f"{nanoseconds:.3g}",
        "–" if share is None else f"{share:.0%}",
    )


def _share(row: dict[str, Any], shares: Mapping[str, float]) -> float | None:
    """Of the machine's limit: measured apart for exact kernels, for empirical ones that of products of matrices."""
    own = row["contestants"][row["reference"]].get("share of matrix-product limit")
    return shares.get(row["row"]["name"], own)


def _measured(own: dict[str, Any], peer: dict[str, Any]) -> str:
    """The ratio with its range, or why there is none."""
    for name, contestant in (("ntkit", own), (PEER, peer)):
        if "failure" in contestant:
            return f"{name} failed"
    if peer["ratio to reference"] is None:
        return "results differ"
    low, high = peer["ratio range"]
    missed = ", **missed**" if peer["meets target"] is False else ""
    return f"{peer['ratio to reference']:.3g}× ({low:.3g}–{high:.3g}){missed}"


def _seconds(contestant: dict[str, Any]) -> str:
    return "–" if "failure" in contestant else f"{contestant['median seconds']:.3g}"


def placed(readme: str, block: str) -> str:
    """README's text with the block between the markers.

    Raises:
        ReadmeDiffers: the markers are missing, repeated or in the wrong order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ReadmeDiffers(f"README.md must hold {BEGIN} and after it {END}, once each")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def check(readme: str, results: dict[str, Any], shares: Mapping[str, float] = MappingProxyType({})) -> None:
    """Raise where README's text does not show exactly these results.

    Raises:
        ReadmeDiffers: it shows others, or has no place for them.
    """
    if placed(readme, table(results, shares)) != readme:
        raise ReadmeDiffers("README.md does not show the newest results; run: python benchmarks/readme_table.py")


if __name__ == "__main__":
    main()
