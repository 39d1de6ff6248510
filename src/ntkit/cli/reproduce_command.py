"""`ntkit reproduce NAME`: a published experiment, its claims as a table, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ntkit.errors import InvalidInput


def reproduce(
    name: Annotated[str | None, typer.Argument(help="The experiment; --list names them.")] = None,
    scale: Annotated[
        Literal["smoke", "laptop", "paper"],
        typer.Option(help="smoke: seconds; laptop: minutes on 2 cores; paper: the published size."),
    ] = "laptop",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: NAME.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; default: NTKIT_DATA.")] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Name the experiments, and end.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 where a claim does not hold.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """A published experiment again: its claims beside what was measured. Goes on after an interruption."""
    from ntkit import experiments

    console = Console(soft_wrap=True, highlight=False)
    if list_names:
        for experiment in experiments.EXPERIMENTS.values():
            console.print(f"{experiment.name:20s}{experiment.summary}", markup=False)
        return
    if name is None:
        raise InvalidInput(
            f"an experiment must be named; there are: {', '.join(experiments.EXPERIMENTS)}, see ntkit reproduce --list"
        )
    result = experiments.reproduce(name, scale=scale, out=out, data_dir=data_dir, progress=not quiet)
    _print_claims(result.claims)
    console.print(f"page      {result.page}", markup=False)
    if strict and not result.holds:
        raise typer.Exit(1)


def _print_claims(claims: tuple) -> None:
    """The claims as a table, red where one does not hold, and under it who makes them."""
    from ntkit.experiments.reproductions.claims import HEADER, claims_table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    left_out = {"source", "refuted by"} | (set() if any(claim.control for claim in claims) else {"control"})
    shown = [i for i, header in enumerate(HEADER) if header not in left_out]
    for i in shown:
        wide = {"claim": 21, "control": 13}.get(HEADER[i])
        table.add_column(HEADER[i], overflow="fold", no_wrap=wide is None, min_width=wide)
    for claim, row in zip(claims, claims_table(claims).rows, strict=True):
        table.add_row(
            *(Text(row[i]) for i in shown), style="" if claim.holds and claim.control_fails is not False else "bold red"
        )
    console = Console(highlight=False)
    console.print(table)
    for source in dict.fromkeys(claim.source for claim in claims):
        console.print(f"source    {source}", markup=False, soft_wrap=True)
